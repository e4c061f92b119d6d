"""What steps return in other precisions, and how loops say where they are."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from tests.programs.registry import SD, generator, network, noise, program

EULERS = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "EDMEulerScheduler")


def seeded(cls: Any) -> dict[str, Any]:
    """A generator, for the classes whose steps take one."""
    return {"generator": generator(1)} if "generator" in inspect.signature(cls.step).parameters else {}


@program(*EULERS, "LCMScheduler")
def previews_the_data_of_a_half_precision_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**({} if cls.__name__.startswith("EDM") else SD))
    found = []
    for dtype in (torch.half, torch.bfloat16):
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[0]
        x = scheduler.scale_model_input(noise(0, dtype), t)
        out = scheduler.step(noise(1, dtype), t, x, **seeded(cls))
        found += [out.prev_sample.dtype, list(out.values())[1]]
    return found


@program("EulerDiscreteScheduler")
def previews_the_data_that_a_half_precision_network_predicts(lib: Any, cls: Any) -> list[Any]:
    found = []
    for prediction in ("sample", "v_prediction"):
        scheduler = cls(**SD, prediction_type=prediction)
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[0]
        x = scheduler.scale_model_input(noise(0, torch.half), t)
        found.append(scheduler.step(noise(1, torch.half), t, x).pred_original_sample)
    return found


@program("SASolverScheduler", "MiniMaxH3Scheduler", "FlowMapEulerDiscreteScheduler")
def network_and_latents_in_other_precisions(lib: Any, cls: Any) -> list[Any]:
    found = []
    for output, sample in ((torch.float32, torch.half), (torch.half, torch.float32)):
        scheduler = cls()
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[0]
        found.append(scheduler.step(noise(1, output), t, noise(0, sample), **seeded(cls)).prev_sample.dtype)
    return found


@program("FlowMatchLCMScheduler")
def distilled_flow_in_other_precisions(lib: Any, cls: Any) -> list[Any]:
    found = []
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        scheduler, source = cls(shift=3.0), generator(2)
        scheduler.set_timesteps(4)
        x = noise(0, dtype)
        for t in scheduler.timesteps:
            x = scheduler.step(0.3 * x, t, x, generator=source).prev_sample
        found += [x, torch.randn(3, generator=source)]
    return found


@program("LTXEulerAncestralRFScheduler")
def watches_the_step_index_past_the_end(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls()
    scheduler.set_timesteps(4, sigmas=[1.0, 0.75, 0.5, 0.25, 0.0])
    x, seen = noise(), [scheduler.step_index]
    for t in scheduler.timesteps:
        x = scheduler.step(0.3 * x, t, x, generator=generator(1)).prev_sample
        seen.append(scheduler.step_index)
    return [*seen, x]


@program(*EULERS, "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
def counts_steps_in_place_of_timesteps(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls()
    scheduler.set_timesteps(4)
    try:
        for i, t in enumerate(scheduler.timesteps):
            scheduler.step(network(noise(), t), i, noise())
    except ValueError:
        return ["refused"]
    return ["walked"]
