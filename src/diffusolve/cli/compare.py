"""The command `diffusolve compare`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from typer.core import TyperCommand

from diffusolve.catalog import CATALOG
from diffusolve.catalog import sampler as sampler_called
from diffusolve.cli.error_report import Cell, error_figure, error_table
from diffusolve.cli.plot import check_plot_path, encode_figure
from diffusolve.files import check_writable, write_atomically

if TYPE_CHECKING:
    from diffusolve.arrays import Array
    from diffusolve.denoisers.pipeline import PipelineModel
    from diffusolve.sampling import Sampler

__all__ = ["CompareCommand", "compare_command", "spread"]

STEPS = (5, 10, 20, 50)


class CompareCommand(TyperCommand):
    """Takes several numbers after one ``--steps``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args, "--steps"))


def spread(arguments: Sequence[str], option: str) -> list[str]:
    """`arguments` with `option` said again before each whole number that follows its first value."""
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


def compare_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help='Samplers by name: "DPM++ 2M Karras" Euler ...')
    ] = None,
    steps: Annotated[list[int] | None, typer.Option(help="Numbers of steps; without it --steps 5 10 20 50.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All samplers of the catalog, instead of names.")] = False,
    model: Annotated[str, typer.Option(help="digits, exact, gaussian, a diffusers pipeline folder or a Hub id.")] = (
        "digits"
    ),
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
) -> None:
    """Compare samplers: one row each, one column per number of steps, from the same noise.

    An adaptive sampler has no number of steps: in the column of 20 it has its usual tolerance, in the column of n
    20 / n of it.
    """
    if every and names:
        raise ValueError(f"--all compares all samplers: leave {', '.join(map(repr, names))} out.")
    if not every and not names:
        raise ValueError(
            'there is nothing to compare: name samplers, for example "DPM++ 2M Karras" Euler, or use --all.'
        )
    counts = list(dict.fromkeys(steps or STEPS))
    for what, value in [*(("steps", count) for count in counts), ("num", num)]:
        if value < 1:
            raise ValueError(f"{what} is {value}: expected at least 1.")
    if seed < 0:
        raise ValueError(f"seed is {seed}: expected 0 or more.")
    recipes = [sampler_called(name) for name in (CATALOG if every else names or [])]
    # Heavy imports come after the cheap checks, and everything that can be wrong is found before sampling.
    from diffusolve.cli.picture import check_picture_path, encode, labelled_grid, tile

    check_picture_path(out)
    check_writable(out)
    if error is not None:
        check_plot_path(error)
        check_writable(error)

    from diffusolve.cli.models import load_model

    loaded = load_model(model, num, prompt=prompt, label=None, guidance=guidance)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    possible, refused = _possible({recipe.name: recipe for recipe in recipes}, loaded.network, counts, may_skip=every)
    followed = [name for name, made in possible.items() if error and _is_deterministic(made, loaded, max(counts))]
    if error is not None and not followed:
        raise ValueError(
            "all of these samplers add noise, so none follows the ODE whose solution --error compares with: leave "
            "--error out, or name a deterministic sampler."
        )
    cells = _run(possible, counts, loaded, list(range(seed, seed + num)), followed)

    rows = [
        (name, [(tile(cell.images, num), f"{cell.nfe} evaluations") for cell in made.values()])
        for name, made in cells.items()
    ]
    write_atomically(out, encode(labelled_grid([f"{count} steps" for count in counts], rows), out))
    for reason in refused:
        console.print(Text(f"left out: {reason}"), soft_wrap=True)
    if error is not None:
        errors = {name: cells[name] for name in followed}
        console.print(error_table(errors, model))
        if any(cell.error == 0.0 for made in errors.values() for cell in made.values()):
            console.print("A distance of 0: the same images, in float32.", highlight=False)
        if others := ", ".join(name for name in possible if name not in followed):
            console.print(Text(f"Without those that add noise and so follow no ODE: {others}."), soft_wrap=True)
        write_atomically(error, encode_figure(error_figure(errors, model), error))
    made = f"{len(possible)} samplers, {', '.join(map(str, counts))} steps, {num} samples of {model} each"
    where = f"picture in {out}" + (f", errors in {error}" if error is not None else "")
    console.print(Text(f"{made}; {where}"), soft_wrap=True)


def _possible(
    recipes: dict[str, Sampler], network: Any, counts: Sequence[int], *, may_skip: bool
) -> tuple[dict[str, Sampler], list[str]]:
    """The samplers that can be run on `network`, and for each of the others why not."""
    possible, refused = {}, []
    for name, recipe in recipes.items():
        try:
            for count in counts:
                if recipe.solver.adaptive:
                    recipe.grid(network.noise_schedule, 1)
                else:
                    recipe.plan(network.noise_schedule, network.prediction, count)
        except ValueError as error:
            if not may_skip:
                raise
            refused.append(f"{recipe.name}: {error}")
        else:
            possible[name] = recipe
    return possible, refused


def _is_deterministic(recipe: Sampler, loaded: PipelineModel, steps: int) -> bool:
    if recipe.solver.adaptive:
        return not (recipe.solver.defaults | dict(recipe.solver.options)).get("eta")
    return not recipe.plan(loaded.network.noise_schedule, loaded.network.prediction, steps).is_stochastic


def _run(
    recipes: dict[str, Sampler],
    counts: Sequence[int],
    loaded: PipelineModel,
    seeds: list[int],
    followed: Sequence[str],
) -> dict[str, dict[int, Cell]]:
    """Each sampler's cells, by the number of steps; those in `followed` with their distance to the exact solution."""
    import torch

    from diffusolve.cli.exact import ExactSolution
    from diffusolve.sampling import sample_with_report, start

    exact = ExactSolution(loaded.network)
    like = torch.empty(len(seeds), *loaded.shape)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    cells: dict[str, dict[int, Cell]] = {}
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("comparing", total=len(recipes) * sum(counts))
        for name, recipe in recipes.items():
            cells[name] = {}
            for count in counts:
                progress.update(task, description=f"{recipe.name}, {count} steps")
                adaptive = recipe.solver.adaptive
                used = _with_tolerance(recipe, count) if adaptive else recipe
                grid = used.grid(loaded.network.noise_schedule, 1 if adaptive else count)
                begun = start(grid, like, seeds)
                x, report = sample_with_report(
                    loaded.network, begun, used, steps=None if adaptive else count, noise=seeds
                )
                error = exact.distance(x, begun, grid[0], grid[-1]) if name in followed else nan
                cells[name][count] = Cell(_images(x, loaded), report.nfe, error)
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
