"""A program as two tables: its samplers and its schedules, by the names that it gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from diffusolve.catalog.entries import CATALOG
from diffusolve.catalog.find import find
from diffusolve.catalog.folding import folded
from diffusolve.catalog.schedule_types import SCHEDULE_TYPES
from diffusolve.errors import UnknownNameError, unknown_name
from diffusolve.noise import NoiseSchedule
from diffusolve.solvers import Solver
from diffusolve.spacing import DiscardPenultimate, Exponential, Spacing, TableSize, TwoEnds

__all__ = ["World", "WorldSampler", "whole_way"]

ADAPTIVE_STEPS = 20
"""Of schedules from whose ends adaptive samplers step on their own, which are asked for no number of steps."""


def whole_way(solver: Solver) -> Spacing:
    """The ends for a `solver` that divides the way from the largest sigma to the least itself."""
    return TwoEnds(inner=Exponential(final_sigma="sigma_min"), of_steps=1 if solver.adaptive else None)


@dataclass(frozen=True)
class WorldSampler:
    """A sampler as a program has it.

    Attributes:
        name: the program's.
        entry: the name in :data:`~diffusolve.catalog.CATALOG`.
        solver: the algorithm with the options that make it the program's.
        discards: the program leaves out the last sigma but one.
        brownian: noise follows a Brownian path.
        own_steps: where the steps fall, whichever schedule is chosen.
        two_ends: only the first sigma of the schedule and its last one above 0 matter.
        automatic: the schedule that the program takes for the sampler when none is chosen.
    """

    name: str
    entry: str
    solver: Solver
    discards: bool = False
    brownian: bool = False
    own_steps: Spacing | None = None
    two_ends: bool = False
    automatic: str | None = None


@dataclass(frozen=True)
class World:
    """A program: its samplers and schedules by its own names.

    Attributes:
        name: what :func:`~diffusolve.sampler` knows the world by.
        program: the program.
        samplers: by their names.
        schedules: name -> where the steps fall.
        default: the schedule when none is named.
        table_sizes: noise schedules for which the program's table of sigmas is finer than the training timesteps, with
            the number of its sigmas.
    """

    name: str
    program: str
    samplers: Mapping[str, WorldSampler] = field(hash=False)
    schedules: Mapping[str, Spacing] = field(hash=False)
    default: str
    table_sizes: tuple[tuple[NoiseSchedule, int], ...] = ()

    def find(self, name: str) -> tuple[WorldSampler, str | None]:
        """The sampler and the schedule in `name`: the program's names, or the catalog's for the same.

        Raises:
            UnknownNameError: the program has no such sampler or schedule; the nearest that it has are named.
        """
        wanted = folded(name)
        samplers, schedules = self._sampler_names(), self._schedule_names()
        if wanted in samplers:
            return self.samplers[samplers[wanted]], None
        for schedule in sorted(schedules, key=len, reverse=True):
            if wanted.endswith(schedule) and wanted.removesuffix(schedule) in samplers:
                return self.samplers[samplers[wanted.removesuffix(schedule)]], schedules[schedule]
        raise self._unknown_sampler(name)

    def schedule(self, name: str) -> str:
        """The program's name of the schedule called `name`, there or in the catalog.

        Raises:
            UnknownNameError: the program has none of that name; the nearest that it has are named.
        """
        names = self._schedule_names()
        if folded(name) not in names:
            raise unknown_name(f"schedule of {self.program}", name, self.schedules)
        return names[folded(name)]

    def treated(self, sampler: WorldSampler, spacing: Spacing, discards: bool | None = None) -> Spacing:
        """`spacing` with what the program does to every schedule and to those of `sampler`; `discards` overrules it."""
        if self.table_sizes:
            spacing = TableSize(inner=spacing, known=self.table_sizes)
        if sampler.two_ends:
            return TwoEnds(inner=spacing, of_steps=ADAPTIVE_STEPS if sampler.solver.adaptive else None)
        if sampler.discards if discards is None else discards:
            spacing = DiscardPenultimate(spacing)
        return spacing

    def _sampler_names(self) -> dict[str, str]:
        """Every spelling, folded -> the program's name: the catalog's names stand for the program's first of them."""
        names: dict[str, str] = {}
        for row in self.samplers.values():
            entry = CATALOG[row.entry]
            for spelling in (entry.name, *entry.names):
                names.setdefault(folded(spelling), row.name)
        return names | {folded(name): name for name in self.samplers}

    def _schedule_names(self) -> dict[str, str]:
        """Every spelling, folded -> the program's name."""
        own = {folded(name): name for name in self.schedules}
        kinds = SCHEDULE_TYPES.values()
        return {folded(kind.name): own[folded(called)] for kind in kinds if (called := kind.called_in(self.name))} | own

    def _unknown_sampler(self, name: str) -> UnknownNameError:
        """The error for a `name` that the program does not have, with the nearest that it has."""
        schedule = self._schedule_names().get(folded(name))
        if schedule is not None:
            example = f"{next(iter(self.samplers))} {schedule}"
            return UnknownNameError(
                f"{name!r} is a schedule of {self.program}, not a sampler: name one before it, for example {example!r}."
            )
        try:
            entry = find(name)[0].name
        except UnknownNameError:
            return unknown_name(f"sampler of {self.program}", name, self._names_offered())
        has = {row.entry: row.name for row in self.samplers.values()}
        nearest = entry
        while nearest not in has:
            nearest = CATALOG[nearest].nearest
        if nearest == entry:
            return unknown_name(f"schedule of {self.program} in", name, self.schedules)
        return UnknownNameError(f"{self.program} has no sampler {name!r}: the nearest that it has is {has[nearest]!r}.")

    def _names_offered(self) -> Iterable[str]:
        return [*self.samplers, *(f"{sampler} {schedule}" for sampler in self.samplers for schedule in self.schedules)]


def table(*rows: WorldSampler) -> Mapping[str, WorldSampler]:
    """`rows` by their names."""
    return MappingProxyType({row.name: row for row in rows})
