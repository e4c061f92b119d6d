"""Between a configuration and the library's spacings: which of them it asks for, and the steps that they make.

The formulas are those of :mod:`diffusolve.spacing`. Schedulers hand timesteps and sigmas to their users as well as to a
solver, so their steps are two arrays first and the points of a grid later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diffusolve import spacing
from diffusolve.errors import SingularPointError, unknown_name
from diffusolve.noise import Grid, NoiseSchedule, Scaling
from diffusolve.spacing import Leading, Linspace, Trailing

if TYPE_CHECKING:
    from diffusolve.spacing.by_sigma import RampSpacing
    from diffusolve.spacing.by_timestep import IndexSpacing

__all__ = [
    "Array",
    "Steps",
    "check_exclusive",
    "check_sigmas",
    "check_steps",
    "curve_asked_for",
    "curve_named",
    "spaced",
    "timestep_spacing",
]

Array = npt.NDArray[np.float64]

TIMESTEP_SPACINGS = ("linspace", "leading", "trailing")

CURVES = {
    "use_karras_sigmas": "Karras",
    "use_exponential_sigmas": "Exponential",
    "use_beta_sigmas": "BetaSigmas",
    "use_lu_lambdas": "Exponential",
}
"""Configuration key -> the curve in :mod:`diffusolve.spacing` that it asks for. At most one may be set."""


class Steps(NamedTuple):
    """Timesteps, shape (steps,), and sigmas, shape (steps + 1,) with the final one, by the field's convention."""

    timesteps: Array
    sigmas: Array

    def grid(self, noise_schedule: NoiseSchedule, scaling: Scaling | None) -> Grid:
        """The points at these steps, in `scaling` if one is given.

        Raises:
            SingularPointError: they have none in that scaling.
        """
        timesteps = np.append(self.timesteps, 0.0)  # the network is not asked at the end
        grid = Grid.through(noise_schedule, self.sigmas, timesteps)
        try:
            return grid if scaling is None else grid.in_scaling(scaling)
        except SingularPointError as error:
            raise SingularPointError(f"{error} The betas are those of trained_betas, or written.") from None


def timestep_spacing(
    name: str, *, steps_offset: int = 0, whole: bool = True, to_first: bool = True, stride: float | None = None
) -> IndexSpacing:
    """The spacing over training timesteps that `name` stands for in a configuration.

    Args:
        name: linspace, leading or trailing.
        steps_offset: added to leading timesteps.
        whole: round linspace to whole timesteps.
        to_first: end at the first training timestep; if not, choose one more and leave out the lowest, as the
            DPM-Solver family does.
        stride: of trailing timesteps, where it does not follow from the number of steps.

    Raises:
        UnknownNameError: no such spacing.
    """
    if name == "linspace":
        return Linspace(to_first=to_first, whole=whole, from_first=to_first)
    if name == "leading":
        return Leading(steps_offset=steps_offset, to_first=to_first)
    if name == "trailing":
        return Trailing(stride=stride)
    raise unknown_name("timestep_spacing", name, TIMESTEP_SPACINGS)


def spaced(rule: IndexSpacing, steps: int, count: int) -> Array:
    """The timesteps of `steps` steps out of `count`, from the noisiest.

    Raises:
        ValueError: fewer than one step, more than `count`, or an offset that leaves the table.
    """
    check_steps(steps, count)
    return rule.indices(steps, count)


def check_steps(steps: int, most: int, left_by: str = "") -> None:
    """Raise ValueError unless there are 1 to `most` steps, all training timesteps or those `left_by` another key."""
    if not 1 <= steps <= most:
        of = f", of which {left_by} leaves so many" if left_by else ""
        raise ValueError(f"num_inference_steps is {steps}: expected 1 to {most}, as there are num_train_timesteps{of}.")


def curve_asked_for(config: Mapping[str, Any]) -> str | None:
    """The key of :data:`CURVES` that the configuration asks for, if any."""
    return next((key for key in CURVES if config.get(key)), None)


def curve_named(key: str) -> RampSpacing:
    """The curve that the configuration key `key` asks for."""
    curve: RampSpacing = getattr(spacing, CURVES[key])()
    return curve


def check_sigmas(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless `sigma_min` lies below `sigma_max`."""
    low, high = config["sigma_min"], config["sigma_max"]
    if not low < high:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, got {low:g} and {high:g}.")


def check_exclusive(config: Mapping[str, Any], curves_of_flow: Collection[str] = ()) -> None:
    """Raise ValueError if the configuration asks for more than one curve of sigmas.

    With `use_flow_sigmas` those in `curves_of_flow` may be asked for.
    """
    asked = [key for key in (*CURVES, "use_flow_sigmas") if config.get(key)]
    if len(asked) > 1 and not (len(asked) == 2 and asked[1] == "use_flow_sigmas" and asked[0] in curves_of_flow):
        raise ValueError(f"{' and '.join(asked)} exclude each other: set only one of them.")
