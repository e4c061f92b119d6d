"""Adams-Bashforth of second order in the data prediction."""

from __future__ import annotations

from itertools import pairwise

from diffusolve.noise import Grid
from diffusolve.solvers.exponential import data_step, z_phi
from diffusolve.solvers.past import Past
from diffusolve.solvers.requests import Evaluate, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["adams_data"]


@solver(paper="Lu et al. 2022, DPM-Solver++, algorithm 2")
def adams_data(grid: Grid, x: Value) -> SolverRun:
    """DPM-Solver++(2M): a line through the last two data predictions, integrated exactly."""
    past = Past(2)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)  # run the model at s; data is its prediction of x0
        past.remember(data, s)
        h = t.log_snr - s.log_snr  # log_snr is the papers' lambda, log(alpha / sigma)
        x = data_step(x, data, s, t)
        if past.usable_order(t, 2) == 2:
            older, r = past[1]
            x = x - t.alpha * z_phi(2, -h) * h / (s.log_snr - r.log_snr) * (data - older)
    return x
