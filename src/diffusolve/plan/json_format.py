"""Plans as JSON text: lossless, readable by any runtime, checked when read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from sys import float_info
from typing import Any

from diffusolve.errors import PlanFormatError
from diffusolve.plan.plan import OUTPUT, UNGUIDED, NoiseTerm, Plan, PlanPoint, Stage, Update, Write

__all__ = ["dump", "load"]

FORMAT = "diffusolve plan"
VERSION = 1

OUTPUTS = frozenset({OUTPUT, UNGUIDED})
"""What writes may read besides registers, in a stage."""


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
    except (ValueError, RecursionError) as error:
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
            "initial": _register(document["initial"]),
            "opening": _update(_object(document, "opening"), "opening"),
            "stages": tuple(_stage(stage, f"stages[{i}]") for i, stage in enumerate(_list(document, "stages"))),
            "result": _register(document["result"]),
        }
    except KeyError as error:
        raise PlanFormatError(f"a damaged plan: {error.args[0]!r} is missing.") from None
    _check_registers(fields)
    _check_steps(fields["stages"])
    return fields


def _check_steps(stages: tuple[Stage, ...]) -> None:
    """Raise unless the steps count up from 0, each beginning with stage 0."""
    expected = 0
    for i, stage in enumerate(stages):
        step = expected if stage.stage == 0 else expected - 1
        if stage.step != step or stage.stage < 0 or step < 0:
            raise PlanFormatError(
                f"a damaged plan: stages[{i}] is stage {stage.stage} of step {stage.step}, but steps count up from 0 "
                f"and each begins with stage 0: expected step {max(step, 0)}."
            )
        expected = step + 1


def _check_registers(fields: dict[str, Any]) -> None:
    """Raise unless each register holds a value when it is read and none is written twice."""
    stages: tuple[Stage, ...] = fields["stages"]
    if not stages:
        raise PlanFormatError("a damaged plan: it has no stages.")
    held = _apply({fields["initial"]}, [], fields["opening"], "opening")
    for i, stage in enumerate(stages):
        _require(held, [stage.sample], f"stages[{i}]")
        held = _apply(held, [stage.data, *OUTPUTS], stage.update, f"stages[{i}]") - OUTPUTS
    _require(held, [fields["result"]], "result")


def _apply(held: set[str], filled: list[str], update: Update, where: str) -> set[str]:
    """What is held after an update, which finds the registers `filled` written besides those already `held`."""
    held = held.copy()
    for register in [*filled, *(noise.register for noise in update.noises)]:
        _fill(held, register, where)
    for write in update.writes:
        sources = [source for source, _ in write.terms]
        _require(held, sources, where)
        if len(set(sources)) < len(sources):
            raise PlanFormatError(f"a damaged plan: {where} names a source of register {write.register!r} twice.")
        _fill(held, write.register, where)
    for register in update.frees:
        _require(held, [register], where)
        held.remove(register)
    return held


def _fill(held: set[str], register: str, where: str) -> None:
    if register in held:
        raise PlanFormatError(f"a damaged plan: {where} writes register {register!r} a second time.")
    held.add(register)


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
        _register(value["sample"]),
        _register(value["data"]),
        _update(value, where),
    )


def _update(value: dict[str, Any], where: str) -> Update:
    noises = []
    for entry in _list(value, "noises"):
        register, sigma_from, sigma_to = _entries(entry, 3, f"a noise of {where}")
        noises.append(NoiseTerm(_register(register), _number(sigma_from, where), _number(sigma_to, where)))
    writes = []
    for entry in _list(value, "writes"):
        register, terms = _entries(entry, 2, f"a write of {where}")
        pairs = [_entries(term, 2, f"a term of {where}") for term in _entries(terms, None, f"the terms of {where}")]
        writes.append(Write(_register(register), tuple((_source(s), _number(c, where)) for s, c in pairs)))
    return Update(tuple(noises), tuple(writes), tuple(_register(name) for name in _list(value, "frees")))


def _entries(value: Any, count: int | None, where: str) -> list[Any]:
    if not isinstance(value, list) or (count is not None and len(value) != count):
        wanted = "a list" if count is None else f"a list of {count}"
        raise PlanFormatError(f"a damaged plan: {where} is {value!r}, expected {wanted}.")
    return list(value)


def _point(value: dict[str, Any], where: str) -> PlanPoint:
    point = PlanPoint(*(_number(value[name], f"{where}.{name}") for name in PlanPoint._fields))
    for name in ("alpha", "sigma"):
        if getattr(point, name) < 0:
            raise PlanFormatError(f"a damaged plan: {where}.{name} is {getattr(point, name):g}, expected at least 0.")
    if point.alpha == point.sigma == 0:
        raise PlanFormatError(f"a damaged plan: {where} has neither signal (alpha) nor noise (sigma).")
    return point


def _number(value: Any, where: str) -> float:
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not -float_info.max <= value <= float_info.max:
        raise PlanFormatError(f"a damaged plan: {where} is {value!r}, expected a finite number.")
    return value  # type: ignore[no-any-return]


def _whole(value: dict[str, Any], key: str, where: str) -> int:
    number = _number(value[key], f"{where}.{key}")
    if not isinstance(number, int):
        raise PlanFormatError(f"a damaged plan: {where}.{key} is {number!r}, expected a whole number.")
    return number


def _register(value: Any) -> str:
    if not isinstance(value, str) or value in OUTPUTS:
        raise PlanFormatError(f"a damaged plan: {value!r} is no register's name.")
    return value


def _source(value: Any) -> str:
    return str(value) if value in (OUTPUT, UNGUIDED) else _register(value)


def _text(value: dict[str, Any], key: str) -> str:
    if not isinstance(value[key], str):
        raise PlanFormatError(f"a damaged plan: {key!r} is {value[key]!r}, expected text.")
    return str(value[key])


def _list(value: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(value[key], list):
        raise PlanFormatError(f"a damaged plan: {key!r} is {value[key]!r}, expected a list.")
    return list(value[key])


def _object(value: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(value[key], dict):
        raise PlanFormatError(f"a damaged plan: {key!r} is {value[key]!r}, expected an object.")
    return dict(value[key])
