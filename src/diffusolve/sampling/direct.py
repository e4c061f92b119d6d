"""Running a solver on real arrays without a plan, for solvers that look at the data.

Between requests a solver still works with symbols: linear combinations of arrays, which are computed when a request
needs them, in one pass. Arrays live as long as a combination reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from diffusolve.arrays import Array, cast_like, detached, namespace, timesteps_like, widen
from diffusolve.backends import DrawNoise, fastest
from diffusolve.noise import Grid, Point
from diffusolve.plan import Combination, check_scaling
from diffusolve.prediction import Prediction
from diffusolve.sampling.denoiser import Network, two_outputs
from diffusolve.solvers import ErrorRatio, Evaluate, Keep, Noise, Solver, StepEnded

__all__ = ["run_directly"]


def run_directly(
    solver: Solver,
    grid: Grid,
    prediction: Prediction,
    network: Network,
    x: Array,
    draw_noise: DrawNoise,
    *,
    transform: Callable[[Array, Point], Array] | None = None,
    on_evaluation: Callable[[Evaluate, Array], None] | None = None,
    on_step: Callable[[StepEnded], None] | None = None,
) -> Array:
    """Run `solver` on `x` and return the sample at the grid's last point.

    Gives the same numbers as the solver's plan, up to rounding, and works for solvers that have none.

    Args:
        solver, grid, prediction, network: what to run, where, on what.
        x: the sample at ``grid[0]``, shape (batch, ...).
        draw_noise: where the solver's noise comes from.
        transform: applied to each data prediction.
        on_evaluation: called with each request for an evaluation and the data prediction that answers it.
        on_step: called for each step that an adaptive solver tries.
    """
    check_scaling(solver, grid)
    answers = _Answers(solver, prediction, network, x, draw_noise, transform, on_evaluation, on_step)
    run = solver(grid, _symbol(answers.wide))
    reply = None
    while True:
        try:
            request = run.send(reply)
        except StopIteration as stop:
            return cast_like(answers.computed(stop.value), x)
        reply = answers.to(request)


class _Answers:
    """The answers to a solver's requests: arrays, computed when the solver asks. Arguments as :func:`run_directly`."""

    def __init__(
        self,
        solver: Solver,
        prediction: Prediction,
        network: Network,
        like: Array,
        draw_noise: DrawNoise,
        transform: Callable[[Array, Point], Array] | None,
        on_evaluation: Callable[[Evaluate, Array], None] | None,
        on_step: Callable[[StepEnded], None] | None,
    ) -> None:
        self.solver, self.prediction, self.network = solver, prediction, network
        self.draw_noise, self.transform = draw_noise, transform
        self.on_evaluation, self.on_step = on_evaluation, on_step
        self.like, self.wide = like, widen(like)
        self._by_kind: dict[type, Callable[[Any], Any]] = {
            Evaluate: self._evaluated,
            Noise: lambda request: _symbol(draw_noise(self.wide, request.s.sigma, request.t.sigma)),
            Keep: lambda request: _symbol(self.computed(request.x)),
            ErrorRatio: self._error_ratio,
            StepEnded: self._step_ended,
        }

    def to(self, request: object) -> Any:
        """The answer to `request`. Raises TypeError if it is none."""
        answer = self._by_kind.get(type(request))
        if answer is None:
            raise TypeError(f"{self.solver.name} yielded {request!r}, which is no request.")
        return answer(request)

    def computed(self, value: Any) -> Array:
        """The array that a combination stands for, from now on as that; one that a solver has put in is returned."""
        if not isinstance(value, Combination):
            return value
        terms = [(held.array, c) for held, c in value.terms.items() if c != 0.0]
        if len(terms) == 1 and terms[0][1] == 1.0:
            return terms[0][0]
        if not terms:
            return namespace(self.wide).zeros_like(self.wide)
        total = self._total(terms)
        value.terms = {_Held(total): 1.0}
        return total

    def _total(self, terms: Sequence[tuple[Array, float]]) -> Array:
        arrays, coefficients = zip(*terms, strict=True)
        return fastest(arrays[0], arrays[-1]).combine(arrays, coefficients)

    def _evaluated(self, request: Evaluate) -> tuple[Any, ...]:
        """The sample and the data predictions at a point, each as a symbol."""
        at: Any = self.computed(request.x)
        scale, a, b = self.prediction.conversion(request.point)
        (timestep,) = timesteps_like([request.point.timestep], self.like)
        shown = cast_like(at if scale == 1.0 else scale * at, self.like)
        outputs: tuple[Array, ...]
        if request.unguided:
            outputs = two_outputs(self.network, str(self.solver))(shown, timestep)
        else:
            outputs = (self.network(shown, timestep),)
        data, *others = (self._total(((at, a), (output, b)) if a else ((output, b),)) for output in outputs)
        if request.unclipped:
            others = [data, *others]
        if self.transform is not None:
            data = self.transform(data, request.point)
        if self.on_evaluation is not None:
            self.on_evaluation(request._replace(x=at), data)
        return tuple(map(_symbol, (at, data, *others)))

    def _error_ratio(self, request: ErrorRatio) -> float:
        low, high, previous = (
            detached(self.computed(value)) for value in (request.low, request.high, request.previous)
        )
        xp = namespace(low)
        scale = xp.clip(request.rtol * xp.maximum(xp.abs(low), xp.abs(previous)), request.atol, None)
        return float(xp.sqrt(xp.sum(((low - high) / scale) ** 2) / max(1, prod(low.shape))))

    def _step_ended(self, request: StepEnded) -> None:
        if self.on_step is not None:
            self.on_step(request._replace(x=self.computed(request.x)))


class _Held:
    """An array as a register that combinations are made of: equal to itself alone, whatever numbers it holds."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array


def _symbol(array: Array) -> Any:
    return Combination({_Held(array): 1.0})
