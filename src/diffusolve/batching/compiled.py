"""Rows in the processor's memory, moved by the compiled module: all of them in one call, each in one pass over memory.

A row's sample and slots stand one after the other in a tensor of its own. In the same pass the next samples, scaled,
are written into the batch that the network is to see next, if the same rows are asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusolve.backends import Transform, _combine
from diffusolve.backends.native import LARGE, MOST_ARRAYS, in_order, is_transformed, is_watched
from diffusolve.batching.lanes import ENDS, Lanes, traits_of, what_transforms
from diffusolve.batching.layout import (
    NEXT_PLACE,
    OUTPUT_PLACE,
    SAMPLE_PLACE,
    UNGUIDED_PLACE,
    LaidOutStage,
    Move,
    lay_out,
)
from diffusolve.batching.rows import Row
from diffusolve.plan import Plan

__all__ = ["CompiledLanes"]

SHOWN_PLACE = NEXT_PLACE - 1
"""The next sample as the network is to see it."""

STACKS = {OUTPUT_PLACE: -1, UNGUIDED_PLACE: -2, SHOWN_PLACE: -3}
"""What the compiled module calls the places that are the rows' parts of one array: the first, second, third stack."""

WIDE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
NUMPY: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}


class CompiledStage(NamedTuple):
    """A stage as programs: one `shows` the sample to the network, one `moves` the row on and shows the next sample.

    The second is None where PyTorch is to do it.
    """

    laid_out: LaidOutStage
    timestep: float
    traits: int
    next_scale: float
    shows: object
    moves: object | None


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
        self.ready: tuple[list[int], Tensor] | None = None
        """The rows that were moved last, by their numbers, and what the network is to see of them."""

    def stages(self, plan: Plan, transform: Transform | None) -> Sequence[CompiledStage]:
        return _stages(plan, *what_transforms(transform), self.wide)

    def hold(self, row: Row, x: Tensor, registers: dict[str, Tensor]) -> None:
        layout = lay_out(row.plan, *what_transforms(row.transform))
        with torch.inference_mode(False):
            row._memory = torch.empty((1 + layout.slots, *self.shape), dtype=self.wide)
            row._memory[0].copy_(x[0])
            for register, slot in layout.opening:
                row._memory[1 + slot].copy_(registers[register][0])
        row._address = row._memory.data_ptr()

    def sample(self, row: Row) -> Tensor:
        sample: Tensor = row._memory[0]
        return sample

    def show(self, rows: list[Row], stages: list[CompiledStage], traits: int) -> Tensor:
        if self.ready is not None and self.ready[0] == [row.number for row in rows]:
            shown, self.ready = self.ready[1], None
        else:
            shown = torch.empty((len(rows), *self.shape), dtype=self.wide)
            address = shown.data_ptr()
            self._run([stage.shows for stage in stages], rows, address, address, address)
        return shown if shown.dtype is self.dtype else shown.to(self.dtype)

    def move(
        self, rows: Sequence[Row | None], stages: list[CompiledStage], traits: int, outputs: Tensor, unguided: Tensor
    ) -> None:
        shown = torch.empty((len(rows), *self.shape), dtype=self.wide)
        programs = [stage.moves for stage in stages]
        if None in programs:
            without = [None if program is not None else row for program, row in zip(programs, rows, strict=True)]
            self._move_by_hand(without, stages, outputs, unguided, shown)
        self._run(programs, rows, outputs.data_ptr(), unguided.data_ptr(), shown.data_ptr())
        self.ready = None if traits & ENDS or None in rows else ([row.number for row in rows if row is not None], shown)

    def _run(self, programs: list[object | None], rows: Sequence[Row | None], *stacks: int) -> None:
        calls = [
            None if row is None or program is None else (program, row._address)
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
        shown: Tensor,
    ) -> None:
        """Move `rows`, whose stages are no programs, with PyTorch."""
        for index, (row, stage) in enumerate(zip(rows, stages, strict=True)):
            if row is not None:
                sample, *slots = row._memory
                places = dict(enumerate(slots))
                places[SAMPLE_PLACE] = places[NEXT_PLACE] = sample
                places[OUTPUT_PLACE], places[UNGUIDED_PLACE] = outputs[index], unguided[index]
                for move in stage.laid_out.moves:
                    sources = [places[source] for source in move.sources]
                    made = self.backend.combine(sources, move.coefficients) if sources else torch.zeros(self.shape)
                    places[move.target].copy_(made.clamp_(-move.limit, move.limit))
                torch.mul(sample, stage.next_scale, out=shown[index])

    def put(self, row: Row, slot: int, value: Tensor) -> None:
        row._memory[1 + slot].copy_(value[0])

    def _checked(self, inputs: Any, outputs: Any, what: str) -> Tensor:
        if (  # the usual case, which needs no look at anything else
            type(outputs) is Tensor
            and outputs.dtype is self.wide
            and outputs.shape == inputs.x.shape
            and outputs.is_cpu
            and outputs.is_contiguous()
            and not is_transformed()
        ):
            return outputs
        checked: Tensor = super()._checked(inputs, outputs, what)
        return checked

    def take(self, outputs: Tensor) -> Tensor:
        outputs = outputs.detach()
        if type(outputs) is not Tensor or is_transformed():
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
        show = Move(SHOWN_PLACE, (SAMPLE_PLACE,), (scales[index],))
        show_next = Move(SHOWN_PLACE, (NEXT_PLACE,), (next_scale,))
        moves = laid_out.moves if index + 1 == plan.nfe else (*laid_out.moves, show_next)
        traits = traits_of(layout, index)
        programs = _program((show,), wide), _program(moves, wide)
        made.append(CompiledStage(laid_out, laid_out.plan_stage.point.timestep, traits, next_scale, *programs))
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
    places = tuple(map(_place, (*inputs, *(move.target for move in moves))))
    return _combine.program(wide is torch.float64, len(inputs), tuple(outputs), places)


def _place(place: int) -> int:
    """The compiled module's name of a place: the sample is slot 0, and the next sample takes its place."""
    return STACKS[place] if place in STACKS else 0 if place < 0 else 1 + place
