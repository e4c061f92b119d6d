"""Running a solver on real arrays without a plan, for solvers that look at the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusolve.arrays import Array
from diffusolve.backends import DrawNoise, backend_of
from diffusolve.noise import Grid, Point
from diffusolve.plan import check_space
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
    check_space(solver, grid)
    backend = backend_of(x)
    like, wide = x, backend.widen(x)

    def answer(request: object) -> Any:
        if isinstance(request, Evaluate):
            at: Any = request.x
            scale, a, b = prediction.conversion(request.point)
            (timestep,) = backend.timesteps([request.point.timestep], like)
            shown = backend.cast(scale * at, like)
            outputs: tuple[Array, ...]
            if request.unguided:
                outputs = two_outputs(network, str(solver))(shown, timestep)
            else:
                outputs = (network(shown, timestep),)
            data, *others = (backend.combine((at, output), (a, b)) for output in outputs)
            if request.unclipped:
                others = [data, *others]
            if transform is not None:
                data = transform(data, request.point)
            if on_evaluation is not None:
                on_evaluation(request, data)
            return at, data, *others
        if isinstance(request, Noise):
            return draw_noise(wide, request.s.sigma, request.t.sigma)
        if isinstance(request, Keep):
            return request.x
        if isinstance(request, ErrorRatio):
            return backend.error_ratio(request.low, request.high, request.previous, request.rtol, request.atol)
        if isinstance(request, StepEnded):
            return None if on_step is None else on_step(request)
        raise TypeError(f"{solver.name} yielded {request!r}, which is no request.")

    run = solver(grid, wide)
    reply = None
    while True:
        try:
            request = run.send(reply)
        except StopIteration as stop:
            return backend.cast(stop.value, like)
        reply = answer(request)
