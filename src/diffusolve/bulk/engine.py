"""One continuous batch of mixed rows, in which the network is always asked about the same number of rows at once.

Rows join and leave between evaluations. Of those under way the oldest take part in a call, as many as fill it: a row
with guidance is in it twice, with its condition and without. The others wait until one of these is over. Whoever is in
the same call, a row's numbers are the same, since the shapes of all arrays are, or were seen to make no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from diffusolve.arrays import Array, concatenate, copied, is_torch, namespace, no_gradients, not_finite
from diffusolve.batching import BatchRun, Inputs
from diffusolve.batching import Row as BatchRow
from diffusolve.bulk.models import Model
from diffusolve.bulk.recipes import Recipe, Recipes
from diffusolve.bulk.rows import Row
from diffusolve.bulk.width import Width, is_out_of_memory
from diffusolve.sampling import sample_with_report, start

__all__ = ["Engine", "Outcome"]

Tag = tuple[int, int]
"""The block of a row, and its number there."""

PATIENCE = 50
"""Calls after which rows of one shape that do not fill a call are let in as they are."""

MOST_CALLS = 16
"""So many calls full of rows are under way at most, where they are of many shapes."""

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
    """Rows of one shape, in the order in which they joined."""

    def __init__(self, width: Width) -> None:
        self.width = width
        self.rows: dict[int, UnderWay] = {}
        self.cost = 0
        self.waited = 0

    def add(self, row: UnderWay) -> None:
        self.rows[row.in_batch.number] = row
        self.cost += row.cost

    def first(self) -> list[UnderWay]:
        """The first rows that fit in a call, one at least."""
        left, found = self.width.wanted, list[UnderWay]()
        for row in self.rows.values():
            if row.cost <= left or not found:
                found.append(row)
                left -= row.cost
                if left <= 0:
                    break
        return found

    def forget_over(self, rows: Sequence[UnderWay]) -> None:
        """Take out those of `rows` that have left their batch."""
        for row in rows:
            if row.in_batch.has_left:
                del self.rows[row.in_batch.number]
                self.cost -= row.cost


class Engine:
    """Rows under way, and the network that is asked about them.

    Args:
        model: the network.
        recipes: the plans of rows.
        batch_size: the most rows that are under way at once. When missing, as many as keep calls full, and the network
            is asked about more than `call_size` rows at once where that is quicker and the same bits.
    """

    def __init__(self, model: Model, recipes: Recipes, batch_size: int | None = None) -> None:
        self.model = model
        self.recipes = recipes
        self.batch_size = batch_size
        self.computed = 0
        """The number of rows that the network was called on so far."""
        self.evaluations = 0
        """The number of them that were no padding."""
        self.widths: dict[tuple[int, ...], Width] = {}
        """Shape of a sample -> how many the network is asked about at once."""
        self._batch = BatchRun()
        self._buckets: dict[tuple[int, ...], Bucket] = {}
        self._succeeded = False
        self._failures = 0

    def __len__(self) -> int:
        """The number of rows under way."""
        return len(self._batch)

    @property
    def is_full(self) -> bool:
        """True if no more rows may join now."""
        if self.batch_size is not None:
            return len(self) >= self.batch_size
        widest = max((bucket.width.wanted for bucket in self._buckets.values()), default=0)
        return len(self) >= MOST_CALLS * widest > 0 or any(
            bucket.cost >= 2 * bucket.width.wanted for bucket in self._buckets.values()
        )

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
        if shape not in self._buckets:
            self._buckets[shape] = Bucket(self._width(shape))
        self._buckets[shape].add(UnderWay(row, tag, in_batch, condition, is_twice))
        return None

    def _width(self, shape: tuple[int, ...]) -> Width:
        return self.widths.setdefault(shape, Width(self.model.call_size, self.batch_size is not None))

    def step(self, drain: bool) -> list[Outcome]:
        """One call of the network, and the rows that are over by it.

        Args:
            drain: no more rows are to come, so that there is no waiting for fuller calls.
        """
        bucket = self._next(drain or self.is_full)
        if bucket is None:
            return []
        rows = bucket.first()
        bucket.waited = 0
        over: list[Outcome] = []
        for part in self._answered(bucket.width, rows, over):
            over += self._advanced(*part)
        bucket.forget_over(rows)
        if not bucket.rows:
            self._buckets = {shape: bucket for shape, bucket in self._buckets.items() if bucket.rows}
        return over

    def _next(self, now: bool) -> Bucket | None:
        """The bucket whose turn it is: one that has waited for long, one that fills a call, or, if `now`, any."""
        buckets = self._buckets.values()
        late = [bucket for bucket in buckets if bucket.waited >= PATIENCE]
        full = [bucket for bucket in buckets if bucket.cost >= bucket.width.wanted]
        for bucket in buckets:
            bucket.waited += 1
        if late or full:
            return max(late or full, key=lambda bucket: bucket.waited)
        return max(buckets, key=lambda bucket: bucket.cost, default=None) if now else None

    def _answered(
        self, width: Width, rows: list[UnderWay], over: list[Outcome]
    ) -> list[tuple[list[UnderWay], Inputs, Any, Any]]:
        """Rows with what the network said of them: together, or where it raises an exception, each alone.

        A row that it raises one for alone is put into `over`.
        """
        try:
            inputs, outputs, unguided = self._ask(width, rows)
        except OSError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                return self._answered_by_fewer(width, rows, over, error)
            if len(rows) > 1:
                return [part for row in rows for part in self._answered(width, [row], over)]
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

    def _answered_by_fewer(
        self, width: Width, rows: list[UnderWay], over: list[Outcome], error: Exception
    ) -> list[tuple[list[UnderWay], Inputs, Any, Any]]:
        """As :meth:`_answered`, by calls of half as many rows.

        Raises:
            MemoryError: that would be other bits.
        """
        empty_cache(self.model.like)
        if not width.halve():
            raise MemoryError(f"a call of the network on {width.call_size} rows was out of memory: {error}") from error
        return self._answered(width, rows, over)

    def _ask(self, width: Width, rows: list[UnderWay]) -> tuple[Inputs, Any, Any]:
        """The inputs of `rows`, the outputs with guidance, and those without."""
        (inputs,) = self._batch.inputs([row.in_batch for row in rows])
        guided, unguided = self._guided(
            width,
            inputs.x,
            inputs.timesteps,
            [row.condition for row in rows],
            [row.row.guidance if row.is_twice else None for row in rows],
        )
        return inputs, guided, unguided

    def _guided(
        self, width: Width, x: Array, timesteps: Array, conditions: list[Any], scales: Sequence[float | None]
    ) -> tuple[Array, Array]:
        """The network's outputs for `x`, with guidance and without. A scale of None asks for no other condition."""
        count = len(conditions)
        by_scale: dict[float, list[int]] = {}
        for index, scale in enumerate(scales):
            if scale is not None:
                by_scale.setdefault(scale, []).append(index)
        twice = [index for some in by_scale.values() for index in some]
        conditions = conditions + [self.model.unconditional] * len(twice)
        outputs = self._call(width, x, timesteps, [*range(count), *twice], conditions)
        if not twice:
            return outputs, outputs
        guided, unguided = copied(outputs[:count]), copied(outputs[:count])
        place = count
        for scale, some in by_scale.items():
            without = outputs[place : place + len(some)]
            guided[some] = without + scale * (outputs[some] - without)
            unguided[some] = without
            place += len(some)
        return guided, unguided

    def _call(self, width: Width, x: Array, timesteps: Array, places: list[int], conditions: list[Any]) -> Array:
        """The network's outputs for the rows of `x` at `places`."""
        parts, begin = list[Array](), 0
        while begin < len(places):
            size = width.holding(len(places) - begin)
            ask = partial(self._of_network, x, timesteps, places[begin:], conditions[begin:])
            if width.is_to_be_tried(len(places) - begin):
                outputs = width.tried(ask)
                size = outputs.shape[0]
            else:
                outputs = ask(0, size)
            parts.append(outputs)
            begin += size
            self.computed += size
        self.evaluations += len(places)
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def _of_network(
        self, x: Array, timesteps: Array, places: list[int], conditions: list[Any], begin: int, size: int
    ) -> Array:
        """The network's outputs for the rows of `x` at `places` from `begin` on, as far as `size` of them go.

        It is called on `size` rows whatever there are.
        """
        places, conditions = places[begin : begin + size], conditions[begin : begin + size]
        count = len(places)
        places, conditions = places + places[:1] * (size - count), conditions + conditions[:1] * (size - count)
        with no_gradients(x):
            outputs = self.model.network(x[places], timesteps[places], conditions)
        if tuple(getattr(outputs, "shape", ())) != (size, *x.shape[1:]):
            got = getattr(outputs, "shape", type(outputs).__name__)
            raise ValueError(f"the network returned {got} for samples {(size, *x.shape[1:])}: expected that shape.")
        return outputs[:count]

    def _advanced(self, rows: list[UnderWay], inputs: Inputs, outputs: Any, unguided: Any) -> list[Outcome]:
        """Move `rows` on by one evaluation; the outcomes of those that are over then."""
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
        width = Width(self.model.call_size, is_fixed=True)

        def network(x: Array, timesteps: Array) -> Array:
            return self._guided(width, x, timesteps, [condition], [row.guidance if is_twice else None])[0]

        try:
            x, report = sample_with_report(
                network,
                start(recipe.grid, self._empty(shape), row.seed),
                recipe.sampler,
                noise_schedule=self.model.noise_schedule,
                prediction_type=self.model.prediction,
                noise=row.seed,
            )
        except OSError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(f"a call of the network on {width.size} rows was out of memory: {error}") from error
            return Outcome(tag, row, None, f"{type(error).__name__}: {error}", 0)
        return _outcome(tag, row, x[0, ...], report.nfe)

    def _empty(self, shape: tuple[int, ...]) -> Array:
        """An array of a batch of one."""
        like = self.model.like
        if is_torch(like):
            return like.new_empty((1, *shape))
        return namespace(like).empty((1, *shape), dtype=like.dtype)


def empty_cache(like: Array) -> None:
    """Give memory back that PyTorch keeps on the device of `like` for later."""
    if is_torch(like) and like.device.type == "cuda":
        namespace(like).cuda.empty_cache()


def _outcome(tag: Tag, row: Row, sample: Array, evaluations: int) -> Outcome:
    if not_finite(sample[None, ...]):
        return Outcome(tag, row, None, "the sample holds NaN or infinity.", evaluations)
    return Outcome(tag, row, sample, None, evaluations)
