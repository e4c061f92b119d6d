"""Equal steps between the ends of another spacing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffusolve.noise import Grid, NoiseSchedule
from diffusolve.spacing.base import Spacing

__all__ = ["TwoEnds"]


@dataclass(frozen=True, kw_only=True)
class TwoEnds(Spacing):
    """Equal steps in log sigma from the first sigma of another spacing to its last one above 0, and not on to 0.

    It is for samplers that divide the way themselves, as ComfyUI calls them: where they end follows from the schedule.

    Args:
        inner: the other spacing.
        of_steps: the number of its steps, where that is not the number of steps wanted: adaptive samplers have none.
    """

    inner: Spacing
    of_steps: int | None = None

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        grid = self.inner.grid(noise_schedule, self.of_steps or steps)
        sigmas = noise_schedule.scaling.sigma_from_log_snr([point.log_snr for point in grid])
        above = sigmas[sigmas > 0]
        if len(above) < 2:
            raise ValueError("the schedule has a single sigma above 0, so that there is no way to divide: use 2 steps.")
        return Grid.from_sigmas(noise_schedule, np.geomspace(above[0], above[-1], (steps or grid.steps) + 1))
