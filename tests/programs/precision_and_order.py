"""Mixed precision, use before timesteps are set, and steps out of turn."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import torch

from tests.programs.registry import SD, SIGMAS, denoise, generator, network, noise, program

# ---- Mixed precision ----


@program(
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    *SIGMAS,
)
def half_output_and_full_sample(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[0]
    x = noise() * scheduler.init_noise_sigma
    predicted = network(scheduler.scale_model_input(x, t), t).bfloat16()
    options = {"generator": generator()} if cls in (lib.DDPMScheduler, lib.EulerAncestralDiscreteScheduler) else {}
    return [scheduler.step(predicted, t, x, **options).prev_sample]


@program("DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler")
def autocast_loop_with_latents_kept_in_float32(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    layer = torch.nn.Conv2d(4, 4, 1)
    torch.nn.init.constant_(layer.weight, 0.2)
    torch.nn.init.constant_(layer.bias, 0.05)
    x = noise() * scheduler.init_noise_sigma
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for t in scheduler.timesteps:
            x = scheduler.step(layer(scheduler.scale_model_input(x, t)), t, x).prev_sample
    return [x]


@program("UniPCMultistepScheduler")
def full_output_and_half_sample(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[0]
    x = noise().half()
    return [str(scheduler.step(network(x.float(), t), t, x).prev_sample.dtype)]


@program("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
def dreambooth_adds_noise_in_half(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    noised = scheduler.add_noise(noise(1).half(), noise(2).half(), scheduler.timesteps[3:4].expand(2))
    return [noised]


# ---- Before set_timesteps ----


@program(*SIGMAS)
def scales_input_before_timesteps_are_set(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    return [scheduler.scale_model_input(noise(), scheduler.timesteps[3])]


@program(*SIGMAS)
def steps_before_timesteps_are_set(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    t = scheduler.timesteps[5]
    x = 3 * noise()
    options = {"generator": generator()} if "Ancestral" in cls.__name__ else {}
    return [scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, **options).prev_sample]


@program("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler")
def trainer_noises_with_a_sampler(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    times = scheduler.timesteps[torch.tensor([990, 40])]
    return [scheduler.add_noise(noise(1), noise(2), times), scheduler.timesteps, float(scheduler.init_noise_sigma)]


@program("EulerDiscreteScheduler")
def svd_reads_continuous_timesteps_early(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(
        **SD,
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )
    return [scheduler.timesteps, scheduler.sigmas]


@program("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "PNDMScheduler")
def reads_timesteps_early(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    return [scheduler.timesteps, scheduler.num_inference_steps, len(scheduler)]


# ---- Out of turn ----


@program(*SIGMAS[:4])
def fastai_course_steps_twice_for_one_image(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(8)
    x = noise() * scheduler.init_noise_sigma
    t = scheduler.timesteps[0]
    predicted = network(scheduler.scale_model_input(x, t), t)
    options = {"generator": generator()} if "Ancestral" in cls.__name__ else {}
    first = scheduler.step(predicted, t, x, **options).prev_sample
    second = scheduler.step(predicted, t, x, **options).prev_sample
    return [first, second]


@program("DDIMScheduler", "DDPMScheduler")
def null_text_optimisation_steps_many_times_at_one_timestep(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, clip_sample=False)
    scheduler.set_timesteps(5)
    x, seen = noise(), []
    for t in scheduler.timesteps:
        for inner in range(3):
            guess = scheduler.step(network(x, t) * (1 + 0.1 * inner), t, x, generator=generator()).prev_sample
            seen.append(guess)
        x = seen[-1]
    return seen


@program("DDIMScheduler", "PNDMScheduler", "DDPMScheduler")
def steps_again_at_the_last_timestep(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    x = denoise(scheduler, **({"generator": generator()} if cls is lib.DDPMScheduler else {}))
    t = scheduler.timesteps[-1]
    options = {"generator": generator()} if cls is lib.DDPMScheduler else {}
    return [scheduler.step(network(x, t), t, x, **options).prev_sample]


@program("DDIMScheduler", "DDPMScheduler")
def walks_a_finished_run_again(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    return [denoise(scheduler, generator=generator(k)) for k in range(2)]


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler")
def resets_the_step_index_to_walk_again(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    first = denoise(scheduler)
    scheduler._step_index = None
    if hasattr(scheduler, "lower_order_nums"):
        scheduler.lower_order_nums = 0
        scheduler.model_outputs = [None] * scheduler.config.solver_order
    return [first, denoise(scheduler)]


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LMSDiscreteScheduler", "DDIMScheduler")
def sets_timesteps_again_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    x = denoise(scheduler, timesteps=scheduler.timesteps[:4])
    scheduler.set_timesteps(5)
    return [denoise(scheduler, x / 2)]


@program("DDIMScheduler")
def ddim_inversion_by_hand(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(8)
    x = noise(3)
    for t in scheduler.timesteps.flip(0):
        before = min(int(t) - 1000 // 8, 999)
        a = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
        b = scheduler.alphas_cumprod[t]
        predicted = network(x, t)
        data = (x - (1 - a).sqrt() * predicted) / a.sqrt()
        x = b.sqrt() * data + (1 - b).sqrt() * predicted
    return [x, denoise(scheduler, x)]


@program("DDIMScheduler")
def sdedit_from_the_middle(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    times = scheduler.timesteps[4:]
    return [denoise(scheduler, scheduler.add_noise(noise(1), noise(2), times[:1]), times)]


@program("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler")
def img2img_begins_at_an_index(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(4)
    times = scheduler.timesteps[4:]
    x = scheduler.add_noise(noise(1), noise(2), times[:1].repeat(2))
    options = {"generator": generator()} if "Ancestral" in cls.__name__ else {}
    return [denoise(scheduler, x, times, **options), scheduler.begin_index, scheduler.step_index]


@program("DDIMScheduler", "DDPMScheduler")
def repaint_like_loop_goes_back_and_forth(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(8)
    x, mask, drawn = noise(), (noise(5) > 0).float(), generator(4)
    for place, t in enumerate(scheduler.timesteps[:-1]):
        later = scheduler.timesteps[place + 1]
        for _ in range(2):
            known = scheduler.add_noise(noise(1), noise(2), later[None])
            unknown = scheduler.step(network(x, t), t, x, generator=drawn).prev_sample
            x = mask * known + (1 - mask) * unknown
    return [x]


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
def deepcopy_for_each_request(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(4)
    x = denoise(scheduler, timesteps=scheduler.timesteps[:2])
    copied = copy.deepcopy(scheduler)
    rest = scheduler.timesteps[2:]
    return [denoise(scheduler, x, rest), denoise(copied, x, rest)]


@program("EulerDiscreteScheduler", "UniPCMultistepScheduler", "PNDMScheduler")
def pickles_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    x = denoise(scheduler, timesteps=scheduler.timesteps[:3])
    sent = pickle.loads(pickle.dumps(scheduler))
    return [denoise(sent, x, sent.timesteps[3:])]


@program("EulerDiscreteScheduler", "DDIMScheduler")
def a_scheduler_in_each_thread(lib: Any, cls: Any) -> list[Any]:
    results: list[Any] = [None] * 4

    def request(k: int) -> None:
        scheduler = cls(**SD)
        scheduler.set_timesteps(5)
        results[k] = denoise(scheduler, noise(k) * scheduler.init_noise_sigma)

    threads = [threading.Thread(target=request, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@program("DDPMScheduler", "DDIMScheduler")
def a_timestep_that_is_a_number(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    return [scheduler.step(network(noise(), t), int(t), noise(), generator=generator())[0] for t in scheduler.timesteps]
