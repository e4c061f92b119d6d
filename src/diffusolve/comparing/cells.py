"""The samples of one sampler in one number of steps, with what they cost and how far off they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple

from diffusolve.arrays import Array
from diffusolve.comparing.exact import ExactSolution
from diffusolve.noise import NoiseSchedule, Point
from diffusolve.plan import Plan, PlanPoint
from diffusolve.sampling import Progress, Sampler, sample_with_report, start

if TYPE_CHECKING:
    from diffusolve.denoisers.pipeline import PipelineModel

__all__ = ["Cell", "caption", "ends_of", "make_cell", "plan_of", "property_of", "steps_of_column"]

TOLERANCE_OF = 20
"""The column in which an adaptive sampler has its own tolerance."""


class Cell(NamedTuple):
    """The samples of one sampler in one number of steps, or in as many as some evaluations pay for."""

    images: Any
    """Shape (num, channels, height, width), in [-1, 1]."""
    steps: int | None
    """None: as many as an adaptive sampler needed."""
    nfe: int
    """Function evaluations."""
    error: float
    """Root mean square distance to the exact solution; NaN where it was not measured."""
    seconds: float = nan
    """Time that sampling took, without decoding."""


def plan_of(recipe: Sampler | Plan, network: Any, steps: int) -> Plan:
    """The plan of `steps` steps on what `network` was trained with; a plan is its own."""
    return recipe if isinstance(recipe, Plan) else recipe.plan(network.noise_schedule, network.prediction, steps)


def steps_of_column(recipe: Sampler | Plan, network: Any, count: int, unit: str = "steps") -> int | None:
    """The steps that `recipe` takes on `network` in a column; None if it is adaptive.

    Args:
        recipe: a sampler, or a plan, whose number of steps is its own.
        network: knows its noise schedule and prediction type.
        count: the column's number.
        unit: what it is of, "steps" or "evaluations".

    Raises:
        ValueError: it cannot be run there, or not in so few evaluations.
    """
    if isinstance(recipe, Sampler) and recipe.solver.adaptive:
        recipe.grid(network.noise_schedule, 1)
        return None
    for steps in [count] if unit == "steps" else range(count, 0, -1):
        plan = plan_of(recipe, network, steps)
        if plan.reads_unguided and not hasattr(network, "guided_and_unguided"):
            raise ValueError("it takes guidance as two outputs of the network, and this model has no guidance.")
        taken = plan.nfe
        if unit == "steps" or taken <= count:
            return plan.steps if isinstance(recipe, Plan) else steps
    name = recipe.solver if isinstance(recipe, Plan) else recipe.name
    raise ValueError(f"{name} takes {taken} evaluations for a single step, more than {count}.")


def property_of(recipe: Sampler | Plan, network: Any, steps: int | None, name: str) -> bool:
    """True if the plan of `steps` steps has the property `name`: is_stochastic or reads_unguided."""
    if isinstance(recipe, Sampler) and recipe.solver.adaptive:  # which is without a plan
        options = recipe.solver.defaults | dict(recipe.solver.options)
        return name == "is_stochastic" and bool(options.get("eta"))
    assert steps is not None
    return bool(getattr(plan_of(recipe, network, steps), name))


def ends_of(recipe: Sampler | Plan, noise_schedule: NoiseSchedule, steps: int | None) -> tuple[Point, Point]:
    """The point where sampling starts, and the one where it ends."""
    if isinstance(recipe, Sampler):
        grid = recipe.grid(noise_schedule, 1 if steps is None else steps)
        return grid[0], grid[-1]
    return _on(noise_schedule, recipe.start), _on(noise_schedule, recipe.end)


def _on(noise_schedule: NoiseSchedule, point: PlanPoint) -> Point:
    """A plan's point, with the factor that takes a sample to the network's own scaling."""
    norm = noise_schedule.scaling.norm(point.alpha, point.sigma)
    return Point(point.timestep, point.alpha, point.sigma, 1.0 / norm)


def make_cell(
    recipe: Sampler | Plan,
    loaded: PipelineModel,
    count: int,
    steps: int | None,
    seeds: Sequence[int],
    exact: ExactSolution | None = None,
    on_step: Callable[[Progress], object] | None = None,
) -> Cell:
    """Sample, and measure.

    Args:
        recipe: a sampler or a plan.
        loaded: the model.
        count: the column's number, by which the tolerance of an adaptive sampler is scaled.
        steps: how many steps; None for adaptive samplers.
        seeds: one for each sample.
        exact: the solution to measure the distance to; not measured without it.
        on_step: called once per step. An exception that it raises ends the run.
    """
    import torch

    begins, ends = ends_of(recipe, loaded.network.noise_schedule, steps)
    like = torch.empty(len(seeds), *loaded.shape)
    if steps is None:
        assert isinstance(recipe, Sampler)
        recipe = _with_tolerance(recipe, count)
    asked = None if isinstance(recipe, Plan) else steps
    from_ = recipe if isinstance(recipe, Plan) else recipe.grid(loaded.network.noise_schedule, steps or 1)
    begun = start(from_, like, list(seeds))
    before = time.perf_counter()
    x, report = sample_with_report(loaded.network, begun, recipe, steps=asked, noise=list(seeds), callback=on_step)
    seconds = time.perf_counter() - before
    error = nan if exact is None else exact.distance(x, begun, begins, ends)
    return Cell(_images(x, loaded), steps, report.nfe, error, seconds)


def caption(cell: Cell, unit: str = "steps") -> str:
    """The cost of a cell, in words."""
    if unit == "steps" or cell.steps is None:
        return f"{cell.nfe} evaluations"
    return f"{cell.steps} steps" if cell.steps == cell.nfe else f"{cell.steps} steps, {cell.nfe} evaluations"


def _with_tolerance(recipe: Sampler, steps: int) -> Sampler:
    """An adaptive sampler with 20 / `steps` of its tolerance."""
    options = recipe.solver.defaults | dict(recipe.solver.options)
    scaled = {key: options[key] * TOLERANCE_OF / steps for key in ("rtol", "atol")}
    return replace(recipe, solver=recipe.solver.with_options(**scaled))


def _images(x: Array, loaded: PipelineModel) -> Any:
    import torch

    with torch.no_grad():
        return loaded.decode(x).float().numpy()
