"""The symbols that a solver is traced with: linear combinations of named registers."""

from __future__ import annotations

from typing import Any

__all__ = ["Combination"]

ROUNDING = 1e-15
"""A sum this small against its parts is their rounding error."""


class Combination:
    """A sum of registers times floats. Behaves like a tensor under +, -, * and / by a float.

    Registers are names, or what else can be the key of a dictionary.
    """

    __slots__ = ("terms",)

    def __init__(self, terms: dict[Any, float]) -> None:
        self.terms = terms

    def __add__(self, other: Combination) -> Combination:
        terms = self.terms.copy()
        for register, coefficient in other.terms.items():
            terms[register] = _sum(terms[register], coefficient) if register in terms else coefficient
        return Combination(terms)

    def __sub__(self, other: Combination) -> Combination:
        terms = self.terms.copy()
        for register, coefficient in other.terms.items():
            terms[register] = _sum(terms[register], -coefficient) if register in terms else -coefficient
        return Combination(terms)

    def __mul__(self, factor: float) -> Combination:
        return Combination({register: coefficient * factor for register, coefficient in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Combination:
        return Combination({register: coefficient / divisor for register, coefficient in self.terms.items()})

    def __neg__(self) -> Combination:
        return self * -1.0

    def __repr__(self) -> str:
        return " + ".join(f"{coefficient:.6g} {register}" for register, coefficient in self.terms.items()) or "0"


def _sum(a: float, b: float) -> float:
    total = a + b
    return 0.0 if abs(total) < ROUNDING * abs(a) else total
