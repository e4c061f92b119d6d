"""Rows of any array library and on any device, moved together by one library call per column of their table.

The sums of a stage make a table, a row of coefficients for each row of the batch and a column for each place that is
read. A column's arrays are stacked, multiplied by its coefficients and added up in the order of the columns, whatever
the company. Where a row has no term, minus 0 is added, which changes no number: neither infinity, nor NaN, nor minus 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from diffusolve.arrays import Array, cast_like, copied, detached, namespace, widen
from diffusolve.backends.lowered import OUTPUT, SAMPLE, SCALES, UNGUIDED, BoundStage, Lowered, Sum
from diffusolve.batching.row_group import RowGroup, sums_of
from diffusolve.batching.rows import Row

__all__ = ["StackedRows"]

LAST = (UNGUIDED, OUTPUT, SAMPLE)
"""The columns that come after those of the slots: the sample is large as a rule, and added last loses least."""


class Part(NamedTuple):
    """A row that takes part with a sum, and where its output stands."""

    at: int
    row: Row
    sum: Sum


class Memory:
    """The memory of a row: its slots, and its sample, in a block with those of the rows that were moved with it."""

    __slots__ = ("block", "index", "numbers", "slots")

    def __init__(self, slots: list[Array | None], sample: Array, number: int) -> None:
        self.slots = slots
        self.block = sample
        self.index = 0
        self.numbers = [number]  # of the rows in the block


class StackedRows(RowGroup):
    """Rows of any arrays. Half-precision rows are moved in float32, others in their own precision."""

    def __init__(self, x: Array) -> None:
        super().__init__(x)
        self.xp = namespace(x)
        self.zeros = self.xp.zeros_like(widen(detached(x)))

    def stages(self, lowered: Lowered) -> Sequence[BoundStage]:
        return [BoundStage.of(stage) for stage in lowered.stages]

    def hold(self, row: Row, x: Array, slots: Sequence[Array | None]) -> None:
        copies = [None if array is None else copied(array)[0, ...] for array in slots]
        row._memory = Memory(copies, copied(x), row.number)

    def sample(self, row: Row) -> Array:
        return row._memory.block[row._memory.index, ...]

    def show(self, rows: list[Row], stages: list[BoundStage], traits: int) -> Array:
        samples = self._samples(rows)
        if traits & SCALES:
            samples = samples * self._table([[stage.lowered.scale for stage in stages]])[0]
        return cast_like(samples, self.like)

    def move(
        self, rows: Sequence[Row | None], stages: list[BoundStage], traits: int, outputs: Array, unguided: Array
    ) -> None:
        parts = [
            [Part(index, row, total) for total in sums_of(stage.lowered)]
            for index, (row, stage) in enumerate(zip(rows, stages, strict=True))
            if row is not None
        ]
        for turn in range(max(map(len, parts)) - 1):
            together = [sums[turn] for sums in parts if turn < len(sums) - 1]
            computed = self._sums([part for part in together if not _copies(part.sum)], outputs, unguided)
            for part in together:
                value = computed[part.at] if part.at in computed else self._copied(part, outputs, unguided)
                part.row._memory.slots[part.sum.target] = value
        last = [sums[-1] for sums in parts]
        following, numbers = self._combined(last, outputs, unguided), [part.row.number for part in last]
        for place, part in enumerate(last):
            memory = part.row._memory
            memory.block, memory.index, memory.numbers = following, place, numbers
            for slot in stages[part.at].lowered.frees:
                memory.slots[slot] = None

    def _copied(self, part: Part, outputs: Array, unguided: Array) -> Array:
        """The result of a sum that copies: the same array, since nobody writes to it, but a copy of the network's."""
        (source,) = part.sum.sources
        value = self._read(part, source, outputs, unguided)
        return copied(value) if source in (OUTPUT, UNGUIDED) else value

    def _sums(self, parts: list[Part], outputs: Array, unguided: Array) -> dict[int, Array]:
        """The sums that go to slots, by the index of their row."""
        if not parts:
            return {}
        results = self._combined(parts, outputs, unguided)
        return {part.at: results[place, ...] for place, part in enumerate(parts)}

    def _combined(self, parts: list[Part], outputs: Array, unguided: Array) -> Array:
        """The sums of the parts, shape (parts, ...)."""
        read = {source for part in parts for source in part.sum.sources}
        columns = [*sorted(place for place in read if place >= 0), *(place for place in LAST if place in read)]
        terms = [dict(zip(part.sum.sources, part.sum.coefficients, strict=True)) for part in parts]
        limits = [part.sum.limit for part in parts]
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
            if place == SAMPLE:
                return self._samples([part.row for part in parts])
            if len(parts) == outputs.shape[0] and place in (OUTPUT, UNGUIDED):
                return outputs if place == OUTPUT else unguided
        return self.xp.stack(
            [
                self._read(part, place, outputs, unguided) if place in row else self.zeros
                for part, row in zip(parts, terms, strict=True)
            ]
        )

    def _read(self, part: Part, place: int, outputs: Array, unguided: Array) -> Array:
        if place == SAMPLE:
            return part.row.sample
        if place == OUTPUT:
            return outputs[part.at, ...]
        return unguided[part.at, ...] if place == UNGUIDED else part.row._memory.slots[place]

    def _samples(self, rows: list[Row]) -> Array:
        """The samples of `rows`, shape (rows, ...); not to be written to."""
        memories = [row._memory for row in rows]
        block, numbers = memories[0].block, memories[0].numbers
        if numbers == [row.number for row in rows] and all(memory.block is block for memory in memories):
            return block
        return self.xp.stack([row.sample for row in rows])

    def _table(self, values: list[list[float]]) -> list[Array]:
        """`values`, one list per column, as arrays of shape (rows, 1, ...)."""
        table = self.array(values)
        shape = (-1, *[1] * len(self.shape))
        return [self.xp.reshape(table[column, ...], shape) for column in range(len(values))]

    def put(self, row: Row, slot: int, value: Array) -> None:
        value = cast_like(detached(value), self.zeros)
        row._memory.slots[slot] = copied(value)[0, ...]

    def take(self, outputs: Array) -> Array:
        return cast_like(detached(outputs), self.zeros)


def _copies(total: Sum) -> bool:
    """True if the target becomes what a source is."""
    return total.coefficients == (1.0,) and total.limit == inf
