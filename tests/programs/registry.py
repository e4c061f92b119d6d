"""Programs that run with the scheduler classes of either library, and what they are given.

A program is a function of a library (``diffusers`` or ``diffusolve``), or of a library and a class of it, and returns
what its user would look at: tensors, numbers, words. It is a few lines, named after what such users do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "PROGRAMS",
    "SD",
    "SIGMAS",
    "denoise",
    "generator",
    "network",
    "noise",
    "program",
]

SD: Mapping[str, Any] = MappingProxyType(
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
)
"""Stable Diffusion's noise."""

SIGMAS = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler",
)
"""Classes whose samples are scaled by sigma."""

Program = Callable[[Any], list[Any]]

PROGRAMS: dict[str, Program] = {}
"""All programs, each under its name and, where it is tried with several classes, the class."""


def program(*classes: str) -> Callable[[Callable[..., list[Any]]], Callable[..., list[Any]]]:
    """Register a program, once for each class; without classes it is a function of the library alone."""

    def register(function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        name = function.__name__
        assert not any(key.split("[")[0] == name for key in PROGRAMS), f"two programs are called {name}"
        if not classes:
            PROGRAMS[name] = function
        for entry in classes:

            def run(library: Any, entry: str = entry) -> list[Any]:
                return function(library, getattr(library, entry))

            PROGRAMS[f"{name}[{entry.removesuffix('Scheduler')}]"] = run
        return function

    return register


def noise(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal, (2, 4, 8, 8)."""
    return torch.randn(2, 4, 8, 8, generator=generator(seed), dtype=torch.float64).to(dtype)


def generator(seed: int = 0) -> torch.Generator:
    """A generator of that seed."""
    return torch.Generator().manual_seed(seed)


def network(x: Tensor, t: Any) -> Tensor:
    """A prediction that depends smoothly on sample and timestep."""
    time = torch.as_tensor(t, dtype=torch.float32).reshape(-1, *[1] * (x.ndim - 1)).to(x.device) / 1000
    return torch.tanh(0.8 * x + 0.3 * x.roll(1, -1) + time.to(x.dtype)) + 0.1 * time.to(x.dtype)


def denoise(scheduler: Any, x: Tensor | None = None, timesteps: Any = None, **options: Any) -> Tensor:
    """The common loop over a scheduler whose timesteps are set."""
    x = noise() * scheduler.init_noise_sigma if x is None else x
    scale = getattr(scheduler, "scale_model_input", lambda x, t: x)  # which flow matching has none of
    for t in scheduler.timesteps if timesteps is None else timesteps:
        predicted = network(scale(x, t), t)
        x = scheduler.step(predicted, t, x, **options).prev_sample
    return x
