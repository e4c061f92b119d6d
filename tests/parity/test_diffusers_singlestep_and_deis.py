"""Singlestep DPM-Solver, DEIS and UniPC of the noise against diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffusolve.noise import SD15, Grid
from diffusolve.solvers import Solver, deis, dpm_singlestep, dpmpp_singlestep, unipc
from tests.tables import for_each

from .diffusers_reference import BETAS, KARRAS, LEADING, SIGMA_MIN, TRAILING, Way, grid_of, scheduler, trajectories
from .trajectory import PROMISED, Trajectory, assert_same, plan_on

ORDERS = (1, 2, 3)
KINDS = ("midpoint", "heun")

SINGLESTEP_WAYS: dict[str, Way] = {
    "linspace": Way(BETAS["scaled_linear"], "epsilon", {}),
    "linspace, v": Way(BETAS["linear"], "v_prediction", {}),
    "karras": Way(BETAS["scaled_linear"], "epsilon", KARRAS),
    "linspace to sigma_min": Way(BETAS["squaredcos"], "v_prediction", SIGMA_MIN),
}
MULTISTEP_WAYS: dict[str, Way] = {
    "linspace": Way(BETAS["scaled_linear"], "epsilon", {}),
    "leading": Way(BETAS["linear"], "v_prediction", LEADING | {"steps_offset": 1}),
    "trailing, x0": Way(BETAS["scaled_linear"], "sample", TRAILING),
}


def both(name: str, solver: Solver, way: Way, steps: int, **config: Any) -> tuple[Trajectory, Trajectory]:
    """Our trajectory and that of the scheduler class `name` of diffusers."""
    reference = scheduler(name, way.noise_schedule, way.prediction_type, steps, **way.config, **config)
    if hasattr(reference, "order_list"):
        solver = solver.with_options(orders=tuple(reference.order_list))
    plan = plan_on(grid_of(reference, way.noise_schedule), solver, way.prediction_type)
    return trajectories(plan, reference, stochastic=plan.is_stochastic)


@for_each("steps", [4, 5, 6, 20])
@for_each("way", SINGLESTEP_WAYS)
@for_each("kind", KINDS)
@for_each("order", ORDERS)
def test_dpmpp_singlestep_walks_the_same_trajectory_as_diffusers(order: int, kind: str, way: str, steps: int) -> None:
    name, config = "DPMSolverSinglestepScheduler", {"solver_order": order, "solver_type": kind}
    solver = dpmpp_singlestep.with_options(order=order, solver_type=kind)
    assert_same(*both(name, solver, SINGLESTEP_WAYS[way], steps, **config), within=PROMISED)
    solver = solver.with_options(eta=1.0, noise="path", third_order="diffusers_sde")
    config["algorithm_type"] = "sde-dpmsolver++"
    assert_same(*both(name, solver, SINGLESTEP_WAYS[way], steps, **config), within=PROMISED)


@for_each("steps", [4, 5, 6, 20])
@for_each("kind", KINDS)
@for_each("order", ORDERS)
def test_dpm_singlestep_walks_the_same_trajectory_as_diffusers(order: int, kind: str, steps: int) -> None:
    config = {"solver_order": order, "solver_type": kind, "algorithm_type": "dpmsolver"}
    solver = dpm_singlestep.with_options(order=order, solver_type=kind, earliest_midpoint=0.0)
    for prediction_type in ("epsilon", "v_prediction"):
        way = Way(BETAS["scaled_linear"], prediction_type, SIGMA_MIN)
        assert_same(*both("DPMSolverSinglestepScheduler", solver, way, steps, **config), within=PROMISED)


@for_each("steps", [5, 14, 20])
@for_each("way", MULTISTEP_WAYS)
@for_each("order", [1, 2])
def test_deis_walks_the_same_trajectory_as_diffusers(order: int, way: str, steps: int) -> None:
    """The third order of diffusers, in logarithms in float32, has a few digits only: see tests/schedulers."""
    solver = deis.with_options(order=order, lower_order_final=steps < 15)
    assert_same(
        *both("DEISMultistepScheduler", solver, MULTISTEP_WAYS[way], steps, solver_order=order), within=PROMISED
    )


def test_deis_takes_a_last_step_of_no_length() -> None:
    reference = scheduler("DEISMultistepScheduler", SD15, "epsilon", 8, **KARRAS, lower_order_final=False)
    sigmas, timesteps = (np.asarray(numbers, np.float64) for numbers in (reference.sigmas, reference.timesteps))
    assert sigmas[-2] == sigmas[-1] > 0
    plan = plan_on(Grid.through(SD15, sigmas, np.append(timesteps, 0)), deis.with_options(order=2), "epsilon")
    assert_same(*trajectories(plan, reference), within=PROMISED)


@for_each("steps", [5, 14, 20])
@for_each("variant", ["bh1", "bh2"])
@for_each("order", ORDERS)
def test_unipc_of_the_noise_walks_the_same_trajectory_as_diffusers(order: int, variant: str, steps: int) -> None:
    config = {"solver_order": order, "solver_type": variant, "predict_x0": False}
    solver = unipc.with_options(order=order, variant=variant, form="noise")
    for uncorrected in ((), (0, 3)):
        config["disable_corrector"] = list(uncorrected)
        for prediction_type in ("epsilon", "v_prediction"):
            way = Way(BETAS["scaled_linear"], prediction_type, SIGMA_MIN)
            chosen = solver.with_options(uncorrected=uncorrected)
            assert_same(*both("UniPCMultistepScheduler", chosen, way, steps, **config), within=PROMISED)
