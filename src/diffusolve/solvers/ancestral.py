"""Ancestral noise: stepping down to less noise than asked for, and adding fresh noise up to it."""

from __future__ import annotations

from math import expm1, sqrt

from diffusolve.noise import Point, Scaling
from diffusolve.solvers.checks import check_choice

__all__ = ["ANCESTRAL", "ancestral_noise", "split_noise"]

ANCESTRAL = ("posterior", "rectified")

ROUNDING = 1e-12
"""The part of the noise that a step of no length may seem to add."""


def split_noise(s: Point, t: Point, eta: float) -> tuple[float, Point]:
    """(up, down) of an ancestral step from `s` to `t`: the fresh noise, and the point before it is added.

    `down` has the alpha of `t` and the noise that is left of the old. The squares of `up`, a standard deviation, and of
    ``down.sigma`` add up to ``t.sigma ** 2``. With ``eta=1``, `up` is that of the posterior of the forward process
    (Song et al. 2021, DDIM, equation 16, which is Karras et al.'s "ancestral" step). A step to more noise, which has no
    such posterior, renews all of it unless `eta` is 0, as in k-diffusion.
    """
    lost = -expm1(2 * (s.log_snr - t.log_snr))
    renewed = lost < -ROUNDING and eta > 0
    up = t.sigma if renewed else min(eta * t.sigma * sqrt(max(lost, 0.0)), t.sigma)
    return up, Point(t.timestep, t.alpha, sqrt(t.sigma**2 - up**2))


def ancestral_noise(s: Point, t: Point, eta: float, ancestral: str, scaling: Scaling) -> tuple[float, Point]:
    """(up, down) as of :func:`split_noise`, or on flow matching, with "rectified", as ComfyUI has it there.

    "rectified" goes down to ``sigma * (1 + eta * (sigma / sigma of s - 1))``, sigma being that of `t`, and then scales
    the sample so that its alpha is that of `t`. Noise that comes in must make up for what this leaves.
    """
    check_choice("ancestral", ancestral, ANCESTRAL)
    if ancestral == "posterior" or scaling is not Scaling.FLOW:
        return split_noise(s, t, eta)
    sigma = t.sigma * (1 + eta * (t.sigma / s.sigma - 1))
    down = Point(t.timestep, t.alpha, sigma * t.alpha / (1 - sigma))
    return sqrt(max(t.sigma**2 - down.sigma**2, 0.0)), down
