"""What the schedulers have in common whose steps depend on the timestep alone (DDIM, DDPM)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from diffusolve.backends import DrawNoise, Run
from diffusolve.noise import Grid, Point
from diffusolve.plan import Plan, plan_for, trace
from diffusolve.schedulers.scheduler import Prepared
from diffusolve.schedulers.timestep_space import TimestepScheduler

__all__ = ["OneStepScheduler"]

NO_SIGNAL = 2.0**-60
"""Stands for alpha = 0 where a data prediction of epsilon is infinite before it is clipped."""


class OneStepScheduler(TimestepScheduler):
    """Each step is a plan of its own, found by its timestep: steps may be made in any order, and repeated."""

    @abstractmethod
    def _previous(self, timestep: int, index: int | None) -> int:
        """Where a step from `timestep`, number `index` of the run if that is known, leads; below 0: to the end."""

    @property
    def plan(self) -> Plan:
        """The run as a table of coefficients, if its steps are made in order."""
        grid = self.grid
        return plan_for(self._solver(grid.steps), grid, self._prediction)

    def _configured(self) -> None:
        super()._configured()
        self._runs: dict[tuple[Any, ...], Run] = {}

    def _set_timesteps(
        self,
        num_inference_steps: int | None,
        device: Any,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        before = self._generation
        super()._set_timesteps(num_inference_steps, device, timesteps, sigmas)
        if before is None or before.prepared is not self._running.prepared:
            self._runs = {}

    def _prepare(self, steps: int, timesteps: tuple[float, ...] | None, sigmas: tuple[float, ...] | None) -> Prepared:
        levels = self._levels(steps, timesteps, sigmas)
        shown = levels.timesteps.astype(np.int64)
        return Prepared(self._grid(levels), None, shown, levels.sigmas)  # type: ignore[arg-type]  # a plan for each step

    def _run_at(self, timestep: Any, noise: DrawNoise | None, **options: Any) -> Run:
        """A run of the step from `timestep` in the present run."""
        at, index = self._found(timestep)
        key = at, *options.values()
        known = self._runs.get(key)
        if known is not None:
            run = known.again(noise)
        else:
            points = self._point(at), self._point(self._previous(at, index))
            grid = Grid(points, self.noise_schedule, self.space)
            plan = trace(self._solver(1, **options), grid, self._prediction)
            run = Run(plan, noise, self._transform)
        self._runs[key] = run  # in time with its preparations
        return run

    def _found(self, timestep: Any) -> tuple[int, int | None]:
        """`timestep` as a number, and its position in the run's timesteps if that is known without reading it."""
        index = None if self._generation is None else self._generation.index_of_view(timestep)
        if index is not None:
            return self._running.values[index], index
        value, count = float(timestep), len(self._tables.noise_schedule.signal)
        if value != int(value) or not 0 <= value < count:
            raise ValueError(f"timestep is {value:g}: expected a whole number from 0 to {count - 1}.")
        return int(value), None

    def _point(self, timestep: int) -> Point:
        point = super()._point(timestep)
        if point.alpha == 0 and self._transform is not None and self._prediction.name == "epsilon":
            return Point(timestep, NO_SIGNAL, 1.0)
        return point

    def _stepped(self, run: Run, model_output: Tensor, sample: Tensor) -> Tensor:
        """The sample after the step that `run` is of."""
        previous: Tensor = run.step(model_output, sample)
        return previous if previous.dtype is model_output.dtype else previous.to(model_output.dtype)
