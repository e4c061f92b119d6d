"""What was measured: tables of figures, and which goals they meet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import exp, log
from typing import Any

__all__ = ["FORMAT", "Figure", "Goal", "Result", "Table", "at_least", "at_most", "geometric_mean"]

FORMAT = "diffusolve benchmarks"


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        row, column: its place in the table.
        here: what it is in this library; None if it could not be measured.
        there: what it is in the other library; None if that was not measured.
        floor: what it cannot be less than; None if that is not known.
        rounds: how many measurements these are the medians of.
        note: what else there is to say, for example why something was not measured.
        details: how it was measured.
    """

    row: str
    column: str
    here: float | None
    there: float | None = None
    floor: float | None = None
    rounds: int = 1
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def ratio(self) -> float | None:
        """How many times as much it is there as here: above 1, here is better."""
        return None if not self.here or self.there is None else self.there / self.here

    @property
    def over_floor(self) -> float | None:
        """How many times the floor it is here: 1 is the best possible."""
        return None if not self.floor or self.here is None else self.here / self.floor


@dataclass(frozen=True)
class Table:
    """Figures that belong together.

    Attributes:
        name: a word for it.
        title: what was measured.
        unit: of `here`, `there` and `floor`.
        peer: the other library; None if there is none to compare with.
        figures: in the order of rows.
    """

    name: str
    title: str
    unit: str
    peer: str | None
    figures: tuple[Figure, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(figure.row for figure in self.figures))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(figure.column for figure in self.figures))

    def ratios(self, columns: Sequence[str], without: Sequence[str] = ()) -> dict[str, float]:
        """Row and column -> ratio, where there is one, without some of the rows."""
        return self._values("ratio", columns, without)

    def floors(self, columns: Sequence[str]) -> dict[str, float]:
        """Row and column -> how many times the floor."""
        return self._values("over_floor", columns, ())

    def _values(self, kind: str, columns: Sequence[str], without: Sequence[str]) -> dict[str, float]:
        chosen = [figure for figure in self.figures if figure.column in columns and figure.row not in without]
        named = {f"{figure.row} {figure.column}" if len(columns) > 1 else figure.row: figure for figure in chosen}
        return {name: value for name, figure in named.items() if (value := getattr(figure, kind)) is not None}


@dataclass(frozen=True)
class Goal:
    """What was wanted and what it is. `met` is None where it was not measured."""

    what: str
    wanted: str
    measured: str
    met: bool | None


def at_least(what: str, ratios: Mapping[str, float], each: float, mean: float | None = None) -> list[Goal]:
    """Whether the geometric mean of `ratios` is at least `mean`, and each of them at least `each`."""
    goals = []
    if mean is not None:
        value = geometric_mean(list(ratios.values())) if ratios else None
        measured = "not measured" if value is None else f"{value:.2f}x"
        met = None if value is None else value >= mean
        goals.append(Goal(f"{what}, geometric mean", f"at least {mean:g}x", measured, met))
    return [*goals, _extreme(f"{what}, each", ratios, f"at least {each:g}x", each, True, "x")]


def at_most(what: str, values: Mapping[str, float], limit: float, unit: str) -> Goal:
    """Whether each of the `values`, in `unit`, is at most `limit`."""
    return _extreme(f"{what}, each", values, f"at most {limit:g}{unit}", limit, False, unit)


def _extreme(what: str, values: Mapping[str, float], wanted: str, limit: float, above: bool, unit: str) -> Goal:
    if not values:
        return Goal(what, wanted, "not measured", None)
    worst = (min if above else max)(values, key=lambda name: values[name])
    missed = sum(value < limit if above else value > limit for value in values.values())
    measured = f"{values[worst]:.2f}{unit} ({worst})"
    if missed:
        measured += f", {missed} of {len(values)} miss it"
    return Goal(what, wanted, measured, not missed)


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers."""
    return exp(sum(map(log, values)) / len(values))


@dataclass(frozen=True)
class Result:
    """What measuring an area gave.

    Attributes:
        area: its name.
        quick: measured with little effort: a first look, not to be quoted.
        machine: what it was measured on, see :func:`benchmarks.suite.machine.machine`.
        tables: the figures.
        goals: and what they say about the goals.
        notes: what was left out, and why.
    """

    area: str
    quick: bool
    machine: Mapping[str, Any]
    tables: tuple[Table, ...]
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """JSON text; figures with their ratios, for readers. :meth:`from_json` gives back an equal result."""
        made = {"format": FORMAT, **asdict(self)}
        for table, written in zip(self.tables, made["tables"], strict=True):
            for figure, entry in zip(table.figures, written["figures"], strict=True):
                entry |= {"ratio": figure.ratio, "over_floor": figure.over_floor}
        return json.dumps(made, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Result:
        """The result in `text`.

        Raises:
            ValueError: it is none.
        """
        try:
            made = json.loads(text)
            if made.pop("format") != FORMAT:
                raise KeyError("format")
            for table in made["tables"]:
                for entry in table["figures"]:
                    del entry["ratio"], entry["over_floor"]
                table["figures"] = tuple(Figure(**entry) for entry in table["figures"])
            made["tables"] = tuple(Table(**table) for table in made["tables"])
            made["goals"] = tuple(Goal(**goal) for goal in made["goals"])
            return cls(**made | {"notes": tuple(made["notes"])})
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no result of benchmarks.suite: {error!r}.") from error
