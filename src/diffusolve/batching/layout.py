"""Where a row keeps what: the registers of a plan in numbered slots, which are used again.

Rows of different plans then look alike: each has a sample and some slots, and a stage is a list of moves between
places.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf
from typing import NamedTuple

from diffusolve.backends.program import OUTPUT, Instruction, ProgramStage, compile_plan
from diffusolve.plan import UNGUIDED, Plan, Stage

__all__ = [
    "NEXT_PLACE",
    "OUTPUT_PLACE",
    "SAMPLE_PLACE",
    "UNGUIDED_PLACE",
    "LaidOutStage",
    "Layout",
    "Move",
    "lay_out",
]

SAMPLE_PLACE, OUTPUT_PLACE, UNGUIDED_PLACE, NEXT_PLACE = -1, -2, -3, -4
"""The places that are no slots: the current sample, the network's outputs, the sample that the stage leads to."""


class Move(NamedTuple):
    """``target = sum of coefficient * source``, clipped to plus and minus `limit`; targets and sources are places."""

    target: int
    sources: tuple[int, ...]
    coefficients: tuple[float, ...]
    limit: float = inf

    @property
    def copies(self) -> bool:
        """Whether the target becomes what a source is."""
        return self.coefficients == (1.0,) and self.limit == inf


class LaidOutStage(NamedTuple):
    """A stage of a plan in places. First `data` is computed and transformed, if rows do so, and the noises are drawn.

    The last of the `moves` leads to the next sample. `keeps` are the slots that hold something afterwards.
    """

    plan_stage: Stage
    data: int | None
    noises: tuple[tuple[int, float, float], ...]
    moves: tuple[Move, ...]
    keeps: frozenset[int]


class Layout(NamedTuple):
    """A plan in places: how many `slots` it takes, and what the `opening` leaves in them, (register, slot)."""

    slots: int
    opening: tuple[tuple[str, int], ...]
    stages: tuple[LaidOutStage, ...]


@lru_cache(maxsize=1024)
def lay_out(plan: Plan, transforms: bool, limit: float = inf) -> Layout:
    """The layout of `plan`, for rows whose data are transformed or clipped to plus and minus `limit`."""
    slots = _Slots()
    first, opening = plan.stages[0].sample, plan.opening
    made = {plan.initial, *(write.register for write in opening.writes), *(noise.register for noise in opening.noises)}
    held = {register: slots.take() for register in sorted(made - {first, *opening.frees})}
    opened = tuple(held.items())
    stages = tuple(_stage(stage, transforms, held, slots) for stage in compile_plan(plan, transforms, limit).stages)
    return Layout(slots.count, opened, stages)


def _stage(made: ProgramStage, transforms: bool, held: dict[str, int], slots: _Slots) -> LaidOutStage:
    """`made` in places; `held`, the slot of each register, is changed to what holds after it."""
    stage, moves = made.plan_stage, []
    places = {stage.sample: SAMPLE_PLACE, OUTPUT: OUTPUT_PLACE, UNGUIDED: UNGUIDED_PLACE, **held}
    if stage.sample not in made.frees:  # samples stand in a batch of their own, which does not outlive the stage
        places[stage.sample] = held[stage.sample] = slots.take()
        moves.append(Move(held[stage.sample], (SAMPLE_PLACE,), (1.0,)))
    data = None
    if transforms:
        places[stage.data] = data = held[stage.data] = slots.take()
    for noise in made.noises:
        places[noise.register] = held[noise.register] = slots.take()
    for instruction in made.instructions[1 if transforms else 0 :]:
        sources = tuple(places[source] for source in instruction.sources)
        target = NEXT_PLACE
        if instruction.register != made.next_sample:
            target = places[instruction.register] = _target(instruction, held, slots)
        moves.append(Move(target, sources, instruction.coefficients, instruction.limit))
    assert moves[-1].target == NEXT_PLACE
    for register in made.frees:
        if register in held:
            slots.give_back(held.pop(register))
    noises = tuple((places[noise.register], noise.sigma_from, noise.sigma_to) for noise in made.noises)
    return LaidOutStage(stage, data, noises, tuple(moves), frozenset(held.values()))


def _target(instruction: Instruction, held: dict[str, int], slots: _Slots) -> int:
    """A slot for the result: that of a source which is not needed any more, else a free one."""
    spent = next((register for register in instruction.spent if register in held), None)
    held[instruction.register] = slot = slots.take() if spent is None else held.pop(spent)
    return slot


class _Slots:
    """Hands out the lowest slot that is free."""

    def __init__(self) -> None:
        self.count = 0
        self.free: set[int] = set()

    def take(self) -> int:
        if not self.free:
            self.free.add(self.count)
            self.count += 1
        slot = min(self.free)
        self.free.remove(slot)
        return slot

    def give_back(self, slot: int) -> None:
        self.free.add(slot)
