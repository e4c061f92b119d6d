"""Churn: adding noise before a step, so that it begins at a higher sigma."""

from __future__ import annotations

from collections.abc import Generator
from math import inf, log, sqrt

from diffusolve.noise import Grid, Point
from diffusolve.solvers.requests import Noise, Value

__all__ = ["check_churn", "churn", "churn_factor"]


def churn(
    grid: Grid, x: Value, s: Point, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float
) -> Generator[Noise, Value, tuple[Value, Point]]:
    """Lines 4 to 6 of Karras et al. 2022, algorithm 2: `x`, a sample at `s`, with noise added, and where it then is.

    Noise is measured by sigma / alpha, the paper's sigma, so that this holds on any noise schedule. Where nothing but
    noise is left (alpha = 0) a part of it is replaced, which is the limit. Above the largest sigma that the network
    was trained on it is told of that one, and its input is scaled for the sigma reached, as in k-diffusion.

    Args:
        s_churn: at least 0, which adds no noise. A step raises sigma / alpha by this divided by the number of steps, as
            a part of itself, but by no more than sqrt(2) - 1.
        s_tmin, s_tmax: the range of sigma / alpha where noise is added.
        s_noise: multiplies the noise.
    """
    check_churn(s_churn, s_tmin, s_tmax)
    factor = churn_factor(s.sigma / s.alpha if s.alpha else inf, grid.steps, s_churn, s_tmin, s_tmax)
    if factor == 1.0:
        return x, s
    hat = grid.at_log_snr(s.log_snr - log(factor), allow_untrained=True) if s.alpha else s
    kept = hat.sigma / s.sigma / factor  # hat.alpha / s.alpha, or its limit
    added = hat.sigma * sqrt(1 - factor**-2)
    return kept * x + (s_noise * added) * (yield Noise(s, hat)), hat


def check_churn(s_churn: float, s_tmin: float, s_tmax: float) -> None:
    """Raise ValueError unless these are numbers that :func:`churn` can use."""
    if not s_churn >= 0.0:
        raise ValueError(f"s_churn is {s_churn:g}: expected at least 0 (0 adds no noise; Karras et al. use up to 80).")
    if not 0.0 <= s_tmin <= s_tmax:
        raise ValueError(f"s_tmin is {s_tmin:g} and s_tmax {s_tmax:g}: expected 0 <= s_tmin <= s_tmax.")


def churn_factor(sigma: float, steps: int, s_churn: float, s_tmin: float, s_tmax: float) -> float:
    """The paper's 1 + gamma, in a run of `steps` steps."""
    return 1 + min(s_churn / steps, sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 1.0
