"""Writing to a scheduler in the middle of a run, or where programs do so in ways of their own."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tests.programs.registry import SD, denoise, generator, network, noise, program

MULTISTEP = ("DPMSolverMultistepScheduler", "DEISMultistepScheduler", "LMSDiscreteScheduler")


def half_a_run(scheduler: Any, steps: int = 8, count: int = 3) -> Any:
    """The sample after `count` of `steps` steps."""
    scheduler.set_timesteps(steps)
    return denoise(scheduler, timesteps=scheduler.timesteps[:count], **seeded(type(scheduler)))


def seeded(cls: Any) -> dict[str, Any]:
    """A generator, for the classes whose steps draw noise."""
    return {"generator": generator(1)} if cls.__name__[:3] in ("LCM", "TCD") else {}


@program("EulerDiscreteScheduler", *MULTISTEP, "DPMSolverSinglestepScheduler")
def lowers_the_sigmas_to_come_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    x = half_a_run(scheduler, 8, 4)
    scheduler.sigmas[5:] *= 0.8
    return [denoise(scheduler, x, scheduler.timesteps[4:]), scheduler.sigmas]


@program("EulerDiscreteScheduler", *MULTISTEP)
def replaces_the_sigmas_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    x = half_a_run(scheduler)
    sigmas = scheduler.sigmas.clone()
    sigmas[4:-1] *= 1.1
    scheduler.sigmas = sigmas
    return [denoise(scheduler, x, scheduler.timesteps[3:])]


@program("HeunDiscreteScheduler", "KDPM2DiscreteScheduler")
def cleans_the_end_of_two_stage_sigmas(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    last = 7 if cls.__name__.startswith("Heun") else None
    if last is not None:
        scheduler.sigmas[last : last + 2] = 0.5 * scheduler.sigmas[last]
    return [denoise(scheduler), scheduler.sigmas]


@program("EulerDiscreteScheduler", *MULTISTEP)
def moves_everything_to_its_device_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    x = half_a_run(scheduler)
    rest = scheduler.timesteps[3:]
    scheduler.sigmas, scheduler.timesteps = scheduler.sigmas.clone(), scheduler.timesteps.clone()
    return [denoise(scheduler, x, rest)]


@program("EulerDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler")
def switches_the_prediction_type_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    x = half_a_run(scheduler)
    scheduler.register_to_config(prediction_type="v_prediction")
    return [denoise(scheduler, x, scheduler.timesteps[3:])]


@program("DPMSolverMultistepScheduler")
def turns_thresholding_on_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    x = half_a_run(scheduler)
    scheduler.register_to_config(thresholding=True)
    return [denoise(scheduler, x, scheduler.timesteps[3:])]


@program("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler")
def lifts_alphas_cumprod_in_place_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, **({"skip_prk_steps": True} if cls.__name__.startswith("PNDM") else {}))
    scheduler.set_timesteps(6)
    options = {} if cls.__name__.startswith("PNDM") else {"generator": generator()}
    x = denoise(scheduler, timesteps=scheduler.timesteps[:1], **options)
    scheduler.alphas_cumprod.mul_(0.95)
    return [denoise(scheduler, x, scheduler.timesteps[1:], **options)]


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler")
def rescales_alphas_cumprod_of_a_sigma_scheduler(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod * 0.98
    scheduler.set_timesteps(6)
    return [scheduler.sigmas, denoise(scheduler)]


@program("DDIMScheduler", "PNDMScheduler")
def ends_at_the_first_training_timestep_instead(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, set_alpha_to_one=True, **({"skip_prk_steps": True} if "PNDM" in cls.__name__ else {}))
    scheduler.set_timesteps(6)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return [denoise(scheduler)]


@program("DDIMScheduler", "DDPMScheduler")
def shifts_its_timesteps_in_place(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    scheduler.timesteps.add_(7)
    return [denoise(scheduler, generator=generator()), scheduler.timesteps]


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler", "FlowMatchEulerDiscreteScheduler")
def writes_sigmas_in_inference_mode(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls()
    with torch.inference_mode():
        scheduler.set_timesteps(6)
        if hasattr(scheduler, "sigmas"):
            scheduler.sigmas[2] = 0.9 * scheduler.sigmas[2]
        return [denoise(scheduler, noise())]


@program("FlowMatchEulerDiscreteScheduler")
def flow_trainer_moves_its_tables(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(shift=3.0)
    scheduler.sigmas = scheduler.sigmas.to(torch.device("cpu")).clone()
    scheduler.timesteps = scheduler.timesteps.to(torch.device("cpu")).clone()
    chosen = scheduler.timesteps[torch.tensor([10, 700])]
    return [scheduler.scale_noise(noise(1), chosen, noise(2)), scheduler.sigmas[torch.tensor([10, 700])]]


@program("FlowMatchEulerDiscreteScheduler")
def flow_pipeline_writes_sigmas_of_its_own(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(shift=3.0)
    scheduler.set_timesteps(6)
    scheduler.sigmas = torch.linspace(1.0, 0.0, 7)
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000
    return [denoise(scheduler, noise())]


@program("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
def flow_editing_begins_in_the_middle(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(shift=3.0)
    scheduler.set_timesteps(8)
    scheduler.timesteps = scheduler.timesteps[4:]
    scheduler.sigmas = scheduler.sigmas[4:]
    return [denoise(scheduler, noise())]


@program("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")
def copies_a_scheduler_and_writes_to_the_copy(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    twin = copy.deepcopy(scheduler)
    twin.register_to_config(prediction_type="v_prediction")
    twin.set_timesteps(5)
    return [denoise(scheduler), denoise(twin)]


@program("DDPMScheduler")
def trainer_zeroes_the_last_alpha(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False)
    scheduler.alphas_cumprod[-1] = 1e-6
    scheduler.set_timesteps(5)
    times = torch.tensor([999, 3])
    return [scheduler.add_noise(noise(1), noise(2), times), denoise(scheduler, generator=generator())]


@program("EulerDiscreteScheduler")
def comfy_like_wrapper_sets_sigmas_and_timesteps(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    split = scheduler.sigmas[4:]
    scheduler.sigmas = split
    scheduler.timesteps = scheduler.timesteps[4:]
    scheduler.num_inference_steps = len(split) - 1
    x = split[0] * noise()
    return [denoise(scheduler, x), scheduler.num_inference_steps, len(scheduler.timesteps)]


@program("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
def denoising_end_cuts_the_timesteps(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(8)
    cut = scheduler.timesteps[scheduler.timesteps >= 300]
    return [denoise(scheduler, timesteps=cut)]


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
def value_guidance_reads_sigmas_at_the_index(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    x, seen = noise() * scheduler.init_noise_sigma, []
    for t in scheduler.timesteps:
        predicted = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(predicted, t, x).prev_sample
        sigma = scheduler.sigmas[scheduler.step_index]
        seen.append(float(sigma))
        x = x - 0.01 * sigma * torch.sign(x)
    return [x, *seen]


@program("PNDMScheduler", "LCMScheduler", "TCDScheduler")
def moves_the_timesteps_to_come_in_place_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, **({"skip_prk_steps": True} if cls.__name__.startswith("PNDM") else {}))
    x = half_a_run(scheduler, 8, 4)
    scheduler.timesteps[4:] = (scheduler.timesteps[4:].float() * 0.9).long()
    return [denoise(scheduler, x, scheduler.timesteps[4:], **seeded(cls)), scheduler.timesteps]


@program("PNDMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "LCMScheduler")
def writes_a_spacing_for_the_next_run_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    x = half_a_run(scheduler)
    scheduler.register_to_config(timestep_spacing="trailing")
    x = denoise(scheduler, x, scheduler.timesteps[3:], **seeded(cls))
    scheduler.set_timesteps(6)
    return [x, denoise(scheduler, **seeded(cls))]
