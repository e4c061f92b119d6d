"""UniPC: a multistep predictor and a corrector that costs no evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, isinf

from diffusolve.errors import unknown_name
from diffusolve.noise import Grid, Point
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["unipc"]

VARIANTS = ("bh1", "bh2")


@solver(paper="Zhao et al. 2023, UniPC: A Unified Predictor-Corrector Framework, algorithms 1 and 2")
def unipc(
    grid: Grid,
    x: Value,
    *,
    order: int = 2,
    variant: str = "bh2",
    corrector: bool = True,
    lower_order_final: bool = True,
) -> SolverRun:
    """Multistep UniPC in data prediction.

    The model runs on the predicted sample; its output then corrects that sample, and the next prediction starts from
    the corrected one, which the model itself never sees.

    Args:
        order: of the predictor, at least 1; the corrector adds one. The first steps have a lower order.
        variant: the paper's B(h): "bh1" is h, "bh2" is exp(h) - 1.
        corrector: without it this is UniP.
        lower_order_final: the last steps fall back to lower orders.

    A step that starts or ends at infinite log-SNR is of first order and not corrected.
    """
    if order < 1:
        raise ValueError(f"order is {order}: expected at least 1 (2 or 3 is usual).")
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    history: list[tuple[Value, Point]] = []
    p = 0
    start = x
    for step, (s, t) in enumerate(pairwise(grid)):
        x, data = yield Evaluate(x, s)
        if corrector and history:
            x = yield Keep(_unified(start, history[0][1], s, history[:p], (data, s), variant), s)
        start = x
        known = [(data, s), *history]
        remaining = grid.steps - step if lower_order_final else order
        p = 1 if t.sigma == 0 else min(order, len(known), remaining)
        x = _unified(start, s, t, known[:p], None, variant)
        history = [] if isinf(s.log_snr) else known[:order]
    return x


def _unified(
    x: Value, s: Point, t: Point, known: Sequence[tuple[Value, Point]], new: tuple[Value, Point] | None, variant: str
) -> Value:
    """One step from `s` to `t` through the data predictions `known`, newest first, and `new`, that at `t`."""
    h = t.log_snr - s.log_snr
    data = known[0][0]
    others = [*known[1:], *([new] if new else [])]
    end: Value = (t.sigma / s.sigma) * x - t.alpha * expm1(-h) * data
    if not others:
        return end
    scale = -h if variant == "bh1" else expm1(-h)
    nodes = [(point.log_snr - s.log_snr) / h for _, point in others]
    for weight, node, (other, _) in zip(_weights(nodes, h, scale), nodes, others, strict=True):
        end = end - t.alpha * scale * weight / node * (other - data)
    return end


def _weights(nodes: Sequence[float], h: float, scale: float) -> list[float]:
    """The paper's a_m: the solution of equation 5, sum of ``nodes**k * a = b_k``; 1/2 for one node."""
    if len(nodes) == 1:
        return [0.5]
    right = []
    phi, factorial = expm1(-h) / -h - 1, 1
    for k in range(2, len(nodes) + 2):
        right.append(phi * factorial / scale)
        factorial *= k
        phi = phi / -h - 1 / factorial
    return _solve([[node**k for node in nodes] for k in range(len(nodes))], right)


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gaussian elimination; the matrices are Vandermonde, small, and their nodes differ."""
    n = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda row: abs(rows[row][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for j in range(i + 1, n):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    solution = [0.0] * n
    for i in reversed(range(n)):
        solution[i] = (rows[i][n] - sum(rows[i][j] * solution[j] for j in range(i + 1, n))) / rows[i][i]
    return solution
