"""One continuous batch of mixed rows, in which the network is always asked about the same number of rows at once.

Rows join and leave between evaluations. Of those under way as many take part in a call as fill it: a row with guidance
is in it twice, with its condition and without. Those that found no room are first in the next call. Whoever is in the
same call, a row's numbers are the same, since the shapes of all arrays are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from diffusolve.arrays import Array, concatenate, copied, is_torch, namespace, no_gradients, not_finite
from diffusolve.batching import BatchRun, Inputs
from diffusolve.batching import Row as BatchRow
from diffusolve.bulk.models import Model
from diffusolve.bulk.recipes import Recipe, Recipes
from diffusolve.bulk.rows import Row
from diffusolve.sampling import sample_with_report, start

__all__ = ["Engine", "Outcome"]

Tag = tuple[int, int]
"""The block of a row, and its number there."""

PATIENCE = 50
"""Calls after which rows of one shape that do not fill a call are let in as they are."""

MOST_FAILURES = 64
"""Rows that the network may fail on before any has succeeded; then it is the network that is at fault."""


class Outcome(NamedTuple):
    """The end of a row: its sample, or why there is none."""

    tag: Tag
    row: Row
    sample: Array | None
    reason: str | None
    evaluations: int


@dataclass
class UnderWay:
    """A row that has joined."""

    row: Row
    tag: Tag
    in_batch: BatchRow
    condition: Any
    is_twice: bool
    """True if the network is asked with the condition and without."""

    @property
    def cost(self) -> int:
        """The number of places in a call that it takes."""
        return 2 if self.is_twice else 1


class Bucket:
    """Rows of one shape, in the order of their turns."""

    def __init__(self) -> None:
        self.rows: deque[UnderWay] = deque()
        self.cost = 0
        self.waited = 0

    def add(self, row: UnderWay) -> None:
        self.rows.append(row)
        self.cost += row.cost

    def take(self, size: int) -> list[UnderWay]:
        """The first rows that fit in a call of `size` places, one at least. They are no longer here."""
        taken: list[UnderWay] = []
        passed: deque[UnderWay] = deque()
        while self.rows and size:
            row = self.rows.popleft()
            if row.cost <= size or (not taken and not passed):
                taken.append(row)
                size = max(size - row.cost, 0)
            else:
                passed.append(row)
        self.rows.extendleft(reversed(passed))
        self.cost -= sum(row.cost for row in taken)
        self.waited = 0
        return taken


class Engine:
    """Rows under way, and the network that is asked about them.

    Args:
        model: the network.
        recipes: the plans of rows.
        batch_size: the most rows that are under way at once.
    """

    def __init__(self, model: Model, recipes: Recipes, batch_size: int) -> None:
        self.model = model
        self.recipes = recipes
        self.batch_size = batch_size
        self.calls = 0
        """The number of times that the network was called so far."""
        self.evaluations = 0
        """The number of places in these calls that were not padding."""
        self._batch = BatchRun()
        self._buckets: dict[tuple[int, ...], Bucket] = {}
        self._succeeded = False
        self._failures = 0

    def __len__(self) -> int:
        """The number of rows under way."""
        return sum(len(bucket.rows) for bucket in self._buckets.values())

    @property
    def is_full(self) -> bool:
        """True if no more rows may join now."""
        return len(self) >= self.batch_size

    def join(self, row: Row, tag: Tag) -> Outcome | None:
        """Let `row` join; answered by its outcome if it is over at once, as those of adaptive samplers are."""
        try:
            recipe = self.recipes.of(row)
            shape, condition = self.model.shape_for(row), self.model.condition(row)
            is_twice = row.guidance != 1.0 or (recipe.plan is not None and recipe.plan.reads_unguided)
            if recipe.plan is None:
                return self._made_at_once(row, tag, recipe, shape, condition, is_twice)
            x = start(recipe.plan, self._empty(shape), row.seed)[0, ...]
            in_batch = self._batch.join(recipe.plan, x, noise=recipe.noise(row.seed), tag=row.id)
        except (ValueError, TypeError, ArithmeticError) as error:
            return Outcome(tag, row, None, str(error), 0)
        bucket = self._buckets.setdefault(shape, Bucket())
        bucket.add(UnderWay(row, tag, in_batch, condition, is_twice))
        return None

    def step(self, drain: bool) -> list[Outcome]:
        """One call of the network, and the rows that are over by it.

        Args:
            drain: no more rows are to come, so that there is no waiting for fuller calls.
        """
        bucket = self._next(drain or self.is_full)
        if bucket is None:
            return []
        rows = bucket.take(self.model.call_size)
        over: list[Outcome] = []
        for part in self._answered(rows, over):
            over += self._advanced(*part)
        for row in rows:
            if not row.in_batch.has_left:
                bucket.add(row)
        self._buckets = {shape: bucket for shape, bucket in self._buckets.items() if bucket.rows}
        return over

    def _next(self, now: bool) -> Bucket | None:
        """The bucket whose turn it is: one that has waited for long, one that fills a call, or, if `now`, any."""
        size = self.model.call_size
        buckets = [bucket for bucket in self._buckets.values() if bucket.rows]
        late = [bucket for bucket in buckets if bucket.waited >= PATIENCE]
        full = [bucket for bucket in buckets if bucket.cost >= size]
        for bucket in buckets:
            bucket.waited += 1
        if late or full:
            return max(late or full, key=lambda bucket: bucket.waited)
        return max(buckets, key=lambda bucket: bucket.cost, default=None) if now else None

    def _answered(self, rows: list[UnderWay], over: list[Outcome]) -> list[tuple[list[UnderWay], Inputs, Any, Any]]:
        """Rows with what the network said of them: together, or where it raises an exception, each alone.

        A row that it raises one for alone is put into `over`.
        """
        try:
            inputs, outputs, unguided = self._ask(rows)
        except (MemoryError, OSError):
            raise
        except Exception as error:
            if "out of memory" in str(error):  # PyTorch's is a RuntimeError
                raise
            if len(rows) > 1:
                return [part for row in rows for part in self._answered([row], over)]
            self._failures += 1
            if not self._succeeded and self._failures >= MOST_FAILURES:
                raise RuntimeError(
                    f"the network failed on each of the first {self._failures} rows, the last time with "
                    f"{type(error).__name__}: {error}"
                ) from error
            over.append(self._given_up(rows[0], f"the network failed with {type(error).__name__}: {error}"))
            return []
        self._succeeded = True
        return [(rows, inputs, outputs, unguided)]

    def _ask(self, rows: list[UnderWay]) -> tuple[Inputs, Any, Any]:
        """The inputs of `rows`, the outputs with guidance, and those without."""
        (inputs,) = self._batch.inputs([row.in_batch for row in rows])
        conditions = [row.condition for row in rows]
        guided, unguided = self._guided(
            inputs.x, inputs.timesteps, conditions, [row.row.guidance for row in rows], [row.is_twice for row in rows]
        )
        return inputs, guided, unguided

    def _guided(
        self, x: Array, timesteps: Array, conditions: list[Any], scales: list[float], are_twice: list[bool]
    ) -> tuple[Array, Array]:
        """The network's outputs for `x`, with guidance and without."""
        count = len(conditions)
        twice = [index for index, is_twice in enumerate(are_twice) if is_twice]
        places = [*range(count), *twice]
        conditions = conditions + [self.model.unconditional] * len(twice)
        outputs = self._call(x, timesteps, places, conditions)
        if not twice:
            return outputs[:count], outputs[:count]
        guided, unguided = copied(outputs[:count]), copied(outputs[:count])
        for place, index in enumerate(twice, count):
            without = outputs[place]
            guided[index] = without + scales[index] * (outputs[index] - without)
            unguided[index] = without
        return guided, unguided

    def _call(self, x: Array, timesteps: Array, places: Sequence[int], conditions: list[Any]) -> Array:
        """The network's outputs for the rows of `x` at `places`, in calls of the size that the model has."""
        size, parts = self.model.call_size, []
        for begin in range(0, len(places), size):
            some, wanted = list(places[begin : begin + size]), conditions[begin : begin + size]
            padding = size - len(some)
            chosen = some + some[:1] * padding
            with no_gradients(x):
                outputs = self.model.network(x[chosen], timesteps[chosen], wanted + wanted[:1] * padding)
            if tuple(getattr(outputs, "shape", ())) != (size, *x.shape[1:]):
                got = getattr(outputs, "shape", type(outputs).__name__)
                raise ValueError(f"the network returned {got} for samples {(size, *x.shape[1:])}: expected that shape.")
            parts.append(outputs[: len(some)])
            self.calls += 1
            self.evaluations += len(some)
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def _advanced(self, rows: list[UnderWay], inputs: Inputs, outputs: Any, unguided: Any) -> list[Outcome]:
        """Move rows on; those that are over."""
        over = [
            self._given_up(rows[index], f"the network's output holds NaN or infinity at evaluation {at} of {nfe}.")
            for index in not_finite(outputs)
            for at, nfe in [(rows[index].in_batch.position + 1, rows[index].in_batch.plan.nfe)]
        ]
        by_number = {row.in_batch.number: row for row in rows}
        for done in self._batch.advance(inputs, outputs, unguided):
            row = by_number[done.number]
            if done.error is None:
                over.append(_outcome(row.tag, row.row, done.result, done.plan.nfe))
            else:
                over.append(Outcome(row.tag, row.row, None, f"{type(done.error).__name__}: {done.error}", 0))
        return over

    def _given_up(self, row: UnderWay, reason: str) -> Outcome:
        done = max(row.in_batch.position, 0)
        self._batch.leave(row.in_batch)
        return Outcome(row.tag, row.row, None, reason, done)

    def _made_at_once(
        self, row: Row, tag: Tag, recipe: Recipe, shape: tuple[int, ...], condition: Any, is_twice: bool
    ) -> Outcome:
        """The outcome of a row of an adaptive sampler, which goes its way alone."""
        assert recipe.sampler is not None
        assert recipe.grid is not None

        def network(x: Array, timesteps: Array) -> Array:
            return self._guided(x, timesteps, [condition], [row.guidance], [is_twice])[0]

        x, report = sample_with_report(
            network,
            start(recipe.grid, self._empty(shape), row.seed),
            recipe.sampler,
            noise_schedule=self.model.noise_schedule,
            prediction_type=self.model.prediction,
            noise=row.seed,
        )
        return _outcome(tag, row, x[0, ...], report.nfe)

    def _empty(self, shape: tuple[int, ...]) -> Array:
        """An array of a batch of one."""
        like = self.model.like
        if is_torch(like):
            return like.new_empty((1, *shape))
        return namespace(like).empty((1, *shape), dtype=like.dtype)


def _outcome(tag: Tag, row: Row, sample: Array, evaluations: int) -> Outcome:
    if not_finite(sample[None, ...]):
        return Outcome(tag, row, None, "the sample holds NaN or infinity.", evaluations)
    return Outcome(tag, row, sample, None, evaluations)
