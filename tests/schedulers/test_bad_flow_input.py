"""Bad input for flow-matching models, pyramids and tokens, and to every class the same error."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import diffusolve
from diffusolve.schedulers import CLASSES, scheduler_class

FLOW = diffusolve.FlowMatchEulerDiscreteScheduler
SAMPLES_FLOW = sorted(name for name in CLASSES if getattr(scheduler_class(name), "samples_flow", False))
PYRAMIDS = ("HeliosScheduler", "HeliosDMDScheduler")
OF_ONE_FAMILY = {"FlowMapEulerDiscreteScheduler", "MiniMaxH3Scheduler", "PiflowScheduler", *PYRAMIDS}
"""Classes for one family of flow models, which know the keys of its configuration."""

TOKENS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "AmusedScheduler": ({"mask_token_id": 7}, {}),
    "BlockRefinementScheduler": ({}, {"mask_token_id": 7}),
    "DiscreteDDIMScheduler": ({}, {}),
    "EntropyBoundScheduler": ({}, {}),
    "VQDiffusionScheduler": ({"num_vec_classes": 8}, {}),
}
"""Constructor arguments, and those of a step."""


def wrong(label: str, call: Callable[[], Any], kind: type[Exception], text: str) -> list[str]:
    """How a call fails to raise an error of this kind that says this."""
    try:
        call()
    except kind as error:
        return [] if re.search(text, str(error)) else [f"{label}: {error}"]
    except Exception as error:
        return [f"{label}: {type(error).__name__}: {error}"]
    return [f"{label}: no error"]


def flow_scheduler(name: str, **config: Any) -> Any:
    return scheduler_class(name).from_config(FLOW(**config).config)


def test_a_missing_mu_is_told_with_what_pipelines_compute_it_from() -> None:
    line = r"base_shift \(0\.5 at 256\) to max_shift \(1\.15 at 4096\)"
    text = f"mu is missing: use_dynamic_shifting .* number of image tokens.*{line}"
    told = []
    for name in SAMPLES_FLOW:
        scheduler = flow_scheduler(name, use_dynamic_shifting=True, shift=3.0)
        told += wrong(name, partial(scheduler.set_timesteps, 4), ValueError, text)
    for name in PYRAMIDS:
        scheduler = scheduler_class(name)(use_dynamic_shifting=True)
        told += wrong(name, partial(scheduler.set_timesteps, 4, 0), ValueError, text)
    unipc = diffusolve.UniPCMultistepScheduler(use_dynamic_shifting=True, use_flow_sigmas=True)
    told += wrong("UniPC as in diffusers", partial(unipc.set_timesteps, 4), ValueError, text)
    assert not told, "\n".join(told)


def test_sigmas_and_timesteps_of_different_lengths_and_sigmas_above_1_are_told() -> None:
    told = []
    for name in SAMPLES_FLOW:
        scheduler = flow_scheduler(name, shift=3.0)
        for given, text in (
            ({"timesteps": [900.0, 100.0], "sigmas": [0.9, 0.5, 0.1]}, "2 timesteps are given and sigmas for 3 steps"),
            ({"sigmas": [1.5, 0.5, 0.0]}, r"sigmas are \[1\.5, 0\.5\]: expected numbers from 1 down"),
        ):
            if name == "LTXEulerAncestralRFScheduler" and len(given) == 2:
                continue  # timesteps are there what stands for sigmas that are not given
            told += wrong(name, partial(scheduler.set_timesteps, **given), ValueError, text)
    assert not told, "\n".join(told)


def test_a_stage_that_a_pyramid_does_not_have_is_told() -> None:
    told = []
    for name in PYRAMIDS:
        scheduler = scheduler_class(name)(stages=3)
        for stage in (3, -1, 1.5, None):
            call = partial(scheduler.set_timesteps, 4, stage)
            told += wrong(f"{name}, {stage}", call, ValueError, f"stage_index is {stage}: expected 0 to 2")
    assert not told, "\n".join(told)


def test_token_schedulers_that_are_handed_floats_tell_what_they_take() -> None:
    told = []
    for name, (config, options) in TOKENS.items():
        scheduler = getattr(diffusolve, name)(**config)
        scheduler.set_timesteps(4)
        output, floats = torch.randn(1, 8, 32).transpose(1, 2), torch.zeros(1, 32)
        call = partial(scheduler.step, output, scheduler.timesteps[0], floats, **options)
        told += wrong(name, call, TypeError, r"is of float32: expected a tensor of token ids \(int64\)")
    assert not told, "\n".join(told)


def test_classes_that_cannot_sample_a_flow_model_tell_which_can() -> None:
    text = "cannot sample a flow-matching model.* use EulerDiscreteScheduler, .*DPMSolverMultistepScheduler"
    others = sorted({*CLASSES} - {*SAMPLES_FLOW} - OF_ONE_FAMILY)
    assert len(others) > 20
    told = []
    for name in [*others, "VQDiffusionScheduler", "EntropyBoundScheduler"]:
        call = partial(getattr(diffusolve, name).from_config, FLOW(shift=3.0).config)
        told += wrong(name, call, ValueError, f"{name} {text}")
    assert not told, "\n".join(told)
