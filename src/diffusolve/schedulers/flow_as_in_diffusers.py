"""Solvers of flow matching as diffusers computes them, where that is not what papers have."""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt

from diffusolve.noise import Grid
from diffusolve.schedulers.as_in_diffusers import churned
from diffusolve.solvers import Evaluate, Keep, Noise, SolverRun, Value, solver
from diffusolve.solvers.past import has_no_length

__all__ = ["euler_ancestral_rf", "flow_heun_with_late_churn"]


@solver(
    paper="Karras et al. 2022, algorithm 2, on flow matching's sigmas as if alpha were 1", integrates_dx_dsigma=True
)
def flow_heun_with_late_churn(
    grid: Grid,
    x: Value,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = inf,
    s_noise: float = 1.0,
    evaluations: int = 0,
) -> SolverRun:
    """Heun's method that adds noise, from sigma to `hat`, between the network's evaluation and its use.

    `hat` may lie above 1, where flow matching has no samples. ``FlowMatchHeunDiscreteScheduler.step`` of diffusers
    does this with `s_churn`.

    Args:
        s_churn, s_tmin, s_tmax, s_noise: the paper's.
        evaluations: in the whole run, among which the churn is divided.
    """
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        hat = churned(s.sigma, evaluations, s_churn, s_tmin, s_tmax) if s_churn else s.sigma
        d = (x - data) / hat
        if hat > s.sigma:
            x = x + s_noise * sqrt(hat**2 - s.sigma**2) * (yield Noise(s, t))
        h = t.sigma - hat
        if t.sigma > 0:
            d = yield Keep(d)
            end, data = yield Evaluate(x + h * d, t, stage=1)
            d = (d + (end - data) / t.sigma) / 2
        x = x + h * d
    return x


@solver(paper="ComfyUI's euler_ancestral for rectified flow")
def euler_ancestral_rf(grid: Grid, x: Value, *, eta: float = 1.0, s_noise: float = 1.0) -> SolverRun:
    """Euler's method that goes to a sigma below `t` on flow matching, and comes back to `t` with fresh noise.

    The way back multiplies the sample so that the signal is that of `t`; the squares of the noise that is left and of
    the fresh noise, `up`, then add up to ``t.sigma ** 2``. A step of no length leaves the sample as it is.

    Args:
        eta: 0 goes to `t` itself, 1 to ``t.sigma ** 2 / s.sigma``.
        s_noise: multiplies the fresh noise.
    """
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        if has_no_length(s, t):
            continue
        down = t.sigma * (1.0 + (t.sigma / s.sigma - 1.0) * eta)
        x = data + (down / s.sigma) * (x - data)
        back = t.alpha / (1.0 - down)
        up = sqrt(max(t.sigma**2 - (back * down) ** 2, 0.0))
        x = back * x
        if up > 0.0:
            x = x + (s_noise * up) * (yield Noise(s, t))
    return x
