"""Euler's method with churn, as diffusers has it."""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt

from diffusolve.noise import Grid
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["euler_with_late_churn"]


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
        gamma = min(s_churn / (steps or grid.steps), sqrt(2) - 1) if s_tmin <= s.sigma <= s_tmax else 0.0
        hat = s.sigma * (1 + gamma)
        noisy = x
        if gamma > 0:
            noisy = x + s_noise * sqrt(hat**2 - s.sigma**2) * (yield Noise(s, t))
            if prediction == "epsilon":
                data = noisy - hat / s.sigma * (x - data)
            elif prediction == "v_prediction":
                data = data + (noisy - x) / (s.sigma**2 + 1)
        x = noisy + (t.sigma - hat) * (noisy - data) / hat
    return x
