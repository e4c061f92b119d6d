"""Ancestral noise: stepping down to less noise than asked for, and adding fresh noise up to it."""

from __future__ import annotations

from math import expm1, sqrt

from diffusolve.noise import Point

__all__ = ["split_noise"]


def split_noise(s: Point, t: Point, eta: float) -> tuple[float, Point]:
    """(up, down) of an ancestral step from `s` to `t`: the fresh noise, and the point before it is added.

    `down` has the alpha of `t` and the noise that is left of the old. The squares of `up`, a standard deviation, and of
    ``down.sigma`` add up to ``t.sigma ** 2``. With ``eta=1``, `up` is that of the posterior of the forward process
    (Song et al. 2021, DDIM, equation 16, which is Karras et al.'s "ancestral" step).
    """
    lost = max(-expm1(2 * (s.log_snr - t.log_snr)), 0.0)  # below 0 by rounding in a step of no length
    up = min(eta * t.sigma * sqrt(lost), t.sigma)
    return up, Point(t.timestep, t.alpha, sqrt(t.sigma**2 - up**2))
