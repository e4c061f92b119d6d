"""What counts of a configuration, or of attributes, that are written when the scheduler is made; timesteps cut off."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from tests.programs.registry import SD, denoise, generator, noise, program

TABLES = (
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "CogVideoXDDIMScheduler",
    "DDIMInverseScheduler",
)


def seeded(cls: Any) -> dict[str, Any]:
    """A generator, for the classes whose steps take one."""
    return {"generator": generator(1)} if "generator" in inspect.signature(cls.step).parameters else {}


def written(scheduler: Any, key: str, value: Any, *, after: int = 0) -> Any:
    """The end of a run of 8 steps in which a key of the configuration is written `after` some of them."""
    options = seeded(type(scheduler))
    x = denoise(scheduler, noise(), scheduler.timesteps[:after], **options)
    setattr(scheduler.config, key, value)
    return denoise(scheduler, x, scheduler.timesteps[after:], **options)


@program(*TABLES)
def writes_betas_to_the_configuration(lib: Any, cls: Any) -> list[Any]:
    found: list[Any] = []
    for key, value in {"beta_end": 0.03, "beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True}.items():
        scheduler = cls()
        if key in scheduler.config:
            scheduler.set_timesteps(8)
            found += [written(scheduler, key, value, after=3), scheduler.alphas_cumprod[[5, 900]]]
    return found


@program("DDIMScheduler", "PNDMScheduler", "DDIMInverseScheduler")
def writes_set_alpha_to_one_to_the_configuration(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.register_to_config(set_alpha_to_one=not scheduler.config.set_alpha_to_one)
    scheduler.set_timesteps(8)
    return [denoise(scheduler, noise())]


@program("UniPCMultistepScheduler")
def writes_what_unipc_reads_when_made(lib: Any, cls: Any) -> list[Any]:
    found = []
    for key, value in {"disable_corrector": list(range(8)), "predict_x0": False}.items():
        scheduler = cls(**SD)
        scheduler.set_timesteps(8)
        found.append(written(scheduler, key, value))
        scheduler = cls(**SD, final_sigmas_type="sigma_min")
        scheduler.set_timesteps(8)
        setattr(scheduler, key, value)
        found.append(denoise(scheduler, noise()))
    return found


@program("FlowMatchEulerDiscreteScheduler")
def writes_invert_sigmas_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    found = []
    for before in (False, True):
        scheduler = cls(shift=3.0, invert_sigmas=before)
        scheduler.set_timesteps(8)
        found.append(written(scheduler, "invert_sigmas", not before, after=3))
        scheduler.set_timesteps(8)
        found += [scheduler.sigmas, denoise(scheduler, noise())]
    return found


@program("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
def writes_the_ends_of_flow_sigmas(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(shift=3.0)
    scheduler.set_timesteps(4)
    scheduler.sigma_max, scheduler.sigma_min = 0.9, 0.05
    scheduler.set_timesteps(4)
    return [scheduler.sigmas, denoise(scheduler, noise())]


@program("DDPMScheduler", "DDIMInverseScheduler")
def writes_the_end_by_another_name(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(clip_sample=False)
    name = "initial_alpha_cumprod" if cls.__name__.startswith("DDIM") else "one"
    setattr(scheduler, name, torch.tensor(0.9999))
    scheduler.set_timesteps(8)
    return [getattr(scheduler, name), denoise(scheduler, noise(), **seeded(cls))]


@program("DDPMScheduler", "SASolverScheduler")
def writes_attributes_that_steps_read_there(lib: Any, cls: Any) -> list[Any]:
    name = "variance_type" if cls.__name__.startswith("DDPM") else "predict_x0"
    scheduler = cls(**SD)
    scheduler.set_timesteps(8)
    setattr(scheduler, name, getattr(scheduler, name, None))  # the same: no effect
    return [denoise(scheduler, noise(), **seeded(cls))]


@program(
    "DPMSolverMultistepScheduler", "DEISMultistepScheduler", "EulerDiscreteScheduler", "EDMDPMSolverMultistepScheduler"
)
def cuts_the_last_timesteps_off_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls()
    scheduler.set_timesteps(8)
    x = denoise(scheduler, noise(), scheduler.timesteps[:3], **seeded(cls))
    scheduler.timesteps = scheduler.timesteps[:-1]
    return [denoise(scheduler, x, scheduler.timesteps[3:], **seeded(cls)), scheduler.step_index]


@program("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")
def keeps_only_the_timesteps_to_come_in_mid_run(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls()
    scheduler.set_timesteps(8)
    x = denoise(scheduler, noise(), scheduler.timesteps[:4], **seeded(cls))
    scheduler.timesteps = scheduler.timesteps[4:]
    return [denoise(scheduler, x, **seeded(cls)), scheduler.step_index]
