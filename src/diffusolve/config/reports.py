"""Saying once what is odd about a configuration."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from threading import Lock

__all__ = ["listed", "nearest", "report_once"]

logger = logging.getLogger("diffusolve")

_reported: set[str] = set()
_lock = Lock()


def report_once(message: str, category: type[Warning] | None = None) -> None:
    """Log a warning, or warn with `category`, unless the same was said already."""
    with _lock:
        if message in _reported:
            return
        _reported.add(message)
    if category is None:
        logger.warning(message)
    else:
        warnings.warn(message, category, stacklevel=3)


def listed(names: Iterable[str]) -> str:
    """`names` in quotes, in alphabetical order, as a part of a sentence."""
    return ", ".join(map(repr, sorted(names)))


def nearest(names: Iterable[str], choices: Iterable[str]) -> str:
    """A question that offers those of `choices` that `names` may be misspellings of; nothing if there are none."""
    choices = list(choices)
    close = [match for name in names for match in get_close_matches(name, choices, n=1, cutoff=0.7)]
    return f" Did you mean {listed(close)}?" if close else ""
