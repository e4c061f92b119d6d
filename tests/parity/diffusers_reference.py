"""Walking with the schedulers of diffusers, and the grids that they walk."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusolve.noise import SD15, Grid, NoiseSchedule, Scaling, VariancePreserving
from diffusolve.plan import Plan

from .network import StandInNetwork, standard_noise
from .trajectory import Trajectory, our_trajectory, recorded

diffusers = pytest.importorskip("diffusers", reason="these tests compare with diffusers, which is not installed")

__all__ = [
    "BETAS",
    "KARRAS",
    "LEADING",
    "SIGMA_MIN",
    "STEPS",
    "TRAILING",
    "Way",
    "generator",
    "grid_of",
    "scheduler",
    "their_trajectory",
    "trajectories",
]

STEPS = (5, 10, 14, 15, 20, 50)

BETAS: dict[str, VariancePreserving] = {
    "scaled_linear": SD15,
    "linear": VariancePreserving(beta_schedule="linear"),
    "squaredcos": VariancePreserving(beta_schedule="squaredcos_cap_v2"),
}

KARRAS = {"use_karras_sigmas": True}
LEADING = {"timestep_spacing": "leading"}
TRAILING = {"timestep_spacing": "trailing"}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}


class Way(NamedTuple):
    """What a solver is run on: a noise schedule, a prediction type, and the options of diffusers for the steps."""

    noise_schedule: VariancePreserving
    prediction_type: str
    config: dict[str, Any]


SCALED_TO_ALPHA_1 = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
)
"""The classes whose samples are x0 + sigma * noise, whatever the network was trained on."""


def scheduler(name: str, noise_schedule: NoiseSchedule, prediction_type: str | None, steps: int, **config: Any) -> Any:
    """The scheduler class `name` for `noise_schedule`, set to `steps`; some classes know one prediction type only."""
    if isinstance(noise_schedule, VariancePreserving):
        config |= {key: getattr(noise_schedule, key) for key in ("beta_schedule", "beta_start", "beta_end")}
        if noise_schedule.rescale_betas_zero_snr:
            config["rescale_betas_zero_snr"] = True
    if prediction_type:
        config["prediction_type"] = prediction_type
    made = copy.deepcopy(_constructed(name, json.dumps(config)))
    made.set_timesteps(steps)
    return made


@cache
def _constructed(name: str, config: str) -> Any:
    return getattr(diffusers, name)(**json.loads(config))


def grid_of(scheduler: Any, noise_schedule: NoiseSchedule) -> Grid:
    """The points that `scheduler` steps over, by its own numbers.

    Classes with two evaluations a step list a point as often as they call the network for it.
    """
    name = type(scheduler).__name__
    sigmas = np.asarray(scheduler.sigmas, np.float64)
    timesteps = np.asarray(scheduler.timesteps, np.float64)
    if "Heun" in name:
        sigmas, timesteps = np.unique(sigmas)[::-1], np.append(timesteps[:1], timesteps[1::2])
    if "KDPM2" in name:
        sigmas, timesteps = np.unique(sigmas)[::-1], timesteps[::2]
    grid = Grid.from_sigmas(noise_schedule, sigmas, timesteps)
    return grid.in_scaling(Scaling.VARIANCE_EXPLODING) if name in SCALED_TO_ALPHA_1 else grid


def generator() -> torch.Generator:
    """A generator in the state that both sides draw from."""
    return torch.Generator().manual_seed(1)


def their_trajectory(scheduler: Any, x: Tensor, network: StandInNetwork, **step_options: Any) -> Trajectory:
    """The trajectory of `scheduler` from `x`, by its ``step`` with `step_options`."""
    scale = getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)

    def walk(network: StandInNetwork) -> Tensor:
        sample = x
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # rounded timesteps may repeat, and the first is then not found by its value
        for timestep in scheduler.timesteps:
            sample = scheduler.step(network(scale(sample, timestep), timestep), timestep, sample, **step_options)[0]
        return sample

    return recorded(walk, network)


def trajectories(
    plan: Plan, scheduler: Any, timesteps: float = 1000.0, stochastic: bool = False, **step_options: Any
) -> tuple[Trajectory, Trajectory]:
    """Ours and theirs, from the same noise."""
    x = plan.start.sigma * standard_noise()
    if stochastic:
        step_options["generator"] = generator()
    ours = our_trajectory(plan, x, StandInNetwork(timesteps), noise=generator())
    return ours, their_trajectory(scheduler, x, StandInNetwork(timesteps), **step_options)
