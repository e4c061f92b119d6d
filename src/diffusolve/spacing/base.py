"""The base of spacings: a rule that turns a noise schedule and a number of steps into a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffusolve.errors import check_numbers, shown, unknown_name
from diffusolve.noise import Grid, NoiseSchedule

__all__ = ["FINAL_SIGMAS", "Spacing"]

Array = npt.NDArray[np.float64]

MOST_STEPS = 100_000
"""The most steps of a grid: a plan of so many takes half a minute to make."""

FINAL_SIGMAS = ("zero", "sigma_min")
"""The ends that a grid can have: the data itself, or the smallest sigma that the network was trained on."""


@dataclass(frozen=True, kw_only=True)
class Spacing(ABC):
    """A rule that says where the steps fall. A frozen value; :meth:`grid` applies it.

    Args:
        final_sigma: "zero": after the last of the sigmas comes 0, the data. "sigma_min": the last step ends at the
            smallest trained sigma, and the sample keeps that much noise.
    """

    final_sigma: str = "zero"

    def __post_init__(self) -> None:
        check_numbers(type(self).__name__, vars(self))
        inner = vars(self).get("inner", self)
        if not isinstance(inner, Spacing):
            raise TypeError(
                f"inner of {type(self).__name__} is {shown(inner)}: expected a spacing, for example "
                "diffusolve.spacing.Karras()."
            )
        if self.final_sigma not in FINAL_SIGMAS:
            raise unknown_name("final_sigma", self.final_sigma, FINAL_SIGMAS)

    @abstractmethod
    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        """The grid of `steps` steps over `noise_schedule`.

        Args:
            noise_schedule: the schedule that the network was trained with.
            steps: how many, at least 1; spacings with a number of steps of their own take it from there.

        Raises:
            ValueError: too few or too many steps, or a spacing that the schedule has no room for.
        """


def checked_steps(steps: int | None, most: int | None = None) -> int:
    """`steps`, which must be a whole number from 1 to `most`."""
    if steps is None:
        raise ValueError("steps is missing: how many steps should the sampler take? 20 is usual.")
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise TypeError(f"steps is {steps!r}: expected a whole number, at least 1.")
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps is {shown(steps)}: expected at least 1, and at most {MOST_STEPS:,}.")
    if most is not None and steps > most:
        raise ValueError(f"steps is {steps}, but the noise schedule holds only {most} timesteps: use at most {most}.")
    return int(steps)
