"""Another spacing over a table of more sigmas than there are training timesteps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diffusolve.noise import FlowMatching, Grid, NoiseSchedule
from diffusolve.spacing.base import Spacing

__all__ = ["TableSize"]


@dataclass(frozen=True, kw_only=True)
class TableSize(Spacing):
    """Another spacing over a table of flow matching's sigmas that is finer than the training timesteps are.

    What the network is told does not change, and other noise schedules are left alone.

    Args:
        inner: where the steps fall.
        size: how many sigmas the table has; that of the noise schedule's row in `known` when missing.
        known: noise schedules with the size of a program's table for them. Those that are not there have as many sigmas
            as training timesteps.
        final_sigma: as in `inner`.
    """

    inner: Spacing
    size: int | None = None
    known: tuple[tuple[NoiseSchedule, int], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "final_sigma", self.inner.final_sigma)

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        size = self.size or dict(self.known).get(noise_schedule)
        if size is None or not isinstance(noise_schedule, FlowMatching):
            return self.inner.grid(noise_schedule, steps)
        finer: Any = replace(noise_schedule, num_train_timesteps=size)
        return Grid.from_sigmas(noise_schedule, self.inner.grid(finer, steps).sigmas)
