"""Rows in the processor's memory, moved by the compiled module: all of them in one call, each in one pass over memory.

A row's sample and slots stand one after the other in a tensor of its own. In the same pass the next samples, scaled,
are written into the batch that the network is to see next, if the same rows are asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from diffusolve.backends import _combine, backend_of, programs
from diffusolve.backends.lowered import (
    ENDS,
    NEXT,
    OUTPUT,
    SAMPLE,
    UNGUIDED,
    BoundStage,
    Lowered,
    LoweredStage,
    Sum,
    numbered,
)
from diffusolve.backends.programs import threads_for
from diffusolve.backends.watched import is_transformed, is_watched
from diffusolve.batching.row_group import RowGroup, sums_of
from diffusolve.batching.rows import Row

__all__ = ["CompiledRows"]

SHOWN = NEXT - 1
"""The next sample as the network is to see it."""

STACKS = {OUTPUT: -1, UNGUIDED: -2, SHOWN: -3}
"""The compiled module's name of the places that are the rows' parts of one array: first, second and third stack."""


class CompiledRows(RowGroup):
    """Rows of plain CPU tensors. Half-precision rows are moved in float32, others in their own precision."""

    @staticmethod
    def takes(x: Tensor) -> bool:
        """True if rows like `x` can be moved here."""
        return type(x.detach()) is Tensor and x.is_cpu and x.dtype in programs.KINDS and not is_watched()

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.count = x.numel()
        self.ready: tuple[list[int], Tensor] | None = None
        """The rows that were moved last, by their numbers, and what the network is to see of them."""

    def stages(self, lowered: Lowered) -> Sequence[BoundStage]:
        return _bound_stages(lowered, self.wide)

    def hold(self, row: Row, x: Tensor, slots: Sequence[Tensor | None]) -> None:
        with torch.inference_mode(False):
            memory = torch.empty((1 + len(slots), *self.shape), dtype=self.wide)
            for place, array in zip(memory, (x, *slots), strict=True):
                if array is not None:
                    place.copy_(array[0])
        row._memory = memory, memory.data_ptr()

    def sample(self, row: Row) -> Tensor:
        sample: Tensor = row._memory[0][0]
        return sample

    def show(self, rows: list[Row], stages: list[BoundStage], traits: int) -> Tensor:
        if self.ready is not None and self.ready[0] == [row.number for row in rows]:
            shown, self.ready = self.ready[1], None
        else:
            shown = torch.empty((len(rows), *self.shape), dtype=self.wide)
            self._run([stage.show for stage in stages], rows, shown, shown, shown)
        return shown if shown.dtype is self.dtype else shown.to(self.dtype)

    def move(
        self, rows: Sequence[Row | None], stages: list[BoundStage], traits: int, outputs: Tensor, unguided: Tensor
    ) -> None:
        shown = torch.empty((len(rows), *self.shape), dtype=self.wide)
        found = [stage.update for stage in stages]
        if None in found:
            for index, (row, stage) in enumerate(zip(rows, stages, strict=True)):
                if row is not None and stage.update is None:
                    self._move_by_hand(row, outputs[index], unguided[index], shown[index])
        self._run(found, rows, outputs, unguided, shown)
        complete = not traits & ENDS and None not in rows
        self.ready = ([row.number for row in rows if row is not None], shown) if complete else None

    def _run(self, found: Sequence[object | None], rows: Sequence[Row | None], *stacks: Tensor) -> None:
        """Run the rows' programs, where there are any."""
        held = [None if row is None else row._memory for row in rows]  # until the module is done, whoever leaves
        calls = [
            None if memory is None or program is None else (program, memory[1])
            for program, memory in zip(found, held, strict=True)
        ]
        threads = threads_for(self.count * len(rows))
        _combine.combine_rows(calls, self.count, threads, *map(Tensor.data_ptr, stacks))

    def _move_by_hand(self, row: Row, output: Tensor, unguided: Tensor, shown: Tensor) -> None:
        """Move a row whose stage is no program, with PyTorch."""
        sample, *slots = row._memory[0]
        places = dict(enumerate(slots)) | {SAMPLE: sample, NEXT: sample, SHOWN: shown}
        places |= {OUTPUT: output, UNGUIDED: unguided}
        for total in _sums([stage.lowered for stage in row._stages[row.position : row.position + 2]], self.wide):
            sources = [places[source] for source in total.sources]
            result = backend_of(sample).combine(sources, total.coefficients) if sources else torch.zeros(self.shape)
            places[total.target].copy_(result.clamp_(-total.limit, total.limit))

    def put(self, row: Row, slot: int, value: Tensor) -> None:
        row._memory[0][1 + slot].copy_(value[0])

    def _checked(self, inputs: Any, outputs: Any, what: str) -> Tensor:
        if (  # most are, and then nothing else needs a look
            type(outputs) is Tensor
            and outputs.dtype is self.wide
            and outputs.shape == inputs.x.shape
            and outputs.is_cpu
            and outputs.is_contiguous()
            and not outputs.is_neg()
            and not is_transformed()
        ):
            return outputs
        checked: Tensor = super()._checked(inputs, outputs, what)
        return checked

    def take(self, outputs: Tensor) -> Tensor:
        outputs = outputs.detach()
        if type(outputs) is not Tensor or is_transformed():
            raise TypeError(f"outputs is a {type(outputs).__name__}: expected a plain tensor, outside torch.func.")
        return (outputs if outputs.dtype is self.wide else outputs.to(self.wide)).contiguous().resolve_neg()


@lru_cache(maxsize=1024)
def _bound_stages(lowered: Lowered, wide: torch.dtype) -> tuple[BoundStage, ...]:
    """The stages with a program each that shows the sample to the network, and one that moves the row on.

    The latter shows the next sample as well. It is None where PyTorch is to do it.
    """
    bound = []
    for index, stage in enumerate(lowered.stages):
        shows = _program([_shows(SAMPLE, stage, wide)], wide)
        moves = _program(_sums(lowered.stages[index : index + 2], wide), wide)
        bound.append(BoundStage.of(stage, shows, moves))
    return tuple(bound)


def _sums(stages: Sequence[LoweredStage], wide: torch.dtype) -> list[Sum]:
    """The sums of a row in the first of `stages`, and the next sample as the second one shows it, if there is one."""
    return [*sums_of(stages[0]), *(_shows(NEXT, following, wide) for following in stages[1:2])]


def _shows(sample: int, stage: LoweredStage, wide: torch.dtype) -> Sum:
    """The sample as the network sees it in `stage`, times a scale of the rows' precision, as PyTorch rounds it."""
    return Sum(SHOWN, (sample,), (torch.tensor(stage.scale, dtype=wide).item(),))


def _program(sums: Sequence[Sum], wide: torch.dtype) -> object | None:
    inputs, sources = numbered(sums)
    places = tuple(map(_place, (*inputs, *(total.target for total in sums))))
    return programs.program(sums, len(inputs), sources, wide, places=places)


def _place(place: int) -> int:
    """The compiled module's name of a place: the sample is slot 0, and the next sample takes its place."""
    return STACKS[place] if place in STACKS else 0 if place < 0 else 1 + place
