"""What is to be measured, and how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.suite.timing import FULL, Effort

__all__ = ["Settings"]


def _silently(said: str) -> None:
    pass


@dataclass(frozen=True)
class Settings:
    """How an area is measured.

    Attributes:
        effort: how long each case is.
        only: the names of what is measured; everything when empty.
        tell: is told what is being measured.
    """

    effort: Effort = FULL
    only: frozenset[str] = field(default_factory=frozenset)
    tell: Callable[[str], object] = _silently

    def wants(self, name: str) -> bool:
        """Whether what has this name is measured."""
        return not self.only or name in self.only
