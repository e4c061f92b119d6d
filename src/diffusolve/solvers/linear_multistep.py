"""Linear multistep (Adams-Bashforth) methods with exact coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diffusolve.noise import Grid
from diffusolve.solvers.moments import weights_of
from diffusolve.solvers.past import Past
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["lms"]


@solver(
    paper="Adams-Bashforth with variable steps; Hairer, Norsett & Wanner, Solving ODEs I, III.5",
    integrates_dx_dsigma=True,
)
def lms(grid: Grid, x: Value, *, order: int = 4, ends_with_data: bool = False) -> SolverRun:
    """Exact integral of the polynomial in sigma through the last `order` slopes; the first steps have a lower order.

    Args:
        order: at least 1.
        ends_with_data: the step to sigma = 0 is of first order, to the data prediction, as in ComfyUI.
    """
    if order < 1:
        raise ValueError(f"order is {order}: expected at least 1 (k-diffusion has 4).")
    past = Past(order)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        past.remember((yield Keep((x - data) / s.sigma)), s)
        if ends_with_data and t.sigma == 0:
            ended: Value = x - s.sigma * past[0][0]
            return ended
        weights = adams_weights([point.sigma for _, point in past], t.sigma)
        for weight, (d, _) in zip(weights, past, strict=True):
            x = x + weight * d
    return x


def adams_weights(nodes: Sequence[float], end: float) -> list[float]:
    """The integral from ``nodes[0]`` to `end` of each Lagrange basis polynomial over `nodes`."""
    h = end - nodes[0]
    return weights_of([node - nodes[0] for node in nodes], [h ** (k + 1) / (k + 1) for k in range(len(nodes))])
