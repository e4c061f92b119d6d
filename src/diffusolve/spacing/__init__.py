"""Spacings: where the steps of a sampler fall."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusolve.spacing.align_your_steps import ALIGN_YOUR_STEPS as ALIGN_YOUR_STEPS
    from diffusolve.spacing.align_your_steps import AlignYourSteps as AlignYourSteps
    from diffusolve.spacing.base import FINAL_SIGMAS as FINAL_SIGMAS
    from diffusolve.spacing.base import Spacing as Spacing
    from diffusolve.spacing.by_sigma import BetaSigmas as BetaSigmas
    from diffusolve.spacing.by_sigma import BongTangent as BongTangent
    from diffusolve.spacing.by_sigma import Exponential as Exponential
    from diffusolve.spacing.by_sigma import Karras as Karras
    from diffusolve.spacing.by_sigma import KLOptimal as KLOptimal
    from diffusolve.spacing.by_sigma import LinearQuadratic as LinearQuadratic
    from diffusolve.spacing.by_sigma import Polyexponential as Polyexponential
    from diffusolve.spacing.by_sigma import Sigmas as Sigmas
    from diffusolve.spacing.by_sigma import UniformLogSNR as UniformLogSNR
    from diffusolve.spacing.by_timestep import Beta as Beta
    from diffusolve.spacing.by_timestep import Counted as Counted
    from diffusolve.spacing.by_timestep import Distilled as Distilled
    from diffusolve.spacing.by_timestep import Leading as Leading
    from diffusolve.spacing.by_timestep import LeadingIntervals as LeadingIntervals
    from diffusolve.spacing.by_timestep import Linspace as Linspace
    from diffusolve.spacing.by_timestep import Simple as Simple
    from diffusolve.spacing.by_timestep import Timesteps as Timesteps
    from diffusolve.spacing.by_timestep import Trailing as Trailing
    from diffusolve.spacing.discard import DiscardPenultimate as DiscardPenultimate
    from diffusolve.spacing.flow import Shifted as Shifted
    from diffusolve.spacing.names import SPACINGS as SPACINGS
    from diffusolve.spacing.names import spacing as spacing
    from diffusolve.spacing.table_size import TableSize as TableSize
    from diffusolve.spacing.two_ends import TwoEnds as TwoEnds

# Attribute -> module, imported when first asked for: a scheduler class needs few of them.
_HOME = {
    "ALIGN_YOUR_STEPS": "align_your_steps",
    "AlignYourSteps": "align_your_steps",
    "FINAL_SIGMAS": "base",
    "Spacing": "base",
    "BetaSigmas": "by_sigma",
    "BongTangent": "by_sigma",
    "Exponential": "by_sigma",
    "KLOptimal": "by_sigma",
    "Karras": "by_sigma",
    "LinearQuadratic": "by_sigma",
    "Polyexponential": "by_sigma",
    "Sigmas": "by_sigma",
    "UniformLogSNR": "by_sigma",
    "Beta": "by_timestep",
    "Counted": "by_timestep",
    "Distilled": "by_timestep",
    "Leading": "by_timestep",
    "LeadingIntervals": "by_timestep",
    "Linspace": "by_timestep",
    "Simple": "by_timestep",
    "Timesteps": "by_timestep",
    "Trailing": "by_timestep",
    "DiscardPenultimate": "discard",
    "Shifted": "flow",
    "SPACINGS": "names",
    "spacing": "names",
    "TableSize": "table_size",
    "TwoEnds": "two_ends",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
