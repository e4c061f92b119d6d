"""Executing a stage of a plan with one kernel that torch.compile makes, on whatever device the tensors are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from math import inf, isfinite

import torch
from torch import Tensor

from diffusolve.backends.backend import UpdateRegisters
from diffusolve.backends.program import Instruction, inputs_of
from diffusolve.backends.torch_eager import TorchBackend

__all__ = ["FusedBackend"]

Form = tuple[tuple[tuple[int, ...], bool, torch.dtype], ...]
"""For each result the places of its sources, whether it is clipped, and its precision."""

Kernel = Callable[..., tuple[Tensor, ...]]


class FusedBackend(TorchBackend):
    """All results of a stage in one compiled kernel, which reads each input once and writes each result once.

    Kernels depend on the form of a stage, not on its coefficients, so that a run needs a few, of which the first call
    takes seconds to compile. Sums are of single precision, or of double precision if a source is.
    """

    def suits(self, x: Tensor, output: Tensor, simple: bool) -> bool:
        """Whether this is the fastest: whoever asks for it has decided so."""
        return True

    def update(
        self, instructions: Sequence[Instruction], samples: Collection[str] = (), foreign: Collection[str] = ()
    ) -> UpdateRegisters:
        """See :meth:`TorchBackend.update`."""
        if not all(made.sources for made in instructions):
            return super().update(instructions, samples, foreign)
        inputs, names = inputs_of(instructions), [made.register for made in instructions]
        place = {name: index for index, name in enumerate((*inputs, *names))}
        numbers = [number for made in instructions for number in (*made.coefficients, *_limits(made))]
        sources = tuple(tuple(place[source] for source in made.sources) for made in instructions)
        tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

        def update(registers: dict[str, Tensor]) -> None:
            arrays = [registers[name] for name in inputs]
            wide = _widest(arrays)
            sample = next((array.dtype for name, array in zip(inputs, arrays, strict=True) if name in samples), wide)
            form = tuple(
                (source, isfinite(made.limit), sample if made.register in samples else wide)
                for source, made in zip(sources, instructions, strict=True)
            )
            key = arrays[0].device, wide
            if key not in tables:
                tables[key] = torch.tensor(numbers, dtype=wide).to(arrays[0].device, non_blocking=True)
            registers.update(zip(names, _kernel(form, wide)(tables[key], *arrays), strict=True))

        return update


def _limits(made: Instruction) -> tuple[float, ...]:
    return () if made.limit == inf else (made.limit,)


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
