"""The choice of the row group that moves rows: the fastest that can."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from diffusolve.arrays import Array, is_torch
from diffusolve.batching.row_group import RowGroup
from diffusolve.batching.stacked import StackedRows

if TYPE_CHECKING:
    from diffusolve.batching.compiled import CompiledRows

__all__ = ["compiled_rows", "row_group_for"]


def row_group_for(x: Array) -> RowGroup:
    """An empty row group for rows like `x`."""
    compiled = compiled_rows() if is_torch(x) else None
    return compiled(x) if compiled is not None and compiled.takes(x) else StackedRows(x)


@lru_cache(maxsize=1)
def compiled_rows() -> type[CompiledRows] | None:
    """:class:`~diffusolve.batching.compiled.CompiledRows`, or None if the package was installed without a compiler."""
    try:
        from diffusolve.batching.compiled import CompiledRows
    except ImportError:
        return None
    return CompiledRows
