"""Executing a stage of a plan in one pass over memory, with the compiled module ``_combine``.

For plain tensors in the processor's memory. Where the package was installed without a compiler everything is left to
:mod:`diffusolve.backends.torch_eager`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from diffusolve.backends import _combine
from diffusolve.backends.backend import Update
from diffusolve.backends.lowered import NEXT, OUTPUT, SAMPLE, UNGUIDED, LoweredStage, Sum, numbered
from diffusolve.backends.programs import is_plain, is_watched, program, threads_for
from diffusolve.backends.torch_eager import HALF, TorchBackend

__all__ = ["NativeBackend"]

MOST_SCRATCH = 4
"""So many sums that are read in their stage only need no memory."""


class NativeBackend(TorchBackend):
    """Updates of contiguous CPU tensors that need no gradients. Sums of half-precision numbers are of single precision.

    Args:
        sample, output: the precisions of the samples and of what the network says of them, both float64 or neither.
    """

    def __init__(self, sample: torch.dtype, output: torch.dtype) -> None:
        self.sample, self.output = sample, output
        self.sums = torch.promote_types(torch.promote_types(sample, output), torch.float32)
        super().__init__(self.sums if sample is output is self.sums else None)

    def suits(self, simple: bool) -> bool:
        """See :meth:`TorchBackend.suits`. PyTorch adds two arrays of its own precision as fast."""
        return not (simple and self.plain)

    def takes(self, x: Tensor, output: Tensor) -> bool:
        """Whether what is bound here can be run on these tensors."""
        return (
            x.dtype is self.sample
            and output.dtype is self.output
            and type(x) is type(output) is Tensor
            and x.is_cpu
            and output.is_cpu
            and x.is_contiguous()
            and output.is_contiguous()
            and not (x.requires_grad or output.requires_grad or x.is_neg() or output.is_neg())
            and forward_ad._current_level < 0
            and not is_watched()
        )

    def combine(self, sources: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
        """See :meth:`TorchBackend.combine`."""
        shape, numbers = sources[0].shape, tuple(range(len(sources)))
        if (
            is_watched()
            or forward_ad._current_level >= 0
            or not all(is_plain(source, self.sums) and source.shape == shape for source in sources)
        ):
            return super().combine(sources, coefficients)
        found = program([Sum(NEXT, numbers, tuple(coefficients))], len(sources), [numbers], self.sums)
        return super().combine(sources, coefficients) if found is None else _made(found, sources)

    def scaled(self, factor: float) -> Callable[[Tensor], Tensor]:
        """See :meth:`TorchBackend.scaled`. PyTorch takes longer with numbers times half-precision tensors."""
        multiply = super().scaled(factor)
        if self.sample not in HALF:
            return multiply
        found = program([Sum(NEXT, (0,), (factor,))], 1, [(0,)], torch.float32, dtypes=2 * [self.sample])

        def scale(x: Tensor) -> Tensor:
            return _made(found, (x,)) if self.takes(x, x) else multiply(x)

        return scale if self.sample is self.output else multiply

    def update(self, stage: LoweredStage) -> Update:
        """See :meth:`TorchBackend.update`."""
        eager = super().update(stage)
        inputs, sources = numbered(stage.sums, stage.callers)
        callers = [place for place in inputs if place in stage.callers]
        if self.plain and stage.is_simple and not callers:
            return eager
        held = [self._dtype(place, stage) for place in inputs[: len(inputs) - len(callers)]]
        made = [self.sample if each.target == NEXT else self.sums for each in stage.sums]

        @cache
        def program_for(*given: torch.dtype) -> object | None:
            """For callers' arrays of these precisions; None if the compiled module cannot read them."""
            return program(stage.sums, len(inputs), sources, self.sums, dtypes=(*held, *given, *made))

        def leave(places: list[Tensor]) -> None:
            """Compute the sums with PyTorch, into arrays that later stages can read."""
            eager(places)
            for each, dtype in zip(stage.sums, made, strict=True):
                if not is_plain(places[each.target], dtype):
                    places[each.target] = places[each.target].to(dtype).contiguous()

        usual = program_for(*(self.sample for _ in callers))
        if usual is None:
            return leave
        results = _results(stage, len(inputs), sources, (*held, *(None for _ in callers), *made), self.sample)
        donated = [r.source for r in results if r.source in (SAMPLE, OUTPUT, UNGUIDED) or r.source in stage.samples]
        drawn = {slot for slot, _, _ in stage.noises} | ({stage.data.target} if stage.data else set())
        kept = [place for place in inputs if place in stage.samples | stage.callers and place not in drawn]
        earlier = [place for place in kept if place in stage.samples]
        combine, empty_like, address = _combine.combine, torch.empty_like, Tensor.data_ptr
        first = inputs[0]
        read = itemgetter(*inputs) if len(inputs) > 1 else lambda places: (places[first],)

        def update(places: list[Tensor]) -> None:
            like, found = places[SAMPLE], usual
            for place in kept:
                _check_memory(places[place])
            for place in earlier:
                array = places[place]
                if array.shape != like.shape:
                    raise ValueError(
                        f"the sample of shape {tuple(like.shape)} that this run remembers from an earlier step has "
                        f"been resized to {tuple(array.shape)} since: give the run tensors that stay as they are."
                    )
                if not is_plain(array, self.sample):
                    return leave(places)
            if callers:
                given = [places[place] for place in callers]
                found, shape = program_for(*[x.dtype for x in given]), like.shape
                for x in given:
                    if found is None or x.shape != shape or not is_plain(x, x.dtype):
                        return leave(places)
            arrays = read(places)  # which live until the module is done with them, whatever becomes of the places
            overwritten = [places[place] for place in donated]
            addresses = [*map(address, arrays)]
            for target, source, dtype, scratch in results:
                if scratch:
                    addresses.append(0)
                    continue
                if source is not None:
                    result = places[source]
                else:
                    result = empty_like(like) if dtype is None else empty_like(like, dtype=dtype)
                places[target] = result
                addresses.append(address(result))
            count = like.numel()
            combine(found, count, threads_for(count), *addresses)
            if overwritten:
                increment_version(overwritten)
            return None

        return update

    def _dtype(self, place: int, stage: LoweredStage) -> torch.dtype:
        """What a place holds that the caller's functions have not filled: only samples and outputs are half precise."""
        if place in (OUTPUT, UNGUIDED):
            return self.output
        return self.sample if place == SAMPLE or place in stage.samples else self.sums


class _Result(NamedTuple):
    """Where the result of a sum goes: the array of the place `source`, or a new one of `dtype` (None: the sample's)."""

    target: int
    source: int | None
    dtype: torch.dtype | None
    scratch: bool


def _results(
    stage: LoweredStage,
    inputs: int,
    sources: Sequence[Sequence[int]],
    dtypes: Sequence[torch.dtype | None],
    sample: torch.dtype,
) -> list[_Result]:
    """What the sums of `stage` write to, given the precisions of its inputs and results by their numbers."""
    scratch = {number for number, made in enumerate(stage.sums, inputs) if made.scratch}
    if len(scratch) > MOST_SCRATCH:
        scratch = set()
    results = []
    for number, (made, numbers) in enumerate(zip(stage.sums, sources, strict=True), inputs):
        dtype = dtypes[number]
        number_of = dict(zip(made.sources, numbers, strict=True))
        fitting = [
            place for place in made.reusable if dtypes[number_of[place]] is dtype and number_of[place] not in scratch
        ]
        source = fitting[0] if fitting else None
        results.append(_Result(made.target, source, None if dtype is sample else dtype, number in scratch))
    return results


def _check_memory(array: Tensor) -> None:
    """Raise unless `array`, which a run remembers and others may hold, still has the memory that it says it has."""
    end = (array.storage_offset() + array.numel()) * array.element_size()
    if array.untyped_storage().nbytes() < end:
        raise ValueError(
            f"a tensor that this run remembers from an earlier step (a sample or noise) has lost its memory since: "
            f"{array.untyped_storage().nbytes()} bytes are left of {end}. Give the run tensors that stay as they are."
        )


def _made(found: object, sources: Sequence[Tensor]) -> Tensor:
    """What a program with one result makes of `sources`, in their precision."""
    made, count = torch.empty_like(sources[0]), sources[0].numel()
    _combine.combine(found, count, threads_for(count), *map(Tensor.data_ptr, (*sources, made)))
    return made
