"""Write the figures in ``benchmarks/results`` into ``docs/benchmarks.md``: ``python -m benchmarks.report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.suite.areas import AREAS
from benchmarks.suite.result import Result
from benchmarks.suite.show import markdown
from benchmarks.which_sampler import replace_between
from diffusolve.files import write_atomically

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"


def section(folder: Path, area: str) -> str | None:
    """What the page says of `area` by the results in `folder`; None if it was not measured."""
    numbers, plot = folder / f"{area}.json", folder / f"{area}.png"
    if not numbers.exists():
        return None
    try:
        text = markdown(Result.from_json(numbers.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{numbers}: {error}") from None
    if plot.exists() and plot.resolve().is_relative_to(ROOT):
        text += f"\n\n![{area}](../{plot.resolve().relative_to(ROOT).as_posix()})"
    return text


def main(
    results: Annotated[
        Path, typer.Option(help="The folder that python -m benchmarks.suite --json wrote to.")
    ] = RESULTS,
    page: Annotated[Path, typer.Option(help="The page to write into.")] = PAGE,
) -> None:
    """Write the figures into the page; areas that were not measured stay as they are."""
    sections = {area: made for area in AREAS if (made := section(results, area)) is not None}
    if not sections:
        command = f"python -m benchmarks.suite --json {results}"
        raise FileNotFoundError(f"there are no results in {results}: make them with {command}.")
    text = page.read_text(encoding="utf-8")
    for area, made in sections.items():
        text = replace_between(text, area, made)
    write_atomically(page, text.encode())


if __name__ == "__main__":
    typer.run(main)
