"""Align Your Steps under the names that diffusers has for the tables, as arguments of `set_timesteps`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from diffusolve.spacing import ALIGN_YOUR_STEPS

__all__ = ["AysSchedules"]


def _to_zero(model: str) -> list[float]:
    """The sigmas of ten steps, of which the last leads to 0."""
    return [*ALIGN_YOUR_STEPS[model][:-1], 0.0]


AysSchedules: Mapping[str, list[float]] = MappingProxyType(
    {
        "StableDiffusionTimesteps": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24],
        "StableDiffusionSigmas": _to_zero("sd15"),
        "StableDiffusionXLTimesteps": [999, 845, 730, 587, 443, 310, 193, 116, 53, 13],
        "StableDiffusionXLSigmas": _to_zero("sdxl"),
        "StableDiffusionVideoSigmas": _to_zero("svd"),
    }
)
"""Name -> timesteps or sigmas of ten steps (Sabour et al. 2024, Align Your Steps); sigmas have their end, 0."""
