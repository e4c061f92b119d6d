"""What type checkers are told of scheduler classes is what these do. The checkers themselves read `user_code.py`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import diffusolve
from diffusolve.config.rules import OneOf
from diffusolve.prediction import PREDICTIONS, PredictionOrName
from diffusolve.schedulers import CLASSES, scheduler_class, step_types
from diffusolve.schedulers.keys import rules_of
from diffusolve.schedulers.outputs import SchedulerOutput
from diffusolve.spacing.flow import TIME_SHIFT_TYPES


def classes() -> Iterator[type[Any]]:
    """The scheduler classes, those of tokens and of plans among them."""
    yield from map(scheduler_class, CLASSES)
    yield diffusolve.PlanScheduler


def words(annotation: Any) -> set[Any]:
    """The words of a Literal, or of one in a union; None where the union has it."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return {word for part in get_args(annotation) for word in words(part)} | (
        {None} if type(None) in get_args(annotation) else set()
    )


def test_the_words_that_constructors_declare_are_those_that_keys_may_be() -> None:
    wrong, compared = [], 0
    for cls in classes():
        rules, hints = rules_of(cls), get_type_hints(cls.__init__)
        for key in inspect.signature(cls.__init__).parameters:
            rule = rules.get(key)
            if isinstance(rule, OneOf):
                compared += 1
                if words(hints[key]) != {*rule.choices, *([None] if rule.none else [])}:
                    wrong.append((cls.__name__, key, hints[key], rule.choices))
    assert not wrong
    assert compared > 100


def test_the_words_of_predictions_and_shifts_are_those_that_are_known() -> None:
    assert words(PredictionOrName) == {*PREDICTIONS, "flow_prediction"}
    with pytest.raises(diffusolve.errors.UnknownNameError, match="time_shift_type"):
        diffusolve.FlowMatchEulerDiscreteScheduler(time_shift_type="linaer")  # type: ignore[arg-type]
    assert set(rules_of(diffusolve.FlowMatchEulerDiscreteScheduler)["time_shift_type"].choices) == set(TIME_SHIFT_TYPES)  # type: ignore[attr-defined]


def parameters(step: Any) -> list[tuple[str, Any]]:
    return [(name, parameter.default) for name, parameter in inspect.signature(step).parameters.items()]


def declared_in(cls: type[Any]) -> str | None:
    """The name in `step_types` that the source of a class's own step says it is declared as."""
    lines = inspect.getsource(cls.__dict__["step"]).splitlines()
    return lines[0].split("(", 1)[1].split("[", 1)[0] if "@declared_as(" in lines[0] else None


def test_a_step_declared_with_shared_arguments_has_these_and_the_output_of_its_class() -> None:
    wrong, compared = [], 0
    for cls in classes():
        if "step" not in cls.__dict__ or (name := declared_in(cls)) is None:
            continue
        compared += 1
        if parameters(cls.step) != parameters(getattr(step_types, name).step):
            wrong.append((cls.__name__, name))
        output = getattr(cls, "output", SchedulerOutput)
        if f", {output.__name__}]" not in inspect.getsource(cls.step).splitlines()[0] and issubclass(
            output, SchedulerOutput
        ):
            wrong.append((cls.__name__, output.__name__))
    assert not wrong
    assert compared > 30


@pytest.mark.skipif(sys.version_info < (3, 11), reason="`typing` keeps overloads from Python 3.11 on")
def test_each_overload_has_the_arguments_of_the_declaration() -> None:
    from typing_extensions import get_overloads

    wrong = []
    for name in step_types.__all__:
        declared = getattr(getattr(step_types, name), "step", None)
        if declared is None:
            continue
        overloads = get_overloads(declared)
        if len(overloads) != 3 or any(
            list(inspect.signature(each).parameters) != list(inspect.signature(declared).parameters)
            for each in overloads
        ):
            wrong.append(name)
    assert not wrong
