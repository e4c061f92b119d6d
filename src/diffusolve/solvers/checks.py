"""Checks of the options that several solvers have."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite

from diffusolve.errors import unknown_name

__all__ = ["check_choice", "check_eta", "check_lengths", "check_part", "check_past", "check_up_to", "check_weight"]


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise UnknownNameError, offering the nearest, unless `value` is one of the `choices`."""
    if value not in choices:
        raise unknown_name(option, value, choices)


def check_eta(eta: float) -> None:
    """Raise ValueError unless `eta`, how much noise a stochastic solver replaces, is a number from 0 up."""
    if not 0.0 <= eta < inf:
        raise ValueError(f"eta is {eta:g}: expected at least 0 (0 adds no noise, 1 is the default of most samplers).")


def check_weight(option: str, value: float) -> None:
    """Raise ValueError unless `value`, the weight of something, is a finite number."""
    if not isfinite(value):
        raise ValueError(f"{option} is {value:g}: expected a number (0 leaves out what it weighs).")


def check_up_to(option: str, value: int, highest: int) -> None:
    """Raise ValueError unless `value`, an order, is a whole number from 1 to `highest`."""
    if value not in range(1, highest + 1):
        *others, last = map(str, range(1, highest + 1))
        raise ValueError(f"{option} is {value}: expected {', '.join(others)} or {last}.")


def check_part(option: str, value: float) -> None:
    """Raise ValueError unless `value`, a part of a step, is between 0 and 1."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"{option} is {value:g}: expected a part of the step, between 0 and 1 (0.5 is its middle).")


def check_past(unguided_past: bool, cfg_pp: bool) -> None:
    """Raise ValueError if the past is to be without guidance and nobody asks for predictions without guidance."""
    if unguided_past and not cfg_pp:
        raise ValueError("unguided_past says what CFG++ remembers: set cfg_pp=True, or leave it out.")


def check_lengths(longest_step: float, longest_log_snr: float = inf) -> None:
    """Raise ValueError unless these, how long a step of full order may be, are positive numbers."""
    if not longest_step > 0.0 or not longest_log_snr > 0.0:
        which, value = (
            ("longest_step", longest_step) if not longest_step > 0.0 else ("longest_log_snr", longest_log_snr)
        )
        raise ValueError(f"{which} is {value:g}: expected a positive number (inf sets no limit).")
