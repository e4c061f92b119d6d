"""The command `diffusolve compare`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from diffusolve.catalog import CATALOG, WORLDS
from diffusolve.cli.checks import check_asked, plan_in
from diffusolve.cli.classes import MODEL_HELP
from diffusolve.cli.command import Command
from diffusolve.cli.error_report import error_table, report
from diffusolve.cli.options import OPTION_HELP, sampler_asked
from diffusolve.cli.plot import check_plot_path, encode_figure
from diffusolve.cli.worlds import WorldOption
from diffusolve.comparing.cells import Cell, caption, make_cell, property_of, steps_of_column
from diffusolve.comparing.exact import ExactSolution
from diffusolve.comparing.figures import error_figure
from diffusolve.errors import unknown_name
from diffusolve.files import check_writable, write_atomically

if TYPE_CHECKING:
    from diffusolve.denoisers.pipeline import PipelineModel
    from diffusolve.plan import Plan
    from diffusolve.sampling import Sampler

__all__ = ["CompareCommand", "compare_command", "spread"]

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
    return {row.solver: row.name for row in reversed(list(WORLDS[world].samplers.values()))}.values()


def compare_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help='Samplers by name: "DPM++ 2M Karras" Euler ...')
    ] = None,
    steps: Annotated[list[int] | None, typer.Option(help="Numbers of steps; without it --steps 5 10 20 50.")] = None,
    evaluations: Annotated[
        list[int] | None,
        typer.Option(help="Numbers of function evaluations, instead of --steps: as many steps as they pay for."),
    ] = None,
    plan: Annotated[
        list[Path] | None,
        typer.Option(help="A plan file to compare with, a learned one for example; the one column is its evaluations."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All samplers of the catalog, instead of names.")] = False,
    spacing: Annotated[
        str | None, typer.Option(help="Schedule type of every sampler: Karras, SGM Uniform, Automatic, ...")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help=OPTION_HELP)] = None,
    world: WorldOption = None,
    model: Annotated[
        str,
        typer.Option(help=MODEL_HELP),
    ] = ("digits"),
    num: Annotated[int, typer.Option(help="How many samples in each cell.")] = 4,
    seed: Annotated[int, typer.Option(help="Sample number i starts from noise of seed + i, in every cell.")] = 0,
    label: Annotated[
        str | None,
        typer.Option("--class", help="Make this class only, of those that diffusolve list --model NAME shows."),
    ] = None,
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

    An adaptive sampler has no number of steps: in the column of 20 it has its own tolerance, in that of 10 twice as
    much, in that of n 20 / n times as much.
    """
    files = _plans(plan or [])
    if files:
        evaluations = _column_of(files, steps, evaluations)
    unit = "evaluations" if evaluations else "steps"
    columns = _columns(names, every, steps, evaluations, bool(files))
    check_asked({unit: min(columns)}, num, seed, guidance)
    recipes = [sampler_asked(name, spacing, world, option) for name in (_every(world) if every else names or [])]
    if spacing is not None and world is None:
        recipes = [replace(recipe, name=f"{recipe.name} {spacing}") for recipe in recipes]
    # Heavy imports come after the cheap checks, and everything that can be wrong is found before sampling.
    _check_files(out, error, json)

    from diffusolve.comparing.picture import encode, labelled_grid, tile
    from diffusolve.denoisers.load import load_model

    loaded = load_model(model, num, prompt=prompt, label=label, guidance=guidance)
    planned, refused = _planned(recipes, loaded, columns, unit, every)
    _check_plans(files, loaded)
    planned |= {name: (given, {columns[0]: given.steps}) for name, given in files.items()}
    stochastic = _those_with("is_stochastic", planned, loaded)
    two_outputs = _those_with("reads_unguided", planned, loaded)
    followed = [name for name in planned if error is not None and name not in (*stochastic, *two_outputs)]
    if error is not None and not followed:
        raise ValueError(
            "all of these samplers add noise, or are led on by the unguided output (CFG++), so none follows the ODE "
            "whose solution --error compares with: leave --error out, or name another sampler."
        )
    cells = _run(planned, loaded, list(range(seed, seed + num)), followed)

    rows = [
        (name, [(tile(cell.images, num), caption(cell, unit)) for cell in row.values()]) for name, row in cells.items()
    ]
    write_atomically(
        out,
        encode(
            labelled_grid(
                [f"{column} {unit}" for column in columns], rows, _made_of(model, label, guidance, num, seed)
            ),
            out,
        ),
    )
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
        settings = {"model": model, "class": label, "guidance": guidance, "num": num, "seed": seed, "unit": unit}
        write_atomically(json, report(settings, cells, stochastic, refused).encode())
    numbers = ", ".join(map(str, columns))
    written = (("picture", out), ("errors", error), ("numbers", json))
    where = ", ".join(f"{what} in {path}" for what, path in written if path is not None)
    summary = f"{len(cells)} samplers, {numbers} {unit}, {num} samples of {model} each; {where}"
    console.print(Text(summary), soft_wrap=True)


def _plans(paths: list[Path]) -> dict[str, Plan]:
    """The plans in files, by the files' names, or by their paths where several have one name."""
    names = [path.name for path in dict.fromkeys(paths)]
    return {path.name if names.count(path.name) == 1 else str(path): plan_in(path) for path in paths}


def _column_of(plans: dict[str, Plan], steps: list[int] | None, evaluations: list[int] | None) -> list[int]:
    """The one column in which `plans` can stand. Raises ValueError if others are asked for."""
    counts = sorted({plan.nfe for plan in plans.values()})
    if len(counts) > 1 or steps or (evaluations and evaluations != counts):
        raise ValueError(
            f"the plans take {', '.join(map(str, counts))} evaluations, and a plan has no other number: compare those "
            "of one number at a time, and leave --steps and --evaluations out."
        )
    return counts


def _check_plans(plans: dict[str, Plan], loaded: PipelineModel) -> None:
    """Raise ValueError for a plan that was made for another kind of network or noise schedule."""
    from diffusolve.plan import check_made_for

    for name, plan in plans.items():
        try:
            check_made_for(plan, loaded.network.noise_schedule, loaded.network.prediction)
        except ValueError as error:
            raise ValueError(f"{name} is for another model: {error}") from None


def _made_of(model: str, label: str | None, guidance: float, num: int, seed: int) -> str:
    """The source of the samples, in words."""
    seeds = f"seed {seed}" if num == 1 else f"seeds {seed} to {seed + num - 1}"
    of_class = "" if label is None else f", class {label}"
    return f"{model}{of_class}{f', guidance {guidance:g}' if guidance != 1.0 else ''}, {seeds}"


def _columns(
    names: list[str] | None, every: bool, steps: list[int] | None, evaluations: list[int] | None, plans: bool
) -> list[int]:
    """The numbers of steps or evaluations to compare. Raises ValueError for options that exclude each other."""
    if steps and evaluations:
        raise ValueError("--steps and --evaluations both say what the columns are: leave one of them out.")
    if every and names:
        raise ValueError(f"--all compares all samplers: leave {', '.join(map(repr, names))} out.")
    if not every and not names and not plans:
        raise ValueError(
            'there is nothing to compare: name samplers, for example "DPM++ 2M Karras" Euler, or use --all.'
        )
    return list(dict.fromkeys(evaluations or steps or STEPS))


def _check_files(out: Path, error: Path | None, json: Path | None) -> None:
    """Raise OSError or ValueError for a file that cannot be written."""
    from diffusolve.comparing.picture import check_picture_path

    check_picture_path(out)
    if error is not None:
        check_plot_path(error)
    for path in (out, error, json):
        if path is not None:
            check_writable(path)


def _planned(
    recipes: list[Sampler], loaded: PipelineModel, columns: list[int], unit: str, every: bool
) -> tuple[dict[str, tuple[Sampler | Plan, dict[int, int | None]]], dict[str, str]]:
    """Name -> the sampler and its steps in each column, and name -> why it is left out.

    Raises:
        ValueError: a sampler that cannot be run, unless `every` sampler was asked for.
    """
    planned: dict[str, tuple[Sampler | Plan, dict[int, int | None]]] = {}
    refused = {}
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


def _those_with(
    name: str, planned: Mapping[str, tuple[Sampler | Plan, Mapping[int, int | None]]], loaded: PipelineModel
) -> list[str]:
    """The samplers whose plans have the property `name`."""
    return [
        sampler
        for sampler, (recipe, steps_of) in planned.items()
        if property_of(recipe, loaded.network, max((n for n in steps_of.values() if n is not None), default=None), name)
    ]


def _run(
    planned: dict[str, tuple[Sampler | Plan, dict[int, int | None]]],
    loaded: PipelineModel,
    seeds: list[int],
    followed: Sequence[str],
) -> dict[str, dict[int, Cell]]:
    """Each sampler's cells, by column; those in `followed` with their distance to the exact solution."""
    exact = ExactSolution(loaded.network)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    cells: dict[str, dict[int, Cell]] = {}
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("comparing", total=sum(sum(steps_of) for _, steps_of in planned.values()))
        for name, (recipe, steps_of) in planned.items():
            cells[name] = {}
            for count, steps in steps_of.items():
                progress.update(task, description=f"{name}, {count}")
                cells[name][count] = make_cell(recipe, loaded, count, steps, seeds, exact if name in followed else None)
                progress.advance(task, count)
    return cells
