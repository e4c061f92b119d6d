"""Every beta schedule with every class, rescaled or not: the numbers of diffusers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve import schedulers

diffusers = pytest.importorskip("diffusers", reason="these tests compare with diffusers, which is not installed")

LOOPS_OF_THEIR_OWN = {"CogVideoXDPMScheduler", "RePaintScheduler"}
"""Classes whose steps are handed more than a sample; their tables are compared."""

CLASSES = tuple(
    name
    for name in sorted(schedulers.CLASSES)
    if "beta_schedule" in inspect.signature(getattr(diffusolve, name).__init__).parameters and hasattr(diffusers, name)
)
"""Every class with a table of betas that diffusers has too."""

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp")
WITHIN = 5e-4
"""The relative error: cosine betas leave alpha^2 = 4e-9, whose last bits decide about the first step."""

CANCELLED = {("KDPM2AncestralDiscreteScheduler", "squaredcos_cap_v2")}
"""Where the first ancestral step, from sigma = 20291, leads to the root of a difference that is nothing but rounding
errors of diffusers' single precision; the middle of the step follows from it."""


def walked(library: Any, name: str, config: dict[str, Any]) -> Tensor | str:
    """The last sample of a run of six steps, or the kind of error."""
    seed = {"noise_sampler_seed": 0} if name == "DPMSolverSDEScheduler" else {}
    try:
        scheduler = getattr(library, name)(**config, **seed)
        scheduler.set_timesteps(6)
    except (ValueError, NotImplementedError):
        return "refused"
    if name in LOOPS_OF_THEIR_OWN:
        table: Tensor = scheduler.alphas_cumprod
        return table
    options = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(0)
    x = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(scheduler.scale_model_input(x, t)), t, x, **options).prev_sample
    return x


def test_every_beta_schedule_with_every_class_has_the_numbers_of_diffusers() -> None:
    failures = []
    for name in CLASSES:
        keys = inspect.signature(getattr(diffusers, name)).parameters
        for beta_schedule in BETA_SCHEDULES:
            for rescaled in (False, True) if "rescale_betas_zero_snr" in keys else (False,):
                config: dict[str, Any] = {"beta_schedule": beta_schedule}
                if "timestep_spacing" in keys:
                    config["timestep_spacing"] = "trailing"
                if rescaled:
                    config |= {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
                reference, mine = walked(diffusers, name, config), walked(diffusolve, name, config)
                if isinstance(reference, str) or isinstance(mine, str):
                    if type(reference) is not type(mine):
                        failures.append(f"{name} {config}: {reference!s:.40} there, {mine!s:.40} here")
                    continue
                error = float((mine - reference).abs().max() / reference.abs().max())
                if not error <= WITHIN and (name, beta_schedule) not in CANCELLED:
                    failures.append(f"{name} {config}: off by {error:.1e}")
    assert not failures, "\n".join(failures)
