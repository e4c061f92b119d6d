"""Samplers that are worse than Euler in as many evaluations, as `benchmarks.against_euler` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from diffusolve.catalog.schedule_types import SCHEDULE_TYPES

__all__ = ["WORSE_THAN_EULER"]

EVERYWHERE = tuple(SCHEDULE_TYPES)

WORSE_THAN_EULER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "DPM++ 2M": ("Uniform", "Karras", "KL Optimal", "Align Your Steps", "Normal", "DDIM", "Beta sigmas", "Leading"),
        "LMS": (
            "Uniform",
            "SGM Uniform",
            "Align Your Steps",
            "Normal",
            "DDIM",
            "Beta",
            "Linear quadratic",
            "Leading",
            "Trailing",
            "Simple",
        ),
        "Heun": EVERYWHERE,
        "DPM2": EVERYWHERE,
        "DPM fast": (
            "Uniform",
            "Karras",
            "Exponential",
            "Polyexponential",
            "SGM Uniform",
            "KL Optimal",
            "Align Your Steps",
            "Normal",
            "DDIM",
            "Beta",
            "Beta sigmas",
            "Uniform log-SNR",
            "Leading",
            "Trailing",
            "Simple",
        ),
        "Restart": EVERYWHERE,
        "PLMS": (
            "Uniform",
            "SGM Uniform",
            "KL Optimal",
            "Align Your Steps",
            "Normal",
            "DDIM",
            "Beta",
            "Linear quadratic",
            "Leading",
            "Trailing",
            "Simple",
        ),
        "UniPC": ("Karras",),
        "UniPC bh2": ("Karras",),
        "DPM++ 3M": (
            "Uniform",
            "Karras",
            "Exponential",
            "Polyexponential",
            "SGM Uniform",
            "KL Optimal",
            "Align Your Steps",
            "Normal",
            "DDIM",
            "Beta",
            "Beta sigmas",
            "Uniform log-SNR",
            "Leading",
            "Trailing",
            "Simple",
        ),
        "DPM++ 2S": ("Uniform", "KL Optimal", "Normal", "DDIM", "Leading"),
        "DEIS": ("Uniform", "KL Optimal", "Align Your Steps", "Normal", "DDIM", "Beta sigmas", "Leading"),
        "Heun++ 2": EVERYWHERE,
        "iPNDM": ("Uniform", "KL Optimal", "Align Your Steps", "Normal", "DDIM", "Leading"),
        "iPNDM-v": ("Uniform", "Align Your Steps", "Normal", "DDIM", "Leading"),
        "RES multistep": (
            "Uniform",
            "Karras",
            "Exponential",
            "Polyexponential",
            "KL Optimal",
            "Align Your Steps",
            "Normal",
            "DDIM",
            "Beta",
            "Beta sigmas",
            "Uniform log-SNR",
            "Leading",
        ),
        "Gradient estimation": ("Uniform", "Align Your Steps", "Normal", "DDIM", "Leading"),
        "Exponential Heun": (
            "Uniform",
            "Karras",
            "SGM Uniform",
            "KL Optimal",
            "Align Your Steps",
            "Normal",
            "DDIM",
            "Beta",
            "Beta sigmas",
            "Linear quadratic",
            "Leading",
            "Trailing",
            "Simple",
        ),
    }
)
"""Deterministic sampler -> the schedule types on which there is a model (Stable Diffusion, SD3, Flux, EDM), a
distribution of data (normal, mixture of two) and a number of steps (5, 10, 20) where its error is more than a tenth
larger than that of Euler in as many evaluations.

Two evaluations a step leave half as many steps, which do not pay at 5 or 10; and polynomials through earlier steps are
worth nothing over a long last one.
"""
