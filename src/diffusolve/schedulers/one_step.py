"""The base of schedulers whose steps depend on the timestep alone (DDIM, DDPM)."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.backends import DrawNoise, Run
from diffusolve.noise import Grid, Point
from diffusolve.plan import trace
from diffusolve.schedulers.asked import Asked
from diffusolve.schedulers.cache import Cache
from diffusolve.schedulers.generation import Generation, Noise, Prepared
from diffusolve.schedulers.given import check_tensors, number_of
from diffusolve.schedulers.outputs import SchedulerOutputWithData
from diffusolve.schedulers.registry import notice_writes
from diffusolve.schedulers.scheduler import index_of
from diffusolve.schedulers.timestep_scheduler import TimestepScheduler

__all__ = [
    "OneStepScheduler",
    "end_by_another_name",
    "following_timestep",
    "noise_as",
    "strided_timestep",
    "variance_between",
]

StepKey = tuple[Any, ...]
"""The timestep that a step is from, the one that it leads to, and its options."""

MOST_STEPS = 1024
"""The most steps whose plans a scheduler remembers."""

MANY = 1 << 18
"""The numbers in the smallest sample whose memory is kept from step to step, where that is a matter of page faults."""

NO_SIGNAL = 2.0**-60
"""Stands for alpha = 0 where a data prediction of epsilon is infinite before it is clipped."""


class OneStepScheduler(TimestepScheduler):
    """Each step is a plan of its own, found by its timestep: steps may be made in any order, and repeated."""

    output = SchedulerOutputWithData
    steps_alone = True
    replaceable: ClassVar[frozenset[str]] = frozenset({"_get_variance", "_threshold_sample"})

    @abstractmethod
    def _previous(self, generation: Generation | None, timestep: int, place: int | None) -> int:
        """The timestep that a step from `timestep` leads to, at `place` of the run if known; below 0: the end."""

    def _configured(self) -> None:
        super()._configured()
        self._steps_made: Cache[StepKey, Run] = Cache(MOST_STEPS)

    def _forget_plans(self) -> None:
        super()._forget_plans()
        self._forget_runs()

    def _follow(self, generation: Generation | None) -> None:
        with self._registry.lock:
            self._follow_configuration()
            if self._edition is not self._edition_of_plans:
                self._forget_runs()
            self._edition_of_plans = self._edition
            self._followed_edition = None if self._signal_is_handed_out else self._edition
        if generation is not None and generation.followed is not self._edition:
            generation.edition = generation.followed = self._edition
            if generation.timesteps_written:
                asked = Asked(len(generation.values), tuple(generation.values))
                generation.go_on_with(self._prepare(asked), None)

    _followed_edition: object = None
    _edition_of_plans: object = None

    @property
    def _clips(self) -> bool:
        """True where data predictions are changed before they are used."""
        if self._edition is not self._followed_edition:
            self._follow(None)
        return self._transform is not None

    def _forget_runs(self) -> None:
        self._steps_made = Cache(MOST_STEPS)

    def _prepare(self, asked: Asked) -> Prepared:
        at = self._chosen(asked)
        return Prepared(partial(self._run_grid, asked), self._solver(len(at)), self._prediction, at.astype(np.int64))

    def _run_grid(self, asked: Asked) -> Grid:
        return self._steps(asked).grid(self.noise_schedule, self.scaling)

    def _run_at(
        self, timestep: Any, noise: DrawNoise | None, to: int | None = None, **options: Any
    ) -> tuple[StepKey, Run]:
        """A run of the step from `timestep`, which leads `to` the timestep given if one is; and what determines it."""
        generation, at, place = self._asked(timestep)
        key = at, self._previous(generation, at, place) if to is None else to, *options.values()
        first = self._steps_made.get(key)
        if first is not None:
            return key, first.from_start(noise)
        self._steps_made.make_room()
        self._check_signal(max(at, key[1]))
        grid = Grid(self._ends(at, key[1]), self.noise_schedule, self.scaling)
        plan = trace(self._solver(1, **options), grid, self._prediction)
        return key, self._run_of(plan, noise)

    def _ends(self, timestep: int, other: int) -> tuple[Point, Point]:
        """The points that a step goes from and to, when the network is asked at `timestep`, and `other` is that of
        :meth:`_previous`."""
        return self._point(timestep), self._point(other)

    def _asked(self, timestep: Any) -> tuple[Generation | None, int, int | None]:
        """The run that `timestep` belongs to, `timestep` as a number, and its place if it is known without reading."""
        generation, place = self._registry.of(timestep)
        if self._edition is not self._followed_edition:
            self._follow(generation)
        if generation is not None and place is not None:
            notice_writes(generation, timestep)
            return generation, generation.values[place], place  # type: ignore[return-value]  # they are whole
        value, count = number_of(timestep), len(self._tables.noise_schedule.signal)
        if value != int(value) or not 0 <= value < count:
            raise ValueError(f"timestep is {value:g}: expected a whole number from 0 to {count - 1}.")
        return generation, int(value), None

    def _point(self, timestep: int) -> Point:
        point = super()._point(timestep)
        if point.alpha == 0 and self._transform is not None and self._prediction.name == "epsilon":
            return Point(timestep, NO_SIGNAL, 1.0)
        return point

    def _stepped(self, key: StepKey, run: Run, model_output: Tensor, sample: Tensor) -> Tensor:
        """The sample after the step that `run` is of."""
        try:
            is_usual = sample.dtype is model_output.dtype and sample.dtype.is_floating_point
        except AttributeError:
            is_usual = False
        if not is_usual:
            sample = self._promoted(sample, model_output)
        generation = self._generation if sample.numel() >= MANY else None
        if generation is None:
            previous = self._walk(run, model_output, sample)
        else:
            run.keep(generation.memory_for(key[0]))
            previous = self._walk(run, model_output, sample)
            run.keep(None)
        self._steps_made[key] = run  # for others like it: done, it changes no more
        return previous

    def _rows_stepped(self, model_output: Tensor, timesteps: Tensor, sample: Tensor, **options: Any) -> Tensor:
        """The rows of a batch one step on, each by the plan of the step from its own timestep, without noise."""
        if len(timesteps) != len(sample):
            raise ValueError(f"{len(timesteps)} timesteps are given for {len(sample)} samples: expected one for each.")
        noise = Noise(None).drawn_from(None, torch.zeros_like(sample[:1]))
        rows = []
        for row, timestep in enumerate(timesteps):
            output, x = model_output[row : row + 1], sample[row : row + 1]
            rows.append(self._stepped(*self._run_at(timestep, noise, **options), output, x))
        return torch.cat(rows)


def noise_as(output: Tensor, sample: Tensor) -> Noise:
    """A source of noise in the precision of a network's `output`. Raises TypeError if it is no tensor."""
    try:
        return Noise(output.dtype)
    except AttributeError:
        check_tensors(output, sample)
        raise


def variance_between(scheduler: Any, timestep: int | Tensor, prev_timestep: int | Tensor) -> Tensor:
    """The variance of the noise in a step between two timesteps with ``eta=1`` (Song et al. 2021, equation 16)."""
    table = scheduler._signal
    power, before = table[timestep], table[prev_timestep] if prev_timestep >= 0 else scheduler.final_alpha_cumprod
    variance: Tensor = (1 - before) / (1 - power) * (1 - power / before)
    return variance


def strided_timestep(generation: Generation, timestep: int, place: int | None, count: int) -> int:
    """The timestep that a step leads to whose length is that of all: `count` divided by their number.

    Given timesteps are followed instead.
    """
    if generation.custom:
        return following_timestep(generation, timestep, place)
    return timestep - count // (generation.steps or len(generation.values))


def _write_end(scheduler: Any, power: Tensor) -> None:
    scheduler.final_alpha_cumprod = power


end_by_another_name = property(
    lambda scheduler: scheduler.final_alpha_cumprod,
    _write_end,
    doc="alpha^2 at the end, shape ().",
)
"""For classes that do not call it `final_alpha_cumprod`."""


def following_timestep(generation: Generation, timestep: int, place: int | None) -> int:
    """The timestep after `timestep` in a run, at `place` if that is known; -1 after the last one."""
    values = generation.values
    following = 1 + (index_of(timestep, values) if place is None else place)
    return int(values[following]) if following < len(values) else -1
