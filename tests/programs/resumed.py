"""Runs that go on with a history from elsewhere, that leave their order, or that step at timesteps of their own."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from torch import Tensor

from tests.programs.registry import SD, denoise, network, noise, program

MULTISTEP = ("DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler")

STATE = ("model_outputs", "lower_order_nums", "last_sample", "timestep_list", "this_order", "ets", "derivatives")


def half_way(cls: Any, count: int = 4) -> tuple[Any, Tensor]:
    """A scheduler whose history somebody looks at, and its sample after `count` of 8 steps."""
    scheduler = cls() if "IPNDM" in cls.__name__ else cls(**SD)
    scheduler.set_timesteps(8)
    for name in STATE[:1] + STATE[-2:]:
        getattr(scheduler, name, None)
    return scheduler, denoise(scheduler, timesteps=scheduler.timesteps[:count])


def past(count: int = 4) -> list[Tensor]:
    """Outputs that a network might have made before."""
    return [0.1 * noise(10 + number) for number in range(count)]


@program(*MULTISTEP, "IPNDMScheduler")
def resumes_a_checkpoint_in_another_process(lib: Any, cls: Any) -> list[Any]:
    results: list[Any] = []
    for count in (1, 2, 4):
        scheduler, x = half_way(cls, count)
        saved = {name: getattr(scheduler, name) for name in STATE if hasattr(scheduler, name)}
        saved = {name: list(value) if isinstance(value, list) else value for name, value in saved.items()}
        other, _ = half_way(cls, 0)
        for name, value in saved.items():
            setattr(other, name, value)
        other._step_index = count
        results.append(denoise(other, x, other.timesteps[count:].tolist()))
    return results


@program(*MULTISTEP, "IPNDMScheduler")
def forgets_the_place_and_finds_it_again(lib: Any, cls: Any) -> list[Any]:
    scheduler, x = half_way(cls)
    scheduler._step_index = None
    return [denoise(scheduler, x, scheduler.timesteps[4:].tolist()), scheduler.step_index]


@program(*MULTISTEP[:2], "IPNDMScheduler")
def goes_back_two_steps_with_its_history(lib: Any, cls: Any) -> list[Any]:
    scheduler, x = half_way(cls)
    scheduler._step_index = 2
    return [denoise(scheduler, x, scheduler.timesteps[2:])]


@program(*MULTISTEP[:3])
def appends_an_output_and_drops_the_oldest(lib: Any, cls: Any) -> list[Any]:
    scheduler, x = half_way(cls)
    scheduler.model_outputs.append(past()[0])
    scheduler.model_outputs.pop(0)
    return [denoise(scheduler, x, scheduler.timesteps[4:])]


@program("IPNDMScheduler")
def walks_twice_with_one_history(lib: Any, cls: Any) -> list[Any]:
    scheduler, first = half_way(cls, 8)
    scheduler._step_index = None
    return [first, denoise(scheduler), len(scheduler.ets)]


@program("IPNDMScheduler")
def fills_in_slopes_before_a_run(lib: Any, cls: Any) -> list[Any]:
    results: list[Any] = []
    for count in (1, 2, 3, 4):
        scheduler, _ = half_way(cls, 0)
        scheduler.ets = past(count)
        x = denoise(scheduler, noise(), scheduler.timesteps[3:6])
        results += [x, len(scheduler.ets)]
    return results


@program("PNDMScheduler")
def fills_in_slopes_and_calls_both_kinds_of_steps(lib: Any, cls: Any) -> list[Any]:
    scheduler, x = cls(**SD), noise()
    scheduler.set_timesteps(8)
    scheduler.ets = past()
    results: list[Any] = []
    for t in (0, 1, 5, 333):
        results.append(scheduler.step_prk(0.1 * x, t, x).prev_sample)
    for t in (0, 1, 5, 333):
        results.append(scheduler.step_plms(0.1 * x, t, x).prev_sample)
    return [*results, scheduler.counter, *scheduler.ets]


@program("PNDMScheduler")
def skips_the_start_of_pndm_with_given_slopes(lib: Any, cls: Any) -> list[Any]:
    results: list[Any] = []
    for skips in (True, False):
        scheduler = cls(**SD, skip_prk_steps=skips)
        scheduler.set_timesteps(8)
        scheduler.ets, scheduler.counter = past(3), 20
        results += [denoise(scheduler), scheduler.counter]
    return results


@program("PNDMScheduler")
def steps_pndm_by_numbers_of_its_own(lib: Any, cls: Any) -> list[Any]:
    results: list[Any] = []
    for skips in (True, False):
        for prediction in ("epsilon", "v_prediction"):
            scheduler, x = cls(**SD, skip_prk_steps=skips, prediction_type=prediction), noise()
            scheduler.set_timesteps(8)
            for t in (990, 801, 733, 700, 512, 404, 300, 222, 111, 50, 40, 30, 20, 10, 0):
                x = scheduler.step(network(x, t), t, x).prev_sample
                results.append(x)
    return results


@program("PNDMScheduler")
def edits_the_history_of_pndm_at_every_step(lib: Any, cls: Any) -> list[Any]:
    results: list[Any] = []
    for skips in (True, False):
        scheduler, x = cls(**SD, skip_prk_steps=skips), noise()
        scheduler.set_timesteps(8)
        assert scheduler.ets == []
        for number, t in enumerate(scheduler.timesteps):
            x = scheduler.step(network(x, t), t, x).prev_sample
            if skips or number > 11:
                scheduler.ets.append(1.01 * scheduler.ets[-1])
                scheduler.ets.pop(0)
            results.append(x)
    return results


@program("PNDMScheduler")
def changes_what_a_runge_kutta_step_has_added_up(lib: Any, cls: Any) -> list[Any]:
    scheduler, x = cls(**SD), noise()
    scheduler.set_timesteps(8)
    assert scheduler.counter == len(scheduler.ets) == 0
    x = denoise(scheduler, x, scheduler.timesteps[:6])
    before = [scheduler.cur_model_output.clone(), scheduler.cur_sample, scheduler.counter]
    scheduler.cur_model_output = 0.5 * scheduler.cur_model_output
    scheduler.cur_sample = 0.9 * scheduler.cur_sample
    return [*before, denoise(scheduler, x, scheduler.timesteps[6:])]


@program("PNDMScheduler")
def goes_on_after_the_end_of_pndm(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(8)
    assert scheduler.ets == []
    x = denoise(scheduler)
    again = scheduler.step(network(x, 0), scheduler.timesteps[-1], x).prev_sample
    return [x, again, scheduler.step(network(again, 0), 0, again).prev_sample]


@program("PNDMScheduler")
def resets_every_scheduler_by_its_step_index(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(8)
    scheduler._step_index = None
    x = denoise(scheduler, timesteps=scheduler.timesteps[:3])
    scheduler._step_index = None
    return [denoise(scheduler, x, scheduler.timesteps[3:])]


@program("PNDMScheduler", *MULTISTEP, "IPNDMScheduler")
def copies_and_pickles_in_mid_history(lib: Any, cls: Any) -> list[Any]:
    scheduler, x = half_way(cls, 3)
    name = next(name for name in STATE if hasattr(scheduler, name) and isinstance(getattr(scheduler, name), list))
    setattr(scheduler, name, [None if kept is None else 0.9 * kept for kept in getattr(scheduler, name)])
    twins = [scheduler, copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))]
    return [denoise(twin, x, twin.timesteps[3:]) for twin in twins]


@program("PNDMScheduler")
def overrides_one_kind_of_pndms_steps(lib: Any, cls: Any) -> list[Any]:
    class Damped(cls):  # type: ignore[misc]
        def step_plms(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
            return super().step_plms(0.9 * model_output, timestep, sample, return_dict)

    scheduler = Damped(**SD)
    scheduler.set_timesteps(8)
    return [denoise(scheduler)]


@program(
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
    "EDMDPMSolverMultistepScheduler",
    "CosineDPMSolverMultistepScheduler",
)
def begins_at_a_timestep_that_is_none_of_the_run(lib: Any, cls: Any) -> list[Any]:
    results: list[Any] = []
    for t in (0, 1, torch.tensor(37), 12.0):
        scheduler = cls()
        scheduler.set_timesteps(7)
        options = {"generator": torch.Generator().manual_seed(0)} if "SA" in cls.__name__ else {}
        if "Cosine" not in cls.__name__:
            results.append(scheduler.step(0.1 * noise(), t, noise(), **options).prev_sample)
        results.append(scheduler.step_index)
        if "Inverse" not in cls.__name__:
            results.append(scheduler.index_for_timestep(t))
    return results


@program("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LCMScheduler", "FlowMatchEulerDiscreteScheduler")
def hopes_for_any_timestep(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls()
    scheduler.set_timesteps(7)
    try:
        scheduler.step(noise(), 1.5, noise())
    except (IndexError, ValueError):  # a name for it differs
        return ["refused"]
    return ["taken"]
