"""The one form in which a plan is executed: stages of sums between numbered slots.

A run or a row holds an array in each slot; four more places stand for what a stage is given and leads to. Executors are
these stages plus what each needs to run one of them (:class:`BoundStage`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from functools import cached_property
from math import inf
from typing import Any, NamedTuple

__all__ = [
    "ENDS",
    "NEXT",
    "OUTPUT",
    "PREPARES",
    "READS_UNGUIDED",
    "SAMPLE",
    "SCALES",
    "UNGUIDED",
    "BoundStage",
    "Lowered",
    "LoweredStage",
    "Sum",
    "Trait",
    "numbered",
]

SAMPLE, OUTPUT, UNGUIDED, NEXT = -1, -2, -3, -4
"""The places that are no slots: the current sample, the network's outputs, and the sample that the stage leads to. The
first three are the last of a list that begins with the slots; the next sample is in no list but returned, and in its
place a run has the buffers that results may be written to."""


class Sum(NamedTuple):
    """``target = sum of coefficient * source`` over places, clipped to plus and minus `limit`.

    The arrays of the sources `reusable` may be overwritten: nothing reads them later, and they are no caller's. A sum
    that is `scratch` is read by later sums of its stage only.
    """

    target: int
    sources: tuple[int, ...]
    coefficients: tuple[float, ...]
    limit: float = inf
    reusable: tuple[int, ...] = ()
    scratch: bool = False

    @classmethod
    def of(cls, target: int, terms: Mapping[int, float]) -> Sum:
        """The sum of `terms`, coefficients by their sources."""
        return cls(target, tuple(terms), tuple(terms.values()))

    @property
    def terms(self) -> dict[int, float]:
        """The coefficients by their sources, in their order."""
        return dict(zip(self.sources, self.coefficients, strict=True))

    def with_terms(self, terms: Mapping[int, float]) -> Sum:
        """The same sum of other terms."""
        return Sum(self.target, tuple(terms), tuple(terms.values()), self.limit, self.reusable, self.scratch)


class Trait(Flag):
    """A difference between stages that executors heed."""

    PREPARES = auto()
    """Noise is drawn, or a data prediction is transformed by the caller's function."""
    READS_UNGUIDED = auto()
    """The sums read the network's output without guidance."""
    ENDS = auto()
    """The stage is the last of its plan."""
    SCALES = auto()
    """The network sees its sample scaled."""


PREPARES, READS_UNGUIDED, ENDS, SCALES = (trait.value for trait in Trait)
"""The same as numbers, for what is looked at in each step: flags are slow."""


class LoweredStage(NamedTuple):
    """An evaluation of the network and what follows from it; in the opening of a plan there is no network.

    The network sees ``scale * sample`` and `timestep`. Then the sample is put into slot `keeps`, if later stages read
    it; `data`, if the caller's own function transforms data predictions, is computed and transformed; the `noises`
    (slot, sigma_from, sigma_to) are drawn; and the `sums` are computed in their order, the last of which leads to the
    next sample. Afterwards the slots `frees` are empty, and `holds` says what is remembered, (register, slot).

    Of the slots that the sums read, `callers` hold arrays that the caller has made (noises, transformed data) and
    `samples` earlier samples.
    """

    scale: float
    timestep: float
    traits: Trait
    keeps: int | None = None
    data: Sum | None = None
    noises: tuple[tuple[int, float, float], ...] = ()
    sums: tuple[Sum, ...] = ()
    frees: tuple[int, ...] = ()
    holds: tuple[tuple[str, int], ...] = ()
    callers: frozenset[int] = frozenset()
    samples: frozenset[int] = frozenset()

    @property
    def remembers(self) -> frozenset[int]:
        """The slots that hold arrays of the caller's from before this stage."""
        drawn = {slot for slot, _, _ in self.noises} | ({self.data.target} if self.data else set())
        return (self.callers - drawn) | (self.samples - {self.keeps})

    @property
    def is_simple(self) -> bool:
        """True for one sum of two terms, one of them an array as it is."""
        if len(self.sums) != 1:
            return False
        (only,) = self.sums
        return len(only.sources) == 2 and 1.0 in only.coefficients and only.limit == inf


@dataclass(frozen=True, eq=False)
class Lowered:
    """A plan in numbered slots; there is no `opening` if the network is asked about the first sample as it is.

    The slots of the registers in `factors` hold them divided by these.
    """

    slots: int
    opening: LoweredStage | None
    stages: tuple[LoweredStage, ...]
    factors: Mapping[str, float]

    @cached_property
    def is_simple(self) -> bool:
        """True if each stage adds a multiple to an array."""
        return all(stage.is_simple for stage in self.stages)


class BoundStage(NamedTuple):
    """A lowered stage with what one executor runs it by.

    In a run these are functions: `show` of the sample (None where the network sees it as it is), `convert` of the
    places, which answers with the data prediction to transform, and `update` of the places, which computes the sums.
    Rows of the compiled module have programs for `show` and `update`. What is looked at in each step is here as well:
    the slots that the stage `keeps` and `frees`, and its `traits` as a number.
    """

    lowered: LoweredStage
    show: Any
    convert: Callable[[list[Any]], Any] | None
    update: Any
    keeps: int | None
    frees: tuple[int, ...]
    traits: int

    @classmethod
    def of(cls, stage: LoweredStage, show: Any = None, update: Any = None, convert: Any = None) -> BoundStage:
        """`stage` with what runs it."""
        return cls(stage, show, convert, update, stage.keeps, stage.frees, stage.traits.value)


def numbered(sums: Sequence[Sum], last: frozenset[int] = frozenset()) -> tuple[list[int], list[tuple[int, ...]]]:
    """The places that `sums` read and have not written before, and for each sum the numbers of its sources.

    Numbers count these inputs, those in `last` after the others, and then the results of the sums.
    """
    inputs: dict[int, None] = {}
    written: set[int] = set()
    for total in sums:
        inputs |= dict.fromkeys(source for source in total.sources if source not in written)
        written.add(total.target)
    ordered = sorted(inputs, key=lambda place: place in last)
    number = {place: index for index, place in enumerate(ordered)}
    sources = []
    for index, total in enumerate(sums, len(ordered)):
        sources.append(tuple(number[source] for source in total.sources))
        number[total.target] = index
    return ordered, sources
