"""Samplers compared from Python: a figure, a table, and the samples in one picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

from diffusolve.catalog import sampler as sampler_called
from diffusolve.comparing.cells import Cell, caption, ends_of, make_cell, property_of, steps_of_column
from diffusolve.comparing.exact import ExactSolution
from diffusolve.drawing import Line, Panel, figure_of, html_table, notebook
from diffusolve.errors import SingularPointError
from diffusolve.plan import Plan
from diffusolve.sampling import Progress, Sampler

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from diffusolve.denoisers.pipeline import PipelineModel

__all__ = ["Comparison", "Place", "cells_of", "compare", "cost_panels", "follows_ode", "level_panel", "recipes_of"]


class Place(NamedTuple):
    """The place of a comparison: which sampler, in which column, and how many of its steps are done."""

    name: str
    column: int
    done: int
    steps: int | None


OnStep = Callable[[Place, Progress | None], object]
"""Called at each step; an exception that it raises ends the comparison."""


@dataclass(frozen=True)
class Comparison:
    """The outcome of :func:`compare`.

    Attributes:
        cells: sampler -> number of steps -> its samples, evaluations, error and time.
        recipes: sampler -> the :class:`~diffusolve.sampling.Sampler` or the plan.
        model: what was sampled.
    """

    cells: Mapping[str, Mapping[int, Cell]]
    recipes: Mapping[str, Sampler | Plan]
    model: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each sampler and number of steps: sampler, steps, evaluations, error, seconds."""
        return [
            {
                "sampler": name,
                "steps": cell.steps,
                "evaluations": cell.nfe,
                "error": None if isnan(cell.error) else cell.error,
                "seconds": cell.seconds,
            }
            for name, row in self.cells.items()
            for cell in row.values()
        ]

    @property
    def table(self) -> Any:
        """:attr:`rows` as a pandas DataFrame, or as they are where pandas is not installed."""
        try:
            from pandas import DataFrame
        except ImportError:
            return self.rows
        return DataFrame(self.rows)

    @property
    def figure(self) -> Figure:
        """Error and time against function evaluations.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return figure_of(cost_panels(self.cells))

    @property
    def picture(self) -> Image:
        """The samples: a row for each sampler, a column for each number of steps.

        Raises:
            ImportError: pillow is not installed.
        """
        from diffusolve.comparing.picture import labelled_grid, tile

        columns = sorted({column for row in self.cells.values() for column in row})
        rows = [
            (name, [(tile(row[c].images), caption(row[c])) if c in row else _nothing() for c in columns])
            for name, row in self.cells.items()
        ]
        return labelled_grid([f"{column} steps" for column in columns], rows)

    def __repr__(self) -> str:
        count = sum(len(row) for row in self.cells.values())
        return f"<Comparison of {len(self.cells)} samplers on {self.model}: {count} cells>"

    def _repr_html_(self) -> str:
        rows = [
            (
                _rounded(row["steps"]),
                row["evaluations"],
                _rounded(row["error"]),
                f"{row['seconds']:.2f} s",
                row["sampler"],
            )
            for row in self.rows
        ]
        table = html_table(("steps", "evaluations", "error", "time", "sampler"), rows, self.model)
        try:
            buffer = io.BytesIO()
            self.picture.save(buffer, format="PNG")
            picture = f'<img alt="samples" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
        except ImportError:
            picture = ""
        return picture + notebook(table, cost_panels(self.cells))


def compare(
    samplers: Iterable[str | Sampler | Plan],
    steps: int | Sequence[int] = (5, 10, 20),
    *,
    model: str | PipelineModel = "digits",
    num: int = 4,
    seed: int = 0,
    guidance: float = 1.0,
    label: str | int | None = None,
    prompt: str | None = None,
    error: bool = True,
) -> Comparison:
    """Sample with each of the `samplers` in each number of `steps`, all from the same noise.

    >>> comparison = diffusolve.compare(["Euler", "DPM++ 2M Karras"], (5, 10), num=2)
    >>> [row["evaluations"] for row in comparison.rows]
    [5, 10, 5, 10]

    Args:
        samplers: names, samplers or plans. A plan has its own number of steps; an adaptive sampler in the column of n
            has 20 / n of its tolerance.
        steps: how many, each a column; or a single number of them.
        model: a name that ``diffusolve sample --model`` takes, or a :class:`PipelineModel
            <diffusolve.denoisers.pipeline.PipelineModel>` of your own, conditioned for `num` samples.
        num: how many samples.
        seed: sample number i starts from noise of ``seed + i``.
        guidance, label, prompt: of the model, if given by name.
        error: measure the distance of deterministic samplers to the exact solution of the ODE, which takes 300 more
            evaluations of the network.

    Raises:
        UnknownNameError: no such sampler or model.
        ValueError: a number of steps that a sampler cannot take, or that is missing.
    """
    from diffusolve.denoisers.load import load_model

    recipes = recipes_of(samplers)
    loaded = load_model(model, num, prompt=prompt, label=label, guidance=guidance) if isinstance(model, str) else model
    cells: dict[str, dict[int, Cell]] = {name: {} for name in recipes}
    seeds = list(range(seed, seed + num))
    columns = [steps] if isinstance(steps, int) else steps
    exact = ExactSolution(loaded.network) if error else None
    for name, column, cell in cells_of(recipes, loaded, columns, seeds, exact):
        cells[name][column] = cell
    return Comparison(cells, recipes, model if isinstance(model, str) else type(loaded.network).__name__)


def recipes_of(samplers: Iterable[str | Sampler | Plan]) -> dict[str, Sampler | Plan]:
    """The samplers and plans by names, which are told apart where they are the same.

    Raises:
        UnknownNameError: no such sampler.
        TypeError: something else.
    """
    if isinstance(samplers, (str, Sampler, Plan)):
        samplers = [samplers]
    recipes: dict[str, Sampler | Plan] = {}
    for given in samplers:
        if not isinstance(given, (str, Sampler, Plan)):
            raise TypeError(f"samplers holds {given!r}: expected names, samplers or plans.")
        recipe = sampler_called(given) if isinstance(given, str) else given
        name = f"plan of {recipe.solver.partition('(')[0]}" if isinstance(recipe, Plan) else str(recipe)
        if recipes.get(name, recipe) != recipe:
            name = next(other for i in range(2, len(recipes) + 3) if (other := f"{name} ({i})") not in recipes)
        recipes[name] = recipe
    if not recipes:
        raise ValueError("there is nothing to compare: name a sampler.")
    return recipes


def cells_of(
    recipes: Mapping[str, Sampler | Plan],
    loaded: PipelineModel,
    columns: Sequence[int],
    seeds: Sequence[int],
    exact: ExactSolution | None,
    on_step: OnStep | None = None,
) -> Iterator[tuple[str, int, Cell]]:
    """Each sampler's name, column and cell, as soon as it is sampled. Raises ValueError as :func:`compare` does.

    Args:
        recipes: samplers and plans by name.
        loaded: the model.
        columns: numbers of steps; plans have their own.
        seeds: one for each sample.
        exact: the solution to measure the distance to of those that follow the ODE; not measured without it.
        on_step: called at each step.
    """
    network = loaded.network
    asked = [
        (name, recipe, column, steps_of_column(recipe, network, column))
        for name, recipe in recipes.items()
        for column in ([recipe.steps] if isinstance(recipe, Plan) else columns)
    ]
    if not asked:
        raise ValueError("steps is empty: expected at least one number of steps.")
    _warm_up(loaded, seeds)
    for name, recipe, column, steps in asked:
        measured = exact if exact is not None and follows_ode(recipe, network, steps) else None
        done = _told(on_step, name, column, steps)
        yield name, column, make_cell(recipe, loaded, column, steps, seeds, measured, done)


def _warm_up(loaded: PipelineModel, seeds: Sequence[int]) -> None:
    """Evaluate the network once: the first time takes longer, and would be counted as the first sampler's."""
    import torch

    x = torch.zeros(len(seeds), *loaded.shape)
    last = float(loaded.network.noise_schedule.timestep(loaded.network.noise_schedule.sigma_min))
    with torch.no_grad():
        loaded.network(x, torch.full((len(seeds),), last))


def _told(on_step: OnStep | None, name: str, column: int, steps: int | None) -> Callable[[Progress], object] | None:
    """The callback of :func:`make_cell` that tells `on_step` the place."""
    if on_step is None:
        return None
    return lambda progress: on_step(Place(name, column, progress.step, steps), progress)


def follows_ode(recipe: Sampler | Plan, network: Any, steps: int | None) -> bool:
    """True of what follows the network's probability-flow ODE from where its exact solution can be had."""
    if property_of(recipe, network, steps, "is_stochastic") or property_of(recipe, network, steps, "reads_unguided"):
        return False
    start, _ = ends_of(recipe, network.noise_schedule, steps)
    try:
        ExactSolution(network).check(start)
    except SingularPointError:
        return False
    return True


def cost_panels(cells: Mapping[str, Mapping[int, Cell]]) -> list[Panel]:
    """Error and time against function evaluations, as plots; without the first where no error was measured."""
    errors, seconds = {}, {}
    for name, row in cells.items():
        evaluations = [cell.nfe for cell in row.values()]
        if not all(isnan(cell.error) for cell in row.values()):
            errors[name] = Line(evaluations, [cell.error for cell in row.values()])
        seconds[name] = Line(evaluations, [cell.seconds for cell in row.values()])
    evaluated = "function evaluations"
    panels = [Panel("error: distance to the exact solution", evaluated, errors, "xy")] if errors else []
    return [*panels, Panel("seconds", evaluated, seconds, "x")]


def level_panel(plans: Mapping[str, Plan]) -> Panel:
    """Log-SNR at each step's beginning against the share of the steps done; infinite ones are not drawn."""
    lines = {}
    for name, plan in plans.items():
        points = [stage.point for stage in plan.stages if stage.stage == 0] + [plan.end]
        lines[name] = Line([i / plan.steps for i in range(len(points))], [point.log_snr for point in points])
    return Panel("level: log(alpha / sigma)", "share of the steps", lines, whole=False)


def _nothing() -> tuple[Image, str]:
    from PIL import Image

    return Image.new("RGB", (1, 1), "white"), ""


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
