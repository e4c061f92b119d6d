"""The command ``python -m benchmarks.suite``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from benchmarks.suite.areas import AREAS, Area, area
from diffusolve.cli.main import run_program
from diffusolve.cli.plot import encode_figure
from diffusolve.errors import unknown_name
from diffusolve.files import check_writable, write_atomically

if TYPE_CHECKING:
    from benchmarks.suite.result import Result

__all__ = ["main"]

SUMMARIES = "; ".join(f"{made.name}: {made.summary}" for made in AREAS.values())


def measure(
    areas: Annotated[
        list[str] | None, typer.Argument(metavar="AREA", help=f"What to measure, all of it without names. {SUMMARIES}.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds of few cases: a first look.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Measure what has this name only: a class, a function, a sampler.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write AREA.json and, with matplotlib, AREA.png into this folder.")
    ] = None,
) -> None:
    """Measure what the library costs, beside diffusers and k-diffusion where these are installed."""
    chosen = [area(name) for name in dict.fromkeys(areas or AREAS)]
    if json is not None:
        json.mkdir(parents=True, exist_ok=True)
        for made in chosen:
            check_writable(json / f"{made.name}.json")
    # Heavy imports come after the cheap checks.
    from benchmarks.suite.settings import Settings
    from benchmarks.suite.show import rich_tables
    from benchmarks.suite.timing import FULL, QUICK

    wanted = _wanted(only or [], chosen)
    console, errors = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=120)
    settings = Settings(
        QUICK if quick else FULL,
        frozenset(wanted),
        lambda said: errors.print(Text(said, style="dim"), soft_wrap=True),
    )
    for made in chosen:
        if wanted and not wanted & set(made.names()):
            continue
        result = made.measure(settings)
        for part in rich_tables(result):
            console.print(part, soft_wrap=isinstance(part, Text))
        _conclude(console, result)
        if json is not None:
            _write(console, result, json)


def _wanted(only: list[str], areas: list[Area]) -> set[str]:
    """The names in `only`, as they are written in the areas.

    Raises:
        UnknownNameError: none of the areas has one of them.
    """
    known = {name.casefold(): name for made in areas for name in made.names()} if only else {}
    for name in only:
        if name.casefold() not in known:
            raise unknown_name("thing to measure", name, known.values())
    return {known[name.casefold()] for name in only}


def _conclude(console: Console, result: Result) -> None:
    """Goals and notes."""
    from benchmarks.suite.show import goal_line

    styles = {True: "green", False: "red", None: "dim"}
    for goal in result.goals:
        console.print(Text(goal_line(goal), style=styles[goal.met]), soft_wrap=True)
    for note in result.notes:
        console.print(Text(note), soft_wrap=True)


def _write(console: Console, result: Result, folder: Path) -> None:
    numbers, plot = folder / f"{result.area}.json", folder / f"{result.area}.png"
    write_atomically(numbers, result.to_json().encode())
    console.print(Text(f"numbers in {numbers}"), soft_wrap=True)
    if not result.tables:
        return
    try:
        from benchmarks.suite.show import figure

        write_atomically(plot, encode_figure(figure(result), plot))
    except ImportError:
        console.print("no plot: it needs matplotlib, pip install 'diffusolve[plot]'", soft_wrap=True, markup=False)
        return
    console.print(Text(f"plot in {plot}"), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments`, those of the process when missing, and exit as `diffusolve` does."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(measure)
    run_program(app, arguments)


if __name__ == "__main__":
    main()
