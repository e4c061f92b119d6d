"""UniPC: a multistep predictor and a corrector that costs no evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, factorial, inf

from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_choice, check_lengths
from diffusolve.solvers.exponential import data_step, noise_prediction, noise_step, z_phi
from diffusolve.solvers.moments import weights_of
from diffusolve.solvers.past import Past, has_no_length, near
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
    longest_step: float = inf,
    longest_log_snr: float = inf,
    end_sigma: float = 0.0,
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
        longest_step, longest_log_snr: how long a step may be, in units of the mean length of those before it that the
            polynomial goes through, and in log-SNR. A longer one takes fewer predictions; one that has only its own is
            not corrected. Over a last step from sigma 0.7 to 0.03, as equally spaced timesteps have it, a polynomial is
            worth nothing, and the corrector cannot help.
        end_sigma: a run to sigma = 0 ends at this sigma / alpha in place of there, with its noise left in the sample.
            ComfyUI's 0.001 is 2**-10 in single precision.

    A step that starts or ends at infinite log-SNR is of first order and not corrected.
    """
    if order < 1:
        raise ValueError(f"order is {order}: expected at least 1 (the paper has 2 and 3).")
    check_choice("variant", variant, VARIANTS)
    check_choice("form", form, FORMS)
    check_lengths(longest_step, longest_log_snr)
    if end_sigma and grid[-1].sigma == 0:
        end = Point(grid[-1].timestep, 1.0, end_sigma)
        grid = Grid((*grid.points[:-1], end), grid.noise_schedule, grid.scaling)
    past = Past(order)
    p, too_long = 0, False
    start = x
    for step, (s, t) in enumerate(pairwise(grid)):
        x, data = yield Evaluate(x, s)
        value = data
        if form == "noise" and s.alpha > 0:
            value = yield Keep(noise_prediction(x, data, s))
        corrects = corrector and past and step - 1 not in uncorrected and not too_long
        if corrects and not has_no_length(past[0][1], s):
            x = yield Keep(_unified(start, past[0][1], s, past[:p], (value, s), variant, form), s)
        start = x
        past.remember(value, s)
        p = past.usable_order(t, order, grid.steps - step if lower_order_final else inf)
        known = near(past[:p], t, longest_step) if t.log_snr - s.log_snr <= longest_log_snr else past[:1]
        p, too_long = len(known), len(known) < min(p, 2) or t.log_snr - s.log_snr > longest_log_snr
        if predictor:
            x = _unified(start, s, t, past[:p], None, variant, form)
        if s.alpha == 0:  # at log-SNR = -inf: no polynomial goes there
            past.clear()
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
        z, factor, end = -h, t.alpha, data_step(x, value, s, t)
    else:
        z, factor, end = h, t.sigma, noise_step(x, value, s, t, h)
    if not others:
        return end
    scale = z if variant == "bh1" else expm1(z)
    nodes = [(point.log_snr - s.log_snr) / h for _, point in others]
    for weight, node, (other, _) in zip(_weights(nodes, z, scale), nodes, others, strict=True):
        end = end - factor * scale * weight / node * (other - value)
    return end


def _weights(nodes: Sequence[float], z: float, scale: float) -> list[float]:
    """The paper's a_m: the solution of equation 5, sum of ``nodes**n * a = b_n``; 1/2 for one node.

    `z` is the exponent of the integrating factor over the step: -h for data, h for noise.
    """
    if len(nodes) == 1:
        return [0.5]
    return weights_of(nodes, [z_phi(n, z) * factorial(n - 1) / scale for n in range(2, len(nodes) + 2)])
