"""Noise schedules and spacings against diffusers: where the steps fall."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from diffusolve.noise import SD15, FlowMatching, Grid, VarianceExploding, VariancePreserving
from diffusolve.sampling import Sampler
from diffusolve.solvers import Solver, dpm_2, dpmpp_multistep, euler, heun, lms, unipc
from diffusolve.spacing import (
    BetaSigmas,
    Exponential,
    Karras,
    Leading,
    Linspace,
    Spacing,
    Timesteps,
    Trailing,
    UniformLogSNR,
)
from tests.tables import for_each

from .diffusers_reference import BETAS, KARRAS, LEADING, SIGMA_MIN, STEPS, TRAILING, grid_of, scheduler, trajectories
from .trajectory import PROMISED, assert_same

EULER, LMS = "EulerDiscreteScheduler", "LMSDiscreteScheduler"
DPMPP, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"


class Case(NamedTuple):
    """A spacing, and the class and options of diffusers that mean the same."""

    spacing: Spacing
    name: str
    config: dict[str, Any]


CASES: dict[str, Case] = {
    "linspace, whole": Case(Linspace(to_first=False, whole=True), DPMPP, {}),
    "linspace, whole, to sigma_min": Case(
        Linspace(to_first=False, whole=True, final_sigma="sigma_min"), UNIPC, SIGMA_MIN
    ),
    "trailing": Case(Trailing(), EULER, TRAILING),
    "trailing, multistep": Case(Trailing(), UNIPC, TRAILING),
    "trailing, to sigma_min": Case(Trailing(final_sigma="sigma_min"), DPMPP, TRAILING | SIGMA_MIN),
    "leading": Case(Leading(), LMS, LEADING),
    "leading, offset 1": Case(Leading(steps_offset=1), EULER, LEADING | {"steps_offset": 1}),
    "karras": Case(Karras(), EULER, KARRAS),
    "karras, whole": Case(Karras(whole=True), UNIPC, KARRAS),
    "exponential": Case(Exponential(), LMS, {"use_exponential_sigmas": True}),
    "beta": Case(BetaSigmas(), EULER, {"use_beta_sigmas": True}),
}

SOLVERS: dict[str, Solver] = {EULER: euler, LMS: lms, DPMPP: dpmpp_multistep, UNIPC: unipc}


def ratios(grid: Grid) -> npt.NDArray[np.float64]:
    """sigma / alpha at each point, the number that diffusers calls sigma."""
    return np.array([point.sigma / point.alpha for point in grid])


def assert_same_grid(ours: Grid, theirs: Grid, timesteps_within: float = 0.1) -> None:
    """Equal but for diffusers' float32, in which the smallest sigma of squaredcos_cap_v2 is wrong by 2.6e-4."""
    np.testing.assert_allclose(ratios(ours), ratios(theirs), rtol=3e-4)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps, rtol=0, atol=timesteps_within)


@for_each(
    ("beta_schedule", "name"),
    [
        ("linear", "DDIMScheduler"),
        ("scaled_linear", "DDIMScheduler"),
        ("squaredcos_cap_v2", "DDIMScheduler"),
        ("sigmoid", "DDPMScheduler"),
        ("laplace", "DDPMScheduler"),
        ("exp", "HeunDiscreteScheduler"),
    ],
)
@for_each("ends", [(0.0001, 0.02), (0.00085, 0.012)])
def test_betas_are_those_of_diffusers(beta_schedule: str, name: str, ends: tuple[float, float]) -> None:
    noise_schedule = VariancePreserving(beta_schedule, *ends)
    theirs = scheduler(name, noise_schedule, "epsilon", 10)
    np.testing.assert_allclose(noise_schedule.betas, theirs.betas, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(noise_schedule.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-3, atol=1e-6)


def test_zero_terminal_snr_is_that_of_diffusers() -> None:
    noise_schedule = replace(SD15, rescale_betas_zero_snr=True)
    theirs = scheduler("DDIMScheduler", noise_schedule, "v_prediction", 10)
    assert noise_schedule.alphas_cumprod[-1] == theirs.alphas_cumprod[-1] == 0.0
    np.testing.assert_allclose(noise_schedule.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-3, atol=1e-6)


@for_each("steps", STEPS)
@for_each("betas", BETAS)
@for_each("case", CASES)
def test_grids_are_those_of_diffusers(case: str, betas: str, steps: int) -> None:
    spacing, name, config = CASES[case]
    theirs = scheduler(name, BETAS[betas], "epsilon", steps, **config)
    assert_same_grid(spacing.grid(BETAS[betas], steps), grid_of(theirs, BETAS[betas]))


# Between whole timesteps diffusers interpolates sigma and we its logarithm: equal where 999 / (steps - 1) is whole.
@for_each("steps", [4, 10, 28, 38])
@for_each("betas", BETAS)
def test_linspace_timesteps_are_those_of_diffusers(betas: str, steps: int) -> None:
    theirs = scheduler(EULER, BETAS[betas], "epsilon", steps)
    assert_same_grid(Linspace().grid(BETAS[betas], steps), grid_of(theirs, BETAS[betas]))


@for_each("steps", STEPS)
@for_each("betas", ["scaled_linear", "linear"])
def test_uniform_log_snr_is_diffusers_lu_lambdas(betas: str, steps: int) -> None:
    theirs = scheduler(DPMPP, BETAS[betas], "epsilon", steps, use_lu_lambdas=True)
    ours = UniformLogSNR(whole=True).grid(BETAS[betas], steps)
    assert_same_grid(ours, grid_of(theirs, BETAS[betas]), timesteps_within=1)  # halves may round the other way


@pytest.mark.parametrize("name", [DPMPP, EULER])
def test_given_timesteps_fall_where_diffusers_puts_them(name: str) -> None:
    timesteps = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24)  # Align Your Steps, Sabour et al. 2024
    theirs = scheduler(name, SD15, "epsilon", 10)
    theirs.set_timesteps(timesteps=list(timesteps))
    assert_same_grid(Timesteps(timesteps).grid(SD15), grid_of(theirs, SD15))


@for_each("steps", STEPS)
def test_flow_matching_levels_are_those_of_diffusers(steps: int) -> None:
    theirs = scheduler("FlowMatchEulerDiscreteScheduler", FlowMatching(), None, steps)
    ours = Linspace().grid(FlowMatching(), steps)
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas, rtol=1e-5)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps, rtol=1e-5)


@for_each("steps", STEPS)
def test_karras_on_edm_is_that_of_diffusers(steps: int) -> None:
    noise_schedule = VarianceExploding(conditioning="edm")
    theirs = scheduler("EDMEulerScheduler", noise_schedule, None, steps)
    ours = Karras().grid(noise_schedule, steps)
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas, rtol=1e-5)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps, atol=1e-5)


@for_each("steps", [10, 15, 50])
@for_each("prediction_type", ["epsilon", "v_prediction"])
@for_each("case", CASES)
def test_a_sampler_that_knows_nothing_of_diffusers_walks_its_trajectory(
    case: str, prediction_type: str, steps: int
) -> None:
    spacing, name, config = CASES[case]
    theirs = scheduler(name, SD15, prediction_type, steps, **config)
    plan = Sampler(SOLVERS[name], spacing, scaling=grid_of(theirs, SD15).scaling).plan(SD15, prediction_type, steps)
    assert_same(*trajectories(plan, theirs), within=PROMISED)


@for_each("steps", [10, 15, 50])
@for_each(
    ("solver", "name"), [(heun, "HeunDiscreteScheduler"), (dpm_2, "KDPM2DiscreteScheduler")], ids=["heun", "dpm_2"]
)
def test_two_stage_samplers_that_know_nothing_of_diffusers_walk_its_trajectory(
    solver: Solver, name: str, steps: int
) -> None:
    theirs = scheduler(name, SD15, "epsilon", steps, **TRAILING)
    assert_same(*trajectories(Sampler(solver, Trailing()).plan(SD15, "epsilon", steps), theirs), within=PROMISED)
