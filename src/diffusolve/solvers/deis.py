"""DEIS: the noise prediction is extrapolated by a polynomial, and integrated over rho = sigma / alpha."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import exp, expm1, log1p, prod, sqrt

from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_choice
from diffusolve.solvers.exponential import data_step, noise_prediction
from diffusolve.solvers.moments import GAUSS_LEGENDRE, weights_of
from diffusolve.solvers.past import Past
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["deis"]


@solver(
    paper="Zhang & Chen 2022, Fast Sampling of Diffusion Models with Exponential Integrator, section 4 (log rho-AB "
    "and tAB)"
)
def deis(
    grid: Grid, x: Value, *, order: int = 3, lower_order_final: bool = False, polynomial: str = "log_rho"
) -> SolverRun:
    """Exact integral over rho of the polynomial through the last `order` noise predictions.

    Samples are alpha times a solution of ``d(x / alpha) = noise d(rho)``, ``rho = sigma / alpha``.

    Args:
        order: at least 1; the first steps have a lower one.
        lower_order_final: the last steps fall back to lower orders.
        polynomial: what it is a polynomial in: "log_rho" (log rho-AB), or "time" (tAB), that of the linear variance
            preserving SDE whose rho goes from 0.002 to 80, as ComfyUI has it. The first is better on Karras's sigmas,
            the second where steps at the end are long: on equally spaced timesteps.

    A step that starts at alpha = 0 or ends at sigma = 0 is of first order.
    """
    if order < 1:
        raise ValueError(f"order is {order}: expected at least 1 (the paper has 3).")
    check_choice("polynomial", polynomial, POLYNOMIALS)
    past = Past(order)
    for step, (s, t) in enumerate(pairwise(grid)):
        x, data = yield Evaluate(x, s)
        eps = yield Keep(noise_prediction(x, data, s))
        past.remember(eps, s)
        p = past.usable_order(t, order, grid.steps - step if lower_order_final else order)
        x = data_step(x, data, s, t)  # the noise stays as it is
        if p > 1:
            weights = POLYNOMIALS[polynomial]([point for _, point in past[:p]], t)
            for weight, (other, _) in zip(weights[1:], past[1:p], strict=True):
                x = x + t.alpha * weight * (other - eps)
        if s.alpha == 0:  # at log rho = inf: no polynomial goes there
            past.clear()
    return x


def _through_log_rho(nodes: Sequence[Point], t: Point) -> list[float]:
    """The integral over rho from the first of `nodes` to `t` of each Lagrange basis polynomial in log rho."""
    s = nodes[0]
    weights = exponential_weights([s.log_snr - point.log_snr for point in nodes], s.log_snr - t.log_snr)
    return [s.sigma / s.alpha * weight for weight in weights]


def _through_time(nodes: Sequence[Point], t: Point) -> list[float]:
    """The same of the polynomials in time. Gauss-Legendre quadrature in log rho, in pieces of 1 at most."""
    s, length = nodes[0], t.log_snr - nodes[0].log_snr
    times = [_time(-point.log_snr) for point in nodes]
    pieces = int(abs(length)) + 1
    weights = [0.0] * len(nodes)
    for piece in range(pieces):
        for node, share in GAUSS_LEGENDRE:
            log_rho = -s.log_snr - length * (piece + node) / pieces
            time, amount = _time(log_rho), exp(log_rho) * share * -length / pieces
            for j, own in enumerate(times):
                weights[j] += amount * prod((time - other) / (own - other) for other in times if other != own)
    return weights


RHO_MIN, RHO_MAX, TIME_MIN = 0.002, 80.0, 1e-3
"""The range of rho of the SDE that "time" is of, and the time at its lower end; 1 is that at the upper end."""
END, START = log1p(RHO_MAX**2), log1p(RHO_MIN**2)
BETA_SLOPE = 2 * (END - START / TIME_MIN) / (1 - TIME_MIN)
BETA_MIN = END - BETA_SLOPE / 2


def _time(log_rho: float) -> float:
    """The time at which ``log(1 + rho**2)`` is ``BETA_MIN * time + BETA_SLOPE / 2 * time**2``."""
    log_power = log1p(exp(2 * log_rho))
    return (sqrt(BETA_MIN**2 + 2 * BETA_SLOPE * log_power) - BETA_MIN) / BETA_SLOPE


POLYNOMIALS: dict[str, Callable[[Sequence[Point], Point], list[float]]] = {
    "log_rho": _through_log_rho,
    "time": _through_time,
}
"""Variable of the polynomials -> the weights of the noise predictions at some points, newest first."""


def exponential_weights(nodes: list[float], end: float) -> list[float]:
    """The integral from 0 to `end` of each Lagrange basis polynomial over `nodes`, times exp(u)."""
    if end == 0.0:
        return [0.0] * len(nodes)
    # In units of `end`, so that the moments do not get small with it.
    weights = weights_of([node / end for node in nodes], _moments(len(nodes), end))
    return [end * weight for weight in weights]


def _moments(count: int, end: float) -> list[float]:
    """The integrals from 0 to 1 of ``u**k * exp(end * u)`` for k below `count`.

    Each follows from a neighbour by parts, ``end * m[k] + k * m[k - 1] = exp(end)``: upwards where `end` is large and
    errors grow by k / end, else downwards from the highest, and they grow by end / k.
    """
    power = exp(end)
    if abs(end) > 4:
        moments = [expm1(end) / end]
        for k in range(1, count):
            moments.append((power - k * moments[-1]) / end)
        return moments
    moments = [_series(count - 1, end)]
    for k in range(count - 1, 0, -1):
        moments.append((power - end * moments[-1]) / k)
    return moments[::-1]


def _series(k: int, end: float) -> float:
    """Moment `k` as a power series whose terms have one sign: of exp(end * u), or of exp(-end * (1 - u)) if end < 0."""
    total, n = 0.0, k + 1
    if end < 0:
        term = 1 / n
        while term > total * 1e-17:
            total += term
            n += 1
            term *= -end / n
        return total * exp(end)
    power = 1.0
    while power / n > total * 1e-17:
        total += power / n
        n += 1
        power *= end / (n - k - 1)
    return total
