"""Rows in the processor's memory, moved by the compiled module: all of them in one call, each in one pass over memory.

A row's slots stand one after the other in a tensor of its own. The samples of rows that were advanced together stand in
one tensor, scaled ones beside them: if the same rows are asked for again, that is the network's next batch as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusolve.backends import Transform, _combine
from diffusolve.backends.native import LARGE, MOST_ARRAYS, in_order, is_watched
from diffusolve.batching.lanes import SCALES, SCALES_NEXT, Lanes, traits_of, what_transforms
from diffusolve.batching.layout import (
    NEXT_PLACE,
    OUTPUT_PLACE,
    SAMPLE_PLACE,
    UNGUIDED_PLACE,
    LaidOutStage,
    Move,
    lay_out,
)
from diffusolve.batching.rows import Block, Row
from diffusolve.plan import Plan

__all__ = ["CompiledLanes"]

FIRST_PLACE, SHOWN_PLACE = OUTPUT_PLACE, NEXT_PLACE - 1
"""Places of the compiled module: the first array that a call is given, and the next sample as the network sees it."""

WIDE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
NUMPY: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}


class CompiledStage(NamedTuple):
    """A stage as programs, which are None where PyTorch is to do it.

    One `shows` the sample to the network, one `moves` the row on, and one also shows the next sample, scaled.
    """

    laid_out: LaidOutStage
    timestep: float
    traits: int
    next_scale: float
    shows: object
    moves: object | None
    moves_and_shows: object | None


class CompiledLanes(Lanes):
    """Rows of plain CPU tensors. Half-precision rows are moved in float32, others in their own precision."""

    @staticmethod
    def takes(x: Tensor) -> bool:
        """Whether rows like `x` can be moved here."""
        return type(x.detach()) is Tensor and x.is_cpu and x.dtype in WIDE and not is_watched()

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.wide = WIDE[x.dtype]
        self.count = x.numel()
        self.bytes = self.count * self.wide.itemsize

    def stages(self, plan: Plan, transform: Transform | None) -> Sequence[CompiledStage]:
        return _stages(plan, *what_transforms(transform), self.wide)

    def hold(self, row: Row, x: Tensor, registers: dict[str, Tensor]) -> None:
        layout = lay_out(row.plan, *what_transforms(row.transform))
        with torch.inference_mode(False):
            row._memory = torch.empty((max(layout.slots, 1), *self.shape), dtype=self.wide)
            sample = torch.empty((1, *self.shape), dtype=self.wide)
            sample.copy_(x)
            for register, slot in layout.opening:
                row._memory[slot].copy_(registers[register][0])
        row._address = row._memory.data_ptr()
        row._block = Block(sample, address=sample.data_ptr())

    def show(self, rows: list[Row], stages: list[CompiledStage], traits: int) -> Tensor:
        block = rows[0]._block
        shown: Tensor
        if not block.is_of(rows):
            shown = self._shown(rows, stages)
        elif block.shown is not None:
            shown = block.shown
        else:
            shown = self._shown(rows, stages) if traits & SCALES else block.array
        return shown if shown.dtype is self.dtype else shown.to(self.dtype)

    def _shown(self, rows: list[Row], stages: list[CompiledStage]) -> Tensor:
        shown = torch.empty((len(rows), *self.shape), dtype=self.wide)
        self._run([stage.shows for stage in stages], rows, shown.data_ptr())
        return shown

    def move(
        self, rows: Sequence[Row | None], stages: list[CompiledStage], traits: int, outputs: Tensor, unguided: Tensor
    ) -> Block:
        following = torch.empty((len(rows), *self.shape), dtype=self.wide)
        address = following.data_ptr()
        stacks = [outputs.data_ptr(), unguided.data_ptr(), address]
        shown = None
        if traits & SCALES_NEXT:
            shown = torch.empty_like(following)
            stacks.append(shown.data_ptr())
            programs = [stage.moves_and_shows for stage in stages]
        else:
            programs = [stage.moves for stage in stages]
        if None in programs:
            without = [None if program is not None else row for program, row in zip(programs, rows, strict=True)]
            self._move_by_hand(without, stages, outputs, unguided, following, shown)
        self._run(programs, rows, *stacks)
        return Block(following, shown, address)

    def _run(self, programs: list[object | None], rows: Sequence[Row | None], *stacks: int) -> None:
        size = self.bytes
        calls = [
            None if row is None or program is None else (program, row._address, row._block.address + row._index * size)
            for program, row in zip(programs, rows, strict=True)
        ]
        large = self.count * len(rows) >= LARGE
        _combine.combine_rows(calls, self.count, torch.get_num_threads() if large else 1, *stacks)

    def _move_by_hand(
        self,
        rows: Sequence[Row | None],
        stages: list[CompiledStage],
        outputs: Tensor,
        unguided: Tensor,
        following: Tensor,
        shown: Tensor | None,
    ) -> None:
        """Move `rows`, whose stages are no programs, with PyTorch."""
        for index, (row, stage) in enumerate(zip(rows, stages, strict=True)):
            if row is not None:
                places = dict(enumerate(row._memory))
                places[SAMPLE_PLACE], places[OUTPUT_PLACE] = row.sample, outputs[index]
                places[UNGUIDED_PLACE], places[NEXT_PLACE] = unguided[index], following[index]
                for move in stage.laid_out.moves:
                    sources = [places[source] for source in move.sources]
                    made = self.backend.combine(sources, move.coefficients) if sources else torch.zeros(self.shape)
                    places[move.target].copy_(made.clamp_(-move.limit, move.limit))
                if shown is not None:
                    torch.mul(following[index], stage.next_scale, out=shown[index])

    def put(self, row: Row, slot: int, value: Tensor) -> None:
        row._memory[slot].copy_(value[0])

    def _checked(self, inputs: Any, outputs: Any, what: str) -> Tensor:
        if (  # the usual case, which needs no look at anything else
            type(outputs) is Tensor
            and outputs.dtype is self.wide
            and outputs.shape == inputs.x.shape
            and outputs.is_cpu
            and outputs.is_contiguous()
            and not is_watched()
        ):
            return outputs
        checked: Tensor = super()._checked(inputs, outputs, what)
        return checked

    def take(self, outputs: Tensor) -> Tensor:
        outputs = outputs.detach()
        if type(outputs) is not Tensor or is_watched():
            raise TypeError(f"outputs is a {type(outputs).__name__}: expected a plain tensor, outside torch.func.")
        return (outputs if outputs.dtype is self.wide else outputs.to(self.wide)).contiguous()

    def row_result(self, row: Row) -> Tensor:
        sample: Tensor = row.sample
        return sample.to(self.dtype, copy=True)

    def array(self, values: list[float]) -> Tensor:
        return torch.from_numpy(np.array(values, NUMPY[self.wide]))


@lru_cache(maxsize=1024)
def _stages(plan: Plan, transforms: bool, limit: float, wide: torch.dtype) -> tuple[CompiledStage, ...]:
    layout = lay_out(plan, transforms, limit)
    scales = [torch.tensor(stage.plan_stage.scale, dtype=wide).item() for stage in layout.stages]
    made = []
    for index, laid_out in enumerate(layout.stages):
        next_scale = (*scales, 1.0)[index + 1]
        show_next = Move(SHOWN_PLACE, (NEXT_PLACE,), (next_scale,))
        made.append(
            CompiledStage(
                laid_out,
                laid_out.plan_stage.point.timestep,
                traits_of(layout, index),
                next_scale,
                _program([Move(FIRST_PLACE, (SAMPLE_PLACE,), (scales[index],))], wide),
                _program(laid_out.moves, wide),
                _program([*laid_out.moves, show_next], wide),
            )
        )
    return tuple(made)


def _program(moves: Sequence[Move], wide: torch.dtype) -> object | None:
    """`moves` as one program of the compiled module, or None if it does not take them."""
    written: set[int] = set()
    inputs: dict[int, None] = {}
    for move in moves:
        inputs |= dict.fromkeys(source for source in move.sources if source not in written)
        written.add(move.target)
    clips_sums = any(move.limit < inf and len(move.sources) > 2 for move in moves)
    if clips_sums or not all(move.sources for move in moves) or len(inputs) + len(moves) > MOST_ARRAYS:
        return None
    found = {place: index for index, place in enumerate(inputs)}
    outputs = []
    for index, move in enumerate(moves):
        terms = in_order(move.sources, move.coefficients)
        outputs.append((move.limit, tuple((found[source], coefficient) for source, coefficient in terms)))
        found[move.target] = len(inputs) + index
    places = tuple(chain(inputs, (move.target for move in moves)))
    return _combine.program(wide is torch.float64, len(inputs), tuple(outputs), places)
