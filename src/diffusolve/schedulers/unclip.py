"""UnCLIPScheduler."""

from __future__ import annotations

from math import log
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.as_in_diffusers import ddpm_of_beta
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Generation
from diffusolve.schedulers.one_step import OneStepScheduler, end_by_another_name, noise_as
from diffusolve.schedulers.outputs import SchedulerOutputWithData
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.steps import Array, spaced, timestep_spacing
from diffusolve.solvers import Solver

__all__ = ["UnCLIPScheduler"]

LEAST_VARIANCE = 1e-20


class UnCLIPScheduler(OneStepScheduler):
    """DDPM as the prior, the decoder and the upscalers of unCLIP sample with it (Karlo, Kandinsky).

    Ramesh et al. 2022, Hierarchical Text-Conditional Image Generation with CLIP Latents; Ho et al. 2020, Denoising
    Diffusion Probabilistic Models. Linear in the sample, unless data predictions are clipped. A step leads to the
    timestep that it is told, or to the training timestep below.

    Args:
        num_train_timesteps: the number of training timesteps.
        variance_type: of the noise in a step: "fixed_small_log", that of the posterior of the forward process, or
            "learned_range", where the second half of the network's output channels says where it is between that and
            the one of the forward process's own step, on a logarithmic scale, from -1 to 1.
        clip_sample, clip_sample_range: keep data predictions within plus and minus this.
        prediction_type: what the network predicts: "epsilon" or "sample" (the prior).
        beta_schedule: "squaredcos_cap_v2".
    """

    _compatibles = []  # noqa: RUF012
    _end_configured = 1.0

    one = end_by_another_name
    only_read = frozenset({"alphas", "betas", "variance_type"})
    replaceable: ClassVar[frozenset[str]] = OneStepScheduler.replaceable - {"_get_variance"}
    fixed: ClassVar[frozenset[str]] = OneStepScheduler.fixed | {"_get_variance"}

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log",
        clip_sample: bool = True,
        clip_sample_range: float | None = 1.0,
        prediction_type: Literal["epsilon", "sample"] = "epsilon",
        beta_schedule: Literal["squaredcos_cap_v2"] = "squaredcos_cap_v2",
    ) -> None:
        self.variance_type = variance_type
        self._configured()

    def set_timesteps(  # type: ignore[override]  # nothing else can be chosen
        self, num_inference_steps: int, device: Any = None
    ) -> None:
        """Begin a run of `num_inference_steps` steps, equally spaced from the last training timestep to the first."""
        self._begin(asked_for(num_inference_steps), device)

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        prev_timestep: int | Tensor | None = None,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutputWithData | Fields:
        """The sample one step on, whatever was done before; noise is drawn from `generator` except at timestep 0.

        Args:
            model_output: shape (batch, channels, ...), with twice the channels of `sample` for "learned_range", except
                at timestep 0, where it may do without the variance.
            timestep: any whole training timestep.
            sample: shape (batch, channels, ...).
            prev_timestep: the timestep that the step leads to; the training timestep below when missing.

        Raises:
            ValueError: `prev_timestep` is not below `timestep`; the number of channels is not the one expected.
        """
        _, s, _ = self._asked(timestep)
        t = s - 1 if prev_timestep is None else int(prev_timestep)
        if t >= s:
            raise ValueError(f"prev_timestep is {t}: expected one below the timestep of the step, {s}.")
        noise, beta = noise_as(model_output, sample), self._beta(s, t)
        model_output, deviation = self._split(model_output, sample, s, t, beta)
        learned = deviation is not None
        key, run = self._run_at(timestep, noise, t, beta=beta, variance="given" if learned else "posterior")
        with noise.drawn_from(generator, deviation=deviation):
            previous = self._stepped(key, run, model_output, sample)
        if s > 0:
            self._draw_last(run, sample, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _chosen(self, asked: Asked) -> Array:
        return spaced(timestep_spacing("linspace"), asked.steps, len(self))

    def _previous(self, generation: Generation | None, timestep: int, place: int | None) -> int:
        return timestep - 1

    def _beta(self, s: int, t: int) -> float:
        """The variance that the forward process adds from `t` to `s`; that of the table from one to the next."""
        if t == s - 1:
            return float(self.betas[s])
        signal = self._tables.alphas_cumprod
        return float(1 - signal[s] / (signal[t] if t >= 0 else 1.0))

    def _get_variance(
        self,
        t: int,
        prev_timestep: int | None = None,
        predicted_variance: Tensor | None = None,
        variance_type: str | None = None,
    ) -> Any:
        """The variance of the noise in the step from `t` to `prev_timestep`, the training timestep below when missing.

        That is the standard deviation for "fixed_small_log", and the logarithm of the variance for "learned_range",
        which lies between two by the network's `predicted_variance`, from -1 to 1.
        """
        before = t - 1 if prev_timestep is None else int(prev_timestep)
        beta, ratio = self._beta(int(t), before), self._point(before).sigma / self._point(int(t)).sigma
        posterior = max(ratio**2 * beta, LEAST_VARIANCE)
        if (variance_type or self.config["variance_type"]) == "fixed_small_log":
            return torch.tensor(posterior**0.5)
        if predicted_variance is None:
            raise ValueError("variance_type is 'learned_range': give the network's predicted_variance.")
        share = (predicted_variance + 1) / 2
        return share * log(beta) + (1 - share) * log(posterior)

    def _split(self, model_output: Tensor, sample: Tensor, s: int, t: int, beta: float) -> tuple[Tensor, Tensor | None]:
        """The prediction in `model_output`, and the standard deviation that it asks for, element by element."""
        learned, channels = self.config["variance_type"] == "learned_range", sample.shape[1]
        if s == 0 and model_output.shape[1] == channels:
            return model_output, None  # the step draws no noise, so that the output may do without its variance
        expected = 2 * channels if learned else channels
        if model_output.shape[1] != expected:
            raise ValueError(
                f"the network's output has {model_output.shape[1]} channels: expected {expected} for a sample with "
                f"{channels} and variance_type={self.config['variance_type']!r}."
            )
        if not learned:
            return model_output, None
        prediction, between = model_output[:, :channels], model_output[:, channels:]
        ratio = self._point(t).sigma / self._point(s).sigma
        least, most = log(max(ratio**2 * beta, LEAST_VARIANCE)), log(beta)
        share = (between + 1) / 2
        return prediction, torch.exp(0.5 * (share * most + (1 - share) * least))

    def _solver(self, steps: int, **options: Any) -> Solver:
        return ddpm_of_beta.with_options(**options)
