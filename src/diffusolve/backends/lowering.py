"""From a plan to the form in which it is executed: one pass after the other over the sums of its stages.

Until the last pass gives them slots, the places of a sum are numbers of the plan's registers, which are written once
each; the four places that are no slots are themselves throughout. Stage 0 is the plan's opening.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence, Set
from functools import lru_cache
from math import inf

from diffusolve.backends.lowered import NEXT, OUTPUT, SAMPLE, UNGUIDED, Lowered, LoweredStage, Sum, Trait
from diffusolve.backends.transform import Clip, Transform
from diffusolve.plan import OUTPUT as OUTPUT_NAME
from diffusolve.plan import UNGUIDED as UNGUIDED_NAME
from diffusolve.plan import Plan, Stage, Write

__all__ = [
    "Slots",
    "add_up_early",
    "in_slots",
    "live_after",
    "lower",
    "put_in_short_sums",
    "with_reusable",
    "without_dead",
]

ROUNDING = 1e-15
"""A folded coefficient this small against its parts is their rounding error."""


def lower(plan: Plan, transform: Transform | None = None, donated: bool = False) -> Lowered:
    """`plan` in numbered slots, for runs or rows with `transform`.

    A data prediction is computed where a later stage reads it, or everywhere if it is transformed or clipped; elsewhere
    the sums take it apart into sample and output, so that a step is one sum of these. What is only remembered (it is
    neither a sample nor transformed nor clipped) is kept up to a factor that saves its first term the multiplication.
    What waits for one sum alone is added up at once.

    Args:
        plan: what is to be done.
        transform: what is done to data predictions; the limit of a :class:`Clip` becomes a part of the sums.
        donated: samples and outputs may be overwritten; they have room for parts of sums that wait.
    """
    if isinstance(transform, Clip):
        return _lower(plan, False, transform.limit, donated)
    return _lower(plan, transform is not None, inf, donated)


@lru_cache(maxsize=1024)
def _lower(plan: Plan, transforms: bool, limit: float, donated: bool) -> Lowered:
    number = _numbers_of_registers(plan)
    samples = [number[plan.initial], *(number[stage.sample] for stage in plan.stages)]
    updates = [plan.opening, *(stage.update for stage in plan.stages)]
    callers = [{number[noise.register] for noise in update.noises} for update in updates]
    factors: dict[int, float] = {}
    stages = without_dead(_written_out(plan, number, transforms, limit, factors))
    if transforms:
        for theirs, stage in zip(callers[1:], plan.stages, strict=True):
            theirs.add(number[stage.data])
    if not donated:
        stages[1:] = add_up_early(stages[1:], callers[1:], len(number))
    live = live_after(stages, [{sample, *theirs} for sample, theirs in zip(samples, callers, strict=True)])
    stages = [put_in_short_sums(sums, after) for sums, after in zip(stages, live, strict=True)]
    all_callers = set[int]().union(*callers)
    computed = {each.target for sums in stages for each in sums} - all_callers
    places = _Places(plan, number, {*samples}, all_callers, transforms)
    lowered = []
    for index, (sums, after) in enumerate(zip(stages, live, strict=True)):
        read = {source for each in sums for source in each.sources}
        reusable = (read - all_callers if donated and index else read & computed) - after
        if samples[index] in after:
            reusable -= {SAMPLE}
        lowered.append(places.stage(index - 1, with_reusable(sums, reusable), after))
    has_opening = plan.opening.writes or plan.opening.noises
    opening = lowered[0] if has_opening else None
    return Lowered(places.slots.count, opening, tuple(lowered[1:]), {places.names[r]: f for r, f in factors.items()})


def _numbers_of_registers(plan: Plan) -> dict[str, int]:
    """A number for each register of `plan`; the network's outputs are their own places."""
    names = {plan.initial: None}
    for update in (plan.opening, *(stage.update for stage in plan.stages)):
        names |= dict.fromkeys([noise.register for noise in update.noises])
        names |= dict.fromkeys([write.register for write in update.writes])
    for stage in plan.stages:
        names |= {stage.sample: None, stage.data: None}
    return {name: index for index, name in enumerate(names)} | {OUTPUT_NAME: OUTPUT, UNGUIDED_NAME: UNGUIDED}


# Writing out


def _written_out(
    plan: Plan, number: Mapping[str, int], transforms: bool, limit: float, factors: dict[int, float]
) -> list[list[Sum]]:
    """The sums of the opening and of each stage, with the data prediction folded into them where that is enough.

    The `factors` up to which registers are kept are put there.
    """
    samples = {number[stage.sample] for stage in plan.stages}
    opening = _leading_to(plan.stages[0].sample, plan.opening.writes)
    writes = [_leading_to(plan.next_sample(index), stage.update.writes) for index, stage in enumerate(plan.stages)]
    last_read = {source: index for index, each in enumerate(writes) for write in each for source, _ in write.terms}
    stages = [[_sum(write, plan.initial, number, {}) for write in opening]]
    stages[0][-1] = stages[0][-1]._replace(target=NEXT)
    for index, stage in enumerate(plan.stages):
        computed = last_read.get(stage.data, 0) > index or limit < inf
        sums = []
        if computed and not transforms:
            data = _data(stage, number[stage.data])._replace(limit=limit)
            sums.append(data if limit < inf else _up_to_factor(data, factors))
        copies: dict[int, float] = {}
        for write in writes[index]:
            total = _sum(write, stage.sample, number, factors)
            if write is writes[index][-1]:
                total = total._replace(target=NEXT)
            if not computed and not transforms:
                total = _with_copies(_folded(total, stage, number[stage.data]), copies)
            if total.target not in samples and total.target != NEXT:
                total = _up_to_factor(total, factors)
            if total.sources == (OUTPUT,) and not computed and not transforms:
                copies[total.target] = total.coefficients[0]
            sums.append(total)
        stages.append(sums)
    return stages


def _leading_to(following: str, writes: Sequence[Write]) -> tuple[Write, ...]:
    """`writes` with that of the register `following` as the last, or followed by a copy of it."""
    others = [write for write in writes if write.register != following]
    its_own = [write for write in writes if write.register == following]
    if its_own and not any(source == following for write in others for source, _ in write.terms):
        return (*others, *its_own)
    return (*writes, Write(following, ((following, 1.0),)))


def _sum(write: Write, sample: str, number: Mapping[str, int], factors: Mapping[int, float]) -> Sum:
    """`write`, where `sample` is the current one, of registers that hold their value divided by one of `factors`."""
    sources = [SAMPLE if source == sample else number[source] for source, _ in write.terms]
    coefficients = [c * factors.get(source, 1.0) for source, (_, c) in zip(sources, write.terms, strict=True)]
    return Sum(number[write.register], tuple(sources), tuple(coefficients))


def _data(stage: Stage, target: int) -> Sum:
    """The data prediction of `stage`."""
    return Sum.of(target, {place: c for place, c in ((SAMPLE, stage.a), (OUTPUT, stage.b)) if c})


def _up_to_factor(total: Sum, factors: MutableMapping[int, float]) -> Sum:
    """`total` divided by its first coefficient, which is put into `factors`."""
    if not total.sources or not 1e-3 < abs(total.coefficients[0]) < 1e3:
        return total
    factors[total.target] = factor = total.coefficients[0]
    return total._replace(coefficients=tuple(c / factor for c in total.coefficients))


def _folded(total: Sum, stage: Stage, data: int) -> Sum:
    """`total` with ``data = a * sample + b * output`` put in."""
    if data not in total.sources:
        return total
    terms = total.terms
    factor = terms.pop(data)
    if factor:
        direct, through_data = terms.pop(SAMPLE, 0.0), factor * stage.a
        coefficient = _without_rounding(direct + through_data, direct)
        if coefficient:
            terms = {SAMPLE: coefficient, **terms}
        if stage.b:
            terms[OUTPUT] = terms.get(OUTPUT, 0.0) + factor * stage.b
    return total.with_terms(terms)


def _with_copies(total: Sum, copies: Mapping[int, float]) -> Sum:
    """`total` with the output read from one of its `copies` (register -> multiple) that it reads anyway."""
    if copies.keys().isdisjoint(total.sources):
        return total
    terms = total.terms
    for register in terms.keys() & copies.keys():
        terms[register] += terms.pop(OUTPUT, 0.0) / copies[register]
    return total.with_terms(terms)


def _without_rounding(value: float, part: float) -> float:
    return value if abs(value) > ROUNDING * abs(part) else 0.0


# Passes over all stages, or over one


def without_dead(stages: Sequence[Sequence[Sum]]) -> list[list[Sum]]:
    """`stages` without sums that nothing reads."""
    needed, kept = {NEXT}, []
    for sums in reversed(stages):
        alive = []
        for total in reversed(sums):
            if total.target in needed:
                needed.update(total.sources)
                alive.append(total)
        kept.append(alive[::-1])
    return kept[::-1]


def add_up_early(stages: Sequence[Sequence[Sum]], given: Sequence[Set[int]], new: int) -> list[list[Sum]]:
    """Add up what only one later sum reads, once a part of it would be written to wait for that.

    UniPC then remembers for its corrector one array instead of the corrected sample and a data prediction. Samples wait
    as they are: they are large against the rest, and rounding a sum with one costs as much precision as a step. `given`
    are the registers that come with each stage, without a sum. New sums take the numbers from `new` on, which are no
    register's: neither a sample's nor a data prediction's, whether sums read these or not.
    """
    changed = [[*sums] for sums in stages]
    uses: dict[int, list[tuple[int, int]]] = {}
    for at, sums in enumerate(changed):
        for index, total in enumerate(sums):
            for source in total.sources:
                uses.setdefault(source, []).append((at, index))
    there: set[int] = set()
    for at, sums in enumerate(changed):
        written = {total.target for total in sums}
        there |= (written | given[at]) - {NEXT}
        for (then, index), parts in _waiting(there, uses, at).items():
            target = changed[then][index]
            if len(parts) < 2 or not written & {*parts} or target.limit < inf:
                continue
            terms = target.terms
            sums.insert(-1, Sum.of(new, {part: terms.pop(part) for part in parts}))
            changed[then][index] = target.with_terms({new: 1.0, **terms})
            uses[new] = [(then, index)]
            there = (there | {new}) - {*parts}
            new += 1
        there = {register for register in there if register in uses and uses[register][-1][0] > at}
    return changed


def _waiting(
    there: Set[int], uses: Mapping[int, Sequence[tuple[int, int]]], at: int
) -> dict[tuple[int, int], list[int]]:
    """The registers of `there` that only one sum after stage `at` reads, by the stage and index of that sum."""
    waiting: dict[tuple[int, int], list[int]] = {}
    for register in sorted(there):
        found = uses.get(register, ())
        if found and found[-1][0] > at and (len(found) == 1 or found[-2][0] <= at):
            waiting.setdefault(found[-1], []).append(register)
    return waiting


def live_after(stages: Sequence[Sequence[Sum]], given: Sequence[Set[int]]) -> list[frozenset[int]]:
    """For each stage the registers that later ones read; `given` are those that come with a stage, without a sum."""
    live: frozenset[int] = frozenset()
    found = []
    for sums, arriving in zip(reversed(stages), reversed(given), strict=True):
        found.append(live)
        read = {source for total in sums for source in total.sources if source >= 0}
        live = (live | read) - {total.target for total in sums} - arriving
    return found[::-1]


def put_in_short_sums(sums: Sequence[Sum], after: Collection[int]) -> list[Sum]:
    """`sums` of a stage in which those of at most two terms that do not outlive it are read from their own terms.

    `after` are the registers that do; what is left of the others is scratch.
    """
    short: dict[int, dict[int, float]] = {}
    kept = []
    for total in sums:
        terms = total.terms if short.keys().isdisjoint(total.sources) else _put_in(total, short)
        terms = {source: c for source, c in terms.items() if c} or terms
        scratch = total.target != NEXT and total.target not in after
        if scratch and len(terms) <= 2 and total.limit == inf:
            short[total.target] = terms
        else:
            kept.append(Sum(total.target, tuple(terms), tuple(terms.values()), total.limit, total.reusable, scratch))
    return kept


def _put_in(total: Sum, short: Mapping[int, Mapping[int, float]]) -> dict[int, float]:
    """The terms of `total`, with those of `short` sums in place of these."""
    terms: dict[int, float] = {}
    for source, c in total.terms.items():
        for original, factor in short.get(source, {source: 1.0}).items():
            before = terms.get(original, 0.0)
            terms[original] = _without_rounding(before + c * factor, before)
    return terms


def with_reusable(sums: Sequence[Sum], registers: Collection[int]) -> list[Sum]:
    """`sums`, each with those of its sources among `registers` reusable that no later one reads."""
    left, marked = {*registers}, []
    for target, sources, coefficients, limit, _, scratch in reversed(sums):
        reusable = tuple([source for source in sources if source in left])
        marked.append(Sum(target, sources, coefficients, limit, reusable, scratch))
        left.difference_update(reusable)
    return marked[::-1]


# Slots


class Slots:
    """Hands out the lowest slot that is free."""

    def __init__(self) -> None:
        self.count = 0
        self._free: set[int] = set()

    def take(self) -> int:
        if not self._free:
            self._free.add(self.count)
            self.count += 1
        slot = min(self._free)
        self._free.remove(slot)
        return slot

    def give_back(self, slot: int) -> None:
        self._free.add(slot)


def in_slots(sums: Sequence[Sum], held: dict[int, int], slots: Slots) -> tuple[Sum, ...]:
    """`sums` with slots for registers: a result takes that of a reusable source, or else a free one.

    `held`, the slot of each register, is changed to what holds afterwards.
    """
    placed = []
    for register, sources, coefficients, limit, reusable, scratch in sums:
        read, free = (tuple([held.get(source, source) for source in each]) for each in (sources, reusable))
        target = register
        if register >= 0:
            reused = next((source for source in reusable if source in held), None)
            target = held[register] = slots.take() if reused is None else held.pop(reused)
        placed.append(Sum(target, read, coefficients, limit, free, scratch))
    return tuple(placed)


class _Places:
    """Gives the stages of a plan their slots, one after the other."""

    def __init__(
        self, plan: Plan, number: Mapping[str, int], samples: Set[int], callers: Set[int], transforms: bool
    ) -> None:
        self.plan, self.number, self.transforms = plan, number, transforms
        self.samples, self.callers = samples, callers
        self.names = {register: name for name, register in number.items()}
        self.slots = Slots()
        self.held: dict[int, int] = {}

    def stage(self, index: int, sums: Sequence[Sum], after: Collection[int]) -> LoweredStage:
        """Stage number `index` (-1: the opening), after which the registers `after` are read."""
        plan, held = self.plan, self.held
        stage = plan.stages[index] if index >= 0 else None
        sample, update = (plan.initial, plan.opening) if stage is None else (stage.sample, stage.update)
        keeps = self._take(sample) if self.number[sample] in after else None
        data = _data(stage, self._take(stage.data)) if stage is not None and self.transforms else None
        noises = tuple((self._take(noise.register), noise.sigma_from, noise.sigma_to) for noise in update.noises)
        callers, samples = (frozenset(held[r] for r in held.keys() & each) for each in (self.callers, self.samples))
        placed = in_slots(sums, held, self.slots)
        frees = sorted(held.pop(register) for register in held.keys() - after)
        for slot in frees:
            self.slots.give_back(slot)
        holds = sorted((self.names.get(register, f"sum{register}"), slot) for register, slot in held.items())
        scale, timestep = (1.0, plan.start.timestep) if stage is None else (stage.scale, stage.point.timestep)
        traits = Trait.PREPARES if data is not None or noises else Trait(0)
        if stage is not None and stage.reads_unguided:
            traits |= Trait.READS_UNGUIDED
        if index == plan.nfe - 1:
            traits |= Trait.ENDS
        if scale != 1.0:
            traits |= Trait.SCALES
        return LoweredStage(
            scale, timestep, traits, keeps, data, noises, placed, tuple(frees), tuple(holds), callers, samples
        )

    def _take(self, register: str) -> int:
        slot = self.held[self.number[register]] = self.slots.take()
        return slot
