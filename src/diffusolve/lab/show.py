"""The results of an experiment as HTML: samples side by side, plots, a plan's coefficients."""

from __future__ import annotations

import base64
import io
from html import escape
from math import isnan

from diffusolve.comparing.cells import Cell
from diffusolve.comparing.comparison import cost_panels, level_panel
from diffusolve.comparing.picture import tile
from diffusolve.drawing import figure_of, svg
from diffusolve.lab.experiment import Experiment, plans_of
from diffusolve.plan import Plan

__all__ = ["coefficients", "message", "plots", "progress", "samples"]

NOTHING = '<p class="lab-hint">Choose samplers on the left and press Run: their samples appear here side by side.</p>'


def samples(experiment: Experiment | None) -> str:
    """A table with a row for each sampler and a column for each number of steps."""
    cells = {} if experiment is None else experiment.cells
    if not cells:
        return NOTHING
    columns = sorted({column for row in cells.values() for column in row})
    head = "".join(f"<th>{column} steps</th>" for column in columns)
    rows = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(_cell(row.get(column)) for column in columns)}</tr>"
        for name, row in cells.items()
    )
    return f'<div class="lab-scroll"><table class="lab-samples"><tr><th></th>{head}</tr>{rows}</table></div>'


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    buffer = io.BytesIO()
    tile(cell.images).save(buffer, format="PNG")
    source = base64.b64encode(buffer.getvalue()).decode()
    error = "" if isnan(cell.error) else f"<br>error {cell.error:.2g}"
    cost = f"{cell.nfe} evaluations, {cell.seconds:.2f} s"
    return f'<td><img alt="samples" src="data:image/png;base64,{source}"><p>{cost}{error}</p></td>'


def plots(experiment: Experiment | None) -> str:
    """Plots of error and time against evaluations, and of the log-SNRs of each sampler in its most steps."""
    if experiment is None or not experiment.cells:
        return ""
    named = dict(plans_of(experiment))
    longest = {name: plan for name, row in experiment.cells.items() if (plan := named.get(f"{name}, {max(row)} steps"))}
    panels = cost_panels(experiment.cells)
    return svg(figure_of([*panels, level_panel(longest)] if longest else panels, width=3.1))


def coefficients(plan: Plan | None) -> str:
    """A plan's table of numbers, each step with its formulas."""
    if plan is None:
        return ""
    return f'<div class="lab-scroll lab-plan">{plan.table_html()}</div>'


def progress(experiment: Experiment) -> str:
    """The place of an experiment, as a bar and in words."""
    share = f"{100 * experiment.done:.0f}"
    return (
        f'<div class="lab-bar" role="progressbar" aria-valuenow="{share}"><div style="width:{share}%"></div></div>'
        f"<p>{escape(experiment.place)}</p>"
    )


def message(text: str, kind: str = "note") -> str:
    """A line of text below the buttons; of the kind "note" or "error"."""
    role = ' role="alert"' if kind == "error" else ""
    return f'<p class="lab-{kind}"{role}>{escape(text)}</p>'
