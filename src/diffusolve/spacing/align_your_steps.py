"""Align Your Steps: sigmas that were found by optimization, one table per model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffusolve.errors import unknown_name
from diffusolve.noise import Grid, NoiseSchedule
from diffusolve.spacing.base import Array, Spacing, checked_steps

__all__ = ["ALIGN_YOUR_STEPS", "AlignYourSteps"]

ALIGN_YOUR_STEPS: dict[str, tuple[float, ...]] = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "deepfloyd": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
    "sd15_gits": (14.615, 4.617, 2.507, 1.236, 0.702, 0.402, 0.240, 0.156, 0.104, 0.094, 0.029),
}
"""Model -> sigma / alpha at the eleven ends of ten steps (Sabour et al. 2024, table 3): Stable Diffusion 1.5 and XL,
DeepFloyd IF's first stage, Stable Video Diffusion.

Two more are Forge's: "sd15_gits", its "Align Your Steps GITS", follows the curvature of trajectories (Chen et al. 2024,
On the Trajectory Regularity of ODE-based Diffusion Sampling), and "sd15_32" has 32 sigmas, which lie between those of
"sd15" with a last one of 0.015."""


@dataclass(frozen=True, kw_only=True)
class AlignYourSteps(Spacing):
    """Sigmas optimized for a model (Sabour et al. 2024, table 3).

    Ten steps take the table as it is; for other numbers its logarithm is interpolated, linearly in the position. The
    table is about sigma / alpha, whatever the scaling of the samples. With ``final_sigma="sigma_min"`` the steps end at
    the table's last sigma.

    A table fits noise schedules other than its model's, too: where it lies inside the trained range it only says where
    the steps fall. It is refused where it would ask the network about noise that it was not trained on.

    Args:
        model: which table, one of :data:`ALIGN_YOUR_STEPS`: sd15, sdxl, deepfloyd, svd, sd15_gits or sd15_32.
        to_last: what ``final_sigma="zero"`` means. False: the last sigma is 0 in place of the table's, as in the
            authors' program and ComfyUI. True: the table's last sigma is one of the `steps` sigmas, and a step from it
            to 0 follows, as in A1111.
        below_trained: a table may end below the smallest trained sigma, of which the network is then told in its place,
            as Forge's "Align Your Steps 32" does on Stable Diffusion 1.5.
    """

    model: str = "sd15"
    to_last: bool = False
    below_trained: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model not in ALIGN_YOUR_STEPS:
            raise unknown_name("model of Align Your Steps", self.model, ALIGN_YOUR_STEPS)
        if self.to_last and self.final_sigma != "zero":
            raise ValueError("to_last says how the steps end at zero: leave it out with final_sigma='sigma_min'.")

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        steps = checked_steps(steps, noise_schedule.num_train_timesteps if noise_schedule.is_discrete else None)
        ratios = interpolated(ALIGN_YOUR_STEPS[self.model], steps if self.to_last else steps + 1)
        evaluated = ratios if self.to_last else ratios[:-1]
        self._check_range(noise_schedule, evaluated)
        sigmas = noise_schedule.scaling.sigma_from_log_snr(-np.log(ratios if self.final_sigma != "zero" else evaluated))
        return Grid.from_sigmas(noise_schedule, sigmas if self.final_sigma != "zero" else np.append(sigmas, 0.0))

    def _check_range(self, noise_schedule: NoiseSchedule, ratios: Array) -> None:
        """Raise unless the network was trained on all of `ratios`, up to the tables' rounding."""
        ends = np.array([noise_schedule.sigma_min, noise_schedule.sigma_max])
        low, high = np.exp(-noise_schedule.scaling.log_snr(ends)).tolist()
        too_low = ratios[-1] < low * 0.99 and not self.below_trained
        if ratios[0] > high * 1.001 or too_low:  # five digits at the top, two at the bottom
            raise ValueError(
                f"the {self.model} table of Align Your Steps asks the network about sigma / alpha from {ratios[0]:g} "
                f"to {ratios[-1]:g}, but {noise_schedule} was trained from {high:g} to {low:g} only: use the table of "
                "another model, or another spacing."
            )


def interpolated(table: tuple[float, ...], count: int) -> Array:
    """`count` values along `table`, linear in the logarithm; the first and the last are the table's."""
    if count == len(table):
        return np.array(table)
    positions = np.linspace(0.0, len(table) - 1, count)
    return np.asarray(np.exp(np.interp(positions, np.arange(len(table)), np.log(table))))


ALIGN_YOUR_STEPS["sd15_32"] = tuple(interpolated((*ALIGN_YOUR_STEPS["sd15"][:-1], 0.015), 32).tolist())
