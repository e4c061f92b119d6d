"""Writing to a scheduler: timesteps, sigmas, tables, configuration."""

from __future__ import annotations

from typing import Any

import torch

from tests.programs.registry import SD, SIGMAS, denoise, generator, network, noise, program


@program("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler")
def distilled_schedule_written_as_timesteps(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, timestep_spacing="leading")
    scheduler.set_timesteps(8)
    kept = scheduler.timesteps[::2].clone()
    scheduler.timesteps = kept
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat([scheduler.sigmas[:-1][::2], scheduler.sigmas[-1:]])
    return [denoise(scheduler, generator=generator()), scheduler.timesteps]


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "DDIMScheduler")
def moves_timesteps_to_its_device(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    scheduler.timesteps = scheduler.timesteps.to("cpu")
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = scheduler.sigmas.to("cpu")
    return [denoise(scheduler)]


@program("EulerDiscreteScheduler", "LMSDiscreteScheduler", "DPMSolverMultistepScheduler")
def writes_its_own_sigmas(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    scheduler.sigmas = scheduler.sigmas * 0.9
    return [denoise(scheduler)]


@program("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
def changes_one_sigma_in_place(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    scheduler.sigmas[3] = scheduler.sigmas[3] * 1.1
    return [denoise(scheduler, 5 * noise(), generator=generator())]


@program("DDIMScheduler")
def ddim_told_another_number_of_steps(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    scheduler.num_inference_steps = 20
    return [denoise(scheduler)]


@program("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
def replaces_alphas_cumprod(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**1.2
    scheduler.set_timesteps(6)
    options = {} if cls is lib.PNDMScheduler else {"generator": generator()}
    return [
        denoise(scheduler, **options),
        scheduler.add_noise(noise(1), noise(2), torch.tensor([10, 900])),
    ]


@program("DDPMScheduler", "DDIMScheduler")
def trainer_enforces_zero_terminal_snr_by_hand(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, prediction_type="v_prediction")
    root = scheduler.alphas_cumprod.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alphas = torch.cat([root[:1] ** 2, root[1:] ** 2 / root[:-1] ** 2])
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = 1 - alphas, alphas, root**2
    times = torch.tensor([0, 999])
    return [scheduler.add_noise(noise(1), noise(2), times), scheduler.get_velocity(noise(1), noise(2), times)]


@program("DDIMScheduler")
def another_final_alpha(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, clip_sample=False)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(5)
    return [denoise(scheduler)]


@program("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
def registers_a_prediction_type_in_mid_life(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.register_to_config(prediction_type="v_prediction")
    scheduler.set_timesteps(5)
    return [denoise(scheduler), scheduler.config.prediction_type]


@program("DDIMScheduler", "DDPMScheduler")
def registers_clipping_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, clip_sample=False)
    scheduler.set_timesteps(6)
    drawn = generator()
    x = denoise(scheduler, timesteps=scheduler.timesteps[:3], generator=drawn)
    scheduler.register_to_config(clip_sample=True)
    return [denoise(scheduler, x, scheduler.timesteps[3:], generator=drawn)]


@program("DDPMScheduler", "DDIMScheduler")
def kohya_writes_to_the_configuration(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, clip_sample=False)
    scheduler.config.clip_sample = True
    scheduler.set_timesteps(6)
    return [denoise(scheduler, generator=generator()), scheduler.config.clip_sample]


@program("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
def writes_a_prediction_type_to_the_configuration(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.config.prediction_type = "v_prediction"
    scheduler.set_timesteps(5)
    return [denoise(scheduler)]


@program("DPMSolverMultistepScheduler")
def ledits_writes_the_algorithm(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.config.algorithm_type = "sde-dpmsolver++"
    scheduler.config.solver_order = 2
    scheduler.set_timesteps(6)
    return [denoise(scheduler, generator=generator())]


@program("DDPMScheduler")
def kohya_prepares_snr_for_min_snr_weights(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, num_train_timesteps=1000, clip_sample=False)
    alphas = scheduler.alphas_cumprod
    scheduler.all_snr = (alphas.sqrt() / (1 - alphas).sqrt()) ** 2
    times = torch.tensor([3, 700])
    weights = torch.minimum(scheduler.all_snr[times], torch.tensor(5.0)) / scheduler.all_snr[times]
    return [weights, scheduler.add_noise(noise(1), noise(2), times)]


@program("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
def trainer_validates_then_trains_on(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    before = scheduler.add_noise(noise(1), noise(2), torch.tensor([17, 803]))
    scheduler.set_timesteps(4)
    denoise(scheduler)
    return [before, scheduler.add_noise(noise(1), noise(2), torch.tensor([17, 803]))]


@program(*SIGMAS[:2])
def a1111_like_loop_over_sigmas(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(8)
    x = noise() * scheduler.sigmas[0]
    for sigma, sigma_next, t in zip(scheduler.sigmas, scheduler.sigmas[1:], scheduler.timesteps, strict=False):
        predicted = network(x / (sigma**2 + 1) ** 0.5, t)
        x = x + predicted * (sigma_next - sigma)
    return [x]


@program("DDPMScheduler")
def distillation_halves_its_schedule(lib: Any, cls: Any) -> list[Any]:
    scheduler, results = cls(**SD, clip_sample=False), []
    for steps in (8, 4, 2):
        scheduler.set_timesteps(steps)
        results += [scheduler.timesteps, denoise(scheduler, generator=generator())]
    return results


@program("EulerDiscreteScheduler")
def truncates_a_schedule(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    scheduler.timesteps = scheduler.timesteps[3:]
    scheduler.sigmas = scheduler.sigmas[3:]
    return [denoise(scheduler, scheduler.sigmas[0] * noise())]
