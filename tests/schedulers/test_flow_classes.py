"""FlowMatchHeun, FlowMatchLCM and LTXEulerAncestralRF against diffusers'."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve

from .parity import PROMISED, both, combinations, difference, diffusers, ours

HEUN, LCM, LTX = "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", "LTXEulerAncestralRFScheduler"


def random(seed: int, shape: tuple[int, ...] = (2, 4, 8, 8)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(x: Tensor, timestep: Tensor) -> Tensor:
    return torch.sin(1.3 * x + timestep.float() / 1000.0)


def walked(scheduler: Any, first: int = 0, last: int | None = None, **options: Any) -> list[Tensor]:
    """What each step led to, and where the generator was left."""
    generator = torch.Generator().manual_seed(1)
    x, samples = random(0), []
    for timestep in scheduler.timesteps[first:last]:
        x = scheduler.step(network(x, timestep), timestep, x, generator=generator, **options).prev_sample
        samples.append(x)
    return [*samples, torch.rand(1, generator=generator)]


def differences(
    name: str, config: dict[str, Any], given: dict[str, Any], last: int | None = None, **options: Any
) -> str | None:
    """What differs between ours and theirs after `set_timesteps` and in a whole run; None if nothing does."""
    mine, reference = both(name, config)
    mine.set_timesteps(**given)
    reference.set_timesteps(**given)
    if mine.num_inference_steps != reference.num_inference_steps:
        return f"{mine.num_inference_steps} steps, there {reference.num_inference_steps}"
    for attribute in ("timesteps", "sigmas"):
        a, b = getattr(mine, attribute), getattr(reference, attribute)
        if a.dtype != b.dtype or a.shape != b.shape or difference(a, b) > 1e-6:
            return f"{attribute} {a} and there {b}"
    found, expected = walked(mine, last=last, **options), walked(reference, last=last, **options)
    worst = max(difference(a, b) for a, b in zip(found, expected, strict=True))
    return None if worst <= PROMISED else f"samples differ by {worst}"


def test_heun_takes_the_steps_of_diffusers() -> None:
    wrong = []
    for config in combinations(shift=(None, 3.0), num_train_timesteps=(None, 100)):
        for steps in (1, 2, 7):
            for options in ({}, {"s_churn": 2.0}, {"s_churn": 2.0, "s_tmax": 0.8, "s_tmin": 0.1, "s_noise": 0.9}):
                found = differences(HEUN, config, {"num_inference_steps": steps}, **options)
                if found:
                    wrong.append(f"{config} {steps} {options}: {found}")
    assert not wrong, "\n".join(wrong)


def test_lcm_takes_the_steps_of_diffusers() -> None:
    wrong = []
    options = combinations(
        shift=({}, {"shift": 3.0}, {"use_dynamic_shifting": True}, {"use_dynamic_shifting": True, "shift": 3.0}),
        time_shift_type=(None, "linear"),
        curve=({}, {"use_karras_sigmas": True}, {"use_beta_sigmas": True}),
        shift_terminal=(None, 0.1),
        invert_sigmas=(None, True),
    )
    runs: list[dict[str, Any]] = [
        {"num_inference_steps": 4},
        {"sigmas": [1.0, 0.7, 0.2]},
        {"timesteps": [900.0, 500.0, 100.0]},
        {"timesteps": [900.0, 500.0, 100.0], "sigmas": [0.95, 0.7, 0.2]},
    ]
    for config in options:
        for run in runs:
            mu = {"mu": 0.8} if config.get("use_dynamic_shifting") else {}
            found = differences(LCM, config, {**run, **mu})
            if found:
                wrong.append(f"{config} {run}: {found}")
    assert not wrong, "\n".join(wrong)


def test_lcm_lets_the_data_grow_as_in_diffusers() -> None:
    for mode in ("bicubic", "nearest"):
        mine, reference = both(LCM, {"scale_factors": [0.5, 0.75, 1.5], "upscale_mode": mode})
        for scheduler in (mine, reference):
            scheduler.set_timesteps(4)
        for a, b in zip(walked(mine), walked(reference), strict=True):
            assert a.shape == b.shape
            assert difference(a, b) < PROMISED
        mine.set_timesteps(3)
        with pytest.raises(ValueError, match="3 scale_factors are given for a run of 3 steps: expected 2"):
            walked(mine)


def test_ltx_takes_the_steps_of_diffusers() -> None:
    wrong = []
    for config in combinations(eta=(None, 0.0, 0.4), s_noise=(None, 0.9)):
        runs: list[tuple[dict[str, Any], int | None]] = [
            ({"num_inference_steps": 5}, None),
            ({"sigmas": [1.0, 0.6, 0.2, 0.0]}, -1),
            ({"sigmas": torch.tensor([1.0, 0.6, 0.2]), "mu": 1.0}, -1),
            ({"sigmas": [0.9, 0.5, 0.0], "timesteps": [900.0, 500.0]}, -1),
        ]
        for run, last in runs:
            found = differences(LTX, config, run, last)
            if found:
                wrong.append(f"{config} {run}: {found}")
    assert not wrong, "\n".join(wrong)


def test_the_signatures_begin_as_in_diffusers() -> None:
    for name, methods in {
        HEUN: ("__init__", "step"),
        LCM: ("__init__", "step", "set_timesteps", "set_shift", "set_scale_factors", "time_shift"),
        LTX: ("__init__", "step", "set_timesteps"),
    }.items():
        for method in methods:
            mine, reference = (
                [
                    (p.name, p.default)
                    for p in inspect.signature(getattr(getattr(library, name), method)).parameters.values()
                ]
                for library in (diffusolve, diffusers)
            )
            assert mine == reference, (name, method)


def test_before_set_timesteps_they_stand_on_all_training_timesteps() -> None:
    for name in (HEUN, LCM):
        for config in ({}, {"shift": 3.0}):
            mine, reference = both(name, config)
            assert difference(mine.timesteps, reference.timesteps) < 1e-6
            assert difference(mine.sigmas, reference.sigmas) < 1e-6
            assert mine.sigmas.shape == reference.sigmas.shape
            for attribute in ("sigma_min", "sigma_max", "step_index", "begin_index", "order"):
                assert getattr(mine, attribute) == pytest.approx(getattr(reference, attribute)), attribute
            at, x, noise = torch.tensor([3]), random(0, (1, 4, 8, 8)), random(1, (1, 4, 8, 8))
            expected = reference.scale_noise(x, reference.timesteps[at], noise)
            assert difference(mine.scale_noise(x, mine.timesteps[at], noise), expected) < 1e-6


def test_a_run_may_begin_in_the_middle() -> None:
    for name, first in ((HEUN, 4), (LCM, 3), (LTX, 3)):
        mine, reference = both(name, {})
        for scheduler in (mine, reference):
            scheduler.set_timesteps(8)
        for a, b in zip(walked(mine, first), walked(reference, first), strict=True):
            assert difference(a, b) < PROMISED


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="upscale_mode"):
        ours(LCM, {"upscale_mode": "bicubik"})
    with pytest.raises(ValueError, match="eta is 2"):
        ours(LTX, {"eta": 2.0})
    scheduler = ours(HEUN, {})
    with pytest.raises(ValueError, match="sigmas are"):
        scheduler.set_timesteps(sigmas=[1.5, 0.5])
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(random(0), scheduler.timesteps[0], random(0))
