"""Tables walked inside one test, which lists every row that fails."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

LISTED = 40
"""Failing rows that are written out; of more than these the number is given."""


def for_each(
    names: str | Sequence[str], rows: Iterable[Any], ids: Iterable[str] | Callable[[Any], str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test for every row of a table, within one case, and list all the rows that fail.

    It is written like `pytest.mark.parametrize`, may be stacked (every row of one table with every row of the other)
    and combined with it; fixtures are shared by all rows. The error lists the rows that fail, each with its own
    message, and the traceback of the first is kept as its cause. A row may skip; when all of them do, so does the test.

    Args:
        names: The arguments that a row gives, as a sequence or in one string, separated by commas.
        rows: One value for a single name, else a tuple with one value for each name.
        ids: What a row is called in the list of failures: a text for each row or a function of a single value.
    """
    arguments = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else tuple(names)
    several = not isinstance(names, str) or len(arguments) > 1
    values = [tuple(row) if several else (row,) for row in rows]
    if not values:
        raise ValueError(f"the table of {', '.join(arguments)} has no rows: nothing would be tested")
    for row in values:
        if any(isinstance(value, type(pytest.param())) for value in row):
            raise TypeError(f"a row is {row}: expected plain values, with ids beside them, instead of pytest.param")
        if len(row) != len(arguments):
            raise ValueError(f"the row {row} has {len(row)} values: expected one for each of {', '.join(arguments)}")
    named = [dict(zip(arguments, row, strict=True)) for row in values]
    if ids is None or callable(ids):
        labels = [", ".join(f"{name}={_label(value, ids)}" for name, value in row.items()) for row in named]
    else:
        labels = list(ids)
    table = list(zip(labels, named, strict=True))

    def walked(test: Callable[..., None]) -> Callable[..., None]:
        inner: Callable[..., None] = getattr(test, "walks", test)
        tables: list[list[tuple[str, dict[str, Any]]]] = [table, *getattr(test, "tables", [])]

        @functools.wraps(test)
        def walk(*args: Any, **fixtures: Any) -> None:
            __tracebackhide__ = True
            _walk(inner, tables, args, fixtures)

        signature = inspect.signature(test)
        unknown = set(arguments) - set(signature.parameters)
        if unknown:
            raise ValueError(f"{test.__name__} takes no argument {', '.join(sorted(unknown))}")
        left = [parameter for name, parameter in signature.parameters.items() if name not in arguments]
        walk.__dict__.update(__signature__=signature.replace(parameters=left), walks=inner, tables=tables)
        return walk

    return walked


def in_pairs(*tables: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Few rows with one value of each table, such that each two values of different tables are together in one."""
    values = [list(table) for table in tables]
    rows = {row: set(itertools.combinations(enumerate(row), 2)) for row in itertools.product(*map(_places, values))}
    missing: set[Any] = set().union(*rows.values())
    taken = [] if len(values) > 1 else list(rows)
    while missing:
        taken.append(max(rows, key=lambda row: len(rows[row] & missing)))
        missing -= rows[taken[-1]]
    return [tuple(table[place] for table, place in zip(values, row, strict=True)) for row in sorted(taken)]


def _places(values: Sequence[Any]) -> range:
    return range(len(values))


def _walk(
    test: Callable[..., None],
    tables: list[list[tuple[str, dict[str, Any]]]],
    args: tuple[Any, ...],
    fixtures: dict[str, Any],
) -> None:
    """Call `test` once for every combination of rows and raise one error for all that fail."""
    __tracebackhide__ = True
    failures: list[tuple[str, BaseException]] = []
    skipped: list[BaseException] = []
    number = 0
    for combination in itertools.product(*tables):
        number += 1
        row = {name: value for _, values in combination for name, value in values.items()}
        try:
            test(*args, **fixtures, **row)
        except pytest.skip.Exception as skip:
            skipped.append(skip)
        except (Exception, pytest.fail.Exception) as error:
            failures.append((", ".join(label for label, _ in combination), error))
    if failures:
        lines = [f"  {label}: {_message(error)}" for label, error in failures[:LISTED]]
        if len(failures) > LISTED:
            lines.append(f"  and {len(failures) - LISTED} more")
        raise AssertionError("\n".join([f"{len(failures)} of {number} rows fail:", *lines])) from failures[0][1]
    if len(skipped) == number:
        raise skipped[0]


def _message(error: BaseException) -> str:
    """The type of an error and the first lines of its text, within one row of the list."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}"


def _label(value: Any, ids: Callable[[Any], str] | None) -> str:
    """A value in the list of failures: its own short name where it has one."""
    if ids is not None:
        return ids(value)
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
