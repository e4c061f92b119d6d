"""Where the steps of the scheduler classes fall: timesteps and sigmas as users of diffusers get them.

The formulas are those of :mod:`diffusolve.spacing`; what is particular here is which of them a configuration asks for,
between which ends they run, and how the timesteps are rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diffusolve import spacing
from diffusolve.errors import unknown_name
from diffusolve.noise import Grid, NoiseSchedule, Scaling, SignalTable
from diffusolve.spacing import Leading, Linspace, Trailing

if TYPE_CHECKING:
    from diffusolve.spacing.by_sigma import RampSpacing

__all__ = ["RAMPS", "Levels", "check_exclusive", "grid_through", "ramp", "ramp_asked_for", "timestep_levels"]

Array = npt.NDArray[np.float64]

TIMESTEP_SPACINGS = ("linspace", "leading", "trailing")

RAMPS = {
    "use_karras_sigmas": "Karras",
    "use_exponential_sigmas": "Exponential",
    "use_beta_sigmas": "BetaSigmas",
    "use_lu_lambdas": "Exponential",
}
"""Configuration key -> the curve in :mod:`diffusolve.spacing` that it asks for. At most one may be set."""


class Levels(NamedTuple):
    """Timesteps, shape (steps,), and sigmas, shape (steps + 1,) with the final one, by the field's convention."""

    timesteps: Array
    sigmas: Array


def timestep_levels(
    timestep_spacing: str, steps: int, count: int, *, steps_offset: int, whole: bool, beyond_last: bool
) -> Array:
    """The `steps` timesteps out of `count`, from the noisiest.

    Args:
        timestep_spacing: linspace, leading or trailing.
        steps: how many.
        count: how many training timesteps there are to choose from.
        steps_offset: added to leading timesteps.
        whole: round linspace to whole timesteps.
        beyond_last: choose one more and leave out the lowest, as the DPM-Solver family does.

    Raises:
        UnknownNameError: no such spacing.
        ValueError: fewer than one step, more than `count`, or an offset that leaves the table.
    """
    if steps < 1 or steps > count:
        raise ValueError(f"num_inference_steps is {steps}: expected 1 to {count}, the number of training timesteps.")
    if timestep_spacing == "linspace":
        if steps == 1 and not beyond_last:
            return np.zeros(1)  # as in diffusers, where a single step starts from the first timestep, not the last
        return Linspace(to_first=not beyond_last, whole=whole).levels(steps, count)
    if timestep_spacing == "leading":
        return Leading(steps_offset=steps_offset).levels(steps + beyond_last, count)[:steps]
    if timestep_spacing == "trailing":
        return Trailing().levels(steps, count)
    raise unknown_name("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)


def ramp_asked_for(config: Mapping[str, Any]) -> str | None:
    """Which of :data:`RAMPS` the configuration asks for."""
    return next((key for key in RAMPS if config.get(key)), None)


def grid_through(noise_schedule: NoiseSchedule, levels: Levels, scaling: Scaling | None) -> Grid:
    """The points at `levels`, in `scaling` if one is given."""
    timesteps = np.append(levels.timesteps, 0.0)  # the network is not asked at the end
    grid = Grid.through(noise_schedule, levels.sigmas, timesteps)
    return grid if scaling is None else grid.in_scaling(scaling)


def check_exclusive(config: Mapping[str, Any], curves_of_flow: Collection[str] = ()) -> None:
    """Raise ValueError if the configuration asks for more than one curve of sigmas.

    With `use_flow_sigmas` those in `curves_of_flow` may be asked for.
    """
    asked = [key for key in (*RAMPS, "use_flow_sigmas") if config.get(key)]
    if len(asked) > 1 and not (len(asked) == 2 and asked[1] == "use_flow_sigmas" and asked[0] in curves_of_flow):
        raise ValueError(f"{' and '.join(asked)} exclude each other: set only one of them.")


def ramp(key: str, steps: int, low: float, high: float, noise_schedule: SignalTable) -> Array:
    """The `steps` sigmas from `high` to `low` along the curve that configuration key `key` names."""
    curve: RampSpacing = getattr(spacing, RAMPS[key])()
    sigmas = curve.ramp(np.linspace(0.0, 1.0, steps), low, high, noise_schedule.scaling)
    if steps > 1:
        sigmas[-1] = low  # to the bit, so that a step from there to sigma_min is none
    return sigmas
