"""A denoising loop never reads a tensor back, so that on a GPU nothing in it waits.

Under fake tensors, which have no numbers in them, a read raises an error.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import diffusolve
from diffusolve.schedulers.compatible import COMPATIBLE
from tests.tables import for_each

from .parity import STABLE_DIFFUSION

NAMES = [name for name in COMPATIBLE if name != "DPMSolverSDEScheduler"]
"""DPMSolverSDEScheduler draws the seed of its Brownian path from the CPU's generator, in its first step."""

SHAPE = (2, 4, 8, 8)


def begun(name: str, **config: Any) -> Any:
    scheduler = getattr(diffusolve, name)(**STABLE_DIFFUSION, **config)
    scheduler.set_timesteps(6)
    return scheduler


def faked(scheduler: Any, mode: FakeTensorMode) -> Tensor:
    """A fake sample, for a run whose timesteps are fake too."""
    scheduler._registry.begin(scheduler._generation, mode.from_tensor(scheduler.timesteps))
    return mode.from_tensor(torch.empty(SHAPE))


@for_each("name", NAMES)
def test_nothing_is_read_in_a_denoising_loop(name: str) -> None:
    scheduler = begun(name)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = faked(scheduler, mode)
        for timestep in scheduler.timesteps:
            output = torch.tanh(scheduler.scale_model_input(x, timestep))
            x = scheduler.step(output, timestep, x).prev_sample
        assert x.shape == SHAPE


@for_each("name", COMPATIBLE)
def test_nothing_is_read_when_noise_is_added(name: str) -> None:
    scheduler = begun(name)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = faked(scheduler, mode)
        assert scheduler.add_noise(x, torch.empty_like(x), scheduler.timesteps[1:3]).shape == SHAPE


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_adding_noise_can_be_compiled(name: str) -> None:
    scheduler = begun(name)
    clean, noise = torch.randn(2, *SHAPE)
    compiled = torch.compile(scheduler.add_noise, fullgraph=True, backend="eager")
    timesteps = scheduler.timesteps[1:3]
    torch.testing.assert_close(compiled(clean, noise, timesteps), scheduler.add_noise(clean, noise, timesteps))


def test_a_read_would_be_noticed() -> None:
    scheduler = begun("EulerDiscreteScheduler")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        faked(scheduler, mode)
        with pytest.raises(DataDependentOutputException):
            float(scheduler.timesteps[0])


@pytest.mark.parametrize("config", [{"thresholding": True}, {"use_karras_sigmas": True}], ids=str)
def test_nothing_is_read_with_thresholding_and_other_levels(config: dict[str, Any]) -> None:
    scheduler = begun("DPMSolverMultistepScheduler", **config)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = faked(scheduler, mode)
        for timestep in scheduler.timesteps:
            x = scheduler.step(torch.tanh(x), timestep, x).prev_sample
        assert x.shape == SHAPE
