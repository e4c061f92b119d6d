"""Subclasses of scheduler classes, and members that users reach for."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from tests.programs.registry import SD, SIGMAS, denoise, generator, network, noise, program

# ---- Subclasses ----


@program("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
def subclass_that_hands_everything_on(lib: Any, cls: Any) -> list[Any]:
    class Mine(cls):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.calls = 0

        def step(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().step(*args, **kwargs)

    scheduler = Mine(**SD)
    scheduler.set_timesteps(5)
    return [denoise(scheduler), scheduler.calls, scheduler.config.beta_end]


@program("DDPMScheduler", "EulerDiscreteScheduler")
def subclass_of_fewer_arguments(lib: Any, cls: Any) -> list[Any]:
    class Mine(cls):  # type: ignore[misc]
        def __init__(self, steps: int = 500) -> None:
            super().__init__(num_train_timesteps=steps, beta_schedule="scaled_linear")

    scheduler = Mine(400)
    scheduler.set_timesteps(5)
    return [scheduler.config.num_train_timesteps, denoise(scheduler, generator=generator())]


@program("DDIMScheduler", "EulerDiscreteScheduler")
def subclass_with_an_option_of_its_own(lib: Any, cls: Any) -> list[Any]:
    register = importlib.import_module(f"{lib.__name__}.configuration_utils").register_to_config

    class Mine(cls):  # type: ignore[misc]
        @register
        def __init__(self, strength: float = 0.5, num_train_timesteps: int = 1000) -> None:
            super().__init__(num_train_timesteps=num_train_timesteps)

    scheduler = Mine(strength=0.25)
    return [scheduler.config.strength, scheduler.config.num_train_timesteps, len(scheduler.betas)]


@program("DDIMScheduler", "DDPMScheduler")
def subclass_overrides_the_variance(lib: Any, cls: Any) -> list[Any]:
    class Mine(cls):  # type: ignore[misc]
        def _get_variance(self, *args: Any, **kwargs: Any) -> Any:
            return torch.tensor(1e-5)

    of_ddim = issubclass(cls, lib.DDIMScheduler)
    scheduler = Mine(**SD, **({"set_alpha_to_one": False} if of_ddim else {}))
    scheduler.set_timesteps(5)
    options = {"eta": 1.0} if of_ddim else {}
    return [denoise(scheduler, generator=generator(), **options)]


@program("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")
def subclass_overrides_convert_model_output(lib: Any, cls: Any) -> list[Any]:
    class Mine(cls):  # type: ignore[misc]
        def convert_model_output(self, *args: Any, **kwargs: Any) -> Any:
            return 0.9 * super().convert_model_output(*args, **kwargs)

    scheduler = Mine(**SD)
    scheduler.set_timesteps(6)
    return [denoise(scheduler)]


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
def subclass_overrides_sigma_to_t(lib: Any, cls: Any) -> list[Any]:
    class Mine(cls):  # type: ignore[misc]
        def _sigma_to_t(self, sigma: Any, log_sigmas: Any) -> Any:
            return super()._sigma_to_t(sigma, log_sigmas) * 0.5

    scheduler = Mine(**SD, use_karras_sigmas=True)
    scheduler.set_timesteps(6)
    return [scheduler.timesteps]


@program("DDIMScheduler", "EulerDiscreteScheduler")
def subclass_overrides_set_timesteps(lib: Any, cls: Any) -> list[Any]:
    class Mine(cls):  # type: ignore[misc]
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            super().set_timesteps(2 * num_inference_steps, device=device)

    scheduler = Mine(**SD)
    scheduler.set_timesteps(3)
    return [scheduler.timesteps, denoise(scheduler)]


@program("DDPMScheduler")
def subclass_overrides_previous_timestep(lib: Any, cls: Any) -> list[Any]:
    class Mine(cls):  # type: ignore[misc]
        def previous_timestep(self, timestep: Any) -> Any:
            return timestep - 50

    scheduler = Mine(**SD)
    scheduler.set_timesteps(5)
    return [denoise(scheduler, generator=generator())]


@program("EulerDiscreteScheduler")
def subclass_is_saved_and_loaded(lib: Any, cls: Any) -> list[Any]:
    class Mine(cls):  # type: ignore[misc]
        pass

    scheduler = Mine.from_config(cls(**SD).config, use_karras_sigmas=True)
    return [type(scheduler).__name__, scheduler.config.use_karras_sigmas, scheduler.config.beta_end]


# ---- Reaching in ----


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler")
def watches_the_step_index(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    seen = [scheduler.step_index, scheduler._step_index, scheduler._begin_index]
    x = noise() * scheduler.init_noise_sigma
    for t in scheduler.timesteps[:3]:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        seen += [scheduler.step_index, scheduler._step_index]
    return seen


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
def calls_init_step_index(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    scheduler._init_step_index(scheduler.timesteps[2])
    index = scheduler.step_index
    return [index, denoise(scheduler, noise(), scheduler.timesteps[2:])]


@program("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")
def reads_the_history_of_outputs(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    denoise(scheduler, timesteps=scheduler.timesteps[:3])
    return [*scheduler.model_outputs, scheduler.lower_order_nums]


@program("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
def clears_the_history_of_outputs(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(8)
    x = denoise(scheduler, timesteps=scheduler.timesteps[:4])
    scheduler.model_outputs = [None] * scheduler.config.solver_order
    scheduler.lower_order_nums = 0
    if hasattr(scheduler, "last_sample"):
        scheduler.last_sample = None
    return [denoise(scheduler, x, scheduler.timesteps[4:])]


@program("UniPCMultistepScheduler")
def chronoedit_drops_frames_from_the_history(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    x = denoise(scheduler, timesteps=scheduler.timesteps[:3])
    scheduler.model_outputs = [None if kept is None else kept[:1] for kept in scheduler.model_outputs]
    if scheduler.last_sample is not None:
        scheduler.last_sample = scheduler.last_sample[:1]
    return [denoise(scheduler, x[:1], scheduler.timesteps[3:])]


@program("LMSDiscreteScheduler")
def reads_lms_derivatives(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    denoise(scheduler, timesteps=scheduler.timesteps[:3])
    return [*scheduler.derivatives, float(scheduler.get_lms_coefficient(2, 3, 1))]


@program("PNDMScheduler")
def reads_pndm_timesteps_and_history(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(8)
    denoise(scheduler, timesteps=scheduler.timesteps[:14])
    return [scheduler.prk_timesteps.tolist(), scheduler.plms_timesteps.tolist(), *scheduler.ets, scheduler.counter]


@program("PNDMScheduler")
def calls_prk_and_plms_itself(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    x = noise()
    for t in scheduler.prk_timesteps:
        x = scheduler.step_prk(network(x, int(t)), int(t), x).prev_sample
    for t in scheduler.plms_timesteps:
        x = scheduler.step_plms(network(x, int(t)), int(t), x).prev_sample
    return [x]


@program("DDIMScheduler", "DDPMScheduler")
def reads_variances(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    if cls is lib.DDIMScheduler:
        return [scheduler._get_variance(800, 700), scheduler._get_variance(0, -1)]
    return [scheduler._get_variance(800), scheduler._get_variance(0)]


@program("DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler")
def converts_outputs_and_sigmas_itself(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    x = noise()
    t = scheduler.timesteps[0]
    scheduler._init_step_index(t)
    alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[1])
    return [scheduler.convert_model_output(network(x, t), sample=x), alpha, sigma]


@program("EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler")
def makes_karras_sigmas_itself(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    sigmas = scheduler.sigmas[:-1]
    return [
        torch.as_tensor(scheduler._convert_to_karras(in_sigmas=sigmas, num_inference_steps=6)),
        torch.as_tensor(scheduler._convert_to_exponential(in_sigmas=sigmas, num_inference_steps=6)),
        torch.as_tensor(scheduler._convert_to_beta(in_sigmas=sigmas, num_inference_steps=6)),
    ]


@program("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler")
def thresholds_a_sample_itself(lib: Any, cls: Any) -> list[Any]:
    return [cls(**SD, thresholding=True)._threshold_sample(3 * noise())]


@program("EulerDiscreteScheduler", "LMSDiscreteScheduler", "EulerAncestralDiscreteScheduler")
def asks_whether_inputs_were_scaled(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(4)
    before = scheduler.is_scale_input_called
    scheduler.scale_model_input(noise(), scheduler.timesteps[0])
    return [before, scheduler.is_scale_input_called]


@program("DDPMScheduler")
def previous_timestep_of_a_tensor(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    before = scheduler.previous_timestep(scheduler.timesteps[3])
    return [before.item(), str(before.dtype)]


@program(*SIGMAS[:4])
def moves_the_initial_noise(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    return [scheduler.init_noise_sigma.to("cpu").item()]


@program("DPMSolverMultistepScheduler")
def calls_the_updates_itself(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    x = denoise(scheduler, timesteps=scheduler.timesteps[:2])
    t = scheduler.timesteps[2]
    data = scheduler.convert_model_output(network(x, t), sample=x)
    first = scheduler.dpm_solver_first_order_update(data, sample=x)
    second = scheduler.multistep_dpm_solver_second_order_update([scheduler.model_outputs[-1], data], sample=x)
    return [first, second]


@program("DPMSolverMultistepScheduler", "DDIMScheduler")
def ledits_inverts_with_the_noise_it_needed(lib: Any, cls: Any) -> list[Any]:
    options: dict[str, Any] = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}
    scheduler = cls(**SD, **(options if cls is lib.DPMSolverMultistepScheduler else {"clip_sample": False}))
    scheduler.set_timesteps(6)
    eta = {} if cls is lib.DPMSolverMultistepScheduler else {"eta": 1.0}
    x, seen = noise(), []
    for place, t in enumerate(scheduler.timesteps):
        z = noise(20 + place)
        x = scheduler.step(network(x, t), t, x, variance_noise=z, **eta).prev_sample
        seen.append(x)
    return seen


@program("DDIMScheduler")
def cycle_diffusion_finds_the_noise_of_a_step(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, clip_sample=False)
    scheduler.set_timesteps(6)
    t, before = scheduler.timesteps[2], scheduler.timesteps[3]
    variance = scheduler._get_variance(t, before)
    alpha, alpha_before = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[before]
    x, target = noise(1), noise(2)
    predicted = network(x, t)
    data = (x - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
    mean = alpha_before.sqrt() * data + (1 - alpha_before - variance).sqrt() * predicted
    z = (target - mean) / variance.sqrt()
    return [z, scheduler.step(predicted, t, x, eta=1.0, variance_noise=z).prev_sample]


@program("DDIMScheduler")
def ddpo_log_probability_of_a_step(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, clip_sample=False)
    scheduler.set_timesteps(6)
    x, t = noise(), scheduler.timesteps[1]
    before = t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    deviation = scheduler._get_variance(t, before).sqrt()
    mean = scheduler.step(network(x, t), t, x, eta=1.0, variance_noise=torch.zeros_like(x)).prev_sample
    drawn = mean + deviation * noise(4)
    density = torch.distributions.Normal(mean, deviation).log_prob(drawn)
    return [drawn, density.mean(dim=(1, 2, 3))]


@program("DDIMScheduler")
def edict_couples_two_samples(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, clip_sample=False)
    scheduler.set_timesteps(6)
    x, y = noise(), noise()
    for t in scheduler.timesteps:
        before = t - 1000 // 6
        a = scheduler.alphas_cumprod[t]
        b = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
        ratio = (b / a).sqrt()
        shift = (1 - b).sqrt() - ratio * (1 - a).sqrt()
        x = ratio * x + shift * network(y, t)
        y = ratio * y + shift * network(x, t)
        x, y = 0.93 * x + 0.07 * y, 0.93 * y + 0.07 * x
    return [x, y]


@program("DDPMScheduler")
def value_guided_planning(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, variance_type="fixed_small_log", clip_sample=False)
    scheduler.set_timesteps(6)
    x, drawn = noise(), generator()
    for t in scheduler.timesteps:
        deviation = torch.exp(0.5 * torch.as_tensor(scheduler._get_variance(int(t))))
        slope = -x / 10
        x = scheduler.step(network(x, t), t, x + 0.1 * deviation * slope, generator=drawn).prev_sample
    return [x]


@program("DDIMScheduler")
def paradigms_steps_a_window_in_parallel(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, clip_sample=False)
    scheduler.set_timesteps(8)
    window = scheduler.timesteps[:4]
    alphas = scheduler.alphas_cumprod[window].reshape(-1, 1, 1, 1)
    x = noise()[:1].expand(4, -1, -1, -1)
    data = (x - (1 - alphas).sqrt() * network(x, window)) / alphas.sqrt()
    one_by_one = [scheduler.step(network(x[:1], t), t, x[:1]).pred_original_sample for t in window]
    return [data, torch.cat(one_by_one)]


@program("HeunDiscreteScheduler", "KDPM2DiscreteScheduler")
def asks_which_half_of_a_step_it_is(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(4)
    seen = [scheduler.state_in_first_order]
    x = noise() * scheduler.init_noise_sigma
    for t in scheduler.timesteps[:3]:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        seen.append(scheduler.state_in_first_order)
    return seen
