"""The step of a run with its log-probability: the density of the next sample, drawn or given, given those before it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import hypot, inf, log, pi
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

from diffusolve.arrays import Array, cast_like, detached, is_torch, namespace, widen
from diffusolve.backends.backend import Backend
from diffusolve.backends.lowered import NEXT, SAMPLE, LoweredStage, Sum
from diffusolve.errors import NoDensityError, unknown_name
from diffusolve.plan import WITH_DENSITY, Plan, Transition, noise_in, share_of

__all__ = ["LogProbArguments", "LogProbStep", "Told", "log_density", "moved_on", "transition_for"]

REDUCTIONS = ("mean", "sum")

DrawBetween = Callable[[float, float], Array]
"""Draws noise for the interval between two sigmas."""

Place: TypeAlias = Any
"""The number of a place, or the name of a register where sums are those of a plan."""

Places: TypeAlias = Any
"""The arrays that sums read and write, by place: a list or a dictionary."""


class LogProbStep(NamedTuple):
    """A step, and the density of where it led.

    Attributes:
        next_sample: the sample after the step, shape (batch, ...), in the precision of the sample before it.
        log_prob: the logarithm of its density, summed or averaged over dimensions; at least float32.
        mean: of the distribution that it is from, shape (batch, ...), at least float32. It depends on the network's
            output, through which gradients flow.
        std: its standard deviation, the same for all numbers; an array where the network or the caller says it of each.
    """

    next_sample: Array
    log_prob: Array
    mean: Array
    std: Any

    @property
    def prev_sample(self) -> Array:
        """The next sample, by the name that diffusers has for it."""
        return self.next_sample


class LogProbArguments(NamedTuple):
    """The arguments of a step with its log-probability, as one value.

    Attributes:
        next_sample: the sample to take for the next one; one is drawn when missing.
        dims: the dimensions to reduce over; all but the first when missing.
        reduction: "mean" or "sum".
        like: an array in whose precision a sample that is drawn is to be; that of the sample before it when missing.
    """

    next_sample: Array | None = None
    dims: int | Sequence[int] | None = None
    reduction: str = "mean"
    like: Array | None = None

    def check(self, x: Array) -> None:
        """Raise unless this can be asked of a step from `x`."""
        if self.reduction not in REDUCTIONS:
            raise unknown_name("reduction", self.reduction, REDUCTIONS)
        if self.next_sample is not None and is_torch(self.next_sample) is not is_torch(x):
            raise TypeError(
                f"the next sample is a {type(self.next_sample).__name__}, but the sample is a {type(x).__name__}: they "
                "must be arrays of one library."
            )
        if self.next_sample is not None and self.next_sample.shape != x.shape:
            raise ValueError(
                f"the next sample has shape {tuple(self.next_sample.shape)}, but the sample has shape "
                f"{tuple(x.shape)}: they must be equal."
            )
        axes(self.dims, x)


class Told(NamedTuple):
    """A source of noise, as far as it says more than it draws.

    Attributes:
        deviation: the standard deviation that its noise comes with.
        handed: pairs of sigmas for which it hands over something else than noise.
        is_path: its noise follows a Brownian path, so that overlapping intervals are not independent.
    """

    deviation: Array | None
    handed: Mapping[tuple[float, float], Array]
    is_path: bool

    @classmethod
    def by(cls, source: Any) -> Told:
        """The attributes of these names that `source` has."""
        return cls(getattr(source, "deviation", None), getattr(source, "handed", {}), getattr(source, "is_path", False))


def transition_for(plan: Plan, index: int, told: Told) -> Transition:
    """The transition of stage `index` with noise of a source that has `told` this.

    Raises:
        NoDensityError: there is none.
    """
    transition = plan.transition(index, frozenset(told.handed))
    if transition.overlaps and told.is_path:
        raise NoDensityError(
            f"{plan.solver} draws noise in evaluation {index} for a part of a Brownian path that it has drawn before, "
            "so that the two are not independent. Give another source of noise, or take an option of the solver with "
            f"noise of its own for each part (noise='disjoint' or 'bridge'), or one of {WITH_DENSITY}."
        )
    return transition


def moved_on(
    asked: LogProbArguments, told: Told, stage: LoweredStage, places: Places, backend: Backend, draw: DrawBetween
) -> LogProbStep:
    """Make the step of `stage`: fill its places as if noise had been drawn that leads to the next sample.

    Args:
        asked: what is asked for.
        told: what the source of the noise says of it.
        stage: what to do, in places that are slots or, where they are not numbered, names of registers.
        places: what it reads, with the sample at -1; what it writes is put there, but for `NEXT`.
        backend: of the arrays.
        draw: draws noise for the interval between two sigmas.
    """
    noises: dict[Place, tuple[float, float]] = {place: (start, end) for place, start, end in stage.noises}
    drawn = {place: interval for place, interval in noises.items() if interval not in told.handed}
    for place in noises.keys() - drawn.keys():
        places[place] = told.handed[noises[place]]
    parts = noise_in(stage.sums, drawn)
    shared = parts[NEXT]
    mean = _means(stage.sums, drawn, places, backend)
    std = hypot(*shared.values()) * (1.0 if told.deviation is None else told.deviation)
    following = asked.next_sample
    if following is None:
        fresh = {place: draw(*interval) for place, interval in drawn.items()}
        terms = [(place, c) for place, c in shared.items() if c]
        following = backend.combine([mean, *(fresh[place] for place, _ in terms)], [1.0, *(c for _, c in terms)])
        following = cast_like(following, places[SAMPLE] if asked.like is None else asked.like)
    at = detached(following) if asked.next_sample is None else following
    log_prob = log_density(at, mean, std, asked.dims, asked.reduction)
    _remember_noise(stage, parts, following, mean, places, backend)
    return LogProbStep(following, log_prob, mean, std)


def _remember_noise(
    stage: LoweredStage,
    parts: Mapping[Place, Mapping[Place, float]],
    following: Array,
    mean: Array,
    places: Places,
    backend: Backend,
) -> None:
    """Add to what is held the noise that led from `mean` to the sample `following`; `parts` say how much has what."""
    away: Any = None
    drawn = {place for place, _, _ in stage.noises}
    for _, place in stage.holds:
        share = share_of(parts.get(place, {}), parts[NEXT])
        if share:
            away = widen(following) - mean if away is None else away
            own = [] if place in drawn else [places[place]]
            places[place] = backend.combine([*own, away], [*(1.0 for _ in own), share])


def _means(sums: Iterable[Sum], drawn: Collection[Place], places: Places, backend: Backend) -> Array:
    """Fill the places of `sums` without the noise `drawn` into some, and return the mean of the next sample."""
    silent, mean = {*drawn}, None
    for total in sums:
        heard = Sum.of(total.target, {source: c for source, c in total.terms.items() if source not in silent})
        value = widen(backend.bind(heard)(places))
        if total.limit < inf:
            value = backend.clip(value, total.limit)
        if total.target == NEXT:
            mean = value
        else:
            places[total.target] = value
        silent.discard(total.target)
    assert mean is not None
    return mean


def log_density(
    sample: Array, mean: Array, std: Any, dims: int | Sequence[int] | None = None, reduction: str = "mean"
) -> Array:
    """The logarithm of the normal density at `sample`, with all constants, summed or averaged over `dims`.

    ``-(sample - mean)**2 / (2 * std**2) - log(std) - log(2 * pi) / 2`` for each number. It is computed in float32 at
    least, whatever the precision of `sample`.

    Args:
        sample, mean: shape (batch, ...).
        std: a number, or an array that broadcasts to that shape.
        dims: the dimensions to reduce over; all but the first when missing, so that the result has shape (batch,).
        reduction: "sum", the density of all numbers together, or "mean", a number's share of it on average.

    Raises:
        UnknownNameError: another reduction.
    """
    if reduction not in REDUCTIONS:
        raise unknown_name("reduction", reduction, REDUCTIONS)
    xp, over = namespace(mean), axes(dims, mean)
    away = (widen(sample) - mean) / std
    each = -0.5 * away * away - 0.5 * log(2 * pi) - (log(std) if isinstance(std, float) else xp.log(std))
    if not over:
        return each
    reduce = xp.sum if reduction == "sum" else xp.mean
    return reduce(each, dim=over) if is_torch(each) else reduce(each, axis=over)


def axes(dims: int | Sequence[int] | None, x: Array) -> tuple[int, ...]:
    """The dimensions of `x` to reduce over.

    Raises:
        ValueError: `x` has no such dimension, or one is there twice.
        TypeError: something else than whole numbers.
    """
    if dims is None:
        return tuple(range(1, x.ndim))
    given: tuple[Any, ...] = tuple(dims) if isinstance(dims, Iterable) else (dims,)
    for dim in given:
        if not isinstance(dim, Integral):
            raise TypeError(f"dims is {dims!r}: expected a whole number, or several.")
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"dims is {dims}, but the sample has {x.ndim} dimensions: expected 0 to {x.ndim - 1}.")
    if len({dim % x.ndim for dim in given}) < len(given):
        raise ValueError(f"dims is {dims}: expected each dimension once.")
    return given
