"""The steps of scheduler classes: what `timestep_spacing` means to each family of them, as measured.

The tables answer without running a scheduler. `tests/test_translation.py` runs every class and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["CLASS_STEPS", "SAME_SIGMAS", "SCHEDULE_TYPES_OF_TIMESTEPS", "TIMESTEP_SPACINGS", "ClassSteps", "Ratios"]

SAME_SIGMAS = 1.001
"""Sigmas that differ by a smaller factor are the same: the classes' tables are in single precision."""

SCHEDULE_TYPES_OF_TIMESTEPS = ("Uniform", "SGM Uniform", "DDIM", "Leading", "Trailing", "Simple")
"""The schedule types that choose among timesteps, as the columns of the tables of ratios. "Normal" is "Uniform"."""

TIMESTEP_SPACINGS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "linspace": {"timestep_spacing": "linspace"},
        "leading": {"timestep_spacing": "leading", "steps_offset": 0},
        "leading + 1": {"timestep_spacing": "leading", "steps_offset": 1},
        "trailing": {"timestep_spacing": "trailing"},
    }
)
"""The configurations that choose among timesteps, as the rows of the tables of ratios."""

Ratios = Mapping[str, tuple[float, ...]]
"""Distances of the sigmas of each row of :data:`TIMESTEP_SPACINGS` from those of each schedule type in
:data:`SCHEDULE_TYPES_OF_TIMESTEPS`.

The largest ratio of the greater to the smaller sigma / alpha at which the network is asked, in 15, 20 and 30 steps on
Stable Diffusion's noise schedule. The end, at which it is not asked, does not count.
"""


@dataclass(frozen=True)
class ClassSteps:
    """The places of a scheduler class's steps.

    Attributes:
        ratios: how near each `timestep_spacing` is to each schedule type.
        to_first: the timesteps end at the first one; if not, they are those of one step more without the lowest.
        rounds: the timesteps of "linspace" are rounded to whole ones.
        strides: except with "leading", a step does not lead to the next timestep, but
            ``num_train_timesteps // num_inference_steps`` down from its own.
        curve_within_timesteps: a curve of sigmas (``use_karras_sigmas`` and the like) runs between the ends of the
            timesteps that `timestep_spacing` chooses; if not, between the ends of the training schedule.
        end: where sampling ends if no configuration key says it: "zero" or "sigma_min".
    """

    ratios: Ratios
    to_first: bool = True
    rounds: bool = False
    strides: bool = False
    curve_within_timesteps: bool = False
    end: str = "zero"


ALL_TIMESTEPS: Ratios = MappingProxyType(
    {  #            Uniform   SGM   DDIM  Leading Trailing Simple
        "linspace": (1.000, 9.143, 1.531, 1.540, 9.094, 9.094),
        "leading": (1.540, 9.143, 1.416, 1.000, 9.094, 9.094),
        "leading + 1": (1.531, 6.455, 1.000, 1.416, 6.420, 6.420),
        "trailing": (9.094, 1.022, 6.420, 9.094, 1.000, 1.017),
    }
)
"""Of classes whose "linspace" ends at the first timestep."""

WHOLE_TIMESTEPS: Ratios = MappingProxyType(
    {  #            Uniform   SGM   DDIM  Leading Trailing Simple
        "linspace": (1.007, 9.143, 1.531, 1.540, 9.094, 9.094),
        "leading": (1.540, 9.143, 1.416, 1.000, 9.094, 9.094),
        "leading + 1": (1.531, 6.455, 1.000, 1.416, 6.420, 6.420),
        "trailing": (9.094, 1.022, 6.420, 9.094, 1.000, 1.017),
    }
)
"""Of classes that round these timesteps."""

WITHOUT_THE_LOWEST: Ratios = MappingProxyType(
    {  #            Uniform   SGM   DDIM  Leading Trailing Simple
        "linspace": (9.176, 1.005, 6.478, 9.176, 1.017, 1.012),
        "leading": (8.762, 1.490, 6.186, 8.762, 1.490, 1.490),
        "leading + 1": (8.846, 1.482, 6.245, 8.846, 1.482, 1.482),
        "trailing": (9.094, 1.022, 6.420, 9.094, 1.000, 1.017),
    }
)
"""Of classes that choose one timestep more and leave out the lowest: the last step leads from there to the end."""

IN_SIGMA = ClassSteps(ALL_TIMESTEPS, curve_within_timesteps=True)
IN_LOG_SNR = ClassSteps(WITHOUT_THE_LOWEST, to_first=False, rounds=True)

CLASS_STEPS: Mapping[str, ClassSteps] = MappingProxyType(
    {
        "DDIMScheduler": ClassSteps(WHOLE_TIMESTEPS, rounds=True, strides=True),
        "DDPMScheduler": ClassSteps(WHOLE_TIMESTEPS, rounds=True),
        "DEISMultistepScheduler": ClassSteps(WITHOUT_THE_LOWEST, to_first=False, rounds=True, end="sigma_min"),
        "DPMSolverFastScheduler": IN_SIGMA,
        "DPMSolverMultistepScheduler": IN_LOG_SNR,
        "DPMSolverSDEScheduler": IN_SIGMA,
        "DPMSolverSinglestepAncestralScheduler": IN_SIGMA,
        "DPMSolverSinglestepScheduler": IN_LOG_SNR,  # has no key timestep_spacing: always "linspace"
        "EulerAncestralDiscreteScheduler": IN_SIGMA,
        "EulerDiscreteScheduler": IN_SIGMA,
        "HeunDiscreteScheduler": IN_SIGMA,
        "KDPM2AncestralDiscreteScheduler": IN_SIGMA,
        "KDPM2DiscreteScheduler": IN_SIGMA,
        "LMSDiscreteScheduler": IN_SIGMA,
        "PNDMScheduler": ClassSteps(WHOLE_TIMESTEPS, rounds=True, strides=True),
        "SASolverScheduler": ClassSteps(WITHOUT_THE_LOWEST, to_first=False, rounds=True, end="sigma_min"),
        "UniPCMultistepScheduler": IN_LOG_SNR,
    }
)
"""Class -> where its steps fall, for each class of the catalog that has no rule of its own."""
