"""Rows, and what the network is asked about them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from diffusolve.arrays import Array
from diffusolve.backends import DrawNoise, Transform
from diffusolve.backends.lowered import READS_UNGUIDED
from diffusolve.plan import Plan, Stage

if TYPE_CHECKING:
    from diffusolve.backends.lowered import BoundStage
    from diffusolve.batching.row_group import RowGroup

__all__ = ["GONE", "USED", "Inputs", "Row", "names_of"]

GONE = -1
"""The position of a row that is no longer in its batch."""

USED = -1
"""In place of the count of changes that inputs were made at: they cannot be used again."""


class Row:
    """One generation in a batch. Made by :meth:`BatchRun.join <diffusolve.batching.BatchRun.join>`.

    Attributes:
        plan: what is done.
        number: which row of its batch this is, counting all that ever joined.
        tag: whatever the caller gave it for its own use; errors show it.
        position: how many evaluations are done; -1 when the row has left its batch.
        transform: what is applied to its data predictions.
        error: the exception that its noise source or its transform raised, which ended it unless it was taken out.
    """

    __slots__ = (
        "__weakref__",
        "_draw_noise",
        "_group",
        "_memory",
        "_result",
        "_stages",
        "error",
        "number",
        "plan",
        "position",
        "tag",
        "transform",
    )

    def __init__(
        self,
        plan: Plan,
        number: int,
        tag: Hashable,
        group: RowGroup,
        stages: Sequence[BoundStage],
        draw_noise: DrawNoise | None,
        transform: Transform | None,
    ) -> None:
        self.plan = plan
        self.number = number
        self.tag = tag
        self.position = 0
        self.transform = transform
        self.error: Exception | None = None
        self._group = group
        self._stages = stages
        self._draw_noise = draw_noise
        self._memory: Any = None
        self._result: Array | None = None

    @property
    def is_done(self) -> bool:
        """True once all evaluations have been made; :attr:`result` is there then."""
        return self._result is not None

    @property
    def has_left(self) -> bool:
        """True once the row is no longer in its batch: done, failed, or taken out."""
        return self.position == GONE

    @property
    def stage(self) -> Stage:
        """The stage that the next output belongs to.

        Raises:
            LookupError: the row has left its batch.
        """
        self._check_present()
        return self.plan.stages[self.position]

    @property
    def sample(self) -> Array:
        """The current sample, without the batch's dimension: float32 also where the network sees half precision.

        It is a part of the batch's memory: not to be written to, and something else after the next step. Raises as
        :attr:`stage` does.
        """
        self._check_present()
        return self._group.sample(self)

    @property
    def result(self) -> Array:
        """The sample at the plan's end, an array like the one that the row joined with.

        Raises:
            LookupError: there is none yet, or there never will be since the row was taken out.
            Exception: whatever ended the row, see :attr:`error`.
        """
        if self.error is not None:
            raise self.error
        if self._result is None:
            why = self._why_left() if self.has_left else f"{self.position} of {self.plan.nfe} evaluations are done."
            raise LookupError(f"{self} has no result: {why}")
        return self._result

    def _check_present(self) -> None:
        if self.has_left:
            raise LookupError(f"{self} has left its batch: {self._why_left()}")

    def _why_left(self) -> str:
        if self.error is not None:
            return f"it failed with {self.error!r}."
        return "it is done." if self.is_done else "it was taken out before its end."

    def __str__(self) -> str:
        return f"row {self.number}" + (f" ({self.tag!r})" if self.tag is not None else "")

    def __repr__(self) -> str:
        where = "left" if self.has_left else f"{self.position} of {self.plan.nfe}"
        return f"<{self}: {self.plan.solver}, {where}>"


class Inputs:
    """The question to the network about some rows of one shape, precision and device. Made by `BatchRun.inputs`.

    Attributes:
        x: the scaled samples, shape (rows, ...), in the precision that the rows joined with. Not to be written to.
        timesteps: shape (rows,), float32, or float64 where the rows are: of floats whatever the plans have, so that
            they do not depend on the company.
        rows: the rows, in the order of `x`.
    """

    __slots__ = ("_changes", "_group", "_positions", "_stages", "_traits", "rows", "timesteps", "x")

    def __init__(
        self, x: Array, timesteps: Array, rows: list[Row], group: RowGroup, stages: list[BoundStage], traits: int
    ) -> None:
        self.x = x
        self.timesteps = timesteps
        self.rows = rows
        self._group = group
        self._stages = stages
        self._traits = traits
        self._positions = [row.position for row in rows]
        self._changes = group.changes

    @property
    def reads_unguided(self) -> bool:
        """True if any of the rows takes the network's output without guidance as well."""
        return bool(self._traits & READS_UNGUIDED)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Inputs of {names_of(self.rows)}: {tuple(self.x.shape)}>"


def names_of(rows: Sequence[Row]) -> str:
    """The rows for an error message; the first eight of many."""
    shown = ", ".join(map(str, rows[:8]))
    return shown + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
