"""Versions of tensors: what tells that one was written to."""

from __future__ import annotations

from torch import Tensor

__all__ = ["UNTRACKED", "version_of"]

UNTRACKED = -1
"""Stands for the version of tensors that have none: in inference mode, and in code that torch.compile compiles."""


def version_of(tensor: Tensor) -> int:
    """A number that grows when `tensor`, or what shares its memory, is written to; UNTRACKED where there is none."""
    try:
        return tensor._version
    except RuntimeError:
        return UNTRACKED
