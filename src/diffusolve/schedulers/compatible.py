"""The scheduler classes that can take each other's configuration."""

from __future__ import annotations

from enum import Enum

__all__ = ["COMPATIBLE", "KarrasDiffusionSchedulers"]


class KarrasDiffusionSchedulers(Enum):
    """The schedulers that sample the same models, with the numbers that diffusers gives them."""

    DDIMScheduler = 1
    DDPMScheduler = 2
    PNDMScheduler = 3
    LMSDiscreteScheduler = 4
    EulerDiscreteScheduler = 5
    HeunDiscreteScheduler = 6
    EulerAncestralDiscreteScheduler = 7
    DPMSolverMultistepScheduler = 8
    DPMSolverSinglestepScheduler = 9
    KDPM2DiscreteScheduler = 10
    KDPM2AncestralDiscreteScheduler = 11
    DEISMultistepScheduler = 12
    UniPCMultistepScheduler = 13
    DPMSolverSDEScheduler = 14


COMPATIBLE = (
    *(kind.name for kind in KarrasDiffusionSchedulers),
    "DPMSolverSinglestepAncestralScheduler",
    "DPMSolverFastScheduler",
)
"""The names of all classes that sample the same models, those that diffusers has none for at the end."""
