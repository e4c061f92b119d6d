"""The rows of one shape, precision and device, and what holds for them whatever moves them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from functools import lru_cache
from math import inf
from typing import Any, Protocol

from diffusolve.arrays import Array, is_torch, namespace
from diffusolve.backends import Clip, Run, Transform, backend_of
from diffusolve.batching.layout import LaidOutStage, Layout
from diffusolve.batching.rows import GONE, USED, Inputs, Row, names_of
from diffusolve.plan import Plan
from diffusolve.randomness import NoiseLike, noise_source

__all__ = [
    "ENDS",
    "SCALES",
    "Lanes",
    "PreparedStage",
    "compiled_lanes",
    "lanes_of",
    "traits_of",
    "what_transforms",
]


PREPARES, READS_UNGUIDED, ENDS, SCALES = 1, 2, 4, 8
"""Traits of a stage, to be added up: something is done for its row alone, it reads the unguided output, it is the last
of its plan, the network sees its sample scaled."""


class PreparedStage(Protocol):
    """What the lanes made of a stage of a plan."""

    @property
    def laid_out(self) -> LaidOutStage: ...
    @property
    def timestep(self) -> float: ...
    @property
    def traits(self) -> int: ...


def traits_of(layout: Layout, index: int) -> int:
    """The traits of a stage."""
    stage = layout.stages[index]
    found = {
        PREPARES: stage.data is not None or bool(stage.noises),
        READS_UNGUIDED: stage.plan_stage.reads_unguided,
        ENDS: index == len(layout.stages) - 1,
        SCALES: stage.plan_stage.scale != 1.0,
    }
    return sum(trait for trait, has_it in found.items() if has_it)


def what_transforms(transform: Transform | None) -> tuple[bool, float]:
    """Whether `transform` is the caller's own, and what it clips to if it is a :class:`~diffusolve.backends.Clip`."""
    if isinstance(transform, Clip):
        return False, transform.limit
    return transform is not None, inf


class Lanes(ABC):
    """The rows of one shape, precision and device.

    Args:
        x: an array like the rows' samples, without the batch's dimension.
    """

    def __init__(self, x: Array) -> None:
        self.shape = tuple(x.shape)
        self.dtype = x.dtype
        self.device = getattr(x, "device", None)
        self.backend = backend_of(x)
        self.rows: dict[int, Row] = {}
        self.changes = 0
        """Counted up when a row moves or leaves."""

    # What rows are moved by

    @abstractmethod
    def stages(self, plan: Plan, transform: Transform | None) -> Sequence[PreparedStage]:
        """The stages of `plan`, ready for these lanes."""

    @abstractmethod
    def hold(self, row: Row, x: Array, registers: dict[str, Array]) -> None:
        """Give a row its memory: its first sample is `x`, and it remembers `registers`, both in the wide precision."""

    @abstractmethod
    def show(self, rows: list[Row], stages: list[Any], traits: int) -> Array:
        """The scaled samples of `rows`, shape (rows, ...), in the precision that the network sees."""

    @abstractmethod
    def sample(self, row: Row) -> Array:
        """The row's sample, in the wide precision; not to be written to."""

    @abstractmethod
    def put(self, row: Row, slot: int, value: Array) -> None:
        """Write `value`, shape (1, ...), to a slot of a row."""

    @abstractmethod
    def move(self, rows: Sequence[Row | None], stages: list[Any], traits: int, outputs: Array, unguided: Array) -> None:
        """Move `rows`, all of them at once; None stands for one that has left."""

    @abstractmethod
    def take(self, outputs: Array) -> Array:
        """`outputs` of the right shape, as :meth:`move` wants them."""

    @abstractmethod
    def row_result(self, row: Row) -> Array:
        """A copy of the row's sample in the precision that it came in."""

    @abstractmethod
    def array(self, values: list[float]) -> Array:
        """`values` in the wide precision, on the rows' device."""

    # Joining and leaving

    def join(
        self, plan: Plan, x: Array, number: int, noise: NoiseLike, transform: Transform | None, tag: Hashable
    ) -> Row:
        """A new row; arguments as :meth:`BatchRun.join <diffusolve.batching.BatchRun.join>`."""
        wide = self.backend.widen(x.detach() if is_torch(x) else x)[None, ...]
        draw_noise = noise_source(noise, wide) if plan.is_stochastic else None
        run = Run(plan, draw_noise, transform)
        first = run.begin(wide)
        row = Row(plan, number, tag, self, self.stages(plan, transform), draw_noise, transform)
        self.hold(row, first, run.registers)
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
        """What the network is to be asked about `rows`."""
        stages = [row._stages[row.position] for row in rows]
        traits = 0
        for stage in stages:
            traits |= stage.traits
        timesteps = self.array([stage.timestep for stage in stages])
        return Inputs(self.show(rows, stages, traits), timesteps, rows, self, stages, traits)

    def advance(self, inputs: Inputs, outputs: Any, unguided: Any) -> list[Row]:
        """Move the rows of `inputs` by one evaluation; answered by those that are over."""
        rows, stages = inputs.rows, inputs._stages
        traits = inputs._traits
        present: Sequence[Row | None] = rows
        if inputs._changes != self.changes:
            present = _still_there(inputs)
        outputs = self._checked(inputs, outputs, "outputs")
        if unguided is not None:
            unguided = self._checked(inputs, unguided, "unguided outputs")
        elif traits & READS_UNGUIDED:
            _check_nobody_reads_unguided(present, stages)
        inputs._changes = USED
        self.changes += 1
        over: list[Row] = []
        if traits & PREPARES:
            present = self._prepared(present, stages, outputs, over)
        if any(present):
            self.move(present, stages, traits, outputs, outputs if unguided is None else unguided)
            for row in present:
                if row is not None:
                    row.position += 1
            if traits & ENDS:
                for row, stage in zip(present, stages, strict=True):
                    if row is not None and stage.traits & ENDS:
                        row._result = self.row_result(row)
                        self.leave(row)
                        over.append(row)
        return sorted(over, key=rows.index) if len(over) > 1 else over

    def data(self, row: Row, output: Array) -> Array:
        """The prediction of x0 by `output`, shape (1, ...), transformed."""
        stage = row.stage
        data = self.backend.combine((row.sample[None, ...], output), (stage.a, stage.b))
        return data if row.transform is None else row.transform(data, stage)

    def _prepared(
        self, rows: Sequence[Row | None], stages: Sequence[PreparedStage], outputs: Array, over: list[Row]
    ) -> list[Row | None]:
        """`rows` ready to be moved, with None for those whose own functions failed, which are put into `over`."""
        ready = [*rows]
        for index, (row, stage) in enumerate(zip(rows, stages, strict=True)):
            if row is not None and stage.traits & PREPARES:
                try:
                    self._prepare(row, stage, outputs[index : index + 1])
                except Exception as error:
                    row.error, ready[index] = error, None
                    self.leave(row)
                    over.append(row)
        return ready

    def _prepare(self, row: Row, stage: PreparedStage, output: Array) -> None:
        """Transform the row's data and draw its noise, as a run of a batch of one does."""
        laid_out = stage.laid_out
        if laid_out.data is not None:
            self.put(row, laid_out.data, self._same_shape(row, self.data(row, output), "transform"))
        for slot, sigma_from, sigma_to in laid_out.noises:
            assert row._draw_noise is not None
            drawn = row._draw_noise(row.sample[None, ...], sigma_from, sigma_to)
            self.put(row, slot, self._same_shape(row, drawn, "noise source"))

    def _same_shape(self, row: Row, made: Array, by: str) -> Array:
        if tuple(getattr(made, "shape", ())) != (1, *self.shape):
            got = getattr(made, "shape", None)
            shape = f"shape {tuple(got)}" if got is not None else f"a {type(made).__name__}"
            raise ValueError(f"the {by} of {row} returned {shape}: expected shape {(1, *self.shape)}.")
        return made

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
        if not self.backend.is_floating(outputs):
            raise TypeError(f"{what} holds {outputs.dtype}: expected floating point numbers for {names_of(rows)}.")
        if is_torch(outputs) and outputs.device != self.device:
            raise ValueError(f"{what} is on {outputs.device}: expected {self.device}, where {names_of(rows)} is.")
        return self.take(outputs)

    def _stacked(self, rows: list[Row], outputs: Sequence[Any], what: str) -> Array:
        for index, row in enumerate(rows):
            output = outputs[index] if index < len(outputs) else None
            if output is None:
                raise ValueError(f"{what}: that of {row} is missing, expected an array of shape {self.shape}.")
            if tuple(getattr(output, "shape", ())) != self.shape:
                got = getattr(output, "shape", None)
                given = f"shape {tuple(got)}" if got is not None else f"a {type(output).__name__}"
                raise ValueError(f"{what}: that of {row} is {given}, expected shape {self.shape}.")
        if len(outputs) > len(rows):
            raise ValueError(f"{what} holds {len(outputs)} arrays: expected one for each of {names_of(rows)}.")
        return namespace(outputs[0]).stack(list(outputs))


def _check_nobody_reads_unguided(rows: Sequence[Row | None], stages: Sequence[PreparedStage]) -> None:
    for row, stage in zip(rows, stages, strict=True):
        if row is not None and stage.traits & READS_UNGUIDED:
            raise ValueError(
                f"{row}: {row.plan.solver} needs the network's output without guidance as well: "
                "advance(inputs, outputs, unguided)."
            )


def _those(rows: list[Row]) -> str:
    return f"those of {names_of(rows)} are" if len(rows) > 1 else f"that of {rows[0]} is"


def _kind(x: Array) -> str:
    return "a torch tensor" if is_torch(x) else f"an array of {namespace(x).__name__}"


def _still_there(inputs: Inputs) -> list[Row | None]:
    """The rows of `inputs`, with None for those that have left.

    Raises:
        ValueError: a row has moved on since.
    """
    if inputs._changes == USED:
        raise ValueError(f"these inputs were used already, for {names_of(inputs.rows)}: ask the batch for new ones.")
    for row, position in zip(inputs.rows, inputs._positions, strict=True):
        if row.position not in (GONE, position):
            raise ValueError(
                f"{row} was advanced since these inputs were made: they are for evaluation {position + 1}, and "
                f"{row.position} are done. Ask the batch for new ones."
            )
    return [None if row.has_left else row for row in inputs.rows]


def lanes_of(x: Array) -> Lanes:
    """Lanes for rows like `x`: the fastest that can move them."""
    if is_torch(x):
        compiled = compiled_lanes()
        if compiled is not None and compiled.takes(x):
            lanes: Lanes = compiled(x)
            return lanes
    from diffusolve.batching.stacked import StackedLanes

    return StackedLanes(x)


@lru_cache(maxsize=1)
def compiled_lanes() -> Any:
    """:class:`~diffusolve.batching.compiled.CompiledLanes`, or None if the package was installed without a compiler."""
    try:
        from diffusolve.batching.compiled import CompiledLanes
    except ImportError:
        return None
    return CompiledLanes
