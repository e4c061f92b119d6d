"""The choice of the row group that moves rows: the fastest that can."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from diffusolve.arrays import Array, is_torch
from diffusolve.batching.row_group import RowGroup
from diffusolve.batching.stacked import StackedRows

__all__ = ["compiled_rows", "row_group_for"]


def row_group_for(x: Array) -> RowGroup:
    """An empty row group for rows like `x`."""
    if is_torch(x):
        compiled = compiled_rows()
        if compiled is not None and compiled.takes(x):
            group: RowGroup = compiled(x)
            return group
    return StackedRows(x)


@lru_cache(maxsize=1)
def compiled_rows() -> Any:
    """:class:`~diffusolve.batching.compiled.CompiledRows`, or None if the package was installed without a compiler."""
    try:
        from diffusolve.batching.compiled import CompiledRows
    except ImportError:
        return None
    return CompiledRows
