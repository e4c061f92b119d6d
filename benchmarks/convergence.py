"""Order of convergence of every solver, as a table and a plot: ``python -m benchmarks.convergence``.

With words, only of the solvers whose names have one of them in it, and no plot: ``... convergence Heun "DPM++ 2M"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.orders import (
    CASES,
    MARGINAL_CASES,
    SDE_CASES,
    Case,
    error,
    marginals,
    moments,
    order,
    started_exactly,
    std_order,
)

mpl.use("Agg")
import matplotlib.pyplot as plt

PLOTTED_STEPS = (5, 7, 10, 14, 20, 28, 40, 56, 80, 113, 160)
PLOTTED = (
    "Euler / DDIM",
    "Heun",
    "DPM2",
    "LMS 4",
    "DPM++ 2M",
    "DPM++ 3M",
    "UniPC-2 bh2",
    "UniPC-3 bh2",
    "DPM adaptive 3",
)


def named(cases: Sequence[Case], words: Sequence[str]) -> list[Case]:
    """Those of `cases` whose names have one of the `words` in it, in any case; all without words."""
    return [case for case in cases if not words or any(word.casefold() in case.name.casefold() for word in words)]


def main(
    words: Annotated[list[str] | None, typer.Argument(help="Words of names, to measure only these solvers.")] = None,
    plot: Annotated[Path, typer.Option(help="Where the plot goes.")] = Path("docs/images/convergence.png"),
) -> None:
    """Print the table and draw the plot."""
    console = Console()

    def show(table: Table) -> None:
        if table.row_count:
            console.print(table)

    table = Table("solver", "order", "exact start", "usual start", "error, 80 steps", title="Deterministic")
    for case in named(CASES, words or ()):
        measured = order(started_exactly(case.solver, case.history), case.steps)
        start = order(case.solver, case.steps)
        table.add_row(case.name, str(case.order), f"{measured:.2f}", f"{start:.2f}", f"{error(case.solver, 80)[0]:.1e}")
    show(table)
    table = Table("solver", "order", "measured (std)", "std, 80 steps", "mean, 80 steps", title="Stochastic")
    for case in named(SDE_CASES, words or ()):
        mean, std = moments(case.solver, 80)
        measured = std_order(case.solver, case.steps)
        table.add_row(case.name, str(case.order), f"{measured:.2f}", f"{std:.1e}", f"{mean:.1e}")
    show(table)
    table = Table("solver", "order", "measured (std)", "std, 80 steps", title="Stochastic, any amount of noise")
    for case in named(MARGINAL_CASES, words or ()):
        measured, std = std_order(case.solver, case.steps, marginals), marginals(case.solver, 80)[1]
        table.add_row(case.name, str(case.order), f"{measured:.2f}", f"{std:.1e}")
    show(table)
    if words:
        return
    plot.parent.mkdir(parents=True, exist_ok=True)
    draw(plot)
    console.print(f"plot in {plot}")


def draw(path: Path) -> None:
    """Error against function evaluations, both logarithmic."""
    figure, axes = plt.subplots(figsize=(8, 5))
    for case in CASES:
        if case.name in PLOTTED:
            errors, evaluations = zip(*(error(case.solver, steps) for steps in PLOTTED_STEPS), strict=True)
            axes.loglog(evaluations, errors, marker="o", markersize=3, linewidth=1.2, label=case.name)
    axes.set_xlabel("function evaluations")
    axes.set_ylabel("error (root mean square)")
    axes.set_title("Distance to the exact solution of the probability-flow ODE of six Gaussians")
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
