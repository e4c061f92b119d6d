"""Wrappers that make a network a denoiser: called with samples ``x0 + sigma * noise`` and sigma, they predict x0.

``D(x, sigma) = c_skip * x + c_out * F(c_in * x, timestep)`` (Karras et al. 2022, equation 7). The coefficients follow
from what the network F predicts (:mod:`diffusolve.prediction`) with alpha = 1.
"""

from __future__ import annotations

from abc import abstractmethod
from math import pi
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffusolve.k_diffusion.schedules import append_zero
from diffusolve.k_diffusion.utils import append_dims
from diffusolve.prediction import Epsilon, Prediction, VPrediction

__all__ = [
    "CompVisDenoiser",
    "CompVisVDenoiser",
    "DiscreteEpsDDPMDenoiser",
    "DiscreteSchedule",
    "DiscreteVDDPMDenoiser",
    "OpenAIDenoiser",
    "VDenoiser",
]


class _Denoiser(nn.Module):
    """The part that the wrappers have in common.

    Args:
        inner_model: the network, trained on samples with alpha^2 + sigma^2 = 1.
    """

    prediction: ClassVar[Prediction]
    sigma_data = 1.0

    def __init__(self, inner_model: Any, *args: Any) -> None:
        super().__init__(*args)
        self.inner_model = inner_model

    @abstractmethod
    def _output(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """The network's output on samples `x`, scaled for it, with noise level `sigma`, shape (batch,)."""

    def _scalings(self, sigma: Any) -> tuple[Any, Any, Any]:
        """(c_skip, c_out, c_in) at `sigma`, shape (batch,)."""
        return *self.prediction.data(1.0, sigma), (sigma**2 + 1) ** -0.5

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """The prediction of x0.

        Args:
            input: samples, shape (batch, ...).
            sigma: the noise level of each, shape (batch,).
            kwargs: for the network.
        """
        c_skip, c_out, c_in = (_like(c, input) for c in self._scalings(sigma))
        data: Tensor = c_skip * input + c_out * self._output(c_in * input, sigma, **kwargs)
        return data

    def loss(self, input: Tensor, noise: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """The network's mean square error on ``input + sigma * noise``, shape (batch,).

        Args:
            input: data, shape (batch, ...).
            noise: standard normal, of the same shape.
            sigma: the noise level of each, shape (batch,).
            kwargs: for the network.
        """
        c_skip, c_out, c_in = (_like(c, input) for c in self._scalings(sigma))
        noised = input + _like(sigma, input) * noise
        target = (input - c_skip * noised) / c_out
        error: Tensor = self._output(c_in * noised, sigma, **kwargs) - target
        return error.square().flatten(1).mean(1)


def _like(values: Any, x: Tensor) -> Any:
    """`values`, a number or one per sample, to multiply with samples `x`."""
    return append_dims(values, x.ndim) if isinstance(values, Tensor) else values


class VDenoiser(_Denoiser):
    """A network that predicts v and is conditioned on the time of the cosine schedule, as v-diffusion-pytorch's are.

    Args:
        inner_model: called with (samples, time); time 0 is data, 1 is noise.
    """

    prediction: ClassVar[Prediction] = VPrediction()

    def __init__(self, inner_model: Any) -> None:
        super().__init__(inner_model)

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in) at `sigma`, shape (batch,)."""
        return self._scalings(sigma)

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """The time at `sigma`: the angle whose tangent it is, in quarter turns."""
        return torch.atan(sigma) / (pi / 2)

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """sigma at time `t`."""
        return torch.tan(t * (pi / 2))

    def _output(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        output: Tensor = self.inner_model(x, self.sigma_to_t(sigma), **kwargs)
        return output


class DiscreteSchedule(nn.Module):
    """The noise levels of a network that was trained on whole timesteps; between them log sigma is linear.

    Args:
        sigmas: at each training timestep, rising, shape (timesteps,).
        quantize: whether the network is conditioned on whole timesteps only.
    """

    sigmas: Tensor
    log_sigmas: Tensor

    def __init__(self, sigmas: Tensor, quantize: bool) -> None:
        super().__init__()
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())
        self.quantize = quantize

    @property
    def sigma_min(self) -> Tensor:
        """The smallest trained noise level."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """The largest trained noise level."""
        return self.sigmas[-1]

    def get_sigmas(self, n: int | None = None) -> Tensor:
        """The noise levels at `n` equally spaced timesteps from the last to the first, and 0; at all if `n` is None."""
        if n is None:
            return append_zero(self.sigmas.flip(0))
        return append_zero(self.t_to_sigma(torch.linspace(len(self.sigmas) - 1, 0, n, device=self.sigmas.device)))

    def sigma_to_t(self, sigma: Tensor, quantize: bool | None = None) -> Tensor:
        """The timestep at `sigma`; the first or last one for a sigma outside theirs.

        Args:
            sigma: any shape.
            quantize: whether to choose the nearest whole timestep; by the wrapper's own setting when missing.
        """
        logs = self.log_sigmas
        log_sigma = sigma.to(logs.dtype).log()
        high = torch.searchsorted(logs, log_sigma).clamp(1, len(logs) - 1)
        low = high - 1
        weight = ((log_sigma - logs[low]) / (logs[high] - logs[low])).clamp(0, 1)
        if self.quantize if quantize is None else quantize:
            return torch.where(weight > 0.5, high, low)
        return low + weight

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """sigma at timestep `t`, any shape, whole or not."""
        t = t.float()
        low, high, weight = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - weight) * self.log_sigmas[low] + weight * self.log_sigmas[high]).exp()


class _DiscreteDenoiser(_Denoiser, DiscreteSchedule):
    """A network that was trained on whole timesteps."""

    def __init__(self, model: Any, alphas_cumprod: Tensor, quantize: bool) -> None:
        super().__init__(model, ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5, quantize)


class DiscreteEpsDDPMDenoiser(_DiscreteDenoiser):
    """A network that predicts the noise and was trained on whole timesteps.

    Args:
        model: called with (samples, timestep).
        alphas_cumprod: alpha^2 at each training timestep, falling, shape (timesteps,).
        quantize: whether it is conditioned on whole timesteps only.
    """

    prediction: ClassVar[Prediction] = Epsilon()

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(c_out, c_in) at `sigma`, shape (batch,); c_skip is 1."""
        return self._scalings(sigma)[1:]

    def get_eps(self, *args: Any, **kwargs: Any) -> Tensor:
        """The network's prediction of the noise."""
        eps: Tensor = self.inner_model(*args, **kwargs)
        return eps

    def _output(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        return self.get_eps(x, self.sigma_to_t(sigma), **kwargs)


class OpenAIDenoiser(DiscreteEpsDDPMDenoiser):
    """A network of OpenAI's guided-diffusion.

    Args:
        model: called with (samples, timestep).
        diffusion: has `alphas_cumprod`.
        quantize: whether it is conditioned on whole timesteps only.
        has_learned_sigmas: its output has the predicted variance besides, as the second half of the channels.
        device: of the table of noise levels.
    """

    def __init__(
        self,
        model: Any,
        diffusion: Any,
        quantize: bool = False,
        has_learned_sigmas: bool = True,
        device: Any = "cpu",
    ) -> None:
        super().__init__(model, torch.tensor(diffusion.alphas_cumprod, device=device, dtype=torch.float32), quantize)
        self.has_learned_sigmas = has_learned_sigmas

    def get_eps(self, *args: Any, **kwargs: Any) -> Tensor:
        """The network's prediction of the noise, without that of the variance."""
        output = super().get_eps(*args, **kwargs)
        return output.chunk(2, dim=1)[0] if self.has_learned_sigmas else output


class CompVisDenoiser(DiscreteEpsDDPMDenoiser):
    """A latent diffusion model of CompVis (Stable Diffusion 1.x) that predicts the noise.

    Args:
        model: has `apply_model` and `alphas_cumprod`.
        quantize: whether it is conditioned on whole timesteps only.
        device: without effect; the table of noise levels is where the model's is.
    """

    def __init__(self, model: Any, quantize: bool = False, device: Any = "cpu") -> None:
        super().__init__(model, model.alphas_cumprod, quantize)

    def get_eps(self, *args: Any, **kwargs: Any) -> Tensor:
        """The model's prediction of the noise."""
        eps: Tensor = self.inner_model.apply_model(*args, **kwargs)
        return eps


class DiscreteVDDPMDenoiser(_DiscreteDenoiser):
    """A network that predicts v and was trained on whole timesteps.

    Args:
        model: called with (samples, timestep).
        alphas_cumprod: alpha^2 at each training timestep, falling, shape (timesteps,).
        quantize: whether it is conditioned on whole timesteps only.
    """

    prediction: ClassVar[Prediction] = VPrediction()

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in) at `sigma`, shape (batch,)."""
        return self._scalings(sigma)

    def get_v(self, *args: Any, **kwargs: Any) -> Tensor:
        """The network's prediction of v."""
        v: Tensor = self.inner_model(*args, **kwargs)
        return v

    def _output(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        return self.get_v(x, self.sigma_to_t(sigma), **kwargs)


class CompVisVDenoiser(DiscreteVDDPMDenoiser):
    """A latent diffusion model of CompVis (Stable Diffusion 2.x) that predicts v.

    Arguments as :class:`CompVisDenoiser`.
    """

    def __init__(self, model: Any, quantize: bool = False, device: Any = "cpu") -> None:
        super().__init__(model, model.alphas_cumprod, quantize)

    def get_v(self, x: Tensor, t: Tensor, cond: Any, **kwargs: Any) -> Tensor:
        """The model's prediction of v under condition `cond`; other arguments are not passed on, as in k-diffusion."""
        v: Tensor = self.inner_model.apply_model(x, t, cond)
        return v
