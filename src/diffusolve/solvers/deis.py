"""DEIS: the noise prediction is extrapolated in log rho, and integrated over rho = sigma / alpha."""

from __future__ import annotations

from itertools import pairwise
from math import exp, expm1

from diffusolve.noise import Grid
from diffusolve.solvers.exponential import data_step, noise_prediction
from diffusolve.solvers.moments import weights_of
from diffusolve.solvers.past import Past
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["deis"]


@solver(
    paper="Zhang & Chen 2022, Fast Sampling of Diffusion Models with Exponential Integrator, section 4 (log rho-AB)"
)
def deis(grid: Grid, x: Value, *, order: int = 3, lower_order_final: bool = False) -> SolverRun:
    """Exact integral over rho of the polynomial in log rho through the last `order` noise predictions.

    Samples are alpha times a solution of ``d(x / alpha) = noise d(rho)``, ``rho = sigma / alpha``.

    Args:
        order: at least 1; the first steps have a lower one.
        lower_order_final: the last steps fall back to lower orders.

    A step that starts at alpha = 0 or ends at sigma = 0 is of first order.
    """
    if order < 1:
        raise ValueError(f"order is {order}: expected at least 1 (the paper has 3).")
    past = Past(order)
    for step, (s, t) in enumerate(pairwise(grid)):
        x, data = yield Evaluate(x, s)
        eps = yield Keep(noise_prediction(x, data, s))
        past.remember(eps, s)
        p = past.usable_order(t, order, grid.steps - step if lower_order_final else order)
        x = data_step(x, data, s, t)  # the noise stays as it is
        if p > 1:
            rho = s.sigma / s.alpha
            weights = exponential_weights([s.log_snr - point.log_snr for _, point in past[:p]], s.log_snr - t.log_snr)
            for weight, (other, _) in zip(weights[1:], past[1:p], strict=True):
                x = x + t.alpha * rho * weight * (other - eps)
        if s.alpha == 0:  # at log rho = inf: no polynomial goes there
            past.clear()
    return x


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
