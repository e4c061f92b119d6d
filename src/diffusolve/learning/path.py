"""Levels by dynamic programming over the teacher's path: the network is not asked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diffusolve.arrays import to_numpy
from diffusolve.learning.teacher import Pairs

__all__ = ["check_levels", "levels_of_path"]

Numbers = npt.NDArray[np.float64]

RIDGE = 1e-6
"""Of the least squares of a step, as a part of the slopes' mean square: slopes that are nearly equal do not cancel."""


def levels_of_path(pairs: Pairs, steps: int, order: int = 2) -> Numbers:
    """The levels among those of the path on which `steps` linear steps are nearest to it.

    A step from one level to another costs the root mean square of what the best sum of the last slopes leaves of the
    way between the teacher's states there (Chen et al. 2024, GITS, have Euler's step and the cost of its error; Xue et
    al. 2024 and the OSS of Pei et al. 2025 the recursion); the costs of all steps are added up.

    Args:
        pairs: noises and the teacher's path.
        steps: fewer than the path has.
        order: how many slopes a step takes, where there are as many: 1, 2 or 3.

    Returns:
        Falling sigmas, shape (steps + 1,), the last 0.

    Raises:
        ValueError: more steps than the path has.
    """
    sigmas = np.append(pairs.sigmas, 0.0)
    count = len(pairs.sigmas)
    check_levels(steps, count)
    costs = _Costs(pairs)
    # Of the ways that lead to a step along `order` levels, the cheapest, and the level that it comes from.
    ways: dict[tuple[int, ...], float] = {(0,): 0.0}
    came: list[dict[tuple[int, ...], tuple[int, ...]]] = []
    for step in range(steps):
        left = steps - step - 1
        nexts = {way: [count] if left == 0 else range(way[-1] + 1, count - left + 1) for way in ways}
        found: dict[tuple[int, ...], float] = {}
        before: dict[tuple[int, ...], tuple[int, ...]] = {}
        for way, cost in ways.items():
            reached = [j for j in nexts[way] if j > way[-1]]
            for j, further in zip(reached, costs.steps(way, reached), strict=True):
                longer = (*way, j)[-order:]
                if cost + further < found.get(longer, np.inf):
                    found[longer], before[longer] = cost + further, way
        ways = found
        came.append(before)
    way = min(ways, key=ways.__getitem__)
    indices = []
    for before in reversed(came):
        indices.append(way[-1])
        way = before[way]
    return np.asarray(sigmas[[0, *reversed(indices)]])


def check_levels(evaluations: int, count: int) -> None:
    """Raise ValueError if a path of `count` levels has too few for so many evaluations."""
    if evaluations > count:
        raise ValueError(
            f"a plan of {evaluations} evaluations takes as many levels, but the teacher's path has {count}: give "
            f"teacher_steps={evaluations - 1} or more."
        )


class _Costs:
    """Errors of steps between levels of the path, from the inner products of its states and slopes."""

    def __init__(self, pairs: Pairs) -> None:
        states = [*pairs.states, pairs.final]
        flat = np.array([to_numpy(state).astype(np.float64).ravel() for state in (*states, *pairs.slopes)])
        products = flat @ flat.T / flat.shape[1]
        count = len(states)
        self.states, self.slopes = products[:count, :count], products[count:, count:]
        self.both = products[count:, :count]

    def steps(self, way: tuple[int, ...], reached: list[int]) -> Numbers:
        """The costs of going from the last level of `way` to each of `reached`, with the slopes of all of `way`."""
        own, last = list(way), way[-1]
        gram = self.slopes[np.ix_(own, own)]
        gram = gram + RIDGE * np.trace(gram) / len(own) * np.eye(len(own))
        towards = self.both[np.ix_(own, reached)] - self.both[own, last][:, None]
        far = np.diag(self.states)[reached] - 2.0 * self.states[last, reached] + self.states[last, last]
        left = far - (towards * np.linalg.lstsq(gram, towards, rcond=None)[0]).sum(0)
        return np.asarray(np.sqrt(np.maximum(left, 0.0)))
