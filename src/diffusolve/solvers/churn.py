"""Euler's method with churn, as diffusers has it."""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt

from diffusolve.noise import Grid
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["churned", "data_after_churn", "euler_with_late_churn"]


@solver(
    paper="Karras et al. 2022, Elucidating the Design Space, algorithm 2, but for the order of its lines", straight=True
)
def euler_with_late_churn(
    grid: Grid,
    x: Value,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = inf,
    s_noise: float = 1.0,
    steps: int = 0,
    prediction: str = "epsilon",
) -> SolverRun:
    """Euler's method that raises the noise level from sigma to `hat` before each step, after asking the network.

    The paper asks the network about the noisier sample; diffusers' ``EulerDiscreteScheduler.step`` gets the network's
    output for the sample before the noise, and uses it for the sample after. This is that method.

    Args:
        s_churn, s_tmin, s_tmax, s_noise: the paper's.
        steps: in the whole run, of which this may be the end.
        prediction: what the network's output is taken for after the noise: "epsilon", "v_prediction" or "sample".
    """
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        hat = churned(s.sigma, steps or grid.steps, s_churn, s_tmin, s_tmax)
        noisy = x
        if hat > s.sigma:
            noisy = x + s_noise * sqrt(hat**2 - s.sigma**2) * (yield Noise(s, t))
            if prediction == "epsilon":
                data = noisy - hat / s.sigma * (x - data)
            elif prediction == "v_prediction":
                data = data + (noisy - x) / (s.sigma**2 + 1)
        x = noisy + (t.sigma - hat) * (noisy - data) / hat
    return x


def churned(sigma: float, steps: int, s_churn: float, s_tmin: float, s_tmax: float) -> float:
    """The paper's sigma hat: the noise level `sigma` after noise was added."""
    return sigma * (1 + min(s_churn / steps, sqrt(2) - 1)) if s_tmin <= sigma <= s_tmax else sigma


def data_after_churn(s: float, hat: float, t: float, prediction: str) -> tuple[float, float]:
    """(a, b) so that ``a * end + b * output`` is the data prediction that a step from sigma `s` by `hat` to `t` used.

    The noise that it depends on is in the sample at the end of the step.
    """
    if prediction == "sample":
        return 0.0, 1.0
    if prediction == "epsilon":
        return 1.0, -t
    own, ratio = 1 / (s**2 + 1), t / hat  # v_prediction: data = own * noisy - s * sqrt(own) * output
    a = own / (ratio + own * (1 - ratio))
    return a, -s * sqrt(own) * (1 - a * (1 - ratio))
