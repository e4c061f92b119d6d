"""Plans as JSON text: lossless, readable by any runtime, checked when read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import isfinite
from typing import Any

from diffusolve.errors import PlanFormatError
from diffusolve.plan.plan import NoiseTerm, Plan, PlanPoint, Stage, Update, Write

__all__ = ["dump", "load"]

FORMAT = "diffusolve plan"
VERSION = 1


def dump(plan: Plan, indent: int | None) -> str:
    """The text of `plan`. Python writes floats so that reading them gives the same float."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "solver": plan.solver,
        "prediction": plan.prediction,
        "start": plan.start._asdict(),
        "end": plan.end._asdict(),
        "initial": plan.initial,
        "opening": plan.opening._asdict(),
        "stages": [
            {
                "step": stage.step,
                "stage": stage.stage,
                **stage.point._asdict(),
                "scale": stage.scale,
                "a": stage.a,
                "b": stage.b,
                "sample": stage.sample,
                "data": stage.data,
                **stage.update._asdict(),
            }
            for stage in plan.stages
        ],
        "result": plan.result,
    }
    return json.dumps(document, indent=indent, allow_nan=False)


def load(text: str) -> dict[str, Any]:
    """The fields of the plan in `text`, checked: types, finite numbers, and that each register is written before use.

    Raises:
        PlanFormatError: anything else than a plan of this version.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise PlanFormatError(f"not a plan: not JSON ({error}).") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise PlanFormatError(f'not a plan: expected a JSON object with "format": "{FORMAT}".')
    if document.get("version") != VERSION:
        raise PlanFormatError(
            f"a plan of version {document.get('version')!r}, but this release reads version {VERSION}."
        )
    try:
        fields: dict[str, Any] = {
            "solver": _text(document, "solver"),
            "prediction": _text(document, "prediction"),
            "start": _point(_object(document, "start"), "start"),
            "end": _point(_object(document, "end"), "end"),
            "initial": _text(document, "initial"),
            "opening": _update(_object(document, "opening"), "opening"),
            "stages": tuple(_stage(stage, f"stages[{i}]") for i, stage in enumerate(_list(document, "stages"))),
            "result": _text(document, "result"),
        }
    except KeyError as error:
        raise PlanFormatError(f"a damaged plan: {error.args[0]!r} is missing.") from None
    _check_registers(fields)
    return fields


def _check_registers(fields: dict[str, Any]) -> None:
    """Raise unless each register holds a value when it is read and none is written twice."""
    stages: tuple[Stage, ...] = fields["stages"]
    if not stages:
        raise PlanFormatError("a damaged plan: it has no stages.")
    held = {fields["initial"]}
    held = _apply(held, fields["opening"], "opening")
    for i, stage in enumerate(stages):
        _require(held, [stage.sample], f"stages[{i}]")
        held = _apply(held | {stage.data}, stage.update, f"stages[{i}]")
    _require(held, [fields["result"]], "result")


def _apply(held: set[str], update: Update, where: str) -> set[str]:
    held = held | {noise.register for noise in update.noises}
    for write in update.writes:
        _require(held, [source for source, _ in write.terms], where)
        if write.register in held:
            raise PlanFormatError(f"a damaged plan: {where} writes register {write.register!r} a second time.")
        held.add(write.register)
    _require(held, update.frees, where)
    return held - set(update.frees)


def _require(held: set[str], registers: Iterable[str], where: str) -> None:
    for register in registers:
        if register not in held:
            raise PlanFormatError(f"a damaged plan: {where} uses register {register!r}, which holds nothing there.")


def _stage(value: Any, where: str) -> Stage:
    if not isinstance(value, dict):
        raise PlanFormatError(f"a damaged plan: {where} is {value!r}, expected an object.")
    return Stage(
        _whole(value, "step", where),
        _whole(value, "stage", where),
        _point(value, where),
        _number(value["scale"], f"{where}.scale"),
        _number(value["a"], f"{where}.a"),
        _number(value["b"], f"{where}.b"),
        _text(value, "sample"),
        _text(value, "data"),
        _update(value, where),
    )


def _update(value: dict[str, Any], where: str) -> Update:
    try:
        noises = tuple(
            NoiseTerm(_name(register), _number(start, where), _number(end, where))
            for register, start, end in _list(value, "noises")
        )
        writes = tuple(
            Write(_name(register), tuple((_name(source), _number(c, where)) for source, c in terms))
            for register, terms in _list(value, "writes")
        )
    except (TypeError, ValueError) as error:
        raise PlanFormatError(f"a damaged plan: in {where}, {error}") from None
    return Update(noises, writes, tuple(_name(register) for register in _list(value, "frees")))


def _point(value: dict[str, Any], where: str) -> PlanPoint:
    return PlanPoint(*(_number(value[name], f"{where}.{name}") for name in PlanPoint._fields))


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise PlanFormatError(f"a damaged plan: {where} is {value!r}, expected a finite number.")
    return value


def _whole(value: dict[str, Any], key: str, where: str) -> int:
    number = _number(value[key], f"{where}.{key}")
    if not isinstance(number, int):
        raise PlanFormatError(f"a damaged plan: {where}.{key} is {number!r}, expected a whole number.")
    return number


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise PlanFormatError(f"a damaged plan: {value!r} is no register's name.")
    return value


def _text(value: dict[str, Any], key: str) -> str:
    return _name(value[key])


def _list(value: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(value[key], list):
        raise PlanFormatError(f"a damaged plan: {key!r} is {value[key]!r}, expected a list.")
    return list(value[key])


def _object(value: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(value[key], dict):
        raise PlanFormatError(f"a damaged plan: {key!r} is {value[key]!r}, expected an object.")
    return dict(value[key])
