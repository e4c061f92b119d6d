"""Heun and DPM-Solver-2 against diffusers."""

from __future__ import annotations

from diffusolve.solvers import Solver, dpm_2, heun
from tests.tables import for_each

from .diffusers_reference import BETAS, KARRAS, LEADING, STEPS, TRAILING, Way, grid_of, scheduler, trajectories
from .trajectory import assert_same, plan_on

# The last timestep of squaredcos_cap_v2 has sigma = 20291, where the reference loses the digits that are compared here.
WAYS: dict[str, Way] = {
    "linspace": Way(BETAS["scaled_linear"], "epsilon", {}),
    "linspace, v": Way(BETAS["scaled_linear"], "v_prediction", {}),
    "karras": Way(BETAS["scaled_linear"], "epsilon", KARRAS),
    "karras, v": Way(BETAS["linear"], "v_prediction", KARRAS),
    "trailing": Way(BETAS["linear"], "epsilon", TRAILING),
    "leading": Way(BETAS["squaredcos"], "v_prediction", LEADING),
}


@for_each("steps", STEPS)
@for_each("way", WAYS.values(), ids=list(WAYS))
@for_each(
    ("solver", "name"), [(heun, "HeunDiscreteScheduler"), (dpm_2, "KDPM2DiscreteScheduler")], ids=["heun", "dpm_2"]
)
def test_two_stage_solvers_walk_the_same_trajectory_as_diffusers(
    solver: Solver, name: str, way: Way, steps: int
) -> None:
    theirs = scheduler(name, way.noise_schedule, way.prediction_type, steps, **way.config)
    plan = plan_on(grid_of(theirs, way.noise_schedule), solver, way.prediction_type)
    assert plan.nfe == 2 * steps - 1
    assert_same(*trajectories(plan, theirs))
