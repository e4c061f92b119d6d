"""Ancestral noise: stepping further down than asked for, and filling up with fresh noise."""

from __future__ import annotations

from math import expm1, sqrt

from diffusolve.noise import Point

__all__ = ["split_noise"]


def split_noise(s: Point, t: Point, eta: float) -> tuple[float, float]:
    """(up, down): how much of the noise at `t` is fresh in a step from `s`, and how much is left of the old.

    Standard deviations; their squares add up to ``t.sigma ** 2``. With ``eta=1`` `up` is that of the posterior of the
    forward process (Song et al. 2021, DDIM, equation 16, which is Karras et al.'s "ancestral" step).
    """
    lost = max(-expm1(2 * (s.log_snr - t.log_snr)), 0.0)  # below 0 by rounding in a step of no length
    up = min(eta * t.sigma * sqrt(lost), t.sigma)
    return up, sqrt(t.sigma**2 - up**2)
