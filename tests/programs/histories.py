"""Reaching for the history of a run, by programs that ask for it before the run begins or where it is still whole."""

from __future__ import annotations

from typing import Any

import torch

from tests.programs.registry import SD, denoise, generator, network, noise, program

MULTISTEP = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")


def asked_before(cls: Any, count: int, steps: int = 6, **options: Any) -> tuple[Any, Any]:
    """A scheduler that was asked for its history, and the sample after `count` steps."""
    scheduler = cls(**SD, **options)
    scheduler.set_timesteps(steps)
    assert scheduler.model_outputs == [None] * scheduler.config.solver_order
    return scheduler, denoise(scheduler, timesteps=scheduler.timesteps[:count])


@program(*MULTISTEP)
def asks_for_the_history_and_reads_it(lib: Any, cls: Any) -> list[Any]:
    results = []
    for order in (1, 2, 3):
        for count in (1, 2, 4):
            scheduler, x = asked_before(cls, count, solver_order=order)
            results += [x, *scheduler.model_outputs, scheduler.lower_order_nums]
    return results


@program("UniPCMultistepScheduler")
def reads_unipcs_last_sample_and_timesteps(lib: Any, cls: Any) -> list[Any]:
    scheduler, x = asked_before(cls, 3)
    return [scheduler.last_sample, *[int(t) for t in scheduler.timestep_list], x]


@program("UniPCMultistepScheduler")
def drops_frames_item_by_item(lib: Any, cls: Any) -> list[Any]:
    scheduler, x = asked_before(cls, 3)
    for place, kept in enumerate(scheduler.model_outputs):
        if kept is not None:
            scheduler.model_outputs[place] = kept[:1]
    scheduler.last_sample = scheduler.last_sample[:1]
    return [denoise(scheduler, x[:1], scheduler.timesteps[3:])]


@program(*MULTISTEP)
def damps_the_last_output(lib: Any, cls: Any) -> list[Any]:
    scheduler, x = asked_before(cls, 3)
    scheduler.model_outputs[-1] = 0.9 * scheduler.model_outputs[-1]
    return [denoise(scheduler, x, scheduler.timesteps[3:])]


@program(*MULTISTEP)
def swaps_samples_of_a_batch_with_their_history(lib: Any, cls: Any) -> list[Any]:
    scheduler, x = asked_before(cls, 3)
    scheduler.model_outputs = [None if kept is None else kept.flip(0) for kept in scheduler.model_outputs]
    if hasattr(scheduler, "last_sample"):
        scheduler.last_sample = scheduler.last_sample.flip(0)
    return [denoise(scheduler, x.flip(0), scheduler.timesteps[3:])]


@program("LMSDiscreteScheduler")
def forgets_nothing_of_lms(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(7)
    x = denoise(scheduler, timesteps=scheduler.timesteps[:3])
    scheduler.derivatives[-1] = 0.9 * scheduler.derivatives[-1]
    return [*scheduler.derivatives, denoise(scheduler, x, scheduler.timesteps[3:])]


@program("PNDMScheduler")
def watches_pndm_call_by_call(lib: Any, cls: Any) -> list[Any]:
    results = []
    for skips in (True, False):
        scheduler = cls(**SD, skip_prk_steps=skips)
        scheduler.set_timesteps(7)
        x, _ = noise(), scheduler.ets
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x).prev_sample
            results += [scheduler.counter, *scheduler.ets]
        results += [scheduler.prk_timesteps.tolist(), scheduler.plms_timesteps.tolist()]
    return results


@program("HeunDiscreteScheduler")
def looks_into_the_middle_of_heuns_steps(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(4)
    x, results = noise() * scheduler.init_noise_sigma, []
    for t in scheduler.timesteps[:5]:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        derivative, before = scheduler.prev_derivative, scheduler.sample
        results += [derivative is None, scheduler.state_in_first_order]
        if derivative is not None:
            results += [derivative, before, scheduler.dt.float()]
    return results


@program("DPMSolverMultistepScheduler", "LMSDiscreteScheduler")
def counts_what_it_remembers_in_half_precision(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    name = "model_outputs" if hasattr(scheduler, "model_outputs") else "derivatives"
    denoise(scheduler, noise(dtype=torch.float64) * scheduler.init_noise_sigma, scheduler.timesteps[:2])
    return [len([kept for kept in getattr(scheduler, name) if kept is not None])]


@program("DPMSolverMultistepScheduler")
def sde_history_is_kept_with_its_noise(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD, algorithm_type="sde-dpmsolver++")
    scheduler.set_timesteps(6)
    drawn, _ = generator(), scheduler.model_outputs
    x = denoise(scheduler, timesteps=scheduler.timesteps[:3], generator=drawn)
    scheduler.model_outputs[-1] *= 0.9
    return [denoise(scheduler, x, scheduler.timesteps[3:], generator=drawn)]


@program("DPMSolverMultistepScheduler", "DEISMultistepScheduler")
def calls_updates_of_every_order(lib: Any, cls: Any) -> list[Any]:
    results = []
    kinds: list[dict[str, Any]] = [{}]
    if cls is lib.DPMSolverMultistepScheduler:
        kinds += [{"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, {"solver_type": "heun"}]
    for options in kinds:
        scheduler = cls(**SD, **options, solver_order=3)
        scheduler.set_timesteps(7)
        x = denoise(scheduler, timesteps=scheduler.timesteps[:3])
        name = "deis" if "DEIS" in cls.__name__ else "dpm_solver"
        outputs = [noise(4), noise(5), noise(6)]
        results += [
            getattr(scheduler, f"{name}_first_order_update")(outputs[-1], sample=x),
            getattr(scheduler, f"multistep_{name}_second_order_update")(outputs, sample=x),
            getattr(scheduler, f"multistep_{name}_third_order_update")(outputs, sample=x),
        ]
    return results


@program(*MULTISTEP, "DPMSolverSinglestepScheduler")
def fills_in_outputs_before_the_first_step(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    scheduler.model_outputs = [noise(4), noise(5)]
    return [denoise(scheduler)]


@program("LCMScheduler", "TCDScheduler")
def asks_distilled_schedulers_for_previous_timesteps(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(timesteps=[801, 401, 1])
    previous = [int(scheduler.previous_timestep(t)) for t in scheduler.timesteps]
    return [previous, scheduler.custom_timesteps]


@program("UnCLIPScheduler")
def reads_the_variances_of_unclip(lib: Any, cls: Any) -> list[Any]:
    small, learned = cls(variance_type="fixed_small_log"), cls(variance_type="learned_range")
    return [
        *[float(small._get_variance(t)) for t in (0, 487, 999)],
        *[float(learned._get_variance(t, predicted_variance=0.5)) for t in (1, 487, 999)],
    ]
