"""Transitions: the normal distribution that the noise of a stage makes of the next sample."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from math import hypot
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from diffusolve.errors import NoDensityError

if TYPE_CHECKING:
    from diffusolve.plan.plan import Plan

__all__ = ["WITH_DENSITY", "Transition", "noise_in", "put_in", "share_of", "transition"]

K = TypeVar("K", bound=Hashable)

WITH_DENSITY = "'Euler a', 'DPM++ 2M SDE', 'SA-Solver' and, on flow matching, 'Flow SDE'"
"""Samplers whose steps have a density, for errors to name."""

ROUNDING = 1e-9
"""The part of their size by which rounding may make shares of noise disproportionate, and intervals overlap."""

Noises = Mapping[Hashable, float]
"""The coefficients of noises in a value."""


class Transition(NamedTuple):
    """The distribution of the next sample given all samples before it: normal, each number on its own.

    What a run remembers follows from the samples: a register that holds some of the noise is its own mean plus a
    multiple of ``next sample - mean``.

    Attributes:
        mean: (source, coefficient) of what stands in the plan before the stage, and of its data prediction; `output`
            and `unguided` where the plan reads these.
        std: the standard deviation, of every number.
        shares: (register, factor) of each register that holds some of the noise afterwards: what it holds beyond its
            mean is ``factor * (next sample - mean)``.
        overlaps: the noise belongs to an interval of sigma that noise was drawn for before. If all follows one Brownian
            path the two are not independent, and this is not the distribution.
    """

    mean: tuple[tuple[str, float], ...]
    std: float
    shares: tuple[tuple[str, float], ...]
    overlaps: bool


@lru_cache(maxsize=4096)
def transition(plan: Plan, index: int, handed: frozenset[tuple[float, float]]) -> Transition:
    """The transition of stage `index`; see :meth:`~diffusolve.plan.plan.Plan.transition`."""
    if not 0 <= index < plan.nfe:
        raise IndexError(f"stage {index} of {plan.solver}: expected 0 to {plan.nfe - 1}.")
    stage, following = plan.stages[index], plan.next_sample(index)
    noises = [noise for noise in stage.update.noises if (noise.sigma_from, noise.sigma_to) not in handed]
    drawn = [noise.register for noise in noises]
    inside = {write.register for write in stage.update.writes}
    values: dict[str, dict[str, float]] = {}
    for write in stage.update.writes:
        values[write.register] = put_in(write.terms, values)
    sample = values.get(following, {following: 1.0})
    shared = {name: c for name, c in sample.items() if name in drawn and c}
    where = f"{plan.solver} in evaluation {index} (step {stage.step}, from sigma {stage.point.sigma:g})"
    std = hypot(*shared.values())
    if not std:
        raise NoDensityError(
            f"{where} adds no noise to the sample: the next one follows from this one and has no density. Take an "
            f"ordinary step here, or a sampler with noise in its steps, such as {WITH_DENSITY}."
        )
    shares = []
    for register in [*drawn, *inside]:
        if register == following or register in stage.update.frees:
            continue
        part = values.get(register, {register: 1.0})
        share = share_of({name: part[name] for name in drawn if name in part}, shared)
        if share is None:
            raise NoDensityError(
                f"{where} remembers noise that does not follow from the samples (in {register}), so that the steps "
                f"after it have no density given these. Samplers that have one: {WITH_DENSITY}."
            )
        if share:
            shares.append((register, share))
    mean = tuple((name, c) for name, c in sample.items() if name not in drawn)
    used = [(noise.sigma_from, noise.sigma_to) for noise in noises if noise.register in shared]
    return Transition(mean, std, tuple(shares), _overlaps(used, _drawn_before(plan, index)))


def noise_in(sums: Iterable[Any], drawn: Collection[Hashable]) -> dict[Hashable, dict[Hashable, float]]:
    """The coefficient of each noise in `drawn` in each result of `sums`, which have target, sources, coefficients.

    The noises themselves are among the results, unless a sum takes their place.
    """
    found: dict[Hashable, dict[Hashable, float]] = {noise: {noise: 1.0} for noise in drawn}
    for total in sums:
        parts: dict[Hashable, float] = {}
        for source, coefficient in zip(total.sources, total.coefficients, strict=True):
            for noise, c in found.get(source, {}).items():
                parts[noise] = parts.get(noise, 0.0) + coefficient * c
        found[total.target] = parts
    return found


def share_of(part: Mapping[Any, float], whole: Mapping[Any, float]) -> float | None:
    """The factor that makes `part` of `whole`, both coefficients of noises; None where there is none."""
    size = hypot(*whole.values())
    if not size:
        return None if any(part.values()) else 0.0
    factor = sum(part.get(noise, 0.0) * c for noise, c in whole.items()) / size**2
    away = hypot(*(part.get(noise, 0.0) - factor * whole.get(noise, 0.0) for noise in {*part, *whole}))
    return factor if away <= ROUNDING * hypot(*part.values()) else None


def put_in(terms: Iterable[tuple[K, float]], values: Mapping[K, Mapping[K, float]]) -> dict[K, float]:
    """`terms`, (source, coefficient), with the sums `values` put in for the sources that have one."""
    total: dict[K, float] = {}
    for source, coefficient in terms:
        for name, c in values.get(source, {source: 1.0}).items():
            total[name] = total.get(name, 0.0) + coefficient * c
    return total


def _drawn_before(plan: Plan, index: int) -> list[tuple[float, float]]:
    updates = [plan.opening, *(stage.update for stage in plan.stages[:index])]
    return [(noise.sigma_from, noise.sigma_to) for update in updates for noise in update.noises]


def _overlaps(used: Iterable[tuple[float, float]], before: Sequence[tuple[float, float]]) -> bool:
    """True where an interval of `used` has a part in common with one of those `before`."""
    for interval in used:
        low, high = sorted(interval)
        for other in before:
            start, end = sorted(other)
            if min(high, end) - max(low, start) > ROUNDING * high:
                return True
    return False
