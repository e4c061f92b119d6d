"""Values that a configuration may have, and their form in a file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["check_no_nan", "plain", "same_value"]


def plain(value: Any, key: str) -> Any:
    """`value` in the types that JSON has.

    Raises:
        TypeError: it has no such form; the message names `key`.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return Path(value).as_posix()
    if isinstance(value, Mapping):
        return {str(name): plain(entry, f"{key}[{name!r}]") for name, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(entry, key) for entry in value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Iterable):
        return [plain(entry, key) for entry in value]
    raise TypeError(f"the value of {key} cannot be saved: {type(value).__name__} {value!r} has no JSON form.")


def check_no_nan(values: Mapping[str, Any], owner: str) -> None:
    """Raise ValueError, which names the key, if one of the `values` is or holds NaN, or lists in lists without end."""
    for key, value in values.items():
        try:
            nan = has_nan(value)
        except RecursionError:
            raise ValueError(f"{key} of {owner} has lists in thousands of lists, or in themselves.") from None
        if nan:
            raise ValueError(f"{key} of {owner} is not a number (NaN): give a number, or leave the key out.")


def has_nan(value: Any) -> bool:
    """True if `value`, or a number in it, is NaN."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, (str, bytes, int)) or value is None:
        return False
    if isinstance(value, Mapping):
        return any(map(has_nan, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(has_nan, value))
    return has_nan(value.tolist()) if hasattr(value, "tolist") else False


def same_value(a: Any, b: Any) -> bool:
    """True if two values of a key are the same once saved."""
    try:
        return a is b or bool(plain(a, "") == plain(b, ""))
    except TypeError:
        return False
