"""The command `diffusolve compare`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from diffusolve.catalog import CATALOG, WORLDS
from diffusolve.catalog import sampler as sampler_called
from diffusolve.cli.checks import check_asked
from diffusolve.cli.classes import MODEL_HELP
from diffusolve.cli.command import Command
from diffusolve.cli.error_report import Cell, error_figure, error_table, report
from diffusolve.cli.plot import check_plot_path, encode_figure
from diffusolve.cli.worlds import WORLD_HELP
from diffusolve.errors import unknown_name
from diffusolve.files import check_writable, write_atomically

if TYPE_CHECKING:
    from diffusolve.arrays import Array
    from diffusolve.denoisers.pipeline import PipelineModel
    from diffusolve.sampling import Sampler

__all__ = ["CompareCommand", "compare_command", "spread", "steps_of_column"]

STEPS = (5, 10, 20, 50)


class CompareCommand(Command):
    """Takes several numbers after one ``--steps`` or ``--evaluations``, with spaces or commas between them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(spread(args, "--steps"), "--evaluations"))


def spread(arguments: Sequence[str], option: str) -> list[str]:
    """`arguments` with `option` repeated before each whole number that follows its first value."""
    arguments = [part for argument in arguments for part in _numbers(argument)]
    spread: list[str] = []
    values: int | None = None  # how many the option has had; None while it is not being given any
    for i, argument in enumerate(arguments):
        if argument == "--":
            return [*spread, *arguments[i:]]
        if argument == option or argument.startswith(f"{option}="):
            values = 0 if argument == option else 1
        elif values is not None:
            if values > 0 and not re.fullmatch(r"[+-]?\d+", argument):
                values = None
            else:
                spread += [option] * (values > 0)
                values += 1
        spread.append(argument)
    return spread


def _numbers(argument: str) -> list[str]:
    """The whole numbers in `argument`, if it is a list of them with commas between; else the argument."""
    return argument.split(",") if re.fullmatch(r"\d+(,\d+)+", argument) else [argument]


def _every(world: str | None) -> Iterable[str]:
    """The names of all samplers, or of those of a world, once where it has several names for one."""
    if world is None:
        return CATALOG
    if world not in WORLDS:
        raise unknown_name("world with a list of samplers", world, WORLDS)
    return {made.solver: made.name for made in reversed(list(WORLDS[world].samplers.values()))}.values()


def compare_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help='Samplers by name: "DPM++ 2M Karras" Euler ...')
    ] = None,
    steps: Annotated[list[int] | None, typer.Option(help="Numbers of steps; without it --steps 5 10 20 50.")] = None,
    evaluations: Annotated[
        list[int] | None,
        typer.Option(help="Numbers of function evaluations, instead of --steps: as many steps as they pay for."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All samplers of the catalog, instead of names.")] = False,
    spacing: Annotated[
        str | None, typer.Option(help="Schedule type of every sampler: Karras, SGM Uniform, Automatic, ...")
    ] = None,
    world: Annotated[str | None, typer.Option(help=WORLD_HELP)] = None,
    model: Annotated[
        str,
        typer.Option(help=MODEL_HELP),
    ] = ("digits"),
    num: Annotated[int, typer.Option(help="How many samples in each cell.")] = 4,
    seed: Annotated[int, typer.Option(help="Sample number i starts from noise of seed + i, in every cell.")] = 0,
    prompt: Annotated[str | None, typer.Option(help="For text-to-image pipelines.")] = None,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 is none.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Where the picture goes; its ending says the format.")] = Path(
        "compare.png"
    ),
    error: Annotated[
        Path | None, typer.Option(help="Plot distance to the exact solution into this file, and print it.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write steps, evaluations and distances into this file.")] = None,
) -> None:
    """Compare samplers: one row each, one column per number of steps or of evaluations, from the same noise.

    An adaptive sampler has no number of steps: in the column of 20 it has its own tolerance, in the column of n
    20 / n of it.
    """
    unit = "evaluations" if evaluations else "steps"
    columns = _columns(names, every, steps, evaluations)
    check_asked({unit: min(columns)}, num, seed, guidance)
    recipes = [sampler_called(name, spacing, world=world) for name in (_every(world) if every else names or [])]
    if spacing is not None and world is None:
        recipes = [replace(recipe, name=f"{recipe.name} {spacing}") for recipe in recipes]
    # Heavy imports come after the cheap checks, and everything that can be wrong is found before sampling.
    _check_files(out, error, json)

    from diffusolve.cli.models import load_model
    from diffusolve.cli.picture import encode, labelled_grid, tile

    loaded = load_model(model, num, prompt=prompt, label=None, guidance=guidance)
    planned, refused = _planned(recipes, loaded, columns, unit, every)
    stochastic = [name for name, steps_of in planned.items() if _has(*steps_of, loaded, "is_stochastic")]
    two_outputs = [name for name, steps_of in planned.items() if _has(*steps_of, loaded, "reads_unguided")]
    followed = [name for name in planned if error is not None and name not in (*stochastic, *two_outputs)]
    if error is not None and not followed:
        raise ValueError(
            "all of these samplers add noise, or are led on by the unguided output (CFG++), so none follows the ODE "
            "whose solution --error compares with: leave --error out, or name another sampler."
        )
    cells = _run(planned, loaded, list(range(seed, seed + num)), followed)

    rows = [
        (name, [(tile(cell.images, num), _caption(cell, unit)) for cell in row.values()]) for name, row in cells.items()
    ]
    write_atomically(out, encode(labelled_grid([f"{column} {unit}" for column in columns], rows), out))
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for name, why in refused.items():
        console.print(Text(f"left out: {name}: {why}"), soft_wrap=True)
    if error is not None:
        errors = {name: cells[name] for name in followed}
        _print_errors(console, error_table(errors, model, unit), errors, stochastic, two_outputs)
        write_atomically(error, encode_figure(error_figure(errors, model), error))
    if json is not None:
        settings = {"model": model, "guidance": guidance, "num": num, "seed": seed, "unit": unit}
        write_atomically(json, report(settings, cells, stochastic, refused).encode())
    numbers = ", ".join(map(str, columns))
    files = (("picture", out), ("errors", error), ("numbers", json))
    where = ", ".join(f"{what} in {path}" for what, path in files if path is not None)
    summary = f"{len(planned)} samplers, {numbers} {unit}, {num} samples of {model} each; {where}"
    console.print(Text(summary), soft_wrap=True)


def _columns(names: list[str] | None, every: bool, steps: list[int] | None, evaluations: list[int] | None) -> list[int]:
    """The numbers of steps or evaluations to compare. Raises ValueError for options that exclude each other."""
    if steps and evaluations:
        raise ValueError("--steps and --evaluations both say what the columns are: leave one of them out.")
    if every and names:
        raise ValueError(f"--all compares all samplers: leave {', '.join(map(repr, names))} out.")
    if not every and not names:
        raise ValueError(
            'there is nothing to compare: name samplers, for example "DPM++ 2M Karras" Euler, or use --all.'
        )
    return list(dict.fromkeys(evaluations or steps or STEPS))


def _check_files(out: Path, error: Path | None, json: Path | None) -> None:
    """Raise OSError or ValueError for a file that cannot be written."""
    from diffusolve.cli.picture import check_picture_path

    check_picture_path(out)
    if error is not None:
        check_plot_path(error)
    for path in (out, error, json):
        if path is not None:
            check_writable(path)


def _planned(
    recipes: list[Sampler], loaded: PipelineModel, columns: list[int], unit: str, every: bool
) -> tuple[dict[str, tuple[Sampler, dict[int, int | None]]], dict[str, str]]:
    """Name -> the sampler and its steps in each column, and name -> why it is left out.

    Raises:
        ValueError: a sampler that cannot be run, unless `every` sampler was asked for.
    """
    planned, refused = {}, {}
    for recipe in recipes:
        try:
            steps_of = {column: steps_of_column(recipe, loaded.network, column, unit) for column in columns}
        except ValueError as reason:
            if not every:
                raise
            refused[recipe.name] = str(reason)
        else:
            planned[recipe.name] = recipe, steps_of
    return planned, refused


def _print_errors(
    console: Console,
    table: Table,
    errors: dict[str, dict[int, Cell]],
    stochastic: list[str],
    two_outputs: list[str],
) -> None:
    console.print(table)
    if any(cell.error == 0.0 for row in errors.values() for cell in row.values()):
        console.print("A distance of 0: the same images, in float32.", highlight=False)
    if stochastic:
        added = ", ".join(stochastic)
        console.print(Text(f"Without those that add noise and so follow no ODE: {added}."), soft_wrap=True)
    if led := ", ".join(name for name in two_outputs if name not in stochastic):
        console.print(Text(f"Without those that follow another ODE, CFG++: {led}."), soft_wrap=True)


def steps_of_column(recipe: Sampler, network: Any, count: int, unit: str) -> int | None:
    """The steps that `recipe` takes on `network` in a column; None if it is adaptive.

    Raises:
        ValueError: it cannot be run there, or not in so few evaluations.
    """
    if recipe.solver.adaptive:
        recipe.grid(network.noise_schedule, 1)
        return None
    for steps in [count] if unit == "steps" else range(count, 0, -1):
        plan = recipe.plan(network.noise_schedule, network.prediction, steps)
        if plan.reads_unguided and not hasattr(network, "guided_and_unguided"):
            raise ValueError("it takes guidance as two outputs of the network, and this model has no guidance.")
        taken = plan.nfe
        if unit == "steps" or taken <= count:
            return steps
    raise ValueError(f"{recipe.name} takes {taken} evaluations for a single step, more than {count}.")


def _has(recipe: Sampler, steps: dict[int, int | None], loaded: PipelineModel, property_of_plan: str) -> bool:
    if recipe.solver.adaptive:  # which is without a plan
        options = recipe.solver.defaults | dict(recipe.solver.options)
        return property_of_plan == "is_stochastic" and bool(options.get("eta"))
    most = max(count for count in steps.values() if count is not None)
    return bool(getattr(recipe.plan(loaded.network.noise_schedule, loaded.network.prediction, most), property_of_plan))


def _caption(cell: Cell, unit: str) -> str:
    if unit == "steps" or cell.steps is None:
        return f"{cell.nfe} evaluations"
    return f"{cell.steps} steps" if cell.steps == cell.nfe else f"{cell.steps} steps, {cell.nfe} evaluations"


def _run(
    planned: dict[str, tuple[Sampler, dict[int, int | None]]],
    loaded: PipelineModel,
    seeds: list[int],
    followed: Sequence[str],
) -> dict[str, dict[int, Cell]]:
    """Each sampler's cells, by column; those in `followed` with their distance to the exact solution."""
    import torch

    from diffusolve.cli.exact import ExactSolution
    from diffusolve.sampling import sample_with_report, start

    exact = ExactSolution(loaded.network)
    like = torch.empty(len(seeds), *loaded.shape)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    cells: dict[str, dict[int, Cell]] = {}
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("comparing", total=sum(sum(steps_of) for _, steps_of in planned.values()))
        for name, (recipe, steps_of) in planned.items():
            cells[name] = {}
            for count, steps in steps_of.items():
                progress.update(task, description=f"{name}, {count}")
                used = _with_tolerance(recipe, count) if steps is None else recipe
                grid = used.grid(loaded.network.noise_schedule, 1 if steps is None else steps)
                begun = start(grid, like, seeds)
                x, report = sample_with_report(loaded.network, begun, used, steps=steps, noise=seeds)
                error = exact.distance(x, begun, grid[0], grid[-1]) if name in followed else nan
                cells[name][count] = Cell(_images(x, loaded), steps, report.nfe, error)
                progress.advance(task, count)
    return cells


def _with_tolerance(recipe: Sampler, steps: int) -> Sampler:
    """An adaptive sampler with 20 / `steps` of its tolerance."""
    options = recipe.solver.defaults | dict(recipe.solver.options)
    scaled = {key: options[key] * 20 / steps for key in ("rtol", "atol")}
    return replace(recipe, solver=recipe.solver.with_options(**scaled))


def _images(x: Array, loaded: PipelineModel) -> Any:
    import torch

    with torch.no_grad():
        return loaded.decode(x).float().numpy()
