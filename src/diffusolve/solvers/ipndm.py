"""iPNDM: Adams-Bashforth on slopes, beginning with lower orders in place of Runge-Kutta steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_up_to
from diffusolve.solvers.linear_multistep import adams_weights
from diffusolve.solvers.past import Past
from diffusolve.solvers.pndm import ADAMS_BASHFORTH
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["ipndm", "ipndm_v"]

PAPER = "Zhang & Chen 2022, Fast Sampling of Diffusion Models with Exponential Integrator, appendix (iPNDM)"


@solver(paper=PAPER, integrates_dx_dsigma=True)
def ipndm(grid: Grid, x: Value, *, max_order: int = 4) -> SolverRun:
    """Adams-Bashforth with the weights of equal steps, whatever the grid, which makes it of second order at most.

    Where alpha is 1 the slope is the noise prediction, as in the paper; on flow matching grids it is the velocity.

    Args:
        max_order: 1 to 4; the first steps have a lower one. The step to sigma = 0 is of first order.
    """

    def weights(nodes: Sequence[Point], t: Point) -> list[float]:
        return [(t.sigma - nodes[0].sigma) * weight for weight in ADAMS_BASHFORTH[len(nodes) - 1]]

    return _adams_bashforth(grid, x, max_order, weights)


@solver(paper=PAPER + "; Hairer, Norsett & Wanner, Solving ODEs I, III.5 (variable steps)", integrates_dx_dsigma=True)
def ipndm_v(grid: Grid, x: Value, *, max_order: int = 4) -> SolverRun:
    """Adams-Bashforth with the weights of the grid's own steps: the exact integral of a polynomial in sigma.

    It is :obj:`~diffusolve.solvers.lms` but for the step to sigma = 0, which here is of first order.

    Args:
        max_order: 1 to 4; the first steps have a lower one.
    """

    def weights(nodes: Sequence[Point], t: Point) -> list[float]:
        return adams_weights([node.sigma for node in nodes], t.sigma)

    return _adams_bashforth(grid, x, max_order, weights)


def _adams_bashforth(
    grid: Grid, x: Value, max_order: int, weights: Callable[[Sequence[Point], Point], list[float]]
) -> SolverRun:
    check_up_to("max_order", max_order, 4)
    past = Past(max_order)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        past.remember((yield Keep((x - data) / s.sigma)), s)
        used = past[: past.usable_order(t, max_order)]
        for weight, (d, _) in zip(weights([point for _, point in used], t), used, strict=True):
            x = x + weight * d
    return x
