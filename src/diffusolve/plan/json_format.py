"""Plans as JSON text: lossless, readable by any runtime, checked when read.

The format is a table: :data:`POINT`, :data:`UPDATE`, :data:`STAGE` and :data:`PLAN` have a row for each
key, which says how its value is checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

from diffusolve.errors import PlanFormatError, shown, unknown_name
from diffusolve.plan.plan import OUTPUT, UNGUIDED, NoiseTerm, Plan, PlanPoint, Stage, Update, Write

__all__ = ["LARGEST_COEFFICIENT", "dump", "load"]

FORMAT = "diffusolve plan"
VERSION = 1

OUTPUTS = frozenset({OUTPUT, UNGUIDED})
"""The sources of a stage's writes that are no registers."""

LARGEST_COEFFICIENT = 1e12
"""Coefficients beyond plus and minus this are refused: products of three of them fit into single precision."""

LARGEST_INTEGER = 2**53
"""Whole numbers beyond plus and minus this are refused: not every float64 near it is one."""

# Kinds of values -----------------------------------------------------------------------------------------------------

Check = Callable[[Any, str], Any]
"""Takes a JSON value and its path in the document, returns the value as a plan has it, or raises PlanFormatError."""


def damaged(message: str) -> PlanFormatError:
    """The error of a document that would be a plan but for what `message` says."""
    return PlanFormatError(f"a damaged plan: {message}.")


def scalar(expected: str, test: Callable[[Any], bool]) -> Check:
    """The check that `test` holds of a value, which is `expected`."""

    def check(value: Any, path: str) -> Any:
        if not test(value):
            raise damaged(f"{path} is {shown(value)}, expected {expected}")
        return value

    return check


def listed(item: Check) -> Check:
    """The check of a list of any length, whose entries are checked by `item`."""

    def check(value: Any, path: str) -> tuple[Any, ...]:
        entries = _list(value, path)
        return tuple(item(entry, f"{path}[{i}]") for i, entry in enumerate(entries))

    return check


def row_of(make: Callable[..., Any], *columns: Check) -> Check:
    """The check of a list of fixed length, whose entries become the arguments of `make`."""

    def check(value: Any, path: str) -> Any:
        entries = _list(value, path, len(columns))
        pairs = zip(columns, entries, strict=True)
        return make(*(column(entry, f"{path}[{i}]") for i, (column, entry) in enumerate(pairs)))

    return check


def _list(value: Any, path: str, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or length not in (None, len(value)):
        expected = "a list" if length is None else f"a list of {length}"
        raise damaged(f"{path} is {shown(value)}, expected {expected}")
    return value


def is_number(value: Any) -> bool:
    """True for finite numbers that float64 can hold; JSON's true and false are none."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:
        return False


def is_coefficient(value: Any) -> bool:
    """True for numbers that may stand in the sums of a plan."""
    return is_number(value) and bool(abs(value) <= LARGEST_COEFFICIENT)


def is_whole(value: Any) -> bool:
    """True for whole numbers that float64 tells from their neighbours."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_INTEGER


def is_timestep(value: Any) -> bool:
    """True for numbers that a tensor of timesteps can hold."""
    return is_whole(value) or (isinstance(value, float) and abs(value) <= LARGEST_COEFFICIENT)


TEXT = scalar("text", lambda value: isinstance(value, str))
SOURCE = scalar("a register's name", lambda value: isinstance(value, str))
REGISTER = scalar(
    "a register's name, which is none of " + " and ".join(map(repr, sorted(OUTPUTS))),
    lambda value: isinstance(value, str) and value not in OUTPUTS,
)
COUNT = scalar("a whole number, at least 0", lambda value: is_whole(value) and value >= 0)
TIMESTEP = scalar(f"a finite number, at most {LARGEST_COEFFICIENT:g} in size", is_timestep)
AMOUNT = scalar("a finite number, at least 0", lambda value: is_number(value) and value >= 0)
COEFFICIENT = scalar(f"a finite number, at most {LARGEST_COEFFICIENT:g} in size", is_coefficient)

# Tables of fields ----------------------------------------------------------------------------------------------------


class Field(NamedTuple):
    """A row: an attribute, the check of the value that the key of its name has, and what JSON has for the attribute."""

    name: str
    check: Check | Record
    write: Callable[[Any], Any] = lambda value: value


class Record(NamedTuple):
    """An object of JSON: its rows make the attributes of a `kind`. A row that is a record has its keys among ours."""

    kind: Callable[..., Any]
    fields: tuple[Field, ...]

    def keys(self) -> Iterator[str]:
        """The keys of the object."""
        for name, check, _ in self.fields:
            yield from check.keys() if isinstance(check, Record) else (name,)

    def read(self, value: Mapping[str, Any], path: str) -> Any:
        """The record in the keys of `value`, which may have others. Raises PlanFormatError."""
        prefix = f"{path}." if path else ""
        read = {}
        for name, check, _ in self.fields:
            if isinstance(check, Record):
                read[name] = check.read(value, path)
            elif name in value:
                read[name] = check(value[name], prefix + name)
            else:
                raise damaged(f"{prefix}{name} is missing")
        return self.kind(**read)

    def read_alone(self, value: Any, path: str) -> Any:
        """The record in `value`, an object with its keys and no others. Raises PlanFormatError."""
        if not isinstance(value, dict):
            raise damaged(f"{path} is {shown(value)}, expected an object")
        keys = [*self.keys()]
        for key in value:
            if key not in keys:
                raise damaged(f"{path} has an {unknown_name('key', key, keys)} Other keys belong beside 'stages'")
        return self.read(value, path)

    def write(self, record: Any) -> dict[str, Any]:
        """The object of JSON that :meth:`read` makes `record` of."""
        written: dict[str, Any] = {}
        for name, check, write in self.fields:
            value = getattr(record, name)
            written |= check.write(value) if isinstance(check, Record) else {name: write(value)}
        return written


POINT = Record(
    PlanPoint,
    (
        Field("timestep", TIMESTEP),
        Field("alpha", AMOUNT),
        Field("sigma", AMOUNT),
    ),
)

UPDATE = Record(
    Update,
    (
        Field("noises", listed(row_of(NoiseTerm, REGISTER, AMOUNT, AMOUNT))),
        Field("writes", listed(row_of(Write, REGISTER, listed(row_of(lambda *term: term, SOURCE, COEFFICIENT))))),
        Field("frees", listed(REGISTER)),
    ),
)

STAGE = Record(
    Stage,
    (
        Field("step", COUNT),
        Field("stage", COUNT),
        Field("point", POINT),
        Field("scale", COEFFICIENT),
        Field("a", COEFFICIENT),
        Field("b", COEFFICIENT),
        Field("sample", REGISTER),
        Field("data", REGISTER),
        Field("update", UPDATE),
    ),
)

PLAN = Record(
    dict,
    (
        Field("solver", TEXT),
        Field("prediction", TEXT),
        Field("start", POINT.read_alone, POINT.write),
        Field("end", POINT.read_alone, POINT.write),
        Field("initial", REGISTER),
        Field("opening", UPDATE.read_alone, UPDATE.write),
        Field("stages", listed(STAGE.read_alone), lambda stages: [STAGE.write(stage) for stage in stages]),
        Field("result", REGISTER),
    ),
)

# The text ------------------------------------------------------------------------------------------------------------


def dump(plan: Plan, indent: int | None) -> str:
    """The text of `plan`. Python writes floats so that reading them gives the same float.

    Raises:
        ValueError: `plan.extra` has a key of the format's, or a value that JSON cannot hold.
    """
    document = {"format": FORMAT, "version": VERSION, **PLAN.write(plan)}
    taken = sorted(plan.extra.keys() & document.keys())
    if taken:
        raise ValueError(f"extra has the key {taken[0]!r}, which is one of the plan's own: use another.")
    try:
        return json.dumps({**document, **plan.extra}, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"extra cannot be written as JSON: {error}.") from None


def load(text: str) -> dict[str, Any]:
    """The fields of the plan in `text`, checked, so that what they describe can be run.

    A register that is freed later than it could be, or never, is freed where it is read last.

    Raises:
        PlanFormatError: anything else than a plan of this version.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanFormatError(f"not a plan: not JSON ({error}).") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise PlanFormatError(f'not a plan: expected a JSON object with "format": "{FORMAT}".')
    if document.get("version") != VERSION:
        raise PlanFormatError(
            f"a plan of version {shown(document.get('version'))}, but this release reads version {VERSION}."
        )
    fields: dict[str, Any] = PLAN.read(document, "")
    _check_points(fields)
    _check_steps(fields["stages"])
    _check_registers(fields)
    _check_samples(fields)
    return {**_freed_in_time(fields), "extra": _extra(document)}


def _extra(document: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a document that are not the format's."""
    own = {"format", "version", *PLAN.keys()}
    extra = {key: value for key, value in document.items() if key not in own}
    for key, value in extra.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise damaged(f"{shown(key)} holds a number that is not finite, which JSON has no word for") from None
    return extra


def _check_points(fields: Mapping[str, Any]) -> None:
    """Raise unless there is something at each point and in each data prediction."""
    points = {f"stages[{i}]": stage.point for i, stage in enumerate(fields["stages"])}
    for path, point in {"start": fields["start"], "end": fields["end"], **points}.items():
        if point.alpha == point.sigma == 0:
            raise damaged(f"{path} has neither signal (alpha) nor noise (sigma)")
    for i, stage in enumerate(fields["stages"]):
        if stage.a == stage.b == 0:
            raise damaged(f"stages[{i}] has a = b = 0, so that its data prediction is nothing")


def _check_steps(stages: tuple[Stage, ...]) -> None:
    """Raise unless there are steps, numbered upwards from 0, each of which begins with stage 0."""
    if not stages:
        raise damaged("it has no stages")
    expected = 0
    for i, stage in enumerate(stages):
        step = expected if stage.stage == 0 else expected - 1
        if stage.step != step or step < 0:
            raise damaged(
                f"stages[{i}] is stage {stage.stage} of step {stage.step}, but steps are numbered upwards from 0 and "
                f"each begins with stage 0: expected step {max(step, 0)}"
            )
        expected = step + 1


def _check_registers(fields: Mapping[str, Any]) -> None:
    """Raise unless each register holds a value when it is read and none is written twice."""
    written = {fields["initial"]}
    held = _held_after(written.copy(), written, [], fields["opening"], "opening")
    for i, stage in enumerate(fields["stages"]):
        _require(held, [stage.sample], f"stages[{i}]")
        held = _held_after(held | OUTPUTS, written, [stage.data], stage.update, f"stages[{i}]") - OUTPUTS
    _require(held, [fields["result"]], "result")


def _check_samples(fields: Mapping[str, Any]) -> None:
    """Raise unless each update leads to the sample that follows it, which it writes last."""
    stages = fields["stages"]
    updates = [fields["opening"], *(stage.update for stage in stages)]
    following = [
        *((f"stages[{i}].sample", stage.sample) for i, stage in enumerate(stages)),
        ("result", fields["result"]),
    ]
    for i, (update, (path, sample)) in enumerate(zip(updates, following, strict=True)):
        if not update.writes and i > 0:
            raise damaged(f"stages[{i - 1}] writes nothing, expected the sample that follows it")
        last = update.writes[-1].register if update.writes else fields["initial"]
        if sample != last:
            what = f"what {'opening' if i == 0 else f'stages[{i - 1}]'} writes last" if update.writes else "initial"
            raise damaged(f"{path} is {shown(sample)}, expected {what}: {shown(last)}")


def _held_after(held: set[str], written: set[str], filled: list[str], update: Update, path: str) -> set[str]:
    """The registers held after an update, which finds those `filled` besides those already `held`.

    All registers that were ever `written` get those of the update besides.
    """
    for register in [*filled, *(noise.register for noise in update.noises)]:
        _fill(held, written, register, path)
    for write in update.writes:
        sources = [source for source, _ in write.terms]
        _require(held, sources, path)
        if len(set(sources)) < len(sources):
            raise damaged(f"{path} names a source of register {shown(write.register)} twice")
        _fill(held, written, write.register, path)
    for register in update.frees:
        _require(held, [register], path)
        held.remove(register)
    return held


def _fill(held: set[str], written: set[str], register: str, path: str) -> None:
    if register in written:
        raise damaged(f"{path} writes register {shown(register)} a second time")
    written.add(register)
    held.add(register)


def _require(held: set[str], registers: Iterable[str], path: str) -> None:
    for register in registers:
        if register not in held:
            raise damaged(f"{path} uses register {shown(register)}, which holds nothing there")


def _freed_in_time(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, with each register but the result freed by the update that reads it last.

    Lowering a plan takes apart what is not needed any more, by these lists.
    """
    last: dict[str, int] = {fields["initial"]: 0}
    updates = [fields["opening"], *(stage.update for stage in fields["stages"])]
    for i, update in enumerate(updates):
        if i > 0:
            stage = fields["stages"][i - 1]
            last |= {stage.sample: i, stage.data: i}
        last |= {noise.register: i for noise in update.noises}
        for write in update.writes:
            last |= dict.fromkeys((write.register, *(source for source, _ in write.terms)), i)
    last[fields["result"]] = len(updates)
    ordered = []
    for i, update in enumerate(updates):
        due = sorted(register for register, at in last.items() if at == i and register not in OUTPUTS)
        kept = [register for register in update.frees if register in due]
        ordered.append(update._replace(frees=(*kept, *(register for register in due if register not in kept))))
    stages = tuple(stage._replace(update=update) for stage, update in zip(fields["stages"], ordered[1:], strict=True))
    return {**fields, "opening": ordered[0], "stages": stages}
