"""The likelihood of data under a denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusolve.k_diffusion.utils import append_dims

__all__ = ["log_likelihood", "to_d"]


def to_d(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """``dx/dsigma = (x - denoised) / sigma`` of the probability-flow ODE (Karras et al. 2022, equation 3).

    Args:
        x: samples ``x0 + sigma * noise``, shape (batch, ...).
        sigma: their noise level, shape () or (batch,).
        denoised: the prediction of x0 for each.
    """
    return (x - denoised) / append_dims(sigma, x.ndim)


def log_likelihood(
    model: Any,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: Mapping[str, Any] | None = None,
    atol: float = 1e-4,
    rtol: float = 1e-4,
) -> tuple[Tensor, dict[str, int]]:
    """The logarithm of the density of `x` under the probability-flow ODE, in nats. Needs torchdiffeq.

    The ODE takes `x` to normal noise of standard deviation `sigma_max`; on the way the density changes by the
    divergence of the slope (Song et al. 2021, Score-Based Generative Modeling, section 4.3), which is estimated along
    one random direction (Hutchinson), the same for the whole way.

    Args:
        model: a denoiser that gradients flow through.
        x: data, shape (batch, ...).
        sigma_min, sigma_max: where the ODE begins and ends.
        extra_args: keyword arguments for the model.
        atol, rtol: tolerances of the ODE solver (Dormand-Prince).

    Returns:
        One number per sample, shape (batch,), and ``{"fevals": how often the model was evaluated}``.

    Raises:
        ImportError: torchdiffeq is not installed.
    """
    try:
        from torchdiffeq import odeint  # type: ignore[import-untyped]
    except ImportError:
        raise ImportError("log_likelihood needs the package torchdiffeq: pip install torchdiffeq.") from None
    if not 0.0 < float(sigma_min) < float(sigma_max):
        raise ValueError(f"expected 0 < sigma_min < sigma_max, got {float(sigma_min):g} and {float(sigma_max):g}.")
    direction = 2 * torch.randint_like(x, 2) - 1
    evaluations = 0

    def slopes(sigma: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Of the sample, and of the logarithm of its density's change."""
        nonlocal evaluations
        evaluations += 1
        with torch.enable_grad():
            at = state[0].detach().requires_grad_()
            d = to_d(at, sigma, model(at, sigma.repeat(len(at)), **(extra_args or {})))
            (product,) = torch.autograd.grad(d, at, direction)
        return d.detach(), (product * direction).flatten(1).sum(1)

    ends = x.new_tensor([float(sigma_min), float(sigma_max)])
    with torch.no_grad():
        way = odeint(slopes, (x, x.new_zeros(len(x))), ends, rtol=rtol, atol=atol, method="dopri5")
        noise, change = way[0][-1], way[1][-1]
        normal: Any = torch.distributions.Normal(0.0, ends[1])
        prior = normal.log_prob(noise).flatten(1).sum(1)
    return prior + change, {"fevals": evaluations}
