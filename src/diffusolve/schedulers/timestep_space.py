"""What the schedulers have in common that step from timestep to timestep (DDIM, DDPM, PNDM)."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
import torch

from diffusolve.noise import Point, SignalTable
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.spacing import Levels, timestep_levels

__all__ = ["TimestepScheduler", "levels_at"]

Array = np.ndarray[Any, np.dtype[np.float64]]


class TimestepScheduler(Scheduler):
    """Samples are as the network takes them; timesteps are whole, and those below 0 are the end."""

    init_noise_sigma: float = 1.0

    def _configured(self) -> None:
        super()._configured()
        self.final_alpha_cumprod = torch.tensor(self._end_power)

    @property
    def _end_power(self) -> float:
        """alpha^2 at the end."""
        return 1.0 if self.config["set_alpha_to_one"] else self._tables.noise_schedule.signal[0]

    def _levels(self, steps: int, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None) -> Levels:
        return levels_at(self._tables.noise_schedule, self._chosen(steps, timesteps), self._end_power)

    def _chosen(self, steps: int, timesteps: Sequence[float] | None) -> Array:
        """The timesteps given, or those of `steps` steps."""
        return np.array(timesteps, np.float64) if timesteps is not None else self._spaced(steps)

    def _spaced(self, steps: int) -> Array:
        """The timesteps of a run, each half of one rounded to the side where diffusers has it.

        With some numbers of steps (61, 103, ...) diffusers has one "trailing" timestep more, -1, which is left out.
        """
        config, count = self.config, len(self)
        spacing = config["timestep_spacing"]
        levels = timestep_levels(
            spacing, steps, count, steps_offset=config["steps_offset"], whole=True, beyond_last=False
        )
        if spacing == "linspace" and steps > 1:
            levels = np.rint(np.linspace(0, count - 1, steps))[::-1]
        elif spacing == "trailing":
            levels = np.rint(np.arange(count, 0, -count / steps))[:steps] - 1
        return levels

    def _point(self, timestep: int) -> Point:
        """Where samples stand at `timestep`."""
        power = self._tables.noise_schedule.signal[timestep] if timestep >= 0 else self._end_power
        return Point(timestep, sqrt(power), sqrt(1 - power))


def levels_at(noise_schedule: SignalTable, timesteps: Array, end_power: float) -> Levels:
    """The levels at whole `timesteps`, and the end, where alpha^2 is `end_power`."""
    return Levels(timesteps, np.append(noise_schedule.sigma(timesteps), (1 / end_power - 1) ** 0.5))
