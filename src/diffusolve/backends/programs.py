"""Programs of the compiled module ``_combine``, and what tensors it can read.

Where the package was installed without a compiler there is no such module, and this one cannot be imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import inf

import torch
from torch import Tensor

from diffusolve.backends import _combine
from diffusolve.backends.lowered import Sum
from diffusolve.backends.torch_eager import HALF

__all__ = ["LARGE", "MOST_ARRAYS", "increment_versions", "is_plain", "program", "threads_for"]

LARGE = 1 << 16
"""Arrays with this many elements are shared out to threads."""

MOST_ARRAYS, MOST_NARROW = 60, 12
"""Stages with more inputs and outputs, or more of half precision, are left to PyTorch."""

KINDS = {torch.float32: 0, torch.float64: 0, torch.bfloat16: 1, torch.float16: 2}
"""The compiled module's name of each precision; arrays of kind 0 have that of the sums."""


def increment_versions(tensors: Sequence[Tensor]) -> None:
    """Tell autograd that `tensors` were written to."""
    for tensor in tensors:
        torch._C._increment_version(tensor)


with suppress(TypeError):  # PyTorch 2.4 and 2.5 take one tensor at a time
    torch._C._increment_version(())
    increment_versions = torch._C._increment_version


def is_plain(x: Tensor, dtype: torch.dtype) -> bool:
    """True if the compiled module can read `x`, of precision `dtype`, as it lies in memory."""
    return (
        x.dtype is dtype
        and type(x) is Tensor
        and x.is_cpu
        and x.is_contiguous()
        and not x.requires_grad
        and not x.is_neg()  # else its numbers have the other sign in memory
    )


def threads_for(count: int) -> int:
    """The number of threads that work on `count` numbers."""
    return 1 if count < LARGE else torch.get_num_threads()


def program(
    sums: Sequence[Sum],
    inputs: int,
    sources: Sequence[Sequence[int]],
    wide: torch.dtype,
    *,
    dtypes: Sequence[torch.dtype] = (),
    places: tuple[int, ...] | None = None,
) -> object | None:
    """The program that computes `sums`, or None if the compiled module does not take them.

    Args:
        sums: what is computed.
        inputs: how many arrays are read.
        sources: for each sum the numbers of its sources, see :func:`~diffusolve.backends.lowered.numbered`.
        wide: the precision of the sums, float32 or float64.
        dtypes: the precisions of inputs and results; all `wide` if left out.
        places: where inputs and results stand in a row, for programs of rows.
    """
    narrow = sum(dtype in HALF for dtype in dtypes)
    if inputs + len(sums) > MOST_ARRAYS or narrow > MOST_NARROW:
        return None
    if any(dtype is not wide and not (dtype in HALF and wide is torch.float32) for dtype in dtypes):
        return None
    if any(not total.sources or (total.limit < inf and len(total.sources) > 2) for total in sums):
        return None
    outputs = tuple(
        (total.limit, _in_order(numbers, total.coefficients)) for total, numbers in zip(sums, sources, strict=True)
    )
    kinds = bytes(KINDS[dtype] for dtype in dtypes)
    return _combine.program(wide is torch.float64, inputs, outputs, places, kinds)


def _in_order(sources: Sequence[int], coefficients: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """The terms, large ones last, so that the rounding errors of their sum do not count."""
    terms = zip(sources, coefficients, strict=True)
    return tuple(sorted(terms, key=lambda term: (term[1] == 1.0, abs(term[1]))))
