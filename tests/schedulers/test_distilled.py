"""Schedulers of networks that were distilled on a few timesteps are those of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch

import diffusolve
from tests.parity.network import StandInNetwork
from tests.schedulers.parity import PROMISED, STABLE_DIFFUSION, difference, ours, theirs

RUNS: list[dict[str, Any]] = [
    {"num_inference_steps": 4},
    {"num_inference_steps": 1},
    {"num_inference_steps": 9, "original_inference_steps": 40},
    {"num_inference_steps": 3, "strength": 0.6},
    {"timesteps": [999, 600, 300]},
]


def walked(scheduler: Any, run: Mapping[str, Any], **options: Any) -> list[torch.Tensor]:
    """Everything that a run shows, and where it leaves its generator."""
    scheduler.set_timesteps(**run)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    network, shown = StandInNetwork(), [scheduler.timesteps.double()]
    for t in scheduler.timesteps:
        step = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, generator=generator, **options)
        x = step.prev_sample
        shown += [step[key].double() for key in step.keys()]  # noqa: SIM118
    return [*shown, torch.rand(1, generator=generator).double()]


def test_runs_are_those_of_diffusers() -> None:
    options: dict[str, list[dict[str, Any]]] = {"LCMScheduler": [{}], "TCDScheduler": [{}, {"eta": 0.0}, {"eta": 1.0}]}
    choices = {
        "prediction_type": ("epsilon", "sample", "v_prediction"),
        "clip_sample": (False, True),
        "thresholding": (False, True),
        "timestep_scaling": (10.0, 1.0),
        "rescale_betas_zero_snr": (False, True),
    }
    configs = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())][::3]
    different = []
    for name, config, run in product(options, configs, RUNS):
        if config["prediction_type"] == "epsilon" and config["rescale_betas_zero_snr"]:
            continue  # says nothing of the data at the last timestep
        for how in options[name]:
            expected = walked(theirs(name, config), run, **how)
            found = walked(ours(name, config), run, **how)
            if not max(map(difference, found, expected)) < PROMISED:
                different.append((name, config, run, how))
    assert not different


def test_without_going_too_far_tcd_is_ddim() -> None:
    tcd = diffusolve.TCDScheduler()
    expected = diffusolve.DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False, set_alpha_to_one=False)
    tcd.set_timesteps(5)
    expected.set_timesteps(timesteps=[*tcd.timesteps.tolist(), 0])
    x = y = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    network = StandInNetwork()
    for t in tcd.timesteps:
        x = tcd.step(network(x, t), t, x, eta=0.0).prev_sample
        y = expected.step(network(y, t), int(t), y).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_what_is_wrong_is_said() -> None:
    lcm, tcd = diffusolve.LCMScheduler(), diffusolve.TCDScheduler()
    with pytest.raises(ValueError, match="at most as many steps"):
        lcm.set_timesteps(10, strength=0.1)
    with pytest.raises(ValueError, match=r"strength is 1\.5"):
        lcm.set_timesteps(10, strength=1.5)
    with pytest.raises(ValueError, match=r"strength is 1\.5"):
        lcm.set_timesteps(timesteps=[999, 600, 300], strength=1.5)
    with pytest.raises(ValueError, match="1 to 1000"):
        lcm.set_timesteps(10, original_inference_steps=1200)
    with pytest.raises(ValueError, match="both given"):
        lcm.set_timesteps(2, timesteps=[999, 1])
    with pytest.raises(ValueError, match="missing"):
        tcd.set_timesteps()
    tcd.set_timesteps(2)
    with pytest.raises(ValueError, match="eta is 2"):
        tcd.step(torch.zeros(1, 4), tcd.timesteps[0], torch.zeros(1, 4), eta=2.0)
