"""Loops of extensions, trainers and papers, which walk schedulers in ways of their own."""

from __future__ import annotations

import copy
import inspect
from itertools import pairwise
from typing import Any

import torch

from tests.programs.registry import SD, denoise, generator, network, noise, program

EACH = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
)
FLOW = "FlowMatchEulerDiscreteScheduler"


def seeded(cls: Any) -> dict[str, Any]:
    """A generator, for the classes whose steps take one."""
    return {"generator": generator(1)} if "generator" in inspect.signature(cls.step).parameters else {}


@program(*EACH)
def hires_fix_goes_on_at_another_size(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(6)
    small = denoise(scheduler, **seeded(cls))
    large = torch.nn.functional.interpolate(small, scale_factor=2)
    scheduler.set_timesteps(8)
    timesteps = scheduler.timesteps[4 * scheduler.order :]
    fresh = torch.randn(large.shape, generator=generator(2))
    return [denoise(scheduler, scheduler.add_noise(large, fresh, timesteps[:1]), timesteps, **seeded(cls))]


@program(*EACH)
def inpainting_puts_the_known_half_back(lib: Any, cls: Any) -> list[Any]:
    scheduler, known, mask = cls(**SD), noise(5), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    scheduler.set_timesteps(6)
    x = noise() * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, return_dict=False, **seeded(cls))[0]
        later = scheduler.timesteps[i + 1 : i + 2]
        x = (1 - mask) * (scheduler.add_noise(known, noise(6), later) if len(later) else known) + mask * x
    return [x]


@program(*EACH)
def refiner_begins_where_the_base_model_ended(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(10)
    left = int((scheduler.timesteps < 400).sum())
    left += scheduler.order == 2 and left % 2 == 0
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(len(scheduler.timesteps) - left)
    return [denoise(scheduler, noise(), scheduler.timesteps[-left:], **seeded(cls))]


@program("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")
def tiles_swap_the_whole_state(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(**SD)
    scheduler.set_timesteps(5)
    states, tiles = [copy.deepcopy(scheduler.__dict__) for _ in range(2)], [noise(0), noise(1)]
    for t in scheduler.timesteps:
        for i, tile in enumerate(tiles):
            scheduler.__dict__.update(states[i])
            tiles[i] = scheduler.step(network(tile, t), t, tile).prev_sample
            states[i] = copy.deepcopy(scheduler.__dict__)
    return tiles


@program(FLOW)
def flow_is_inverted_and_walked_back(lib: Any, cls: Any) -> list[Any]:
    scheduler = cls(shift=3.0)
    scheduler.set_timesteps(8)
    x, rising = noise(), scheduler.sigmas.flip(0)
    for low, high in pairwise(rising):
        x = x + (high - low) * network(x, 1000 * low)
    return [x, denoise(scheduler, x)]


@program(FLOW)
def flow_edit_walks_differences(lib: Any, cls: Any) -> list[Any]:
    scheduler, source = cls(shift=3.0), noise(9)
    scheduler.set_timesteps(8)
    edited = noise()
    for i, t in list(enumerate(scheduler.timesteps))[2:]:
        at, following = t / 1000, scheduler.sigmas[i + 1]
        noised = (1 - at) * source + at * noise(i)
        edited = edited + (following - at) * (network(edited + noised - source, t) - network(noised, t))
    return [edited]


@program(FLOW)
def flow_policy_adds_noise_of_its_own(lib: Any, cls: Any) -> list[Any]:
    scheduler, x, found = cls(shift=3.0), noise(), []
    scheduler.set_timesteps(6)
    for t in scheduler.timesteps:
        i = scheduler.index_for_timestep(t)
        sigma, following, largest = scheduler.sigmas[i], scheduler.sigmas[i + 1], scheduler.sigmas[1]
        std = 0.7 * torch.sqrt(sigma / (1 - torch.where(sigma == 1, largest, sigma)))
        length, velocity = following - sigma, network(x, t)
        drift = 1 + std**2 / (2 * sigma) * length
        mean = x * drift + velocity * (1 + std**2 * (1 - sigma) / (2 * sigma)) * length
        x = mean + std * torch.sqrt(-length) * noise(i)
        found.append(x)
    return found


@program(FLOW)
def flow_trainer_looks_sigmas_up(lib: Any, cls: Any) -> list[Any]:
    scheduler = copy.deepcopy(cls(shift=3.0))
    chosen = (torch.sigmoid(torch.randn(2, generator=generator())) * scheduler.config.num_train_timesteps).long()
    timesteps = scheduler.timesteps[chosen]
    places = [int((scheduler.timesteps == t).nonzero()) for t in timesteps]
    sigma = scheduler.sigmas[places].reshape(-1, 1, 1, 1)
    return [timesteps, (1 - sigma) * noise() + sigma * noise(1)]
