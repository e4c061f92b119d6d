"""Executing a stage of a plan in one pass over memory, with the compiled module ``_combine``.

For plain tensors in the processor's memory. Where the package was installed without a compiler everything is left to
:mod:`diffusolve.backends.torch_eager`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from diffusolve.backends import _combine
from diffusolve.backends.backend import Update
from diffusolve.backends.buffers import buffers_in
from diffusolve.backends.lowered import NEXT, OUTPUT, SAMPLE, UNGUIDED, LoweredStage, Sum, numbered
from diffusolve.backends.programs import LARGE, increment_versions, is_plain, program, threads_for
from diffusolve.backends.torch_eager import HALF, TorchBackend, check_memory
from diffusolve.backends.watched import is_dynamo_compiling, is_tracing, is_transformed, is_watched, modes

__all__ = ["NativeBackend"]

MOST_SCRATCH = 4
"""So many sums that are read in their stage only need no memory."""


class NativeBackend(TorchBackend):
    """Updates of contiguous CPU tensors that need no gradients. Sums of half-precision numbers are of single precision.

    Args:
        sample, output: the precisions of the samples and of what the network says of them, both float64 or neither.
    """

    sees_gradients = False

    def __init__(self, sample: torch.dtype, output: torch.dtype) -> None:
        self.sample, self.output = sample, output
        self.sums = torch.promote_types(torch.promote_types(sample, output), torch.float32)
        super().__init__(self.sums if sample is output is self.sums else None)

    def suits(self, simple: bool) -> bool:
        """See :meth:`TorchBackend.suits`. PyTorch adds two arrays of its own precision as fast."""
        return not (simple and self.plain)

    def takes(self, x: Tensor, output: Tensor) -> bool:
        """True if what is bound here can be run on these tensors."""
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
            and not (is_transformed() or modes() or is_tracing() or is_dynamo_compiling())
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
        return super().combine(sources, coefficients) if found is None else _result_of(found, sources)

    def scaled(self, factor: float) -> Callable[[Tensor], Tensor]:
        """See :meth:`TorchBackend.scaled`. PyTorch takes longer with numbers times half-precision tensors."""
        multiply = super().scaled(factor)
        if self.sample not in HALF:
            return multiply
        found = program([Sum(NEXT, (0,), (factor,))], 1, [(0,)], torch.float32, dtypes=2 * [self.sample])

        def scale(x: Tensor) -> Tensor:
            return _result_of(found, (x,)) if self.takes(x, x) else multiply(x)

        return scale if self.sample is self.output else multiply

    def update(self, stage: LoweredStage) -> Update:
        """See :meth:`TorchBackend.update`."""
        eager = super().update(stage)
        inputs, sources = numbered(stage.sums, stage.callers)
        callers = [place for place in inputs if place in stage.callers]
        if self.plain and stage.is_simple and not callers:
            return eager
        sample, kept = self.sample, [place for place in callers if place in stage.remembers]
        held = [self._dtype(place, stage) for place in inputs[: len(inputs) - len(callers)]]
        precisions = [self.sample if each.target == NEXT else self.sums for each in stage.sums]

        @cache
        def program_for(*given: torch.dtype) -> object | None:
            """For callers' arrays of these precisions; None if the compiled module cannot read them."""
            return program(stage.sums, len(inputs), sources, self.sums, dtypes=(*held, *given, *precisions))

        def leave(places: list[Tensor]) -> Tensor:
            """Compute the sums with PyTorch, into arrays that later stages can read."""
            following: Tensor = eager(places)
            for each, dtype in zip(stage.sums[:-1], precisions[:-1], strict=True):
                if not is_plain(places[each.target], dtype):
                    places[each.target] = places[each.target].to(dtype).contiguous()
            return following.contiguous()

        expected = program_for(*(self.sample for _ in callers))
        if expected is None:
            return leave
        results = _results(stage, len(inputs), sources, (*held, *(None for _ in callers), *precisions), self.sample)
        run = _runner(expected, inputs, results, stage, self.sample, leave)
        if not callers:
            return run

        def update(places: list[Tensor]) -> Tensor:
            found, shape = expected, places[SAMPLE].shape
            for place in callers:
                x = places[place]
                if x.dtype is not sample:
                    found = program_for(*[places[each].dtype for each in callers])
                if found is None or x.shape != shape or not is_plain(x, x.dtype):
                    return leave(places)
            for place in kept:
                check_memory(places[place])
            return run(places, found)

        return update

    def _dtype(self, place: int, stage: LoweredStage) -> torch.dtype:
        """The precision in a place that no function of the caller's fills: half only in samples and outputs."""
        if place in (OUTPUT, UNGUIDED):
            return self.output
        return self.sample if place == SAMPLE or place in stage.samples else self.sums


_Result = tuple[int | None, int | None, torch.dtype | None]
"""The target of a sum (scratch has none), and the array that it is written to: that of a place, or a new one of a
precision (None: the sample's)."""


def _results(
    stage: LoweredStage,
    inputs: int,
    sources: Sequence[Sequence[int]],
    dtypes: Sequence[torch.dtype | None],
    sample: torch.dtype,
) -> list[_Result]:
    """The arrays that the sums of `stage` write to, given the precisions of its inputs and results by their numbers."""
    scratch = {number for number, total in enumerate(stage.sums, inputs) if total.scratch}
    if len(scratch) > MOST_SCRATCH:
        scratch = set()
    results = []
    for number, (total, numbers) in enumerate(zip(stage.sums, sources, strict=True), inputs):
        dtype, number_of = dtypes[number], dict(zip(total.sources, numbers, strict=True))
        fitting = (
            place for place in total.reusable if dtypes[number_of[place]] is dtype and number_of[place] not in scratch
        )
        target = None if number in scratch else total.target
        results.append((target, next(fitting, None), None if dtype is sample else dtype))
    return results


def _runner(
    expected: object,
    inputs: Sequence[int],
    results: Sequence[_Result],
    stage: LoweredStage,
    sample: torch.dtype,
    otherwise: Update,
) -> Callable[..., Tensor]:
    """The update by the program `expected`, or by another one that it is given after the places.

    What is remembered of the caller's is looked at before, and left to `otherwise` unless it is as it was.
    """
    combine, empty_like, threads = _combine.combine, torch.empty_like, torch.get_num_threads
    given, itemsize = {SAMPLE, OUTPUT, UNGUIDED, *stage.samples}, sample.itemsize
    overwrites = any(source in given for _, source, _ in results)
    samples = [place for place in inputs if place in stage.samples]

    def run(places: list[Tensor], found: object = expected) -> Tensor:
        like = places[SAMPLE]
        count = like.numel()
        for place in samples:
            array, size = places[place], count * itemsize
            if (
                array.nbytes != size
                or array.untyped_storage().nbytes() < size + array.storage_offset() * itemsize
                or array.dtype is not sample
                or not array.is_contiguous()
            ):
                unusual: Tensor = otherwise(places)
                return unusual
        sharing, buffers = 1, None
        if count >= LARGE:
            sharing, buffers = threads(), buffers_in(places, count * itemsize)
        call: list[Any] = [found, count, sharing]
        for place in inputs:
            call.append(places[place].data_ptr())
        alive: list[Tensor] = []  # until the module is done with them
        for target, source, dtype in results:
            if target is None:
                call.append(0)
                continue
            if source is not None:
                result = places[source]
            elif buffers is not None:
                result = buffers.empty_like(like, sample if dtype is None else dtype)
            elif dtype is None:
                result = empty_like(like)
            else:
                result = empty_like(like, dtype=dtype)
            alive.append(result)
            call.append(result.data_ptr())
            if target != NEXT:
                places[target] = result
        combine(*call)
        if overwrites:
            increment_versions(alive)
        return result

    return run


def _result_of(found: object, sources: Sequence[Tensor]) -> Tensor:
    """The one result of the program `found` from `sources`, in their precision."""
    result, count = torch.empty_like(sources[0]), sources[0].numel()
    _combine.combine(found, count, threads_for(count), *map(Tensor.data_ptr, (*sources, result)))
    return result
