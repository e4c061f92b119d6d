"""pi-Flow: many short steps along a policy that one evaluation of the network predicts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diffusolve.noise import Grid, Point
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["policy_flow", "policy_sigmas"]


@solver(
    paper="Chen et al. 2025, pi-Flow: Policy-Based Few-Step Generation via Imitation Distillation, its DX policy",
    integrates_dx_dsigma=True,
)
def policy_flow(
    grid: Grid, x: Value, *, predictions: int = 1, substeps: int = 128, shift: float = 1.0, least: float = 1e-6
) -> SolverRun:
    """Euler's method in short steps, along data predictions for several times that one evaluation makes.

    The predictions belong to equally spaced times from the end of a step to where it begins, before their shift, and
    are interpolated linearly in between. The last is the network's output; the others, velocities too, are asked for
    as noise from where the step begins to where they belong (:func:`policy_sigmas`). All is linear in the sample and
    the predictions, so that a step is one sum.

    Args:
        predictions: how many one evaluation makes. One is DDIM: constant data are integrated exactly.
        substeps: how many short steps a time from 1 to 0 would take.
        shift: of flow matching's sigmas, from the times.
        least: the distance that two times are taken to have at least.
    """
    if predictions < 1 or substeps < 1:
        raise ValueError(f"predictions is {predictions} and substeps {substeps}: expected at least 1 of each.")
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        policy = [data]
        for sigma in reversed(policy_sigmas(s.sigma, t.sigma, predictions, shift)[:-1]):
            velocity = yield Noise(s, Point(s.timestep, s.alpha, sigma))
            policy.insert(0, x - s.sigma * velocity)
        kept, weights = _along(s.sigma, t.sigma, predictions, substeps, shift, least)
        x = kept * x
        for weight, predicted in zip(weights, policy, strict=True):
            x = x + weight * predicted
    return x


def policy_sigmas(start: float, end: float, predictions: int, shift: float) -> list[float]:
    """The sigmas of the predictions for a step from sigma `start` to `end`, the least first and `start` last."""
    high, low = _time(start, shift), _time(end, shift)
    parts = [k / (predictions - 1) for k in range(predictions - 1)] if predictions > 1 else []
    return [*(_sigma(low + part * (high - low), shift) for part in parts), start]


def _along(
    start: float, end: float, predictions: int, substeps: int, shift: float, least: float
) -> tuple[float, Sequence[float]]:
    """(a, b): the short steps from sigma `start` to `end` lead to ``a * x`` and the predictions times `b`."""
    if predictions == 1:
        return end / start, [1.0 - end / start]
    high, low = _time(start, shift), _time(end, shift)
    count = max(round((high - low) * substeps), 1)
    a, b, sigma = 1.0, [0.0] * predictions, start
    for step in range(1, count + 1):
        part = (_time(sigma, shift) - low) / max(high - low, least)
        place = min(max(part, 0.0), 1.0) * (predictions - 1)
        below = min(int(place), predictions - 2)
        following = _sigma(high - step * (high - low) / count, shift)
        growth = following / sigma
        a, b = a * growth, [weight * growth for weight in b]
        b[below] += (1.0 - growth) * (below + 1 - place)
        b[below + 1] += (1.0 - growth) * (place - below)
        sigma = following
    return a, b


def _sigma(time: float, shift: float) -> float:
    return shift * time / (1.0 + (shift - 1.0) * time)


def _time(sigma: float, shift: float) -> float:
    return sigma / (shift - (shift - 1.0) * sigma)
