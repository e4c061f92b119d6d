"""ER-SDE-Solvers: the reverse SDE with any amount of noise at each sigma, chosen by a function."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import exp, expm1, inf, log, log1p, sqrt

from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_choice, check_eta, check_up_to
from diffusolve.solvers.exponential import ddim_step
from diffusolve.solvers.moments import GAUSS_LEGENDRE
from diffusolve.solvers.past import Past
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["NOISE_SCALERS", "THIRD_ORDERS", "er_sde", "integrals"]


def _er_sde_log(rho: float) -> float:
    power: float = rho**0.3
    return power + log1p(10 * exp(-power))


NOISE_SCALERS: dict[str, Callable[[float], float]] = {
    "er_sde": _er_sde_log,
    "reverse_time_sde": lambda rho: log(rho) if rho > 0 else -inf,
    "ode": lambda rho: 0.0,
}
"""Name -> log of the paper's ``phi(rho) / rho``, with rho = sigma / alpha.

"er_sde" is ``rho * (exp(rho ** 0.3) + 10)``, the paper's own choice; "reverse_time_sde" is ``rho ** 2``, the
reverse SDE of Song et al. 2021; "ode" is ``rho``, without noise."""

THIRD_ORDERS = ("taylor", "authors")


@solver(
    paper="Cui et al. 2023, Elucidating the Solution Space of Extended Reverse-Time SDE for Diffusion Models, "
    "ER-SDE-Solvers 1 to 3 in their variance preserving form"
)
def er_sde(
    grid: Grid,
    x: Value,
    *,
    max_stage: int = 3,
    noise_scaler: str = "er_sde",
    eta: float = 1.0,
    s_noise: float = 1.0,
    third_order: str = "taylor",
    points: int = 0,
) -> SolverRun:
    """Exact integral of a polynomial in sigma / alpha through the last `max_stage` data predictions.

    Args:
        max_stage: the order, 1, 2 or 3; the first steps have a lower one.
        noise_scaler: how much noise is replaced at each sigma, see :data:`NOISE_SCALERS`.
        eta: the power of what `noise_scaler` adds: 0 is the ODE, and 1 the noise as the name has it. For the reverse
            SDE it is the eta of :obj:`~diffusolve.solvers.dpmpp_multistep`.
        s_noise: multiplies the noise.
        third_order: how order 3 takes the first derivative. "taylor": at the beginning of the step. "authors": in the
            middle of the step before, as in the paper, which is of second order.
        points: integrals are sums over so many points of equal distance, the last left out, as in the authors' code and
            in ComfyUI (200). 0: they are exact.

    A step that starts at alpha = 0 or ends at sigma = 0 is of first order.
    """
    check_eta(eta)
    check_up_to("max_stage", max_stage, 3)
    check_choice("noise_scaler", noise_scaler, NOISE_SCALERS)
    check_choice("third_order", third_order, THIRD_ORDERS)
    if not 0 <= points <= 100_000:
        raise ValueError(f"points is {points:g}: expected 0 to 100,000 (0 integrates exactly, ComfyUI has 200).")
    log_scale = NOISE_SCALERS[noise_scaler]
    past = Past(max_stage)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        rho, end = _rho(s), _rho(t)
        log_kept = eta * (log_scale(end) - log_scale(rho)) if eta > 0 else 0.0
        past.remember(data, s)
        x = ddim_step(x, data, s, Point(t.timestep, t.alpha, t.sigma * exp(log_kept)))
        if 0 < end < rho < inf and len(past) > 1:
            first, second = integrals(lambda at: eta * log_scale(at), rho, end, points)
            d1, d2 = _derivatives([(value, _rho(point)) for value, point in past], third_order)
            x = x - t.alpha * first * d1
            if d2 is not None:
                x = x + t.alpha * second * d2
        if t.sigma > 0 and log_kept < 0:
            x = x + (s_noise * t.sigma * sqrt(-expm1(2 * log_kept))) * (yield Noise(s, t))
        if s.alpha == 0:  # at rho = inf: no polynomial goes there
            past.clear()
    return x


def _rho(point: Point) -> float:
    return point.sigma / point.alpha if point.alpha > 0 else inf


def _derivatives(known: list[tuple[Value, float]], third_order: str) -> tuple[Value, Value | None]:
    """First and second derivative of the data by rho at the newest of `known`, which are two or three."""
    (data, rho), (m1, rho1), *older = known
    slope = (data - m1) / (rho - rho1)
    if not older:
        return slope, None
    m2, rho2 = older[0]
    half = (slope - (m1 - m2) / (rho1 - rho2)) / (rho - rho2)
    return slope + (rho - rho1) * half if third_order == "taylor" else slope, 2 * half


def integrals(log_scale: Callable[[float], float], rho: float, end: float, points: int = 0) -> tuple[float, float]:
    """The integrals of ``1 - phi(end) / phi(r)`` and of that times ``rho - r`` over r from `end` to `rho`.

    They are what first and second derivative weigh. Gauss-Legendre quadrature in log r, in pieces that are short where
    ``phi(end) / phi(r)`` falls from 1; or sums over `points`.
    """
    length, at_end = log(rho / end), log_scale(end)
    if points:
        piece = (rho - end) / points
        places = [end + index * piece for index in range(points)]
        kept = [exp(at_end - log_scale(r)) * end / r * piece for r in places]
        moment = sum(part * (rho - r) for part, r in zip(kept, places, strict=True))
        return rho - end - sum(kept), (rho - end) ** 2 / 2 - moment
    width = 1 / (1 + (log_scale(rho) - at_end) / length)
    first = second = start = 0.0
    while start < length:
        piece = min(width, length - start)
        for node, weight in GAUSS_LEGENDRE:
            position = start + node * piece
            r = end * exp(position)
            value = -expm1(at_end - log_scale(r) - position) * r * weight * piece
            first += value
            second += value * (rho - r)
        start, width = start + piece, min(2 * width, 1.0)
    return first, second
