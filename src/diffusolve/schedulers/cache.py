"""A cache of results that can be worked out again."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

__all__ = ["Cache"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(dict[Key, Value]):
    """A dictionary of results that can be worked out again. Ask it to make room before a new one.

    Threads may share it: reading and writing an entry is one operation each, and losing one costs time only. Copies
    and pickles of it are empty.

    Args:
        most: how many results are kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def make_room(self) -> None:
        """Forget all, if one more would be too many."""
        if len(self) >= self.most:
            self.clear()

    def __reduce__(self) -> tuple[type[Cache[Key, Value]], tuple[int]]:
        return type(self), (self.most,)
