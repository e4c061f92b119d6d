"""Errors of samplers against the exact solution, as a table and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Cell", "error_figure", "error_table", "report"]


class Cell(NamedTuple):
    """The error of one sampler in one number of steps, or in as many as some evaluations pay for."""

    images: Any
    """Shape (num, channels, height, width), in [-1, 1]."""
    steps: int | None
    """None: as many as an adaptive sampler needed."""
    nfe: int
    """Function evaluations."""
    error: float
    """Root mean square distance to the exact solution; NaN where it was not measured."""


def error_table(errors: dict[str, dict[int, Cell]], model: str, unit: str = "steps") -> Table:
    """Root mean square distance to the exact solution, and the evaluations that it took.

    Args:
        errors: sampler -> number of steps or evaluations -> its samples and their error, the same numbers for all.
        model: its name.
        unit: what the numbers are of.
    """
    rows = Table(box=box.SIMPLE, title=f"Distance to the exact solution, {model} (evaluations)", title_justify="left")
    rows.add_column("sampler")
    for count in next(iter(errors.values())):
        rows.add_column(f"{count} {unit}", justify="right")
    for name, cells in errors.items():
        rows.add_row(Text(name), *(f"{cell.error:.1e} ({cell.nfe})" for cell in cells.values()))
    return rows


def report(
    settings: Mapping[str, Any],
    cells: Mapping[str, Mapping[int, Cell]],
    stochastic: Sequence[str],
    refused: Mapping[str, str],
) -> str:
    """A comparison as JSON: `settings` as they are, the samplers with their columns, and why others were left out.

    Args:
        settings: the model and how it was sampled.
        cells: sampler -> number of steps or evaluations -> its samples and their error.
        stochastic: the samplers that add noise.
        refused: sampler -> why it could not be run.
    """
    samplers = [
        {
            "name": name,
            "stochastic": name in stochastic,
            "columns": [
                {
                    "column": column,
                    "steps": cell.steps,
                    "evaluations": cell.nfe,
                    "error": None if isnan(cell.error) else cell.error,
                }
                for column, cell in row.items()
            ],
        }
        for name, row in cells.items()
    ]
    left_out = [{"name": name, "reason": reason} for name, reason in refused.items()]
    return json.dumps({**settings, "samplers": samplers, "left_out": left_out}, indent=2) + "\n"


def error_figure(errors: dict[str, dict[int, Cell]], model: str) -> Figure:
    """Distance to the exact solution against function evaluations, both logarithmic, a line for each sampler."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(9, max(5.0, 0.22 * len(errors))), layout="constrained")
    axes = figure.subplots()
    colours, styles = colormaps["tab10"].colors, ("-", "--", ":", "-.")  # type: ignore[attr-defined]
    for i, (name, cells) in enumerate(errors.items()):
        axes.plot(
            [cell.nfe for cell in cells.values()],
            [cell.error for cell in cells.values()],
            styles[i // len(colours) % len(styles)],
            color=colours[i % len(colours)],
            marker="o",
            markersize=3,
            linewidth=1.2,
            label=name,
        )
    axes.set_xscale("log")
    if any(cell.error > 0.0 for cells in errors.values() for cell in cells.values()):
        axes.set_yscale("log")  # on which a distance of 0 is not drawn
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("function evaluations")
    axes.set_ylabel("distance (root mean square)")
    axes.set_title(f"Distance to the exact solution of the probability-flow ODE, {model}")
    axes.grid(which="both", alpha=0.2)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
