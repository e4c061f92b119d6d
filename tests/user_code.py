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
from diffusolve.prediction import prediction


def as_a_scheduler(unet: Any, latents: Tensor) -> Tensor:
    """A loop of diffusers."""
    scheduler = diffusolve.EulerDiscreteScheduler(beta_schedule="scaled_linear", use_karras_sigmas=True)
    scheduler.set_timesteps(20)
    for timestep in scheduler.timesteps:
        output = unet(scheduler.scale_model_input(latents, timestep), timestep)
        latents = assert_type(scheduler.step(output, timestep, latents).prev_sample, Tensor)
    (latents,) = diffusolve.DDIMScheduler().step(latents, 5, latents, return_dict=False)[:1]
    return assert_type(diffusolve.UniPCMultistepScheduler().step(latents, 5, latents, return_dict=False)[0], Tensor)


def the_fields_of_steps(x: Tensor, generator: torch.Generator, return_dict: bool) -> None:
    """What a step's result holds, by class and by `return_dict`."""
    assert_type(diffusolve.DDIMScheduler().step(x, 5, x, eta=0.5, generator=generator).pred_original_sample, Tensor)
    assert_type(diffusolve.LCMScheduler().step(x, 5, x).denoised, Tensor)
    assert_type(diffusolve.TCDScheduler().step(x, 5, x, eta=0.1).pred_noised_sample, Tensor)
    assert_type(diffusolve.ScoreSdeVeScheduler().step_pred(x, 5, x).prev_sample_mean, Tensor)
    assert_type(diffusolve.AmusedScheduler(9).step(x, 5, x).prev_sample, Tensor)
    assert_type(diffusolve.FlowMatchEulerDiscreteScheduler().step(x, 5.0, x, return_dict=False), tuple[Tensor, ...])
    either = diffusolve.HeunDiscreteScheduler().step(x, 5, x, return_dict=return_dict)
    assert_type(either[0] if isinstance(either, tuple) else either.prev_sample, Tensor)


class OneMore(diffusolve.EulerDiscreteScheduler):
    """A subclass with a step of its own."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Count, say, and step."""
        return super().step(*args, **kwargs)


def in_words(config: dict[str, Any], name: str) -> None:
    """Words that are not written down in the code: configurations are open, and names are looked up."""
    diffusolve.DDIMScheduler.from_config(config, beta_schedule=name)
    diffusolve.DDIMScheduler(beta_schedule=config["beta_schedule"])
    diffusolve.sampler(name, world=name).plan(name, prediction(name), 5)


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
    print(diffusolve.DDPMScheduler().step(x, 5, x, return_dict=False).prev_sample)  # type: ignore[attr-defined]
    print(diffusolve.TCDScheduler().step(x, 5, x, return_dict=False).prev_sample)  # type: ignore[attr-defined]
    diffusolve.UniPCMultistepScheduler().step(x, 5, x, genertor=None)  # type: ignore[call-overload]
    diffusolve.TCDScheduler().step(x, 5, x, etaa=0.1)  # type: ignore[call-overload]
    print(diffusolve.UniPCMultistepScheduler().step(x, 5, x).pred_original_sample)  # type: ignore[attr-defined]
    diffusolve.DDIMScheduler(beta_schedule="scaled")  # type: ignore[arg-type]
    diffusolve.DDIMScheduler(prediction_type="eps")  # type: ignore[arg-type]
    diffusolve.DDIMScheduler(timestep_spacing="trail")  # type: ignore[arg-type]
    diffusolve.DPMSolverMultistepScheduler(algorithm_type="sde")  # type: ignore[arg-type]
    diffusolve.DPMSolverMultistepScheduler(solver_type="middle")  # type: ignore[arg-type]
    diffusolve.DPMSolverMultistepScheduler(final_sigmas_type="0")  # type: ignore[arg-type]
    diffusolve.DDPMScheduler(variance_type="small")  # type: ignore[arg-type]
    diffusolve.sampler("Euler").plan("sd15", "eps", 5)  # type: ignore[arg-type]
    Denoiser(unet, "v-prediction", "sd15")  # type: ignore[arg-type]
    diffusolve.learn_with_report(unet, x, 5, method="fitt")  # type: ignore[arg-type]
