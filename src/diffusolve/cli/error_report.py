"""Errors of samplers against the exact solution, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from diffusolve.comparing.cells import Cell

__all__ = ["error_table", "report"]


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
