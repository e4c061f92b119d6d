"""Code as users write it, for type checkers alone: mypy and basedpyright must find its types, and nobody runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import assert_type

import diffusolve
from diffusolve.denoisers import Denoiser


def as_a_scheduler(unet: Any, latents: Tensor) -> Tensor:
    """A loop of diffusers."""
    scheduler = diffusolve.EulerDiscreteScheduler(beta_schedule="scaled_linear", use_karras_sigmas=True)
    scheduler.set_timesteps(20)
    for timestep in scheduler.timesteps:
        output = unet(scheduler.scale_model_input(latents, timestep), timestep)
        latents = assert_type(scheduler.step(output, timestep, latents).prev_sample, Tensor)
    (latents,) = diffusolve.DDIMScheduler().step(latents, 5, latents, return_dict=False)[:1]
    data = diffusolve.DDIMScheduler().step(latents, 5, latents).pred_original_sample
    assert_type(data, Tensor)
    return assert_type(diffusolve.UniPCMultistepScheduler().step(latents, 5, latents, return_dict=False)[0], Tensor)


def in_torch(unet: Any) -> Tensor:
    """Names, shapes and tensors."""
    sampler = assert_type(diffusolve.sampler("DPM++ 2M Karras", eta=0.5), diffusolve.Sampler)
    grid = assert_type(sampler.grid("sd15", 20), diffusolve.Grid)
    x = assert_type(diffusolve.start(grid, torch.empty(4, 4, 64, 64), [0, 1, 2, 3]), Tensor)
    network = Denoiser(unet, "epsilon", "sd15")
    return assert_type(diffusolve.sample(network, x, sampler, steps=20, progress=True, backend="auto"), Tensor)


def in_numpy(network: Any, like: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Plans and NumPy."""
    plan = assert_type(diffusolve.sampler("Euler").plan(diffusolve.SD15, "v_prediction", 5), diffusolve.Plan)
    assert diffusolve.Plan.from_json(plan.to_json()) == plan
    x = diffusolve.start(plan, like, [0, 1])
    made, report = diffusolve.sample_with_report(network, x, plan)
    assert_type(report.nfe, int)
    return made


def in_a_pipeline(pipe: Any) -> Any:
    """The swap, and a comparison."""
    diffusolve.patch(pipe, "DPM++ 2M Karras")
    pipe.scheduler = diffusolve.scheduler("UniPC", like=pipe.scheduler)
    comparison = diffusolve.compare(["Euler", diffusolve.sampler("UniPC")], (5, 10), model="digits")
    assert_type([row["error"] for row in comparison.rows], "list[Any]")
    return comparison.figure


def mistakes(unet: Any, x: Tensor) -> None:
    """What must be found: a comment that has nothing to ignore is an error too."""
    diffusolve.smapler("Euler")  # type: ignore[attr-defined]
    diffusolve.sample(unet, x, "Euler", steps=5)  # type: ignore[arg-type]
    diffusolve.sample(unet, x, diffusolve.sampler("Euler"), backend="fast")  # type: ignore[arg-type]
    print(diffusolve.EulerDiscreteScheduler().step(x, 5, x).previous_sample)  # type: ignore[attr-defined]
    diffusolve.DDIMScheduler(beta_strat=0.1)  # type: ignore[call-arg]
