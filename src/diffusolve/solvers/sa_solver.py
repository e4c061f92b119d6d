"""SA-Solver: stochastic Adams methods, a multistep predictor and a corrector that shares its noise."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from math import expm1, inf, isinf, sqrt
from typing import Any

from diffusolve.errors import SingularPointError
from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_choice, check_eta, check_lengths
from diffusolve.solvers.deis import exponential_weights
from diffusolve.solvers.exponential import decay, fresh_noise, noise_prediction
from diffusolve.solvers.past import Past, has_no_length, near
from diffusolve.solvers.requests import Evaluate, Keep, Noise, Request, SolverRun, Value
from diffusolve.solvers.sigma_alone import sigma_at_percent
from diffusolve.solvers.solver import solver

__all__ = ["sa_solver", "stochastic_adams_weights"]

ROUNDING = 1e-6
"""The distance in log-SNR from an end of the window of a point that stands there but for rounding."""


@solver(
    paper="Xue et al. 2023, SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models, algorithm 1 and "
    "equations 14 and 17, for data predictions, and their counterparts for noise predictions"
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
    counts_last: bool = True,
    window_at: str = "start",
    taus: tuple[float, ...] = (),
    form: str = "data",
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
            sigmas, 0 being the noisiest and 1 the cleanest, and 0 elsewhere.
        s_noise: multiplies the noise.
        simple_order_2: polynomials through two data predictions are integrated as if the weight of their slope were
            constant, as the authors' code has it for order 2.
        lower_order_final: the last steps fall back to lower orders, in the corrector too.
        longest_step: how long a step may be in log-SNR, in units of the mean length of those before it that the
            polynomial goes through; longer ones take fewer data predictions, down to one in the predictor and the two
            at the ends of the step in the corrector. Spacings over timesteps or sigma often end with a step several
            times as long as the one before, over which a polynomial through the others is worth nothing. Infinity lets
            all steps have their order, as the authors' code does.
        counts_last: `lower_order_final` counts a last step to sigma = 0, which is of first order anyway; ComfyUI does
            not, and has no lower orders at all in a run that ends above 0.
        window_at: whether tau follows from the "start" or, as in ComfyUI, from the "end" of a step.
        taus: the paper's tau of each step, in place of `eta` in a part of the noise schedule.
        form: which predictions the polynomials go through, "data" or "noise". With "noise" a step can neither start at
            alpha = 0 nor end at sigma = 0.

    A step that starts at alpha = 0 or ends at sigma = 0 is of first order.
    """
    _check_orders(predictor_order, corrector_order, longest_step)
    _check_taus(grid, eta, (sde_start_percent, sde_end_percent), taus)
    _check_form(grid, form, simple_order_2)
    step_through = FORMS[form]
    check_choice("window_at", window_at, ("start", "end"))
    rounding = ROUNDING if window_at == "end" else -ROUNDING  # ComfyUI's puts a point on the noisier end outside
    window = _log_snr_at(grid, sde_start_percent) + rounding, _log_snr_at(grid, sde_end_percent) + ROUNDING
    uncounted = not counts_last and grid[-1].sigma == 0
    lower_order_final = lower_order_final and (counts_last or uncounted)
    past = Past(max(predictor_order, corrector_order))
    step_before: tuple[Value, Point, float, Value | None] | None = None
    for step, (s, t) in enumerate(pairwise(grid)):
        x, data = yield Evaluate(x, s)
        predicted = yield from _predicted(form, x, data, s)
        remaining = grid.steps - step - uncounted
        if corrector_order and step_before is not None:
            start, before, tau, noise = step_before
            limit = remaining + 2 - uncounted  # of the step before, which ComfyUI counts with the one that begins
            p = min(corrector_order, limit) if lower_order_final else corrector_order
            known = near(past[: p - 1], s, longest_step)
            x = step_through(start, before, s, tau, [(predicted, s), *known], simple_order_2)
            x = x if noise is None else x + noise
            if use_pece:
                x, data = yield Evaluate(x, s, stage=1)
                predicted = yield from _predicted(form, x, data, s)
            else:
                x = yield Keep(x, s)
        past.remember(predicted, s)
        p = past.usable_order(t, predictor_order, remaining if lower_order_final else inf)
        tested = s.log_snr if window_at == "start" else t.log_snr
        tau = taus[step] if taus else eta if window[0] <= tested <= window[1] else 0.0
        fresh = _fresh_noise(form, s, t, tau)
        noise = (s_noise * fresh) * (yield Noise(s, t)) if fresh > 0 else None
        step_before = None if has_no_length(s, t) else (x, s, tau, noise)
        x = step_through(x, s, t, tau, near(past[:p], t, longest_step), simple_order_2)
        x = x if noise is None else x + noise
        if s.alpha == 0:  # at log-SNR = -inf: no polynomial goes there
            past.clear()
    return x


def _check_orders(predictor_order: int, corrector_order: int, longest_step: float) -> None:
    if predictor_order not in range(1, 7):
        raise ValueError(f"predictor_order is {predictor_order}: expected 1 to 6 (the paper has up to 4).")
    if corrector_order not in range(7):
        raise ValueError(f"corrector_order is {corrector_order}: expected 0 to 6 (0 corrects nothing).")
    check_lengths(longest_step)


def _check_taus(grid: Grid, eta: float, window: tuple[float, float], taus: tuple[float, ...]) -> None:
    check_eta(eta)
    if not 0.0 <= window[0] <= window[1] <= 1.0:
        raise ValueError(
            f"sde_start_percent is {window[0]:g} and sde_end_percent {window[1]:g}: expected "
            "0 <= start <= end <= 1 (the defaults are 0.2 and 0.8)."
        )
    if taus and (len(taus) != grid.steps or not all(tau >= 0.0 for tau in taus)):
        raise ValueError(f"taus are {list(taus)}: expected one for each of {grid.steps} steps, at least 0 (the ODE).")


def _check_form(grid: Grid, form: str, simple_order_2: bool) -> None:
    check_choice("form", form, FORMS)
    if form == "noise" and simple_order_2:
        raise ValueError("simple_order_2 is for data predictions only: leave it out, or set form='data'.")
    if form == "noise" and (grid[0].alpha == 0.0 or grid[-1].sigma == 0.0):
        raise SingularPointError(
            "form is 'noise', which has no limit where alpha or sigma is 0, and this run starts or ends there: use "
            "form='data', or end at sigma_min."
        )


def _log_snr_at(grid: Grid, percent: float) -> float:
    """The log-SNR at the training index that is `percent` of the way from the noisiest to the cleanest.

    Both ends are infinite, so that all of a run is between them.
    """
    if percent in (0, 1):
        return -inf if percent == 0 else inf
    schedule = grid.noise_schedule
    return float(schedule.scaling.log_snr(sigma_at_percent(schedule, percent)))


def _predicted(form: str, x: Value, data: Value, s: Point) -> Generator[Request, Any, Value]:
    """The prediction that polynomials of this form go through, from that of the `data` for the sample `x` at `s`."""
    if form == "data":
        return data
    kept: Value = yield Keep(noise_prediction(x, data, s))
    return kept


def _through_data(
    x: Value, s: Point, t: Point, tau: float, known: Sequence[tuple[Value, Point]], simple_order_2: bool
) -> Value:
    """`x` from `s` to `t`, without noise, through the data predictions `known`, which may include that at `t`."""
    result: Value = (t.sigma / s.sigma) * decay(t.log_snr - s.log_snr, tau**2) * x
    weights = stochastic_adams_weights([point for _, point in known], s, t, tau, simple_order_2)
    for weight, (data, _) in zip(weights, known, strict=True):
        result = result + (t.alpha * weight) * data
    return result


def _through_noise(
    x: Value, s: Point, t: Point, tau: float, known: Sequence[tuple[Value, Point]], simple_order_2: bool = False
) -> Value:
    """`x` from `s` to `t`, without noise, through the noise predictions `known`, which may include that at `t`."""
    result: Value = (t.alpha / s.alpha) * x
    weights = _weights_of_noise([point for _, point in known], s, t)
    for weight, (noise, _) in zip(weights, known, strict=True):
        result = result - ((1 + tau**2) * t.sigma * weight) * noise
    return result


def _weights_of_noise(points: Sequence[Point], s: Point, t: Point) -> list[float]:
    """The integral of ``exp(t.log_snr - log_snr)`` times each Lagrange basis polynomial over the step."""
    h = t.log_snr - s.log_snr
    return exponential_weights([t.log_snr - point.log_snr for point in points], h)


FORMS: dict[str, Callable[..., Value]] = {"data": _through_data, "noise": _through_noise}
"""The values that polynomials go through -> the step."""


def _fresh_noise(form: str, s: Point, t: Point, tau: float) -> float:
    """The standard deviation of the noise that a step adds."""
    h = t.log_snr - s.log_snr
    if form == "data":
        return t.sigma * fresh_noise(h, tau**2)
    return t.sigma * tau * sqrt(max(expm1(2 * h), 0.0))


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
