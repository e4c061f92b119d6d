"""Euler, Euler ancestral and DDIM against diffusers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffusolve.noise import SD15
from diffusolve.sampling import Sampler
from diffusolve.schedulers.as_in_diffusers import euler_with_late_churn
from diffusolve.solvers import euler
from diffusolve.spacing import Leading, Spacing, Trailing
from tests.tables import for_each

from .diffusers_reference import (
    BETAS,
    KARRAS,
    LEADING,
    STEPS,
    TRAILING,
    Way,
    grid_of,
    scheduler,
    their_trajectory,
    trajectories,
)
from .network import StandInNetwork, standard_noise
from .trajectory import PROMISED, assert_same, our_trajectory, plan_on

# The last timestep of squaredcos_cap_v2 has sigma = 20291, where the reference loses the digits that are compared here.
WAYS: dict[str, Way] = {
    "linspace": Way(BETAS["scaled_linear"], "epsilon", {}),
    "linspace, v": Way(BETAS["scaled_linear"], "v_prediction", {}),
    "karras": Way(BETAS["scaled_linear"], "epsilon", KARRAS),
    "karras, v": Way(BETAS["linear"], "v_prediction", KARRAS),
    "trailing": Way(BETAS["linear"], "sample", TRAILING),
    "leading": Way(BETAS["squaredcos"], "epsilon", LEADING),
    "leading karras": Way(BETAS["squaredcos"], "v_prediction", LEADING | KARRAS),
}


@for_each("steps", STEPS)
@for_each("way", WAYS.values(), ids=list(WAYS))
def test_euler_walks_the_same_trajectory_as_diffusers(way: Way, steps: int) -> None:
    theirs = scheduler("EulerDiscreteScheduler", way.noise_schedule, way.prediction_type, steps, **way.config)
    plan = plan_on(grid_of(theirs, way.noise_schedule), euler, way.prediction_type)
    assert_same(*trajectories(plan, theirs))


@for_each("steps", STEPS)
@for_each("way", ["linspace", "linspace, v", "trailing", "leading"])
def test_euler_with_eta_1_walks_the_same_trajectory_as_diffusers_euler_ancestral(way: str, steps: int) -> None:
    noise_schedule, prediction_type, config = WAYS[way]
    prediction_type = prediction_type.replace("sample", "v_prediction")  # which this class does not know
    theirs = scheduler("EulerAncestralDiscreteScheduler", noise_schedule, prediction_type, steps, **config)
    plan = plan_on(grid_of(theirs, noise_schedule), euler.with_options(eta=1.0), prediction_type)
    assert_same(*trajectories(plan, theirs, stochastic=True))


@for_each("steps", [5, 14, 50])
@for_each("set_alpha_to_one", [True, False])
@for_each("eta", [0.0, 0.5, 1.0])
@for_each(
    ("betas", "prediction_type"),
    [("scaled_linear", "epsilon"), ("scaled_linear", "v_prediction"), ("linear", "sample"), ("squaredcos", "epsilon")],
)
def test_euler_walks_the_same_trajectory_as_diffusers_ddim(
    betas: str, prediction_type: str, eta: float, set_alpha_to_one: bool, steps: int
) -> None:
    spacing = Leading(steps_offset=1, final_sigma="zero" if set_alpha_to_one else "sigma_min")
    config = {"clip_sample": False, "set_alpha_to_one": set_alpha_to_one, "steps_offset": 1}
    theirs = scheduler("DDIMScheduler", BETAS[betas], prediction_type, steps, **config)
    plan = Sampler(euler.with_options(eta=eta), spacing).plan(BETAS[betas], prediction_type, steps)
    assert_same(*trajectories(plan, theirs, stochastic=True, eta=eta), within=PROMISED)


# diffusers' DDIM steps by 1000 // steps, whatever the next timestep is: trailing agrees where steps divide 1000. With
# eta = 1 nothing of the sample survives the first step, and diffusers takes the square root of a rounding error there.
@for_each("steps", [5, 10, 20, 50])
@for_each("eta", [0.0, 0.5])
@for_each("prediction_type", ["v_prediction", "sample"])
def test_ddim_starts_from_zero_signal_like_diffusers(prediction_type: str, eta: float, steps: int) -> None:
    noise_schedule = replace(SD15, rescale_betas_zero_snr=True)
    theirs = scheduler("DDIMScheduler", noise_schedule, prediction_type, steps, clip_sample=False, **TRAILING)
    plan = Sampler(euler.with_options(eta=eta), Trailing()).plan(noise_schedule, prediction_type, steps)
    assert plan.start.alpha == 0.0
    assert_same(*trajectories(plan, theirs, stochastic=True, eta=eta))


@for_each("steps", [5, 20])
@for_each("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_churn_walks_the_same_trajectory_as_diffusers(prediction_type: str, steps: int) -> None:
    churn = {"s_churn": 5.0, "s_tmin": 0.1, "s_tmax": 10.0, "s_noise": 1.01}
    theirs = scheduler("EulerDiscreteScheduler", SD15, prediction_type, steps)
    solver = euler_with_late_churn.with_options(prediction=prediction_type, **churn)
    plan = plan_on(grid_of(theirs, SD15), solver, prediction_type)
    assert plan.is_stochastic
    assert_same(*trajectories(plan, theirs, stochastic=True, **churn))


@pytest.mark.parametrize("spacing", [Leading(), Trailing()], ids=["leading", "trailing"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_clipping_the_data_gives_diffusers_trajectory(prediction_type: str, spacing: Spacing) -> None:
    name = type(spacing).__name__.lower()
    theirs = scheduler("DDIMScheduler", SD15, prediction_type, 10, clip_sample=True, timestep_spacing=name)
    plan = Sampler(euler, spacing).plan(SD15, prediction_type, 10)
    x = plan.start.sigma * standard_noise()
    ours = our_trajectory(plan, x, StandInNetwork(), clip=lambda data: data.clamp(-1, 1))
    assert_same(ours, their_trajectory(theirs, x, StandInNetwork(), use_clipped_model_output=True))


@pytest.mark.parametrize("steps", [5, 20])
def test_where_sigma_is_20000_ours_in_float32_is_nearer_to_float64_than_diffusers(steps: int) -> None:
    """There one rounding of the sample is as large as the data: what matters is to round seldom."""
    noise_schedule = BETAS["squaredcos"]
    theirs = scheduler("EulerDiscreteScheduler", noise_schedule, "v_prediction", steps)
    plan = plan_on(grid_of(theirs, noise_schedule), euler, "v_prediction")
    x = plan.start.sigma * standard_noise()
    exact = our_trajectory(plan, x.double(), StandInNetwork(dtype=torch.float64)).samples[-1]
    our_error = (our_trajectory(plan, x, StandInNetwork()).samples[-1] - exact).abs().max()
    their_error = (their_trajectory(theirs, x, StandInNetwork()).samples[-1] - exact).abs().max()
    assert our_error < their_error / 10
