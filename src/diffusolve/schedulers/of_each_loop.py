"""Attributes that every loop sets for itself, of the classes whose steps no plan has."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["OfEachLoop"]

Values = WeakKeyDictionary[Any, dict[str, Any]]

_here: ContextVar[Values | None] = ContextVar("diffusolve_values", default=None)
"""In each thread and task the values that it set: the object -> the attribute's name -> its value. Never written to."""


class OfEachLoop:
    """An attribute that threads and tasks which share an object set without disturbing each other.

    Who has set none sees what was set last, anywhere, as copies and pickles of the object do.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        own = (_here.get() or {}).get(instance, {})
        return own[self.name] if self.name in own else vars(instance)[self.name]

    def __set__(self, instance: Any, value: Any) -> None:
        values: Values = WeakKeyDictionary(_here.get() or {})
        values[instance] = {**values.get(instance, {}), self.name: value}
        _here.set(values)
        vars(instance)[self.name] = value
