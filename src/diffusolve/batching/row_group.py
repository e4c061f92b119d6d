"""Row groups: the rows of one shape, precision and device, which move together, whatever moves them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from diffusolve.arrays import Array, cast_like, copied, detached, is_floating, is_torch, moved, namespace, widen
from diffusolve.backends import Run, Transform, data_prediction
from diffusolve.backends.lowered import ENDS, PREPARES, READS_UNGUIDED, SAMPLE, BoundStage, Lowered, LoweredStage, Sum
from diffusolve.backends.lowering import lower
from diffusolve.batching.rows import GONE, USED, Inputs, Row, names_of
from diffusolve.plan import Plan
from diffusolve.randomness import NoiseLike, noise_source

__all__ = ["RowGroup", "sums_of"]


def sums_of(stage: LoweredStage) -> tuple[Sum, ...]:
    """The sums of a row in a stage: its memory is its own, so that a sample is remembered by copying it."""
    return stage.sums if stage.keeps is None else (Sum(stage.keeps, (SAMPLE,), (1.0,)), *stage.sums)


class RowGroup(ABC):
    """The rows of one shape, precision and device.

    Args:
        x: an array like the rows' samples, without the batch's dimension.
    """

    def __init__(self, x: Array) -> None:
        self.shape = tuple(x.shape)
        self.dtype = x.dtype
        self.device = x.device if is_torch(x) else None
        self.like = namespace(x).zeros_like(detached(x)[None, ...][:0])
        """No rows, in the library and precision, and on the device, of those that join."""
        self.wide = widen(self.like).dtype
        """The precision that rows are moved in."""
        self.rows: dict[int, Row] = {}
        self.changes = 0
        """Counted up when a row moves or leaves."""
        self._turn = [None]
        """Popped while rows are advanced, which is atomic: who finds none is too early."""

    # What rows are moved by

    @abstractmethod
    def stages(self, lowered: Lowered) -> Sequence[BoundStage]:
        """The stages of a plan, ready for these rows."""

    @abstractmethod
    def hold(self, row: Row, x: Array, slots: Sequence[Array | None]) -> None:
        """Give a row its memory, from its first sample `x` and what is in its slots, in the wide precision."""

    @abstractmethod
    def show(self, rows: list[Row], stages: list[BoundStage], traits: int) -> Array:
        """The scaled samples of `rows`, shape (rows, ...), in the precision that the network sees."""

    @abstractmethod
    def sample(self, row: Row) -> Array:
        """The row's sample, in the wide precision; not to be written to."""

    @abstractmethod
    def put(self, row: Row, slot: int, value: Array) -> None:
        """Write `value`, shape (1, ...), to a slot of a row."""

    @abstractmethod
    def move(
        self, rows: Sequence[Row | None], stages: list[BoundStage], traits: int, outputs: Array, unguided: Array
    ) -> None:
        """Move `rows`, all of them at once; None stands for one that has left."""

    @abstractmethod
    def take(self, outputs: Array) -> Array:
        """`outputs` of the right shape, as :meth:`move` wants them."""

    # What all groups do alike

    def array(self, values: Any) -> Array:
        """`values` in the wide precision, on the rows' device."""
        xp, table = namespace(self.like), np.array(values)
        if self.device is None:
            return xp.asarray(table, dtype=self.wide)
        return moved(xp.as_tensor(table, dtype=self.wide), self.device)

    def row_result(self, row: Row) -> Array:
        """A copy of the row's sample in the precision that it came in."""
        sample = row.sample
        return copied(sample) if sample.dtype == self.dtype else cast_like(sample, self.like)

    # Joining and leaving

    def join(
        self, plan: Plan, x: Array, number: int, noise: NoiseLike, transform: Transform | None, tag: Hashable
    ) -> Row:
        """A new row; arguments as :meth:`BatchRun.join <diffusolve.batching.BatchRun.join>`."""
        wide = widen(detached(x))[None, ...]
        draw_noise = noise_source(noise, wide) if plan.is_stochastic else None
        run = Run(plan, draw_noise, transform)
        first = run.begin(wide)
        lowered = lower(plan, transform)
        slots: list[Array | None] = [None] * lowered.slots
        for register, slot in lowered.opening.holds if lowered.opening else ():
            slots[slot] = run.registers[register]
        row = Row(plan, number, tag, self, self.stages(lowered), draw_noise, transform)
        self.hold(row, first, slots)
        self.rows[number] = row
        return row

    def leave(self, row: Row) -> None:
        """Take out a row and free its memory."""
        del self.rows[row.number]
        self.changes += 1
        row.position = GONE
        row._memory = None

    # Between evaluations

    def inputs(self, rows: list[Row]) -> Inputs:
        """The questions to the network about `rows`."""
        stages = [row._stages[row.position] for row in rows]
        traits = 0
        for stage in stages:
            traits |= stage.traits
        timesteps = self.array([stage.lowered.timestep for stage in stages])
        return Inputs(self.show(rows, stages, traits), timesteps, rows, self, stages, traits)

    def advance(self, inputs: Inputs, outputs: Any, unguided: Any) -> list[Row]:
        """Move the rows of `inputs` by one evaluation; answered by those that are over.

        Callers' functions may take rows out, join others and ask for inputs, but not advance rows of this group.
        """
        try:
            self._turn.pop()
        except IndexError:
            raise RuntimeError(
                f"{names_of(inputs.rows)} cannot be advanced now: rows of shape {self.shape} are being advanced by "
                "another thread, or by the call whose transform or noise source asks for it. A batch is for one thread."
            ) from None
        try:
            return self._advance(inputs, outputs, unguided)
        finally:
            self._turn.append(None)

    def _advance(self, inputs: Inputs, outputs: Any, unguided: Any) -> list[Row]:
        stages, traits = inputs._stages, inputs._traits
        if inputs._changes != self.changes:
            _check_in_time(inputs)
        outputs = self._checked(inputs, outputs, "outputs")
        if unguided is not None:
            unguided = self._checked(inputs, unguided, "unguided outputs")
        present: Sequence[Row | None] = inputs.rows
        if inputs._changes != self.changes:
            present = _still_there(present)
        if unguided is None and traits & READS_UNGUIDED:
            _check_nobody_reads_unguided(present, stages)
        inputs._changes = USED
        self.changes += 1
        over: list[Row] = []
        if traits & PREPARES:
            self._prepare_all(present, stages, outputs, over)
            present = _still_there(present)  # callers' functions may have taken out any
        if any(present):
            self.move(present, stages, traits, outputs, outputs if unguided is None else unguided)
            for row in present:
                if row is not None:
                    row.position += 1
            if traits & ENDS:
                self._end(present, over)
        return sorted(over, key=inputs.rows.index) if len(over) > 1 else over

    def _end(self, rows: Sequence[Row | None], over: list[Row]) -> None:
        """Take out those of `rows` that are done, and put them into `over`."""
        for row in rows:
            if row is not None and row.position == len(row._stages):
                row._result = self.row_result(row)
                self.leave(row)
                over.append(row)

    def data(self, row: Row, output: Array) -> Array:
        """The prediction of x0 by `output`, shape (1, ...), transformed."""
        return data_prediction(row.stage, row.sample[None, ...], output, row.transform)

    def _prepare_all(
        self, rows: Sequence[Row | None], stages: Sequence[BoundStage], outputs: Array, over: list[Row]
    ) -> None:
        """Get `rows` ready to be moved; those whose own functions fail are taken out and put into `over`."""
        for index, (row, stage) in enumerate(zip(rows, stages, strict=True)):
            if row is not None and row.position != GONE and stage.traits & PREPARES:
                try:
                    self._prepare(row, stage.lowered, outputs[index : index + 1])
                except Exception as error:
                    row.error = error
                    if row.position != GONE:
                        self.leave(row)
                        over.append(row)

    def _prepare(self, row: Row, stage: LoweredStage, output: Array) -> None:
        """Transform the row's data and draw its noise, as a run of a batch of one does; it may take its row out."""
        if stage.data is not None:
            data = self.data(row, output)
            if row.position != GONE:
                self.put(row, stage.data.target, self._same_shape(row, data, "transform"))
        for slot, sigma_from, sigma_to in stage.noises:
            if row.position == GONE:
                return
            assert row._draw_noise is not None
            drawn = row._draw_noise(row.sample[None, ...], sigma_from, sigma_to)
            if row.position != GONE:
                self.put(row, slot, self._same_shape(row, drawn, "noise source"))

    def _same_shape(self, row: Row, value: Array, by: str) -> Array:
        if tuple(getattr(value, "shape", ())) != (1, *self.shape):
            raise ValueError(f"the {by} of {row} returned {_described(value)}: expected shape {(1, *self.shape)}.")
        return value

    # What the network said

    def _checked(self, inputs: Inputs, outputs: Any, what: str) -> Array:
        """`outputs`, one for each row of `inputs`."""
        rows, shape = inputs.rows, (len(inputs.rows), *self.shape)
        if isinstance(outputs, list | tuple):
            outputs = self._stacked(rows, outputs, what)
        got = getattr(outputs, "shape", None)
        if got is None or namespace(outputs) is not namespace(inputs.x):
            raise TypeError(f"{what} is a {type(outputs).__name__}: expected {_kind(inputs.x)} of shape {shape}.")
        if tuple(got) != shape:
            missing = ""
            if tuple(got[1:]) == self.shape and got[0] < len(rows):
                missing = f"; {_those(rows[got[0] :])} missing"
            raise ValueError(
                f"{what} has shape {tuple(got)}: expected {shape}, one output for each of {names_of(rows)}{missing}."
            )
        if not is_floating(outputs):
            raise TypeError(f"{what} holds {outputs.dtype}: expected floating point numbers for {names_of(rows)}.")
        if self.device is not None and outputs.device != self.device:
            raise ValueError(f"{what} is on {outputs.device}: expected {self.device}, where {names_of(rows)} is.")
        return self.take(outputs)

    def _stacked(self, rows: list[Row], outputs: Sequence[Any], what: str) -> Array:
        for index, row in enumerate(rows):
            output = outputs[index] if index < len(outputs) else None
            if output is None:
                raise ValueError(f"{what}: that of {row} is missing, expected an array of shape {self.shape}.")
            if tuple(getattr(output, "shape", ())) != self.shape:
                raise ValueError(f"{what}: that of {row} is {_described(output)}, expected shape {self.shape}.")
        if len(outputs) > len(rows):
            raise ValueError(f"{what} holds {len(outputs)} arrays: expected one for each of {names_of(rows)}.")
        return namespace(outputs[0]).stack(list(outputs))


def _check_nobody_reads_unguided(rows: Sequence[Row | None], stages: Sequence[BoundStage]) -> None:
    for row, stage in zip(rows, stages, strict=True):
        if row is not None and stage.traits & READS_UNGUIDED:
            raise ValueError(
                f"{row}: {row.plan.solver} needs the network's output without guidance as well: "
                "advance(inputs, outputs, unguided)."
            )


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" if shape is None else f"shape {tuple(shape)}"


def _those(rows: list[Row]) -> str:
    return f"those of {names_of(rows)} are" if len(rows) > 1 else f"that of {rows[0]} is"


def _kind(x: Array) -> str:
    return "a torch tensor" if is_torch(x) else f"an array of {namespace(x).__name__}"


def _check_in_time(inputs: Inputs) -> None:
    """Raise ValueError if a row of `inputs` has moved on since they were made."""
    if inputs._changes == USED:
        raise ValueError(f"these inputs were used already, for {names_of(inputs.rows)}: ask the batch for new ones.")
    for row, position in zip(inputs.rows, inputs._positions, strict=True):
        if row.position not in (GONE, position):
            raise ValueError(
                f"{row} was advanced since these inputs were made: they are for evaluation {position + 1}, and "
                f"{row.position} are done. Ask the batch for new ones."
            )


def _still_there(rows: Sequence[Row | None]) -> list[Row | None]:
    """`rows`, with None for those that have left."""
    return [None if row is None or row.position == GONE else row for row in rows]
