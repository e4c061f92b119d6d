"""RES singlestep: refined exponential Runge-Kutta methods of two and three evaluations a step."""

from __future__ import annotations

from itertools import pairwise

from diffusolve.noise import Grid
from diffusolve.solvers.checks import check_part
from diffusolve.solvers.exponential import between, data_step, z_phi
from diffusolve.solvers.past import has_no_length
from diffusolve.solvers.requests import Evaluate, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["res_singlestep"]


@solver(
    paper="Zhang et al. 2023, Improved Order Analysis and Design of Exponential Integrator for Diffusion Models "
    "Sampling (RES, singlestep, orders 2 and 3)"
)
def res_singlestep(grid: Grid, x: Value, *, order: int = 2, c_2: float = 0.5, c_3: float = 1.0) -> SolverRun:
    """Exponential Runge-Kutta steps whose weights satisfy all order conditions (Hochbruck & Ostermann 2005).

    Args:
        order: 2 or 3, which is how often a step asks the network.
        c_2: where a step asks the network for the second time, as a part of it in log-SNR, in (0, 1), but not 2/3.
        c_3: where it asks for the third time, above 2/3 and up to 1.

    A step that ends at sigma = 0 is of first order, and so is one that starts at alpha = 0.
    """
    _check(order, c_2, c_3)
    for s, t in pairwise(grid):
        start, data = yield Evaluate(x, s)
        x = data_step(start, data, s, t)
        z = s.log_snr - t.log_snr
        middle = None if has_no_length(s, t) else between(grid, s, t, c_2)
        if middle is None:
            continue
        _, inner_data = yield Evaluate(data_step(start, data, s, middle), middle, stage=1)
        second = inner_data - data
        if order == 2:
            x = x - (t.alpha / c_2 * z_phi(2, z)) * second
            continue
        gamma = c_3 * (3 * c_3 - 2) / (c_2 * (2 - 3 * c_2))
        late = between(grid, s, t, c_3) or t
        weight = gamma * z_phi(2, c_2 * z) + c_3 / c_2 * z_phi(2, c_3 * z)
        ahead = data_step(start, data, s, late) - (late.alpha * weight) * second
        _, late_data = yield Evaluate(ahead, late, stage=2)
        x = x - (t.alpha * z_phi(2, z) / (gamma * c_2 + c_3)) * (gamma * second + (late_data - data))
    return x


def _check(order: int, c_2: float, c_3: float) -> None:
    if order not in (2, 3):
        raise ValueError(f"order is {order}: expected 2 or 3.")
    check_part("c_2", c_2)
    if order == 3 and abs(c_2 - 2 / 3) < 1e-9:
        raise ValueError(f"c_2 is {c_2:g}: with order 3 it must not be 2/3, where no weights are of that order.")
    if not 2 / 3 <= c_3 <= 1.0:
        raise ValueError(f"c_3 is {c_3:g}: expected a part of the step from 2/3 to 1.")
