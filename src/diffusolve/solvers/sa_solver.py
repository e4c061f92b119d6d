"""SA-Solver: stochastic Adams methods, a multistep predictor and a corrector that shares its noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, inf, isinf

from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_eta
from diffusolve.solvers.deis import exponential_weights
from diffusolve.solvers.exponential import decay, fresh_noise
from diffusolve.solvers.past import Past, has_no_length
from diffusolve.solvers.requests import Evaluate, Keep, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["sa_solver", "stochastic_adams_weights"]


@solver(
    paper="Xue et al. 2023, SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models, algorithm 1 and "
    "equations 14 and 17, for data predictions"
)
def sa_solver(
    grid: Grid,
    x: Value,
    *,
    predictor_order: int = 3,
    corrector_order: int = 4,
    use_pece: bool = False,
    eta: float = 1.0,
    sde_start_percent: float = 0.2,
    sde_end_percent: float = 0.8,
    s_noise: float = 1.0,
    simple_order_2: bool = False,
    lower_order_final: bool = False,
    longest_step: float = 1.5,
) -> SolverRun:
    """Exact integrals of polynomials in log-SNR through data predictions, along the reverse SDE or the ODE.

    The predictor uses the last `predictor_order` data predictions. The network is asked about its result, and the
    corrector repeats the step, with the same noise, through that answer and those before it.

    Args:
        predictor_order: 1 to 6; the first steps have a lower one.
        corrector_order: how many data predictions the corrector uses, the new one included, up to 6; 0 corrects
            nothing.
        use_pece: evaluate the corrected sample too (predict, evaluate, correct, evaluate).
        eta: the paper's tau where it is not 0; 0 is the ODE, and 1 the reverse SDE. Other solvers' eta is its square.
        sde_start_percent, sde_end_percent: tau is `eta` in steps that begin in this part of the noise schedule's
            levels, 0 being the noisiest and 1 the cleanest, and 0 elsewhere.
        s_noise: multiplies the noise.
        simple_order_2: polynomials through two data predictions are integrated as if the weight of their slope were
            constant, as the authors' code has it for order 2.
        lower_order_final: the last steps fall back to lower orders, in the corrector too.
        longest_step: how long a step may be in log-SNR, in units of the mean length of those before it that the
            polynomial goes through; longer ones take fewer data predictions, down to one in the predictor and the two
            at the ends of the step in the corrector. Spacings over timesteps or sigma often end with a step several
            times as long as the one before, over which a polynomial through the others is worth nothing. Infinity lets
            all steps have their order, as the authors' code does.

    A step that starts at alpha = 0 or ends at sigma = 0 is of first order.
    """
    check_eta(eta)
    if predictor_order not in range(1, 7):
        raise ValueError(f"predictor_order is {predictor_order}: expected 1 to 6 (the paper has up to 4).")
    if corrector_order not in range(7):
        raise ValueError(f"corrector_order is {corrector_order}: expected 0 to 6 (0 corrects nothing).")
    if not longest_step > 0.0:
        raise ValueError(f"longest_step is {longest_step:g}: expected a positive number (inf sets no limit).")
    if not 0.0 <= sde_start_percent <= sde_end_percent <= 1.0:
        raise ValueError(
            f"sde_start_percent is {sde_start_percent:g} and sde_end_percent {sde_end_percent:g}: expected "
            "0 <= start <= end <= 1 (the defaults are 0.2 and 0.8)."
        )
    window = _log_snr_at(grid, sde_start_percent), _log_snr_at(grid, sde_end_percent)
    past = Past(max(predictor_order, corrector_order))
    step_before: tuple[Value, Point, float, Value | None] | None = None
    for step, (s, t) in enumerate(pairwise(grid)):
        x, data = yield Evaluate(x, s)
        remaining = grid.steps - step
        if corrector_order and step_before is not None:
            start, before, tau, noise = step_before
            p = min(corrector_order, remaining + 1) if lower_order_final else corrector_order
            known = _near(past[: p - 1], s, longest_step)
            x = _adams(start, before, s, tau, [(data, s), *known], simple_order_2)
            x = x if noise is None else x + noise
            if use_pece:
                x, data = yield Evaluate(x, s, stage=1)
            else:
                x = yield Keep(x, s)
        past.remember(data, s)
        p = past.usable_order(t, predictor_order, remaining if lower_order_final else inf)
        tau = eta if window[0] <= s.log_snr <= window[1] else 0.0
        fresh = t.sigma * fresh_noise(t.log_snr - s.log_snr, tau**2)
        noise = (s_noise * fresh) * (yield Noise(s, t)) if fresh > 0 else None
        step_before = None if has_no_length(s, t) else (x, s, tau, noise)
        x = _adams(x, s, t, tau, _near(past[:p], t, longest_step), simple_order_2)
        x = x if noise is None else x + noise
        if s.alpha == 0:  # at log-SNR = -inf: no polynomial goes there
            past.clear()
    return x


def _near(known: list[tuple[Value, Point]], t: Point, longest_step: float) -> list[tuple[Value, Point]]:
    """As many of `known`, newest first, as a step from the newest to `t` may use, at least one if there is any."""
    newest = known[0][1].log_snr if known else inf
    while len(known) > 1 and t.log_snr - newest > longest_step * (newest - known[-1][1].log_snr) / (len(known) - 1):
        known = known[:-1]
    return known


def _log_snr_at(grid: Grid, percent: float) -> float:
    """The log-SNR at the training index that is `percent` of the way from the noisiest to the cleanest.

    Both ends are infinite, so that all of a run is between them.
    """
    if percent in (0, 1):
        return -inf if percent == 0 else inf
    schedule = grid.noise_schedule
    level = (1 - percent) * (schedule.num_train_timesteps - 1)
    return float(schedule.scaling.log_snr(schedule.sigma_at_index(level)))


def _adams(
    x: Value, s: Point, t: Point, tau: float, known: Sequence[tuple[Value, Point]], simple_order_2: bool
) -> Value:
    """`x` from `s` to `t`, without noise, through the data predictions `known`, which may include that at `t`."""
    result: Value = (t.sigma / s.sigma) * decay(t.log_snr - s.log_snr, tau**2) * x
    weights = stochastic_adams_weights([point for _, point in known], s, t, tau, simple_order_2)
    for weight, (data, _) in zip(weights, known, strict=True):
        result = result + (t.alpha * weight) * data
    return result


def stochastic_adams_weights(
    points: Sequence[Point], s: Point, t: Point, tau: float, simple_order_2: bool = False
) -> list[float]:
    """The weights of the data predictions at `points` in a step from `s` to `t`, in units of ``t.alpha``.

    The integral of ``k * exp(k * (log_snr - t.log_snr))`` times each Lagrange basis polynomial over the step, with
    ``k = 1 + tau ** 2``.
    """
    h = t.log_snr - s.log_snr
    if isinf(h):
        return [1.0] + [0.0] * (len(points) - 1)
    k = 1 + tau**2
    if simple_order_2 and len(points) == 2:
        one, other = points
        slope = k * h * h / 2 / (one.log_snr - other.log_snr)
        constant = -expm1(-k * h)
        return [constant + slope, -slope] if one == s else [slope, constant - slope]
    nodes = [k * (point.log_snr - t.log_snr) for point in points]
    return [-weight for weight in exponential_weights(nodes, -k * h)]
