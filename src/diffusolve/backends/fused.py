"""Executing a stage of a plan with one kernel that torch.compile makes, on whatever device the tensors are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import inf, isfinite

import torch
from torch import Tensor

from diffusolve.backends.backend import Update
from diffusolve.backends.lowered import NEXT, SAMPLE, LoweredStage, Sum, numbered
from diffusolve.backends.torch_eager import TorchBackend, memory_checked

__all__ = ["FusedBackend"]

Form = tuple[tuple[tuple[int, ...], bool, torch.dtype], ...]
"""For each result the places of its sources, whether it is clipped, and its precision."""

Kernel = Callable[..., tuple[Tensor, ...]]


class FusedBackend(TorchBackend):
    """All results of a stage in one compiled kernel, which reads each input once and writes each result once.

    Kernels depend on the form of a stage, not on its coefficients, so that a run needs a few, of which the first call
    takes seconds to compile. Sums are of single precision, or of double precision if a source is.
    """

    def update(self, stage: LoweredStage) -> Update:
        """See :meth:`TorchBackend.update`."""
        sums = stage.sums
        if not all(total.sources for total in sums):
            return super().update(stage)
        inputs, sources = numbered(sums)
        targets = [total.target for total in sums[:-1]]
        numbers = [number for total in sums for number in (*total.coefficients, *_limits(total))]
        tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

        def update(places: list[Tensor]) -> Tensor:
            arrays, sample = [places[place] for place in inputs], places[SAMPLE]
            wide = _widest(arrays)
            form = tuple(
                (numbers_of, isfinite(total.limit), sample.dtype if total.target == NEXT else wide)
                for numbers_of, total in zip(sources, sums, strict=True)
            )
            key = sample.device, wide
            if key not in tables:
                tables[key] = torch.tensor(numbers, dtype=wide).to(sample.device, non_blocking=True)
            *results, following = _kernel(form, wide)(tables[key], *arrays)
            for target, result in zip(targets, results, strict=True):
                places[target] = result
            return following

        return memory_checked(stage, update)


def _limits(total: Sum) -> tuple[float, ...]:
    return () if total.limit == inf else (total.limit,)


def _widest(arrays: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(array.dtype is torch.float64 for array in arrays) else torch.float32


@lru_cache(maxsize=256)
def _kernel(form: Form, wide: torch.dtype) -> Kernel:
    """The compiled function of coefficients and inputs."""

    def combine(numbers: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
        values, results, at = [array.to(wide) for array in arrays], [], 0
        for sources, clipped, dtype in form:
            total = numbers[at] * values[sources[0]]
            for offset, source in enumerate(sources[1:], 1):
                total = total + numbers[at + offset] * values[source]
            at += len(sources)
            if clipped:
                total = total.clamp(-numbers[at], numbers[at])
                at += 1
            values.append(total)
            results.append(total.to(dtype))
        return tuple(results)

    # A code object of its own: what is compiled for other forms then does not count against its recompilations.
    combine.__code__ = combine.__code__.replace()
    return torch.compile(combine, fullgraph=True)
