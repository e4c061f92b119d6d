"""Samplers that are worse than Euler in as many evaluations, as `benchmarks.against_euler` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from diffusolve.catalog.schedule_types import SCHEDULE_TYPES

__all__ = ["WORSE_THAN_EULER"]


def everywhere_but(*kinds: str) -> tuple[str, ...]:
    """All schedule types without these."""
    return tuple(kind for kind in SCHEDULE_TYPES if kind not in kinds)


WORSE_THAN_EULER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "DPM++ 2M": ("Uniform", "Karras", "KL Optimal", "Align Your Steps", "Normal", "DDIM", "Beta sigmas", "Leading"),
        "LMS": everywhere_but(
            "Karras",
            "Exponential",
            "Polyexponential",
            "KL Optimal",
            "Beta sigmas",
            "Beta57",
            "Bong tangent",
            "Uniform log-SNR",
        ),
        "Heun": everywhere_but(),
        "DPM2": everywhere_but(),
        "DPM fast": everywhere_but("Linear quadratic"),
        "Restart": everywhere_but(),
        "PLMS": everywhere_but("Karras", "Exponential", "Polyexponential", "Beta sigmas", "Uniform log-SNR"),
        "DPM++ 3M": everywhere_but("Bong tangent", "Linear quadratic"),
        "DPM++ 2S": ("Uniform", "KL Optimal", "Normal", "DDIM", "Leading"),
        "DEIS": ("Align Your Steps", "Beta sigmas"),
        "Heun++ 2": everywhere_but(),
        "iPNDM": ("Uniform", "KL Optimal", "Align Your Steps", "Normal", "DDIM", "Leading"),
        "iPNDM-v": ("Uniform", "Align Your Steps", "Normal", "DDIM", "Leading"),
        "RES multistep": everywhere_but(
            "SGM Uniform", "Beta57", "Bong tangent", "Linear quadratic", "Trailing", "Simple"
        ),
        "Gradient estimation": ("Uniform", "Align Your Steps", "Normal", "DDIM", "Leading"),
        "RES 2S": everywhere_but("KL Optimal", "DDIM", "Beta57", "Uniform log-SNR"),
        "RES 3S": everywhere_but("Uniform log-SNR"),
        "RES 3M": everywhere_but("Bong tangent", "Linear quadratic"),
        "Exponential Heun": everywhere_but("Exponential", "Polyexponential", "Beta57", "Uniform log-SNR"),
    }
)
"""Deterministic sampler -> the schedule types on which there is a model (Stable Diffusion, SD3, Flux, EDM), a
distribution of data (normal, mixture of two) and a number of steps (5, 10, 20) where its error is more than a tenth
larger than that of Euler in as many evaluations.

Two evaluations a step leave half as many steps, which do not pay at 5 or 10; and polynomials through earlier steps are
worth nothing over a long last one.
"""
