"""Generations of any samplers, at any of their steps, advanced together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from diffusolve.arrays import Array, is_floating, is_torch, namespace
from diffusolve.backends import Transform
from diffusolve.backends.coefficients import Coefficients, coefficients
from diffusolve.batching.choice import row_group_for
from diffusolve.batching.row_group import RowGroup
from diffusolve.batching.rows import Inputs, Row
from diffusolve.plan import Plan
from diffusolve.randomness import NoiseLike

__all__ = ["BatchRun"]


class BatchRun:
    """Rows that join and leave between steps, each with a plan, a position, a noise source of its own.

        batch = BatchRun()
        row = batch.join(plan, x, noise=seed)  # x is one sample, without a batch's dimension
        while len(batch):
            for inputs in batch.inputs():  # one for each shape, precision and device
                outputs = network(inputs.x, inputs.timesteps)
                for finished in batch.advance(inputs, outputs):
                    save(finished.result)

    A row's numbers do not depend on its company: they are the same bits alone and among any others, in any order, as
    long as the network has that property. They are those of a :class:`~diffusolve.backends.Run` on the row alone up to
    rounding; where the package was compiled and rows are on the CPU, to the bit, but for steps that are one addition
    (Euler's), which runs leave to PyTorch.

    On the CPU all rows are moved by one call of the compiled module, each in one pass over memory; elsewhere, and where
    there is no such module, by one library call per column of their table of coefficients. Half-precision rows are
    moved in float32. Gradients do not flow through a batch. One thread at a time may use it.
    """

    def __init__(self) -> None:
        self._groups: dict[Hashable, RowGroup] = {}
        self._joined = 0

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows that have not left, in the order in which they joined."""
        rows = [row for group in self._groups.values() for row in group.rows.values()]
        return tuple(sorted(rows, key=lambda row: row.number))

    def __len__(self) -> int:
        return sum(len(group.rows) for group in self._groups.values())

    def join(
        self,
        plan: Plan,
        x: Array,
        *,
        noise: NoiseLike = None,
        transform: Transform | None = None,
        tag: Hashable = None,
    ) -> Row:
        """Add a row; it takes part from the next :meth:`inputs` on.

        Args:
            plan: what to do.
            x: the sample at ``plan.start``, of any shape, without a batch's dimension. It is copied.
            noise: where a stochastic plan's noise comes from, see :mod:`diffusolve.randomness`. The row is a batch of
                one to it: a callable is given samples of shape (1, ...).
            transform: applied to each of the row's data predictions, shape (1, ...), before it is used, see
                :class:`~diffusolve.backends.Run`.
            tag: anything to know the row by; errors show it.

        Raises:
            TypeError: `plan` is no plan, or `x` no array of floating point numbers.
            ValueError: `noise` does not fit a batch of one.
        """
        if not isinstance(plan, Plan):
            raise TypeError(f"plan is a {type(plan).__name__}: expected a Plan, which Sampler.plan() makes.")
        if not is_floating(x):
            raise TypeError(f"x has dtype {x.dtype}: expected floating point numbers.")
        key = (namespace(x), tuple(x.shape), x.dtype, str(x.device) if is_torch(x) else None)
        group = self._groups.get(key) or row_group_for(x)
        row = group.join(plan, x, self._joined, noise, transform, tag)
        self._groups[key] = group
        self._joined += 1
        return row

    def leave(self, row: Row) -> None:
        """Take out a row before its end, and free its memory.

        Raises:
            LookupError: it has left already, or is in another batch.
        """
        self._check(row)
        row._group.leave(row)
        self._forget_empty()

    def inputs(self, rows: Iterable[Row] | None = None) -> list[Inputs]:
        """The next questions to the network about all rows, or about some.

        One :class:`Inputs` for each shape, precision and device among the rows, in the order in which the first of each
        kind comes; inside one the rows stand in the order given, or in that of joining.

        Raises:
            LookupError: a row has left, or is in another batch.
            ValueError: a row is there twice.
        """
        if rows is None:
            return [group.inputs([*group.rows.values()]) for group in self._groups.values()]
        wanted: dict[RowGroup, dict[int, Row]] = {}
        for row in rows:
            self._check(row)
            among = wanted.setdefault(row._group, {})
            if row.number in among:
                raise ValueError(f"{row} is there twice: a row advances by one evaluation at a time.")
            among[row.number] = row
        return [group.inputs([*among.values()]) for group, among in wanted.items()]

    def advance(self, inputs: Inputs, outputs: Any, unguided: Any = None) -> list[Row]:
        """Take the network's outputs and move every row of `inputs` by one evaluation.

        Rows that left since the inputs were made are passed over, also those that a noise source or a transform takes
        out meanwhile, its own row or another. A row whose own noise source or transform raises an exception is ended by
        it, alone.

        Args:
            inputs: what the network was asked.
            outputs: what it said, with guidance if there is any: shape (rows, ...), or a list with an array per row.
            unguided: what it says without guidance, likewise: for rows whose plan reads it (CFG++); others make nothing
                of theirs.

        Returns:
            The rows that are over, in the order of `inputs`. They have left the batch; ``row.result`` is the sample, or
            raises what ended the row.

        Raises:
            ValueError: outputs that are missing or of the wrong shape or device, for which row and what was expected;
                unguided outputs that a row needs; a row that was advanced since. Nothing has been moved then.
            TypeError: outputs that are no arrays of floating point numbers of the inputs' library.
            RuntimeError: rows of this shape, precision and device are being advanced already.
        """
        if inputs._group not in self._groups.values() and any(not row.has_left for row in inputs.rows):
            raise LookupError(f"{inputs!r} are of another batch.")
        over = inputs._group.advance(inputs, outputs, unguided)
        if over:
            self._forget_empty()
        return over

    def data(self, inputs: Inputs, outputs: Array, row: Row) -> Array:
        """The prediction of x0 for one row of `inputs`, transformed: an array of the row's shape.

        To be asked before :meth:`advance`; float32 also where the network sees half precision.

        Raises:
            LookupError: the row has left, or is not among the inputs.
        """
        self._check(row)
        if row not in inputs.rows:
            raise LookupError(f"{row} is not among {inputs!r}.")
        index = inputs.rows.index(row)
        return row._group.data(row, row._group.take(outputs[index : index + 1]))[0, ...]

    def coefficients(self, rows: Iterable[Row] | None = None) -> Coefficients:
        """The next stage of all rows, or of some, as one table of numbers, for engines that do the step themselves.

        See :func:`diffusolve.batching.coefficients`.

        Raises:
            LookupError: a row has left, or is in another batch.
            ValueError: a row transforms its data, which no table says.
        """
        wanted = self.rows if rows is None else tuple(rows)
        for row in wanted:
            self._check(row)
            if row.transform is not None:
                raise ValueError(f"{row} transforms its data predictions, which is no linear combination.")
        return coefficients([(row.plan, row.position) for row in wanted])

    def _check(self, row: Row) -> None:
        """Raise LookupError unless `row` is in this batch."""
        row._check_present()
        if row._group not in self._groups.values():
            raise LookupError(f"{row} is in another batch.")

    def _forget_empty(self) -> None:
        for key in [key for key, group in self._groups.items() if not group.rows]:
            del self._groups[key]
