"""Running a solver on real arrays without a plan, for solvers that look at the data.

Between requests a solver still works with symbols: linear combinations of arrays, which are computed when a request
needs them, in one pass. Arrays live as long as a combination reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diffusolve.arrays import Array
from diffusolve.backends import DrawNoise, backend_of, fastest
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
    backend = backend_of(x)
    like, wide = x, backend.widen(x)

    def computed(value: Any) -> Array:
        """The array that a combination stands for, from now on as that; one that a solver has put in is returned."""
        if not isinstance(value, Combination):
            return value
        terms = [(held.array, c) for held, c in value.terms.items() if c != 0.0]
        if len(terms) == 1 and terms[0][1] == 1.0:
            return terms[0][0]
        if not terms:
            return backend.zeros(wide)
        made = total(terms)
        value.terms = {_Held(made): 1.0}
        return made

    def total(terms: Sequence[tuple[Array, float]]) -> Array:
        arrays, coefficients = zip(*terms, strict=True)
        return fastest(arrays[0], arrays[-1]).combine(arrays, coefficients)

    def answer(request: object) -> Any:
        if isinstance(request, Evaluate):
            at: Any = computed(request.x)
            scale, a, b = prediction.conversion(request.point)
            (timestep,) = backend.timesteps([request.point.timestep], like)
            shown = backend.cast(at if scale == 1.0 else scale * at, like)
            outputs: tuple[Array, ...]
            if request.unguided:
                outputs = two_outputs(network, str(solver))(shown, timestep)
            else:
                outputs = (network(shown, timestep),)
            data, *others = (total(((at, a), (output, b)) if a else ((output, b),)) for output in outputs)
            if request.unclipped:
                others = [data, *others]
            if transform is not None:
                data = transform(data, request.point)
            if on_evaluation is not None:
                on_evaluation(request._replace(x=at), data)
            return tuple(map(_symbol, (at, data, *others)))
        if isinstance(request, Noise):
            return _symbol(draw_noise(wide, request.s.sigma, request.t.sigma))
        if isinstance(request, Keep):
            return _symbol(computed(request.x))
        if isinstance(request, ErrorRatio):
            low, high, previous = map(computed, (request.low, request.high, request.previous))
            return backend.error_ratio(low, high, previous, request.rtol, request.atol)
        if isinstance(request, StepEnded):
            return None if on_step is None else on_step(request._replace(x=computed(request.x)))
        raise TypeError(f"{solver.name} yielded {request!r}, which is no request.")

    run = solver(grid, _symbol(wide))
    reply = None
    while True:
        try:
            request = run.send(reply)
        except StopIteration as stop:
            return backend.cast(computed(stop.value), like)
        reply = answer(request)


class _Held:
    """An array as the register of a combination, a register of its own."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array


def _symbol(array: Array) -> Any:
    return Combination({_Held(array): 1.0})
