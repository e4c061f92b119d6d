"""Results as tables to read and as plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from textwrap import fill
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.suite.result import Figure, Goal, Result, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

__all__ = ["cell", "chunks", "figure", "goal_line", "key", "markdown", "rich_tables"]

ACROSS = 4
"""Columns in a table that is read."""


def key(table: Table) -> str:
    """What the numbers in a cell are."""
    parts = [table.unit]
    if table.peer is not None:
        parts.append(f"x: how many times as much in {table.peer}")
    if any(figure.floor for figure in table.figures):
        parts.append("f: how many times the floor")
    return "; ".join(parts)


def cell(figure: Figure) -> str:
    """A measurement in few characters."""
    if figure.here is None:
        return "-"
    parts = [_short(figure.here)]
    if figure.ratio is not None:
        parts.append(f"{_short(figure.ratio)}x")
    if figure.over_floor is not None:
        parts.append(f"{_short(figure.over_floor)}f")
    return " ".join(parts)


def _short(number: float) -> str:
    """Three digits, and no exponent."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def goal_line(goal: Goal) -> str:
    """Whether it is met."""
    verdict = {True: "met", False: "missed", None: "open"}[goal.met]
    return f"{verdict}: {goal.what}: {goal.measured}; wanted: {goal.wanted}"


def chunks(table: Table) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The table in parts that are not too wide: headings and rows of cells, both with the name first."""
    found = {(figure.row, figure.column): figure for figure in table.figures}
    for begin in range(0, len(table.columns), ACROSS):
        columns = table.columns[begin : begin + ACROSS]
        rows = [
            [row, *(cell(found[row, column]) if (row, column) in found else "" for column in columns)]
            for row in table.rows
        ]
        yield ["", *columns], [row for row in rows if any(row[1:])]


def rich_tables(result: Result) -> Iterator[Text | RichTable]:
    """For a terminal."""
    for table in result.tables:
        yield Text(f"{table.title} ({key(table)})", style="bold")
        for headings, rows in chunks(table):
            made = RichTable(box=box.SIMPLE)
            for index, heading in enumerate(headings):
                made.add_column(
                    Text(heading.replace(" ", "\n")), justify="right" if index else "left", no_wrap=index == 0
                )
            for row in rows:
                made.add_row(*map(Text, row))
            yield made


def markdown(result: Result) -> str:
    """For a page: machine, goals, tables, notes."""
    described = ", ".join(f"{name} {value}" for name, value in result.machine.items() if value is not None)
    lines = [f"Measured on: {described}."]
    if result.quick:
        lines[0] += " With `--quick`: a first look, not to be quoted."
    if result.goals:
        lines += ["", "| goal | wanted | measured | |", "| --- | --- | --- | --- |"]
        for goal in result.goals:
            verdict = {True: "met", False: "**missed**", None: "open"}[goal.met]
            lines.append(f"| {goal.what} | {goal.wanted} | {goal.measured} | {verdict} |")
    for table in result.tables:
        lines += ["", f"{table.title} ({key(table)}):"]
        for headings, rows in chunks(table):
            lines += ["", _line(headings), _line(["---", *["---:"] * (len(headings) - 1)])]
            lines += [_line(row) for row in rows]
    lines += [line for note in _notes(result) for line in ("", note)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _notes(result: Result) -> list[str]:
    """What was left out, and why."""
    of_figures = [
        f"{figure.row}, {figure.column}: {figure.note}"
        for table in result.tables
        for figure in table.figures
        if figure.note
    ]
    return [*result.notes, *dict.fromkeys(of_figures)]


def figure(result: Result) -> Picture:
    """A row of plots for each table: how many times as much in the other library, and how many times the floor."""
    from matplotlib.figure import Figure as Picture

    kinds = [_kinds(table) for table in result.tables]
    heights = [1.5 + 0.18 * len(table.rows) for table in result.tables]
    across = max(map(len, kinds))
    made = Picture(figsize=(4 + 5 * across, sum(heights)), layout="constrained")
    all_axes = made.subplots(len(heights), across, height_ratios=heights, squeeze=False)
    for table, drawn, row in zip(result.tables, kinds, all_axes, strict=True):
        for axes, kind in zip_longest(row, drawn):
            if kind is None:
                axes.remove()
            else:
                _draw(axes, table, kind)
    return made


def _kinds(table: Table) -> list[str]:
    """What of a table is drawn."""
    drawn = [
        kind for kind in ("ratio", "over_floor") if any(getattr(figure, kind) is not None for figure in table.figures)
    ]
    return drawn or ["here"]


def _draw(axes: Axes, table: Table, kind: str) -> None:
    """A mark for each figure: a line for each row that has some, a kind of mark for each column."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    values = {(one.row, one.column): value for one in table.figures if (value := getattr(one, kind))}
    places = {row: index for index, row in enumerate(dict.fromkeys(row for row, _ in values))}
    for marker, column in zip("os^Dv<>p" * len(table.columns), table.columns, strict=False):
        found = [(value, places[row]) for (row, at), value in values.items() if at == column]
        if found:
            axes.plot(*zip(*found, strict=True), marker, markersize=4, label=column)
    meaning = {
        "ratio": f"times as much in {table.peer} as here",
        "over_floor": "times the floor",
        "here": table.unit,
    }
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(places)), list(places), fontsize=7)
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.set_xlabel(meaning[kind])
    axes.set_title(fill(table.title, 70), fontsize=8)
    axes.grid(which="both", alpha=0.2)
    if kind != "here":
        axes.axvline(1.0, color="black", linewidth=0.8)
    if axes.lines:
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)  # off the marks
