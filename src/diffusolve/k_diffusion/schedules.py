"""Lists of sigmas, in single precision as k-diffusion computes them.

Noise along a Brownian path, and so the image, differs even between neighbouring numbers. The same curves in double
precision: :mod:`diffusolve.spacing`.
"""

from __future__ import annotations

from math import inf, log
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from diffusolve.errors import shown

__all__ = [
    "append_zero",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
]


def append_zero(x: Tensor) -> Tensor:
    """`x`, shape (n,), with a 0 at its end."""
    return torch.cat([x, x.new_zeros(1)])


def get_sigmas_karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device: Any = "cpu") -> Tensor:
    """`n` equal steps in ``sigma ** (1 / rho)`` and 0 (Karras et al. 2022, equation 5; A1111: "Karras").

    Returns:
        Shape (n + 1,), from `sigma_max` to `sigma_min` and 0; so do the other functions of this module.

    Raises:
        ValueError: `n` below 1, or a sigma below 0 or not finite. `sigma_min` may be 0, and the greater of the two.
    """
    _check(n, {"sigma_min": sigma_min, "sigma_max": sigma_max}, zero=True)
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return append_zero((start + torch.linspace(0, 1, n) * (end - start)) ** rho).to(device)


def get_sigmas_exponential(n: int, sigma_min: float, sigma_max: float, device: Any = "cpu") -> Tensor:
    """`n` equal steps in log sigma, and 0 (A1111: "Exponential"). Both sigmas are above 0, in either order."""
    _check(n, {"sigma_min": sigma_min, "sigma_max": sigma_max})
    return append_zero(torch.linspace(log(sigma_max), log(sigma_min), n, device=device).exp())


def get_sigmas_polyexponential(
    n: int, sigma_min: float, sigma_max: float, rho: float = 1.0, device: Any = "cpu"
) -> Tensor:
    """`n` steps along which log sigma falls as a power of the position, and 0 (A1111: "Polyexponential").

    Both sigmas are above 0, in either order.
    """
    _check(n, {"sigma_min": sigma_min, "sigma_max": sigma_max})
    ramp = torch.linspace(1, 0, n, device=device) ** rho
    return append_zero(torch.exp(ramp * (log(sigma_max) - log(sigma_min)) + log(sigma_min)))


def get_sigmas_vp(
    n: int, beta_d: float = 19.9, beta_min: float = 0.1, eps_s: float = 1e-3, device: Any = "cpu"
) -> Tensor:
    """`n` equal steps in time on the continuous variance preserving schedule, and 0 (Karras et al. 2022, table 1, VP).

    sigma / alpha is ``sqrt(exp(beta_d * t**2 / 2 + beta_min * t) - 1)``.

    Args:
        n: how many, at least 1.
        beta_d, beta_min: of the linear beta schedule.
        eps_s: the time of the last step, at least 0; the first is at 1.
        device: of the result.
    """
    _check(n, {"eps_s": eps_s}, zero=True)
    t = torch.linspace(1, eps_s, n, device=device)
    return append_zero(torch.sqrt(torch.exp(beta_d * t**2 / 2 + beta_min * t) - 1))


def _check(n: int, numbers: dict[str, float], zero: bool = False) -> None:
    if not isinstance(n, Integral):
        raise TypeError(f"n is {shown(n)}: expected a whole number of sigmas.")
    if n < 1:
        raise ValueError(f"n is {n}: expected at least 1 sigma (the 0 at the end is not counted).")
    for name, value in numbers.items():
        if not (value >= 0.0 if zero else value > 0.0) or value == inf:
            raise ValueError(f"{name} is {value:g}: expected a finite number {'from 0 up' if zero else 'above 0'}.")
