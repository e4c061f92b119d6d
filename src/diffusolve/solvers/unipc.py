"""UniPC: a multistep predictor and a corrector that costs no evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, isinf

from diffusolve.errors import unknown_name
from diffusolve.noise import Grid, Point
from diffusolve.solvers.moments import weights_of
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["unipc"]

VARIANTS = ("bh1", "bh2")
FORMS = ("data", "noise")


@solver(paper="Zhao et al. 2023, UniPC: A Unified Predictor-Corrector Framework, algorithms 1 and 2, and appendix B")
def unipc(
    grid: Grid,
    x: Value,
    *,
    order: int = 2,
    variant: str = "bh2",
    form: str = "data",
    predictor: bool = True,
    corrector: bool = True,
    uncorrected: tuple[int, ...] = (),
    lower_order_final: bool = True,
) -> SolverRun:
    """Multistep UniPC.

    The model runs on the predicted sample; its output then corrects that sample, and the next prediction starts from
    the corrected one, which the model itself never sees.

    Args:
        order: of the predictor, at least 1; the corrector adds one. The first steps have a lower order.
        variant: the paper's B(h): "bh1" is h, "bh2" is exp(h) - 1.
        form: whether "data" or "noise" predictions are extrapolated.
        predictor: without it this is UniC around a predictor of the caller's: a step leads to the corrected sample at
            its beginning, and the caller passes in what any other method makes of it.
        corrector: without it this is UniP.
        uncorrected: numbers of steps, from 0, whose result is not corrected.
        lower_order_final: the last steps fall back to lower orders.

    A step that starts or ends at infinite log-SNR is of first order and not corrected.
    """
    if order < 1:
        raise ValueError(f"order is {order}: expected at least 1 (2 or 3 is usual).")
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    history: list[tuple[Value, Point]] = []
    p = 0
    start = x
    for step, (s, t) in enumerate(pairwise(grid)):
        x, data = yield Evaluate(x, s)
        value = data
        if form == "noise" and s.alpha > 0:
            value = yield Keep((x - s.alpha * data) / s.sigma)
        if corrector and history and step - 1 not in uncorrected:
            x = yield Keep(_unified(start, history[0][1], s, history[:p], (value, s), variant, form), s)
        start = x
        known = [(value, s), *history]
        remaining = grid.steps - step if lower_order_final else order
        p = 1 if t.sigma in (0, s.sigma) else min(order, len(known), remaining)
        if predictor:
            x = _unified(start, s, t, known[:p], None, variant, form)
        # After a step of no length the next point is the same, and no polynomial goes through both.
        history = [] if isinf(s.log_snr) or t.sigma == s.sigma else known[:order]
    return x


def _unified(
    x: Value,
    s: Point,
    t: Point,
    known: Sequence[tuple[Value, Point]],
    new: tuple[Value, Point] | None,
    variant: str,
    form: str,
) -> Value:
    """One step from `s` to `t` through the predictions `known`, newest first, and `new`, that at `t`."""
    h = t.log_snr - s.log_snr
    value = known[0][0]
    others = [*known[1:], *([new] if new else [])]
    if form == "data" or s.alpha == 0:  # there is no noise prediction at alpha = 0, and `value` is the data
        k, factor = -h, t.alpha
        end: Value = (t.sigma / s.sigma) * x - t.alpha * expm1(-h) * value
    else:
        k, factor = h, t.sigma
        ratio = t.alpha / s.alpha
        end = ratio * x - (ratio * s.sigma - t.sigma) * value
    if not others:
        return end
    scale = k if variant == "bh1" else expm1(k)
    nodes = [(point.log_snr - s.log_snr) / h for _, point in others]
    for weight, node, (other, _) in zip(_weights(nodes, k, scale), nodes, others, strict=True):
        end = end - factor * scale * weight / node * (other - value)
    return end


def _weights(nodes: Sequence[float], k: float, scale: float) -> list[float]:
    """The paper's a_m: the solution of equation 5, sum of ``nodes**n * a = b_n``; 1/2 for one node.

    `k` is the exponent of the integrating factor over the step: -h for data, h for noise.
    """
    if len(nodes) == 1:
        return [0.5]
    right = []
    phi, factorial = expm1(k) / k - 1, 1
    for n in range(2, len(nodes) + 2):
        right.append(phi * factorial / scale)
        factorial *= n
        phi = phi / k - 1 / factorial
    return weights_of(nodes, right)
