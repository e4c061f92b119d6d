"""Tables that papers publish, as plans that say their source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from diffusolve.errors import shown, unknown_name
from diffusolve.learning.table import Numbers, Table, plan_of
from diffusolve.noise import NoiseSchedule, Scaling
from diffusolve.noise import noise_schedule as schedule_called
from diffusolve.plan import Plan
from diffusolve.plan.json_format import LARGEST_COEFFICIENT, is_coefficient
from diffusolve.prediction import Prediction
from diffusolve.prediction import prediction as prediction_called

__all__ = ["PUBLISHED", "published"]

PUBLISHED: Mapping[str, str] = {
    "neural solver": "neural_solver.json",
    "optimal steps flux": "optimal_steps_flux.json",
    "optimal steps wan": "optimal_steps_wan.json",
    "optimal steps chroma": "optimal_steps_chroma.json",
}
"""Name -> file of the tables that come with the package."""

FORMAT = "diffusolve published tables"

KEYS = ("sigmas", "steps", "weights")
"""Of a table."""

LEAST_FIRST = 0.9
"""Tables that begin lower are none for sampling from noise."""

ROUNDING = 1e-3
"""Published steps are rounded: they may be so far from going all the way, and are then made longer or shorter alike."""


def published(
    tables: str | Path,
    steps: int,
    noise_schedule: str | NoiseSchedule = "flux",
    prediction_type: str | Prediction = "flow",
) -> Plan:
    """The plan of a published table for networks of flow matching, with its source in ``extra["published"]``.

    >>> plan = diffusolve.learning.published("neural solver", 5)
    >>> plan.nfe, [round(sigma, 3) for sigma in plan.sigmas]
    (5, [1.0, 0.948, 0.8, 0.589, 0.309, 0.0])

    Args:
        tables: a name of :data:`PUBLISHED`, or a JSON file with "format": "diffusolve published tables", "source" and
            "tables". A table has either "sigmas", falling from 1 or a little less (at least 0.9) to 0, or "steps",
            their differences, from 1. It may have "weights": a list for each step, with a weight for the network's
            velocity at each step before it; the velocity of its own step has what is left to 1, all of it without
            weights (Euler's method).
        steps: of one of the tables.
        noise_schedule, prediction_type: what the network was trained with.

    Raises:
        UnknownNameError: no such name.
        ValueError: no table of so many steps, a file of another form, a network that is of no flow matching.
    """
    if not isinstance(tables, str | PathLike):
        raise TypeError(f"tables is {shown(tables)}: expected a name ({', '.join(PUBLISHED)}) or the path of a file.")
    document = _document(tables)
    by_steps: dict[int, Table] = {}
    for table in map(_table, document["tables"]):
        if table.steps in by_steps:
            raise ValueError(f"{tables} has two tables of {table.steps} steps: expected one.")
        by_steps[table.steps] = table
    if steps not in by_steps:
        known = ", ".join(map(str, sorted(by_steps)))
        raise ValueError(f"steps is {shown(steps)}: {tables} has tables of {known} steps.")
    schedule = schedule_called(noise_schedule)
    if schedule.scaling is not Scaling.FLOW:
        raise ValueError(f"the noise schedule is {schedule}: the tables are for networks of flow matching.")
    told = {key: value for key, value in document.items() if key not in ("format", "tables")}
    extra = {"published": told}
    return plan_of(by_steps[steps], schedule, Scaling.FLOW, prediction_called(prediction_type), extra)


def _document(tables: str | Path) -> dict[str, Any]:
    """The content of a file of tables, by its name or path. Raises ValueError unless it has a source and tables."""
    path = Path(tables)
    if path.suffix != ".json":
        if str(tables) not in PUBLISHED:
            raise unknown_name("published table", str(tables), PUBLISHED)
        path = Path(__file__).parent / "data" / PUBLISHED[str(tables)]
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}).") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'{path} holds no published tables: expected "format": "{FORMAT}".')
    if not (
        isinstance(document.get("source"), str) and document["source"] and isinstance(document.get("tables"), list)
    ):
        raise ValueError(f'{path} lacks "source", where its numbers stand, or "tables".')
    return document


def _table(told: Any) -> Table:
    """The table that an entry tells. Raises ValueError if it is none."""
    if not isinstance(told, dict) or not told.keys() <= set(KEYS):
        raise ValueError(f"a table is {shown(told)}: expected an object with no other keys than {', '.join(KEYS)}.")
    sigmas = _sigmas(told)
    count = len(sigmas) - 1
    rows = told.get("weights", [[0.0] * i for i in range(count)])
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError(f'"weights" of a table are {shown(rows)}: expected a list of lists of numbers.')
    if [len(row) for row in rows] != list(range(count)):
        raise ValueError(f'"weights" of a table of {count} steps: expected lists of 0, 1, ... {count - 1} numbers.')
    weights = np.zeros((count, count))
    for i, row in enumerate(rows):
        weights[i, :i] = _numbers("weights", row)
        weights[i, i] = 1.0 - sum(row)
    return Table(sigmas, np.zeros(count), weights)


def _sigmas(told: Mapping[str, Any]) -> Numbers:
    """Falling sigmas, to exactly 0; of steps from exactly 1."""
    if ("sigmas" in told) == ("steps" in told):
        raise ValueError(f'a table is {shown(told)}: expected "sigmas" or "steps", one of them.')
    key = "steps" if "steps" in told else "sigmas"
    numbers = _numbers(key, told[key])
    steps = numbers if key == "steps" else -np.diff(numbers)
    if not len(steps) or not (steps > 0.0).all():
        raise ValueError(f"the steps of a table are {shown(steps.tolist())}: expected positive numbers; sigmas fall.")
    if key == "sigmas" and numbers[-1] == 0.0 and LEAST_FIRST <= numbers[0] <= 1.0:
        return numbers
    if not abs(steps.sum() - 1.0) <= ROUNDING:
        raise ValueError(f"the steps of a table go a way of {steps.sum():g}: expected 1, from noise to data.")
    left = 1.0 - np.cumsum(steps) / steps.sum()
    return np.array([1.0, *left[:-1], 0.0])


def _numbers(key: str, told: Any) -> Numbers:
    """The numbers that a table has under `key`. Raises ValueError if one is none that a plan could hold."""
    if not isinstance(told, list):
        raise ValueError(f'"{key}" of a table is {shown(told)}: expected a list of numbers.')
    for number in told:
        if not is_coefficient(number):
            raise ValueError(
                f'"{key}" of a table holds {shown(number)}: expected finite numbers of at most '
                f"{LARGEST_COEFFICIENT:g} in size."
            )
    return np.array(told, dtype=np.float64)
