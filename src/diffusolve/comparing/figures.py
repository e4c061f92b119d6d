"""Errors of samplers as a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusolve.comparing.cells import Cell
from diffusolve.drawing import log_counts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["error_figure"]


def error_figure(errors: dict[str, dict[int, Cell]], model: str) -> Figure:
    """Distance to the exact solution against function evaluations, both logarithmic, a line for each sampler."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

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
    log_counts(axes, [cell.nfe for cells in errors.values() for cell in cells.values()])
    if any(cell.error > 0.0 for cells in errors.values() for cell in cells.values()):
        axes.set_yscale("log")  # on which a distance of 0 is not drawn
    axes.set_xlabel("function evaluations")
    axes.set_ylabel("distance (root mean square)")
    axes.set_title(f"Distance to the exact solution of the probability-flow ODE, {model}")
    axes.grid(which="both", alpha=0.2)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
