"""DPM adaptive: DPM-Solver with steps chosen by a PID controller."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from math import atan, expm1, inf, isinf, isnan, sqrt

from diffusolve.errors import SingularPointError
from diffusolve.noise import Grid, Point
from diffusolve.solvers.ancestral import split_noise
from diffusolve.solvers.checks import check_eta
from diffusolve.solvers.exponential import noise_prediction, noise_step, z_phi
from diffusolve.solvers.requests import ErrorRatio, Evaluate, Noise, Request, SolverRun, StepEnded, Value
from diffusolve.solvers.solver import solver

__all__ = ["PIDController", "ancestral_end", "dpm_12", "dpm_23", "dpm_adaptive", "renewed"]

MOST_STEPS = 100_000
"""The most steps that are tried; tolerances of 1e-9 take some thousands."""


@solver(paper="Lu et al. 2022, DPM-Solver, algorithms 1 and 2 and appendix C; Soderlind 2003 (PID)", adaptive=True)
def dpm_adaptive(
    grid: Grid,
    x: Value,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> SolverRun:
    """DPM-Solver from the grid's first point to its last, in as many steps in log-SNR as the tolerance asks for.

    Each step compares DPM-Solver of `order` with that of one order less, which shares its evaluations.

    Args:
        order: 2 or 3.
        rtol, atol: relative and absolute tolerance for the difference of both orders.
        h_init: the first step, in units of log(alpha / sigma).
        pcoeff, icoeff, dcoeff: the controller's coefficients.
        accept_safety: a step is accepted when the controller would shrink it by no more than this factor.
        eta: how much noise is replaced in each step, as in Euler ancestral.
        s_noise: multiplies that noise.

    Raises:
        SingularPointError: the grid starts or ends at infinite log-SNR, so its length is infinite.
        ValueError: an option out of its range; the network's output is NaN, or no step is small enough for the
            tolerance.
    """
    if order not in (2, 3):
        raise ValueError(f"order is {order}: expected 2 or 3.")
    check_eta(eta)
    _check_tolerances(rtol, atol, h_init, accept_safety)
    for name, coefficient in {"pcoeff": pcoeff, "icoeff": icoeff, "dcoeff": dcoeff}.items():
        if not -10.0 <= coefficient <= 10.0:
            raise ValueError(f"{name} is {coefficient:g}: expected -10 to 10 (0 takes no part, 1 is usual).")
    s, end = grid[0], grid[-1]
    if isinf(s.log_snr) or isinf(end.log_snr):
        which = "starts at alpha = 0" if isinf(s.log_snr) else "ends at sigma = 0"
        raise SingularPointError(
            f"dpm_adaptive divides the range of log(alpha / sigma), which is infinite when sampling {which}: use a "
            "spacing with final_sigma='sigma_min' and a finite sigma_max."
        )
    controller = PIDController(h_init, pcoeff, icoeff, dcoeff, 1.5 if eta else order, accept_safety)
    x, data = yield Evaluate(x, s)
    eps = noise_prediction(x, data, s)
    previous = x
    tried = 0
    while s.log_snr < end.log_snr - 1e-5:
        log_snr = min(end.log_snr, s.log_snr + controller.h)
        tried += 1
        if log_snr <= s.log_snr or tried > MOST_STEPS:
            raise ValueError(
                f"dpm_adaptive does not get on from sigma {s.sigma:g}, with steps of {controller.h:g} in log-SNR: "
                f"expected larger rtol and atol ({rtol:g}, {atol:g}), or a network without jumps."
            )
        t = end if log_snr == end.log_snr else grid.at_log_snr(log_snr)
        down = ancestral_end(grid, s, t, end, eta)
        low, high = yield from (dpm_12 if order == 2 else dpm_23)(grid, x, eps, s, down)
        error = yield ErrorRatio(low, high, previous, rtol, atol)
        if isnan(error):
            raise ValueError(f"dpm_adaptive cannot choose a step: the network's output is NaN by sigma {s.sigma:g}.")
        accepted = controller.propose(error)
        if accepted:
            previous = low
            x = yield from renewed(high, s, t, down, s_noise)
        yield StepEnded(s, t, accepted, x, error, controller.h)
        if not accepted:
            continue
        s = t
        if s.log_snr < end.log_snr - 1e-5:
            x, data = yield Evaluate(x, s)
            eps = noise_prediction(x, data, s)
    return x


def _check_tolerances(rtol: float, atol: float, h_init: float, accept_safety: float) -> None:
    """Raise ValueError unless steps of some size are accepted with these options of :data:`dpm_adaptive`."""
    if not (0.0 <= rtol < inf and 0.0 <= atol < inf and rtol + atol > 0.0):
        raise ValueError(f"rtol is {rtol:g} and atol {atol:g}: expected numbers from 0 up, not both 0.")
    if not 0.0 < h_init < inf:
        raise ValueError(f"h_init is {h_init:g}: expected a positive number, a step in log(alpha / sigma).")
    if not 0.0 < accept_safety <= 1.0:
        raise ValueError(f"accept_safety is {accept_safety:g}: expected above 0 and up to 1 (0.81).")


def ancestral_end(grid: Grid, s: Point, t: Point, end: Point, eta: float) -> Point:
    """The point where the ODE's part of a step from `s` to `t` ends: less noisy than `t`, but no less than `end`.

    `eta` is how much noise is replaced, as in Euler ancestral.
    """
    if eta == 0:
        return t
    _, down = split_noise(s, t, eta)
    return end if down.log_snr >= end.log_snr else grid.at_log_snr(down.log_snr)


def renewed(x: Value, s: Point, t: Point, down: Point, s_noise: float) -> Generator[Noise, Value, Value]:
    """`x`, a sample at `down`, with fresh noise up to `t`: the end of a step from `s`."""
    if down is t:
        return x
    kept = t.alpha / down.alpha
    up = sqrt(max(0.0, t.sigma**2 - (kept * down.sigma) ** 2))
    result: Value = kept * x
    return result + (s_noise * up) * (yield Noise(s, t)) if up > 0 else result


def dpm_12(
    grid: Grid, x: Value, eps: Value, s: Point, t: Point
) -> Generator[Request, tuple[Value, Value], tuple[Value, Value]]:
    """DPM-Solver of order 1 and 2 from `s` to `t`."""
    h = t.log_snr - s.log_snr
    eps_1 = yield from _inner(grid, x, eps, s, h, 1 / 2, 1, None)
    first = noise_step(x, eps, s, t, h)
    return first, first - t.sigma * expm1(h) * (eps_1 - eps)


def dpm_23(
    grid: Grid, x: Value, eps: Value, s: Point, t: Point
) -> Generator[Request, tuple[Value, Value], tuple[Value, Value]]:
    """DPM-Solver of order 2 and 3 from `s` to `t`."""
    h = t.log_snr - s.log_snr
    r1, r2 = 1 / 3, 2 / 3
    eps_1 = yield from _inner(grid, x, eps, s, h, r1, 1, None)
    first = noise_step(x, eps, s, t, h)
    second = first - t.sigma * expm1(h) / (2 * r1) * (eps_1 - eps)
    slope = r2 / r1 * z_phi(2, r2 * h) * (eps_1 - eps)
    eps_2 = yield from _inner(grid, x, eps, s, h, r2, 2, slope)
    return second, first - t.sigma / r2 * z_phi(2, h) * (eps_2 - eps)


def _inner(
    grid: Grid, x: Value, eps: Value, s: Point, h: float, r: float, stage: int, slope: Value | None
) -> Generator[Request, tuple[Value, Value], Value]:
    """The noise prediction at the fraction `r` of a step of `h`, reached to first order and by `slope`."""
    u = grid.at_log_snr(s.log_snr + r * h)
    inner = noise_step(x, eps, s, u, r * h)
    if slope is not None:
        inner = inner - u.sigma * slope
    inner, data = yield Evaluate(inner, u, stage)
    return noise_prediction(inner, data, u)


@dataclass
class PIDController:
    """Step size control from the last three error ratios (Soderlind 2003)."""

    h: float
    pcoeff: float
    icoeff: float
    dcoeff: float
    order: float
    accept_safety: float
    eps: float = 1e-8
    inverse_errors: list[float] = field(default_factory=list)

    def propose(self, error_ratio: float) -> bool:
        """Take note of a step's error, set the size `h` of the next one, and say whether this one is accepted."""
        newest = 1 / (error_ratio + self.eps)
        e1, e2, e3 = [newest, *(self.inverse_errors or [newest, newest])]
        p, i, d = (c / self.order for c in (self.pcoeff, self.icoeff, self.dcoeff))
        factor = e1 ** (p + i + d) * e2 ** -(p + 2 * d) * e3**d
        factor = 1 + atan(factor - 1)
        self.h *= factor
        accepted = factor >= self.accept_safety
        if accepted:
            self.inverse_errors = [e1, e2]
        elif not self.inverse_errors:
            self.inverse_errors = [e2, e3]
        return accepted
