"""Evaluations left out, with the noise prediction extrapolated in their place."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import comb
from typing import Any

from diffusolve.solvers.exponential import noise_prediction
from diffusolve.solvers.requests import Evaluate, Keep, Request, SolverRun, intercepted

__all__ = ["skipping"]

MOST = 4
"""The longest history of predictions that is extrapolated from."""


def skipping(run: SolverRun, every: int, order: int, steps: int) -> SolverRun:
    """A solver's run whose every `every`-th step asks the network nothing.

    The noise prediction of such a step is the polynomial of degree ``order - 1`` through the last `order` steps that
    did ask, one step on: ``2 e[-1] - e[-2]`` for 2, ``3 e[-1] - 3 e[-2] + e[-3]`` for 3. The first `order` steps and
    the last one always ask, and so does the step after one that did not. ComfyUI's FSampler is of this kind.

    Args:
        run: of a solver that adds no noise, which the extrapolation would carry on.
        every: at least 2.
        order: 2 to 4.
        steps: of the grid.
    """
    if every < 2 or order not in range(2, MOST + 1):
        raise ValueError(
            f"skip_every is {every} and skip_order {order}: expected at least 2, or 0 for no skipping, and 2 to {MOST}."
        )
    history: list[Any] = []
    step = -1

    def answered(request: Request) -> Generator[Request, Any, Any]:
        nonlocal step
        if not isinstance(request, Evaluate):
            return (yield request)
        step += request.stage == 0
        point = request.point
        if (step + 1) % every == 0 and step < steps - 1 and len(history) >= order:
            if request.unguided:
                raise ValueError("CFG++ needs an output without guidance at each step, so that none can be left out.")
            x = yield Keep(request.x)
            data = (x - point.sigma * _extrapolated(history[-order:])) / point.alpha
            return (x, data, data)[: 2 + request.unclipped]
        answer = yield request
        if request.stage == 0:
            x, data = answer[:2]
            history.append((yield Keep(noise_prediction(x, data, point))))
        return answer

    return intercepted(run, answered)


def _extrapolated(history: Sequence[Any]) -> Any:
    """The next of a row of values, by the polynomial through them."""
    order = len(history)
    weights = [(-1) ** (back - 1) * comb(order, back) for back in range(1, order + 1)]
    total = float(weights[0]) * history[-1]
    for back, weight in enumerate(weights[1:], 2):
        total = total + float(weight) * history[-back]
    return total
