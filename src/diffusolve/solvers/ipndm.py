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
def ipndm_v(grid: Grid, x: Value, *, max_order: int = 4, misplaced: bool = False) -> SolverRun:
    """Adams-Bashforth with the weights of the grid's own steps: the exact integral of a polynomial in sigma.

    It is :obj:`~diffusolve.solvers.lms` but for the step to sigma = 0, which here is of first order.

    Args:
        max_order: 1 to 4; the first steps have a lower one.
        misplaced: the weights that ComfyUI has, which are not of that polynomial from order 3 on.
    """

    def weights(nodes: Sequence[Point], t: Point) -> list[float]:
        sigmas = [node.sigma for node in nodes]
        return misplaced_weights(sigmas, t.sigma) if misplaced else adams_weights(sigmas, t.sigma)

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


def misplaced_weights(nodes: Sequence[float], end: float) -> list[float]:
    """The weights of ComfyUI's ``ipndm_v``, measured: a parenthesis, a sign and a ratio are not as they should be.

    Each is what the step weighs divided differences with, in units of the first slope: with the steps ``h, h1, h2, h3``
    before `end`, the newest first, the second difference should have ``(1 - a) * c / 2``, and not ``(1 - a * c) / 2``,
    and the third should have the difference of the two terms in place of their sum; its last slope has ``h1 / h2``
    where ``h2 / h3`` belongs.
    """
    h, *before = [t - s for s, t in pairwise([*nodes[::-1], end])][::-1]
    weights = [1.0] + [0.0] * len(before)
    differences: list[tuple[float, list[float]]] = []
    if before:
        differences.append((h / before[0] / 2, [1.0, -1.0]))
    if len(before) > 1:
        h1, h2 = before[:2]
        a, c = h / (3 * (h + h1)), h * (h + h1) / (h1 * (h1 + h2))
        differences.append(((1 - a * c) / 2, [1.0, -1 - h1 / h2, h1 / h2]))
    if len(before) > 2:
        h3 = before[2]
        c *= (h + h1 + h2) / (h1 + h2 + h3)
        third = ((1 - a) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))) * c
        q = h1 * (h1 + h2) / (h2 * (h2 + h3))
        differences.append((third, [1.0, -1 - h1 / h2 - q, h1 / h2 + q * (1 + h2 / h3), -q * h1 / h2]))
    for weight, terms in differences:
        for index, term in enumerate(terms):
            weights[index] += weight * term
    return [h * weight for weight in weights]
