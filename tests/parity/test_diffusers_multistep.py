"""Linear multistep, DPM-Solver++ and UniPC against diffusers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from diffusolve.noise import SD15, Grid
from diffusolve.solvers import Solver, dpmpp_multistep, lms, unipc
from diffusolve.solvers.dpm_multistep import dpm_multistep
from tests.tables import for_each, in_pairs

from .diffusers_reference import (
    BETAS,
    KARRAS,
    LEADING,
    SIGMA_MIN,
    TRAILING,
    Way,
    grid_of,
    scheduler,
    trajectories,
)
from .trajectory import PROMISED, Trajectory, assert_same, plan_on

STEPS_AROUND_15 = (5, 14, 15, 50)
"""The option lower_order_final counts below 15 only."""

WAYS: dict[str, Way] = {
    "linspace": Way(BETAS["scaled_linear"], "epsilon", {}),
    "linspace, v": Way(BETAS["scaled_linear"], "v_prediction", {}),
    "karras": Way(BETAS["scaled_linear"], "epsilon", KARRAS),
    "karras, v": Way(BETAS["linear"], "v_prediction", KARRAS),
    "trailing": Way(BETAS["linear"], "v_prediction", TRAILING),
    "leading": Way(BETAS["squaredcos"], "epsilon", LEADING | {"steps_offset": 1}),
    "karras from sigma 20000": Way(BETAS["squaredcos"], "v_prediction", KARRAS),
}
TO_SIGMA_MIN: dict[str, Way] = {
    "linspace to sigma_min": Way(BETAS["scaled_linear"], "epsilon", SIGMA_MIN),
    "trailing to sigma_min": Way(BETAS["linear"], "v_prediction", SIGMA_MIN | TRAILING),
}

# How diffusers weighs the second derivative: see diffusolve.solvers.dpmpp_multistep.THIRD_ORDERS.
DPMPP: dict[str, Solver] = {
    "first order": dpmpp_multistep.with_options(order=1),
    "midpoint": dpmpp_multistep,
    "heun": dpmpp_multistep.with_options(solver_type="heun"),
    "third order, midpoint": dpmpp_multistep.with_options(order=3, third_order="authors"),
    "third order, heun": dpmpp_multistep.with_options(order=3, third_order="authors", solver_type="heun"),
    "sde, first order": dpmpp_multistep.with_options(order=1, eta=1.0),
    "sde, midpoint": dpmpp_multistep.with_options(eta=1.0),
    "sde, heun": dpmpp_multistep.with_options(eta=1.0, solver_type="heun"),
}
DPM: dict[str, Solver] = {
    "dpm, first order": dpm_multistep.with_options(order=1),
    "dpm, midpoint": dpm_multistep,
    "dpm, heun": dpm_multistep.with_options(solver_type="heun"),
    "dpm, third order": dpm_multistep.with_options(order=3, third_order="authors"),
    "dpm, sde, first order": dpm_multistep.with_options(order=1, eta=1.0),
    "dpm, sde, midpoint": dpm_multistep.with_options(eta=1.0),
    "dpm, sde, heun": dpm_multistep.with_options(eta=1.0, solver_type="heun"),
}
UNIPC: dict[str, Solver] = {
    f"{variant}, order {order}": unipc.with_options(variant=variant, order=order)
    for variant in ("bh1", "bh2")
    for order in (1, 2, 3)
}


def variants_of(form: str) -> list[str]:
    """The names of UniPC's variants with this B(h)."""
    return [variant for variant in UNIPC if form in variant]


ALGORITHMS = {
    (dpmpp_multistep.name, False): "dpmsolver++",
    (dpmpp_multistep.name, True): "sde-dpmsolver++",
    (dpm_multistep.name, False): "dpmsolver",
    (dpm_multistep.name, True): "sde-dpmsolver",
}
"""(solver, whether it adds noise) -> the option algorithm_type of diffusers."""


def theirs(solver: Solver, way: Way, steps: int) -> Any:
    """The scheduler of diffusers that does what `solver` does with its options."""
    options = {**solver.defaults, **dict(solver.options)}
    config = {
        "solver_order": options["order"],
        "solver_type": options["variant" if solver.name == unipc.name else "solver_type"],
        "lower_order_final": options["lower_order_final"] is not False,
        **way.config,
    }
    if solver.name == unipc.name:
        config["disable_corrector"] = [] if options["corrector"] else list(range(steps))
        return scheduler("UniPCMultistepScheduler", way.noise_schedule, way.prediction_type, steps, **config)
    config["algorithm_type"] = ALGORITHMS[solver.name, options["eta"] > 0]
    config["euler_at_final"] = options["euler_at_final"]
    return scheduler("DPMSolverMultistepScheduler", way.noise_schedule, way.prediction_type, steps, **config)


def both(solver: Solver, way: Way, steps: int) -> tuple[Trajectory, Trajectory]:
    """Our trajectory and that of diffusers."""
    reference = theirs(solver, way, steps)
    plan = plan_on(grid_of(reference, way.noise_schedule), solver, way.prediction_type)
    return trajectories(plan, reference, stochastic=plan.is_stochastic)


@for_each("steps", [5, 15, 50])
@for_each("order", [1, 2, 3, 4])
@for_each("way", ["linspace", "karras, v", "leading"])
def test_lms_walks_the_same_trajectory_as_diffusers(way: str, order: int, steps: int) -> None:
    noise_schedule, prediction_type, config = WAYS[way]
    reference = scheduler("LMSDiscreteScheduler", noise_schedule, prediction_type, steps, **config)
    plan = plan_on(grid_of(reference, noise_schedule), lms.with_options(order=order), prediction_type)
    assert_same(*trajectories(plan, reference, order=order))


@for_each(("variant", "way", "steps"), in_pairs(DPMPP, [*WAYS, *TO_SIGMA_MIN], STEPS_AROUND_15))
def test_dpmpp_multistep_walks_the_same_trajectory_as_diffusers(variant: str, way: str, steps: int) -> None:
    assert_same(*both(DPMPP[variant], (WAYS | TO_SIGMA_MIN)[way], steps))


@for_each("steps", STEPS_AROUND_15)
@for_each("way", [*WAYS, *TO_SIGMA_MIN])
def test_the_third_order_sde_of_diffusers_can_be_had(way: str, steps: int) -> None:
    """It weighs the second derivative with the wrong sign of one term: what it amplifies includes rounding errors."""
    solver = dpmpp_multistep.with_options(order=3, third_order="diffusers_sde", eta=1.0)
    assert_same(*both(solver, (WAYS | TO_SIGMA_MIN)[way], steps), within=PROMISED)


@for_each("steps", STEPS_AROUND_15)
@for_each("way", TO_SIGMA_MIN)
@for_each("variant", DPM)
def test_dpm_multistep_walks_the_same_trajectory_as_diffusers(variant: str, way: str, steps: int) -> None:
    assert_same(*both(DPM[variant], TO_SIGMA_MIN[way], steps))


@for_each("steps", [10, 20])
@for_each("way", TO_SIGMA_MIN)
@for_each("solver", [*DPMPP.values(), *DPM.values()], ids=[*DPMPP, *DPM])
def test_the_last_step_may_be_of_first_order_as_in_diffusers(solver: Solver, way: str, steps: int) -> None:
    assert_same(*both(solver.with_options(euler_at_final=True), TO_SIGMA_MIN[way], steps))


@for_each(("variant", "way", "steps"), in_pairs(variants_of("bh2"), [*WAYS, *TO_SIGMA_MIN], STEPS_AROUND_15))
def test_unipc_walks_the_same_trajectory_as_diffusers(variant: str, way: str, steps: int) -> None:
    assert_same(*both(UNIPC[variant], (WAYS | TO_SIGMA_MIN)[way], steps))


@for_each(("variant", "way", "steps"), in_pairs(variants_of("bh1"), [*WAYS, *TO_SIGMA_MIN], STEPS_AROUND_15))
def test_unipc_bh1_walks_the_same_trajectory_as_diffusers(variant: str, way: str, steps: int) -> None:
    ours, reference = both(UNIPC[variant], (WAYS | TO_SIGMA_MIN)[way], steps)
    assert torch.isfinite(ours.samples[-1]).all()
    if way in WAYS:  # B(h) = h is infinite in the step to sigma = 0, and the result of diffusers is NaN
        ours, reference = (replace(one, samples=one.samples[:-1]) for one in (ours, reference))
    assert_same(ours, reference)


@for_each("steps", STEPS_AROUND_15)
@for_each("way", TO_SIGMA_MIN)
@for_each("variant", UNIPC)
def test_unipc_without_corrector_walks_the_same_trajectory_as_diffusers(variant: str, way: str, steps: int) -> None:
    assert_same(*both(UNIPC[variant].with_options(corrector=False), TO_SIGMA_MIN[way], steps))


@for_each("steps", [5, 14, 15])
@for_each("way", TO_SIGMA_MIN)
@for_each("solver", [*DPMPP.values(), *DPM.values(), *UNIPC.values()], ids=[*DPMPP, *DPM, *UNIPC])
def test_multistep_solvers_keep_their_order_to_the_end_like_diffusers(solver: Solver, way: str, steps: int) -> None:
    assert_same(*both(solver.with_options(lower_order_final=False), TO_SIGMA_MIN[way], steps), within=PROMISED)


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("solver", [dpmpp_multistep, unipc], ids=str)
def test_multistep_solvers_start_from_almost_no_signal_like_diffusers(solver: Solver, steps: int) -> None:
    noise_schedule = replace(SD15, rescale_betas_zero_snr=True)
    assert_same(*both(solver, Way(noise_schedule, "v_prediction", TRAILING), steps))


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("solver", [dpmpp_multistep, unipc], ids=str)
def test_a_last_step_of_no_length_does_what_it_does_in_diffusers(solver: Solver, steps: int) -> None:
    """A Karras spacing ends at sigma_min already, and diffusers steps from there to sigma_min once more."""
    way = Way(SD15, "epsilon", KARRAS | SIGMA_MIN)
    reference = theirs(solver, way, steps)
    sigmas, timesteps = (np.asarray(numbers, np.float64) for numbers in (reference.sigmas, reference.timesteps))
    assert sigmas[-2] == sigmas[-1] > 0
    grid = Grid.through(SD15, sigmas, np.append(timesteps, 0))
    assert_same(*trajectories(plan_on(grid, solver, way.prediction_type), reference))
