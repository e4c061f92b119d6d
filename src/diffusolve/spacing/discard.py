"""Leaving out the last sigma before the end."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diffusolve.noise import Grid, NoiseSchedule
from diffusolve.spacing.base import Spacing, checked_steps

__all__ = ["DiscardPenultimate"]


@dataclass(frozen=True)
class DiscardPenultimate(Spacing):
    """Another spacing of one step more, without the last sigma but one, so that the last step is longer.

    A1111 calls it "discard next-to-last sigma" and does it for DPM2 and DPM2 a, ComfyUI for dpm_2, dpm_2_ancestral,
    uni_pc and uni_pc_bh2.

    Args:
        inner: where the steps fall.
        final_sigma: as in `inner`, which is changed to it where they differ.
    """

    inner: Spacing

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.final_sigma == "zero":  # what it is when not given
            object.__setattr__(self, "final_sigma", self.inner.final_sigma)
        elif self.final_sigma != self.inner.final_sigma:
            object.__setattr__(self, "inner", replace(self.inner, final_sigma=self.final_sigma))

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        if steps is not None:
            most = noise_schedule.num_train_timesteps - 1 if noise_schedule.is_discrete else None
            steps = checked_steps(steps, most) + 1
        grid = self.inner.grid(noise_schedule, steps)
        if grid.steps < 2:
            raise ValueError(f"{self.inner} has a single step: expected two, so that one is left.")
        return Grid((*grid.points[:-2], grid.points[-1]), grid.noise_schedule, grid.scaling)
