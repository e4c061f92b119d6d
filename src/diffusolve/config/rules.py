"""Rules for the value of a configuration key, which check it and make the error that says what was expected."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from numbers import Real
from typing import Any

from diffusolve.errors import shown, unknown_name

__all__ = ["LARGEST", "Flag", "Number", "Numbers", "OneOf", "Rule", "Whole", "With"]

LARGEST = 2.0**53
"""The largest of the whole numbers that all are floats."""

LARGEST_SINGLE = 2.0**127
"""The largest power of two in single precision."""


@dataclass(frozen=True)
class Rule:
    """The values that a key may have.

    Args:
        none: None is one of them.
    """

    none: bool = field(default=False, kw_only=True)

    def kept(self, key: str, value: Any) -> Any:
        """`value` as the configuration keeps it: itself, or the same in the words and the type of this library.

        Raises:
            TypeError: it is of no type that the key may have; the message names `key`, as all do.
            ValueError: it is out of range.
            UnknownNameError: it is none of the choices.
        """
        return None if value is None and self.none else self._kept(key, value)

    @abstractmethod
    def _kept(self, key: str, value: Any) -> Any:
        """The same for values that are not None, or must not be."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """The range or the choices, as a part of a sentence."""

    def _refused(self, kind: type[Exception], key: str, value: Any) -> Exception:
        return kind(f"{key} is {shown(value)}: expected {self.expected}{', or None' if self.none else ''}.")


@dataclass(frozen=True)
class Number(Rule):
    """A number of any type, but for True and False, that single precision has, from `low` to `high`, or infinite where
    an end is."""

    low: float = -inf
    high: float = inf

    @property
    def expected(self) -> str:
        kind = f"a {self._name}"
        if self.low in (-inf, -LARGEST) and self.high in (inf, LARGEST):
            return kind
        if self.high in (inf, LARGEST):
            return f"{kind} of at least {self.low:,.15g}"
        return f"{kind} from {self.low:,.15g} to {self.high:,.15g}"

    _name = "number"

    def _kept(self, key: str, value: Any) -> Any:
        number = _plain(value)
        if isinstance(number, bool) or not isinstance(number, Real):
            raise self._refused(TypeError, key, value)
        try:
            size = float(number)
            inside = self.low <= size <= self.high and (abs(size) <= LARGEST_SINGLE or abs(size) == inf)
        except OverflowError:  # an integer beyond all floats
            inside = False
        if not inside:
            raise self._refused(ValueError, key, value)
        return value


@dataclass(frozen=True)
class Whole(Number):
    """A whole number from `low` to `high`; one that is written as 2.0 is kept as 2."""

    low: float = 0
    high: float = LARGEST

    _name = "whole number"

    def _kept(self, key: str, value: Any) -> Any:
        super()._kept(key, value)
        number = _plain(value)
        if number != int(number):
            raise self._refused(ValueError, key, value)
        return int(number) if isinstance(number, float) else value


@dataclass(frozen=True)
class Flag(Rule):
    """True or False; None, 0 and 1 stand for them, as in many files."""

    none: bool = field(default=True, kw_only=True)

    @property
    def expected(self) -> str:
        return "True or False"

    def _kept(self, key: str, value: Any) -> Any:
        plain = _plain(value)
        if not isinstance(plain, Real) or plain not in (0, 1):
            raise self._refused(TypeError, key, value)
        return value


@dataclass(frozen=True)
class OneOf(Rule):
    """One of the names in `choices`.

    Args:
        instead: names that other classes have -> the choice that stands for them.
    """

    choices: tuple[str, ...]
    instead: Mapping[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        return " or ".join(map(repr, self.choices))

    def _kept(self, key: str, value: Any) -> Any:
        if not isinstance(value, str):
            raise unknown_name(key, value, self.choices)
        if value in self.choices:
            return value
        if value not in self.instead:
            raise unknown_name(key, value, self.choices)
        return self.instead[value]


@dataclass(frozen=True)
class Numbers(Rule):
    """A list, or what can be read like one, in which each entry follows `each`; or a single one, with `single`."""

    each: Number
    least: int = 0
    most: int = 10_000
    single: bool = False

    @property
    def expected(self) -> str:
        least = f" at least {self.least}" if self.least else ""
        one = f"{self.each.expected}, or " if self.single else ""
        return f"{one}a list of{least} numbers, each {self.each.expected}"

    def _kept(self, key: str, value: Any) -> Any:
        if self.single and isinstance(_plain(value), Real):
            return self.each.kept(key, value)
        if (
            isinstance(value, (str, bytes, Mapping))
            or not isinstance(value, Iterable)
            or getattr(value, "ndim", 1) != 1
        ):
            raise self._refused(TypeError, key, value)
        entries = value.tolist() if hasattr(value, "tolist") else list(value)
        if not self.least <= len(entries) <= self.most:
            raise ValueError(
                f"{key} has {len(entries)} entries: expected {self.expected}, and at most {self.most:,} of them."
            )
        for place, entry in enumerate(entries):
            self.each.kept(f"{key}[{place}]", entry)
        return value


@dataclass(frozen=True)
class With(Rule):
    """An object that has a `method`."""

    method: str

    @property
    def expected(self) -> str:
        return "a function" if self.method == "__call__" else f"an object with a method {self.method}"

    def _kept(self, key: str, value: Any) -> Any:
        if not callable(getattr(value, self.method, None)):
            raise self._refused(TypeError, key, value)
        return value


def _plain(value: Any) -> Any:
    """`value` as Python's own type if it is a scalar of NumPy, or an array or tensor with no axes."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
