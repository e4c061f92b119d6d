"""Rows of any array library and on any device, moved together by one library call per column of their table.

The moves of a stage make a table, a row of coefficients for each row of the batch and a column for each place that is
read. A column's arrays are stacked, multiplied by its coefficients and added up in the order of the columns, whatever
the company. Where a row has no term, minus 0 is added, which changes no number: neither infinity, nor NaN, nor minus 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

import numpy as np

from diffusolve.arrays import Array, is_torch, namespace
from diffusolve.backends import Transform
from diffusolve.batching.lanes import SCALES, Lanes, traits_of, what_transforms
from diffusolve.batching.layout import OUTPUT_PLACE, SAMPLE_PLACE, UNGUIDED_PLACE, LaidOutStage, Move, lay_out
from diffusolve.batching.rows import Row
from diffusolve.plan import Plan

__all__ = ["StackedLanes"]

LAST = (UNGUIDED_PLACE, OUTPUT_PLACE, SAMPLE_PLACE)
"""These columns come after those of the slots: the sample is large as a rule, and added last loses least."""


class StackedStage(NamedTuple):
    """A stage, and what is asked about it at every step."""

    laid_out: LaidOutStage
    timestep: float
    traits: int


class Part(NamedTuple):
    """A row that takes part in a move, and where its output stands."""

    at: int
    row: Row
    move: Move


class Memory:
    """What a row holds: its slots, and its sample, in a block with those of the rows that were moved with it."""

    __slots__ = ("block", "index", "numbers", "slots")

    def __init__(self, slots: list[Array | None], sample: Array, number: int) -> None:
        self.slots = slots
        self.block = sample
        self.index = 0
        self.numbers = [number]  # of the rows in the block


class StackedLanes(Lanes):
    """Rows of any arrays. Half-precision rows are moved in float32, others in their own precision."""

    def __init__(self, x: Array) -> None:
        super().__init__(x)
        self.xp = namespace(x)
        wide = self.backend.widen(x.detach() if is_torch(x) else x)
        self.wide = wide.dtype
        self.zeros = self.xp.zeros_like(wide)
        self.like = self.xp.zeros_like(x[None, ...][:0])

    def stages(self, plan: Plan, transform: Transform | None) -> Sequence[StackedStage]:
        return _stages(plan, *what_transforms(transform))

    def hold(self, row: Row, x: Array, registers: dict[str, Array]) -> None:
        layout = lay_out(row.plan, *what_transforms(row.transform))
        slots: list[Array | None] = [None] * layout.slots
        for register, slot in layout.opening:
            slots[slot] = self._copy(registers[register])[0, ...]
        row._memory = Memory(slots, self._copy(x), row.number)

    def sample(self, row: Row) -> Array:
        return row._memory.block[row._memory.index, ...]

    def show(self, rows: list[Row], stages: list[StackedStage], traits: int) -> Array:
        samples = self._samples(rows)
        if traits & SCALES:
            samples = samples * self._table([[stage.laid_out.plan_stage.scale for stage in stages]])[0]
        return self.backend.cast(samples, self.like)

    def move(
        self, rows: Sequence[Row | None], stages: list[StackedStage], traits: int, outputs: Array, unguided: Array
    ) -> None:
        parts = [
            [Part(index, row, move) for move in stage.laid_out.moves]
            for index, (row, stage) in enumerate(zip(rows, stages, strict=True))
            if row is not None
        ]
        for turn in range(max(map(len, parts)) - 1):
            together = [moves[turn] for moves in parts if turn < len(moves) - 1]
            made = self._sums([part for part in together if not part.move.copies], outputs, unguided)
            for part in together:
                value = made[part.at] if part.at in made else self._copied(part, outputs, unguided)
                part.row._memory.slots[part.move.target] = value
        following = self._combined([moves[-1] for moves in parts], outputs, unguided)
        numbers = [moves[-1].row.number for moves in parts]
        for place, (index, row, _) in enumerate(moves[-1] for moves in parts):
            memory, keeps = row._memory, stages[index].laid_out.keeps
            memory.block, memory.index, memory.numbers = following, place, numbers
            for slot in range(len(memory.slots)):
                if slot not in keeps:
                    memory.slots[slot] = None

    def _copied(self, part: Part, outputs: Array, unguided: Array) -> Array:
        """What a move that copies makes: nobody writes to these arrays, so that the same one does, but outputs' memory
        is the network's."""
        (source,) = part.move.sources
        value = self._read(part, source, outputs, unguided)
        return self._copy(value) if source in (OUTPUT_PLACE, UNGUIDED_PLACE) else value

    def _sums(self, parts: list[Part], outputs: Array, unguided: Array) -> dict[int, Array]:
        """The sums of moves to slots, by the index of their row."""
        if not parts:
            return {}
        made = self._combined(parts, outputs, unguided)
        return {part.at: made[place, ...] for place, part in enumerate(parts)}

    def _combined(self, parts: list[Part], outputs: Array, unguided: Array) -> Array:
        """The sums of the parts' moves, shape (parts, ...)."""
        read = {source for part in parts for source in part.move.sources}
        columns = [*sorted(place for place in read if place >= 0), *(place for place in LAST if place in read)]
        terms = [dict(zip(part.move.sources, part.move.coefficients, strict=True)) for part in parts]
        limits = [part.move.limit for part in parts]
        table = [[row.get(place, -0.0) for row in terms] for place in columns]
        coefficients = self._table([*table, limits])
        total = None
        for column, place in enumerate(columns):
            stacked = self._column(parts, terms, place, outputs, unguided) * coefficients[column]
            if total is None:
                total = stacked
            else:
                total += stacked
        if total is None:
            total = self.xp.stack([-self.zeros] * len(parts))
        if min(limits) < inf:
            total = self.xp.clip(total, -coefficients[-1], coefficients[-1])
        return total

    def _column(
        self, parts: list[Part], terms: list[dict[int, float]], place: int, outputs: Array, unguided: Array
    ) -> Array:
        """The arrays of one column. Zeros stand where a row has none: times minus 0 they are minus 0."""
        if all(place in row for row in terms):
            if place == SAMPLE_PLACE:
                return self._samples([part.row for part in parts])
            if len(parts) == outputs.shape[0] and place in (OUTPUT_PLACE, UNGUIDED_PLACE):
                return outputs if place == OUTPUT_PLACE else unguided
        return self.xp.stack(
            [
                self._read(part, place, outputs, unguided) if place in row else self.zeros
                for part, row in zip(parts, terms, strict=True)
            ]
        )

    def _read(self, part: Part, place: int, outputs: Array, unguided: Array) -> Array:
        if place == SAMPLE_PLACE:
            return part.row.sample
        if place == OUTPUT_PLACE:
            return outputs[part.at, ...]
        return unguided[part.at, ...] if place == UNGUIDED_PLACE else part.row._memory.slots[place]

    def _samples(self, rows: list[Row]) -> Array:
        """The samples of `rows`, shape (rows, ...); not to be written to."""
        memories = [row._memory for row in rows]
        block, numbers = memories[0].block, memories[0].numbers
        if numbers == [row.number for row in rows] and all(memory.block is block for memory in memories):
            return block
        return self.xp.stack([row.sample for row in rows])

    def _table(self, values: list[list[float]]) -> list[Array]:
        """`values`, one list per column, as arrays of shape (rows, 1, ...)."""
        table = self._array(np.array(values))
        shape = (-1, *[1] * len(self.shape))
        return [self.xp.reshape(table[column, ...], shape) for column in range(len(values))]

    def array(self, values: list[float]) -> Array:
        return self._array(np.array(values))

    def _array(self, values: Any) -> Array:
        if is_torch(self.zeros):  # without waiting for the device
            return self.xp.as_tensor(values, dtype=self.wide).to(self.device, non_blocking=True)
        return self.xp.asarray(values, dtype=self.wide)

    def _copy(self, x: Array) -> Array:
        return x.clone() if is_torch(x) else self.xp.asarray(x, copy=True)

    def put(self, row: Row, slot: int, value: Array) -> None:
        value = self.backend.cast(value, self.zeros)
        row._memory.slots[slot] = self._copy(value.detach() if is_torch(value) else value)[0, ...]

    def take(self, outputs: Array) -> Array:
        return self.backend.cast(outputs.detach() if is_torch(outputs) else outputs, self.zeros)

    def row_result(self, row: Row) -> Array:
        return self._copy(self.backend.cast(row.sample, self.like))


@lru_cache(maxsize=1024)
def _stages(plan: Plan, transforms: bool, limit: float) -> tuple[StackedStage, ...]:
    layout = lay_out(plan, transforms, limit)
    return tuple(
        StackedStage(stage, stage.plan_stage.point.timestep, traits_of(layout, index))
        for index, stage in enumerate(layout.stages)
    )
