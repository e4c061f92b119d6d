"""Flow matching as an SDE with the marginals of its ODE, as reinforcement learning needs it to explore."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import cos, exp, expm1, inf, log, pi, sqrt

from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_choice
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["SDES", "check_flow_sde", "flow_sde"]

DISCRETIZATIONS = ("authors", "exact")

Renewed = Callable[[float, float, float], float]
"""(noise level, sigma of s, sigma of t) -> the integral of ``(g / sigma) ** 2`` over a step."""


def _renewed_flow(a: float, s: float, t: float) -> float:
    return a**2 * (_log_ratio(s) - _log_ratio(t)) if a else 0.0


def _renewed_dance(a: float, s: float, t: float) -> float:
    return a**2 * (1 / t - 1 / s if t else inf) if a else 0.0


def _renewed_cps(a: float, s: float, t: float) -> float:
    return -2 * log(cos(a * pi / 2)) if a < 1 else inf


SDES: dict[str, Renewed] = {"flow": _renewed_flow, "dance": _renewed_dance, "cps": _renewed_cps}
"""Name -> how much of the noise its steps renew.

The diffusion g is ``a * sqrt(sigma / (1 - sigma))`` in "flow" (Flow-GRPO) and `a` in "dance" (DanceGRPO); "cps"
(Flow-CPS) renews the same part in each step, the sine of ``a * pi / 2``."""


@solver(
    paper="Liu et al. 2025, Flow-GRPO, section 4.2 (SDE); Xue et al. 2025, DanceGRPO; Wang & Yu 2025, "
    "Coefficients-Preserving Sampling"
)
def flow_sde(
    grid: Grid,
    x: Value,
    *,
    sde: str = "flow",
    noise_level: float = 0.7,
    discretization: str = "authors",
    s_noise: float = 1.0,
) -> SolverRun:
    """The reverse SDE ``dx = (v + g**2 / (2 * sigma) * noise) dsigma + g dw`` in sigma, of any diffusion g.

    v is the network's velocity and noise what it says of the noise in the sample, both at sigma. Whatever g is, samples
    have the distribution that the ODE's have, up to an error of first order in the steps. "cps" renews a part of the
    noise that does not get smaller with the steps, so that its distribution is another one, however many they are.

    On other noise schedules than flow matching it is the SDE of the samples scaled so that alpha + sigma = 1.

    Args:
        sde: which diffusion, see :data:`SDES`.
        noise_level: the a of that; 0 is the ODE, in Euler's steps. For "cps" at most 1.
        discretization: "authors", the Euler-Maruyama steps of Flow-GRPO and DanceGRPO: their noise is that of the
            beginning of a step, which is too much by the order of a step's length, and the last step adds some to the
            data. "exact" solves the SDE of constant data: noise and signal are right after each step, and the last one
            adds none. With "flow" that is :obj:`~diffusolve.solvers.dpmpp_multistep` of order 1, ``eta = a**2 / 2``.
            "cps" has such steps only.
        s_noise: multiplies the noise of the steps, and nothing else: other than 1, marginals are not the ODE's.

    At sigma = 1, where g of "flow" is infinite, the authors take 1 - sigma of the next point, and so do steps here.
    """
    check_flow_sde(sde, noise_level, discretization)
    in_euler_steps = discretization == "authors" and sde != "cps"
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        norm, start, end = t.alpha + t.sigma, _sigma(s), _sigma(t)
        if in_euler_steps:
            kept, weight, up = _euler_maruyama(sde, noise_level, start, end)
        else:
            kept, weight, up = _exact(sde, noise_level, start, end)
        x = (norm * kept / (s.alpha + s.sigma)) * x + (norm * weight) * data
        if up > 0:
            x = x + (s_noise * norm * up) * (yield Noise(s, t))
    return x


def check_flow_sde(sde: str, noise_level: float, discretization: str) -> None:
    """Raise ValueError unless :obj:`flow_sde` takes these options."""
    check_choice("sde", sde, SDES)
    check_choice("discretization", discretization, DISCRETIZATIONS)
    if not 0.0 <= noise_level < inf or (sde == "cps" and noise_level > 1.0):
        raise ValueError(f"noise_level is {noise_level:g}: expected at least 0 (the ODE), and at most 1 with 'cps'.")


def _sigma(point: Point) -> float:
    """The sigma of `point` where alpha + sigma = 1."""
    return point.sigma / (point.alpha + point.sigma)


def _log_ratio(sigma: float) -> float:
    """log(sigma / (1 - sigma))."""
    if sigma in (0.0, 1.0):
        return inf if sigma else -inf
    return log(sigma) - log(1 - sigma)


def _exact(sde: str, a: float, s: float, t: float) -> tuple[float, float, float]:
    """(factor of the sample, factor of the data, noise) of the step over which data stay what they are."""
    renewed = SDES[sde](a, s, t) if s > t else 0.0  # a step to more noise is the ODE's
    kept = t / s * exp(-renewed / 2)
    return kept, (1 - t) - (1 - s) * kept, t * sqrt(-expm1(-renewed))


def _euler_maruyama(sde: str, a: float, s: float, t: float) -> tuple[float, float, float]:
    """The same of the Euler-Maruyama step, where velocity, noise and g are those at the beginning."""
    length = s - t
    signal = 1 - (t if s == 1.0 else s)
    power = 0.0 if length <= 0 else a**2 if sde == "dance" else a**2 * s / signal if signal else 0.0
    back = length * power / (2 * s)  # of the noise, which is (x - (1 - s) * data) / s
    kept = 1 - length / s - back / s
    return kept, length / s + back * (1 - s) / s, sqrt(power * max(length, 0.0))
