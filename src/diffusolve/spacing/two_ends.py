"""Equal steps between the ends of another spacing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffusolve.noise import Grid, NoiseSchedule, Scaling
from diffusolve.spacing.base import Spacing

__all__ = ["TwoEnds"]


@dataclass(frozen=True, kw_only=True)
class TwoEnds(Spacing):
    """As many steps as another spacing makes, equal in log sigma, from its first sigma to its last one above 0.

    It is for samplers that divide the way themselves, as programs call them: where they end follows from the schedule.
    What is left of the noise stays in the sample, which the programs hand on as it is: on a variance preserving
    schedule it is scaled to alpha = 1, like theirs.

    Args:
        inner: the other spacing.
        of_steps: the number of its steps if none or one is asked for, as of adaptive samplers; 1 where it has the same
            ends in any number of steps.
    """

    inner: Spacing
    of_steps: int | None = None

    @property
    def ends_follow_steps(self) -> bool:
        """True if an adaptive sampler ends elsewhere when it is told another number of steps."""
        return self.of_steps != 1

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        unasked = self.of_steps is not None and steps in (None, 1)
        grid = self.inner.grid(noise_schedule, self.of_steps if unasked else steps)
        sigmas = noise_schedule.scaling.sigma_from_log_snr([point.log_snr for point in grid])
        above = sigmas[sigmas > 0]
        if len(above) < 2:
            raise ValueError("the schedule has a single sigma above 0, so that there is no way to divide: use 2 steps.")
        made = Grid.from_sigmas(noise_schedule, np.geomspace(above[0], above[-1], grid.steps + 1))
        return made if made.scaling.is_linear_in_sigma else made.in_scaling(Scaling.VARIANCE_EXPLODING)
