"""Identity, values, outputs, tracing and import paths."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.programs.registry import SD, SIGMAS, denoise, generator, network, noise, program

# ---- Being one of theirs ----


@program("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LMSDiscreteScheduler")
def asks_for_the_class_of_diffusers(lib: Any, cls: Any) -> list[Any]:
    import diffusers

    scheduler = cls(**SD)
    return [isinstance(scheduler, getattr(diffusers, cls.__name__)), isinstance(scheduler, diffusers.PNDMScheduler)]


@program("DDIMScheduler", "UniPCMultistepScheduler")
def asks_for_the_mixins_of_diffusers(lib: Any, cls: Any) -> list[Any]:
    import diffusers

    scheduler = cls(**SD)
    return [isinstance(scheduler, diffusers.SchedulerMixin), isinstance(scheduler, diffusers.ConfigMixin)]


@program("DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler")
def configuration_is_the_same_after_loading(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    with tempfile.TemporaryDirectory() as folder:
        scheduler.save_pretrained(folder)
        loaded = cls.from_pretrained(folder)
        saved = json.loads((Path(folder) / "scheduler_config.json").read_text())
    config = dict(scheduler.config)
    config.pop("_use_default_values")
    saved.pop("_diffusers_version")
    return [config == dict(loaded.config), sorted(saved.items(), key=str)]


@program("EulerDiscreteScheduler", "DDIMScheduler")
def either_library_loads_what_is_saved(lib: Any, cls: Any) -> list[Any]:
    import diffusers

    with tempfile.TemporaryDirectory() as folder:
        cls(**SD, timestep_spacing="trailing").save_pretrained(folder)
        loaded = getattr(diffusers, cls.__name__).from_pretrained(folder)
    return [loaded.config.timestep_spacing, loaded.config.beta_end, loaded.config["_class_name"]]


@program("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")
def swaps_schedulers_by_their_configuration(lib: Any, cls: Any) -> list[Any]:
    first = lib.PNDMScheduler(**SD, skip_prk_steps=True, steps_offset=1)
    second = cls.from_config(first.config)
    back = lib.PNDMScheduler.from_config(second.config)
    return [second.config.steps_offset, back.config.skip_prk_steps, second.config.timestep_spacing]


@program("EulerDiscreteScheduler")
def lists_compatible_classes(lib: Any, cls: Any) -> list[Any]:
    names = {found.__name__ for found in cls(**SD).compatibles}
    return [{"DDIMScheduler", "LMSDiscreteScheduler", "UniPCMultistepScheduler"} <= names]


# ---- Values ----


@program("DDIMScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler")
def thresholding_with_a_small_largest_value(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, thresholding=True, sample_max_value=0.5)
    scheduler.set_timesteps(5)
    return [denoise(scheduler, generator=generator())]


@program("EulerDiscreteScheduler")
def gives_printed_sigmas_back(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    other = cls(**SD)
    other.set_timesteps(sigmas=[round(float(sigma), 4) for sigma in scheduler.sigmas])
    return [other.timesteps, other.sigmas, denoise(other)]


@program("EulerDiscreteScheduler")
def gives_back_sigmas_that_end_in_a_repeated_one(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(5)
    other = cls(**SD, final_sigmas_type="sigma_min")
    other.set_timesteps(sigmas=scheduler.sigmas.tolist())
    return [other.sigmas]


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
def timesteps_given_by_number(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    x = noise() * scheduler.init_noise_sigma
    for t in scheduler.timesteps.clone():
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t.clone(), x).prev_sample
    return [x]


@program("DPMSolverMultistepScheduler")
def two_equal_timesteps(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, use_karras_sigmas=True)
    scheduler.set_timesteps(40)
    return [scheduler.timesteps, denoise(scheduler)]


@program("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler")
def deis_configuration_given_to_another_solver(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls.from_config(lib.DEISMultistepScheduler(**SD).config)
    scheduler.set_timesteps(6)
    return [denoise(scheduler), scheduler.config.algorithm_type if "algorithm_type" in scheduler.config else ""]


@program("DDPMScheduler", "DDIMScheduler")
def cosine_betas_of_many_timesteps(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(num_train_timesteps=4000, beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(5)
    return [scheduler.alphas_cumprod, denoise(scheduler, generator=generator())]


@program("DDPMScheduler", "DDIMScheduler")
def betas_so_large_that_alpha_underflows(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(beta_start=0.1, beta_end=2.0 / 3, clip_sample=True)
    return [scheduler.alphas_cumprod]


@program("DDPMScheduler")
def a_single_training_timestep(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(num_train_timesteps=1)
    return [scheduler.betas, scheduler.timesteps]


@program("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDIMScheduler")
def zero_terminal_snr_with_the_default_betas(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    scheduler.set_timesteps(6)
    return [scheduler.timesteps, denoise(scheduler)]


@program("DDPMScheduler")
def trained_betas_from_a_list(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(trained_betas=[0.1, 0.2, 0.3, 0.4], num_train_timesteps=4)
    scheduler.set_timesteps(4)
    return [scheduler.betas, denoise(scheduler, generator=generator())]


# ---- Outputs ----


@program("DDIMScheduler", "EulerDiscreteScheduler", "DDPMScheduler")
def writes_to_an_output(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[0]
    out = scheduler.step(network(noise(), t), t, noise(), generator=generator())
    out.pred_original_sample = out.pred_original_sample.clamp(-1, 1)
    out["prev_sample"] = out.prev_sample * 2
    return [out.prev_sample, out["prev_sample"], out.pred_original_sample, isinstance(out, dict)]


@program("DDIMScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler")
def outputs_are_dictionaries(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[0]
    out = scheduler.step(network(noise(), t), t, noise())
    return [isinstance(out, dict), list(out.keys()), len(out.to_tuple()), out[0], dict(**out)["prev_sample"]]


@program("DDIMScheduler", "EulerDiscreteScheduler")
def maps_a_function_over_an_output(lib: Any, cls: Any) -> list[Any]:
    from torch.utils import _pytree

    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[0]
    out = _pytree.tree_map(lambda x: 2 * x, scheduler.step(network(noise(), t), t, noise()))
    return [out.prev_sample, out.pred_original_sample]


@program("DDIMScheduler", "EulerDiscreteScheduler", "DDPMScheduler")
def static_buffers_are_written_after_a_step(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[0]
    x, predicted = noise(), network(noise(), t)
    out = scheduler.step(predicted, t, x, generator=generator())
    x.copy_(out.prev_sample)
    predicted.zero_()
    return [out.pred_original_sample]


@program("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")
def outputs_as_tuples(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[0]
    out = scheduler.step(network(noise(), t), t, noise(), return_dict=False)
    return [isinstance(out, tuple), len(out), *out]


# ---- Tracing ----


@program("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")
def traces_a_loop(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)

    def sample(x: Any) -> Any:
        scheduler.set_timesteps(3)
        return denoise(scheduler, x)

    traced = torch.jit.trace(sample, (noise(),), check_trace=True)
    return [traced(noise(7))]


@program("DDIMScheduler", "DDPMScheduler")
def checkpoints_a_step(lib: Any, cls: Any) -> list[Any]:
    from torch.utils.checkpoint import checkpoint

    scheduler = cls(**SD, clip_sample=False)
    scheduler.set_timesteps(3)
    start = noise().requires_grad_()
    x = start
    for t in scheduler.timesteps:

        def one_step(x: Any, t: Any = t) -> Any:
            return scheduler.step(network(x, t), t, x, generator=generator()).prev_sample

        x = checkpoint(one_step, x, use_reentrant=False)
    x.square().sum().backward()
    return [x.detach(), start.grad]


@program("DDIMScheduler", "EulerDiscreteScheduler")
def differentiates_through_a_loop(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(3)
    x = noise().requires_grad_()
    denoise(scheduler, x).sum().backward()
    return [x.grad]


@program("DDIMScheduler")
def maps_a_step_over_a_batch(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[1]
    step = torch.func.vmap(lambda x: scheduler.step(torch.tanh(x), t, x).prev_sample)
    return [step(noise())]


# ---- Import paths ----


@program("DDIMScheduler", *SIGMAS[:2], "PNDMScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler")
def imports_a_class_from_schedulers(lib: Any, cls: Any) -> list[Any]:
    schedulers = importlib.import_module(f"{lib.__name__}.schedulers")
    return [getattr(schedulers, cls.__name__) is cls]


@program()
def imports_classes_and_outputs_from_their_modules(lib: Any) -> list[Any]:
    found = []
    for module, name, output in (
        ("ddim", "DDIMScheduler", "DDIMSchedulerOutput"),
        ("ddpm", "DDPMScheduler", "DDPMSchedulerOutput"),
        ("euler_discrete", "EulerDiscreteScheduler", "EulerDiscreteSchedulerOutput"),
        ("dpmsolver_multistep", "DPMSolverMultistepScheduler", "SchedulerOutput"),
        ("lms_discrete", "LMSDiscreteScheduler", "LMSDiscreteSchedulerOutput"),
        ("k_dpm_2_discrete", "KDPM2DiscreteScheduler", "SchedulerMixin"),
    ):
        members = importlib.import_module(f"{lib.__name__}.schedulers.scheduling_{module}")
        found += [getattr(members, name) is getattr(lib, name), hasattr(members, output)]
    return found


@program()
def imports_scheduling_utils(lib: Any) -> list[Any]:
    members = importlib.import_module(f"{lib.__name__}.schedulers.scheduling_utils")
    output = members.SchedulerOutput(prev_sample=noise())
    kinds = {kind.name for kind in members.KarrasDiffusionSchedulers}
    return [output.prev_sample, hasattr(members, "SchedulerMixin"), "EulerDiscreteScheduler" in kinds]


@program()
def imports_ays_schedules(lib: Any) -> list[Any]:
    members = importlib.import_module(f"{lib.__name__}.schedulers")
    tables = members.AysSchedules
    return [sorted(tables), tables["StableDiffusionTimesteps"], torch.tensor(tables["StableDiffusionXLSigmas"])]


@program()
def imports_configuration_utils(lib: Any) -> list[Any]:
    members = importlib.import_module(f"{lib.__name__}.configuration_utils")

    class Thing(members.ConfigMixin):  # type: ignore[misc]
        config_name = "thing.json"

        @members.register_to_config
        def __init__(self, a: int = 1, b: str = "two") -> None:
            pass

    thing = Thing(a=3)
    return [thing.config.a, thing.config.b, isinstance(thing.config, members.FrozenDict)]


@program()
def imports_push_to_hub_mixin(lib: Any) -> list[Any]:
    members = importlib.import_module(f"{lib.__name__}.utils")
    return [members.PushToHubMixin.__name__, issubclass(lib.DDIMScheduler, members.PushToHubMixin)]


@program()
def writes_a_scheduler_of_its_own_from_the_mixins(lib: Any) -> list[Any]:
    utils = importlib.import_module(f"{lib.__name__}.schedulers.scheduling_utils")
    configuration = importlib.import_module(f"{lib.__name__}.configuration_utils")

    class Halving(utils.SchedulerMixin, configuration.ConfigMixin):  # type: ignore[misc]
        order = 1

        @configuration.register_to_config
        def __init__(self, rate: float = 0.5) -> None:
            self.init_noise_sigma = 1.0

        def step(self, model_output: Any, timestep: Any, sample: Any) -> Any:
            return utils.SchedulerOutput(prev_sample=self.config.rate * sample)

    scheduler = Halving.from_config(Halving(rate=0.25).config)
    return [scheduler.step(None, 0, noise()).prev_sample, scheduler.config.rate]
