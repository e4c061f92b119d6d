"""Spacings by the names that people add to a sampler's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from diffusolve.spacing import (
    AlignYourSteps,
    Beta,
    BetaSigmas,
    BongTangent,
    Exponential,
    Karras,
    KLOptimal,
    Leading,
    LinearQuadratic,
    Linspace,
    Polyexponential,
    Simple,
    Spacing,
    Trailing,
    UniformLogSNR,
)

__all__ = ["SCHEDULE_TYPES", "ScheduleType"]


@dataclass(frozen=True)
class ScheduleType:
    """A spacing by all its names.

    Attributes:
        name: what A1111 calls it, or the people of the field where A1111 does not have it.
        spacing: where the steps fall.
        a1111, comfyui: their names, if they have it.
        config: the keys of a diffusers configuration; None where they cannot say it. For timesteps the class decides
            what "linspace" and the others are, so that the nearest of them may be another.
    """

    name: str
    spacing: Spacing
    a1111: str | None = None
    comfyui: str | None = None
    config: Mapping[str, Any] | None = field(default=None, hash=False)

    def called_in(self, world: str) -> str | None:
        """The name in a world; None if it is not there. k-diffusion has a function for each of three curves."""
        in_k_diffusion = (
            self.name.casefold() if self.name in ("Uniform", "Karras", "Exponential", "Polyexponential") else None
        )
        return {"a1111": self.a1111, "comfyui": self.comfyui, "k-diffusion": in_k_diffusion}[world]


LINSPACE, LEADING, TRAILING = ({"timestep_spacing": name} for name in ("linspace", "leading", "trailing"))

TYPES = (
    ScheduleType("Uniform", Linspace(), "Uniform", config=LINSPACE),
    ScheduleType("Karras", Karras(), "Karras", "karras", {"use_karras_sigmas": True}),
    ScheduleType("Exponential", Exponential(), "Exponential", "exponential", {"use_exponential_sigmas": True}),
    ScheduleType("Polyexponential", Polyexponential(), "Polyexponential"),
    ScheduleType("SGM Uniform", Linspace(to_first=False), "SGM Uniform", "sgm_uniform", TRAILING),
    ScheduleType("KL Optimal", KLOptimal(), "KL Optimal", "kl_optimal"),
    ScheduleType("Align Your Steps", AlignYourSteps(), "Align Your Steps"),
    ScheduleType("Normal", Linspace(), "Normal", "normal", LINSPACE),
    ScheduleType("DDIM", Leading(steps_offset=1), "DDIM", "ddim_uniform", {**LEADING, "steps_offset": 1}),
    ScheduleType("Beta", Beta(), comfyui="beta"),
    ScheduleType("Beta sigmas", BetaSigmas(), "Beta", config={"use_beta_sigmas": True}),
    ScheduleType("Beta57", Beta(alpha=0.5, beta=0.7), comfyui="beta57"),
    ScheduleType("Bong tangent", BongTangent(), comfyui="bong_tangent"),
    ScheduleType("Linear quadratic", LinearQuadratic(), comfyui="linear_quadratic"),
    ScheduleType("Uniform log-SNR", UniformLogSNR(), config={"use_lu_lambdas": True}),
    ScheduleType("Leading", Leading(), config={**LEADING, "steps_offset": 0}),
    ScheduleType("Trailing", Trailing(), config=TRAILING),
    ScheduleType("Simple", Simple(), "Simple", "simple", TRAILING),
)

SCHEDULE_TYPES: Mapping[str, ScheduleType] = MappingProxyType({kind.name: kind for kind in TYPES})
"""Name that may follow a sampler's -> the spacing that it stands for."""
