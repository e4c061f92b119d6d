"""Flow matching models and EDM's preconditioned networks against diffusers."""

from __future__ import annotations

from typing import Any

from diffusolve.noise import FlowMatching, VarianceExploding
from diffusolve.prediction import EDM
from diffusolve.sampling import Sampler
from diffusolve.solvers import Solver, dpmpp_multistep, euler, heun, unipc
from diffusolve.spacing import Karras
from tests.tables import for_each

from .diffusers_reference import STEPS, grid_of, scheduler, trajectories
from .trajectory import PROMISED, assert_same, plan_on

EDM_DPMPP = "EDMDPMSolverMultistepScheduler"
EDM_SCHEDULE = VarianceExploding(conditioning="edm")
EDM_TIMESTEPS = 2.65  # from log(0.002) / 4 to log(80) / 4


@for_each("steps", STEPS)
@for_each("shift", [1.0, 3.0])
@for_each(
    ("solver", "name", "config"),
    [
        (euler, "FlowMatchEulerDiscreteScheduler", {}),
        (euler, "FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
        (heun, "FlowMatchHeunDiscreteScheduler", {}),
    ],
    ids=["euler", "euler karras", "heun"],
)
def test_flow_matching_trajectories_are_those_of_diffusers(
    solver: Solver, name: str, config: dict[str, Any], shift: float, steps: int
) -> None:
    noise_schedule = FlowMatching(shift=shift)
    theirs = scheduler(name, noise_schedule, None, steps, shift=shift, **config)
    plan = plan_on(grid_of(theirs, noise_schedule), solver, "flow")
    assert_same(*trajectories(plan, theirs))


@for_each("steps", STEPS)
def test_replacing_all_noise_is_diffusers_stochastic_sampling_of_flow_matching(steps: int) -> None:
    noise_schedule = FlowMatching(shift=3.0)
    theirs = scheduler(
        "FlowMatchEulerDiscreteScheduler", noise_schedule, None, steps, shift=3.0, stochastic_sampling=True
    )
    plan = plan_on(grid_of(theirs, noise_schedule), euler.with_options(eta=1e6), "flow")
    assert_same(*trajectories(plan, theirs, stochastic=True))


@for_each("steps", STEPS)
@for_each(
    ("solver", "name", "config"),
    [
        (dpmpp_multistep, "DPMSolverMultistepScheduler", {}),
        (dpmpp_multistep.with_options(eta=1.0), "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        (unipc, "UniPCMultistepScheduler", {}),
    ],
    ids=["dpmpp", "dpmpp sde", "unipc"],
)
def test_multistep_solvers_walk_the_same_trajectory_on_flow_matching_as_diffusers(
    solver: Solver, name: str, config: dict[str, Any], steps: int
) -> None:
    noise_schedule = FlowMatching(shift=3.0)
    config = {"use_flow_sigmas": True, "flow_shift": 3.0, **config}
    theirs = scheduler(name, noise_schedule, "flow_prediction", steps, **config)
    plan = plan_on(grid_of(theirs, noise_schedule), solver, "flow")
    assert_same(*trajectories(plan, theirs, stochastic=plan.is_stochastic))


@for_each("steps", STEPS)
@for_each("sigma_data", [0.5, 1.0])
@for_each(
    ("solver", "name", "config"),
    [
        (euler, "EDMEulerScheduler", {}),
        (dpmpp_multistep, "EDMDPMSolverMultistepScheduler", {}),
        (dpmpp_multistep.with_options(solver_type="heun"), "EDMDPMSolverMultistepScheduler", {"solver_type": "heun"}),
        (
            dpmpp_multistep.with_options(eta=1.0),
            "EDMDPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++"},
        ),
    ],
    ids=["euler", "dpmpp", "dpmpp heun", "dpmpp sde"],
)
def test_edm_trajectories_are_those_of_diffusers(
    solver: Solver, name: str, config: dict[str, Any], sigma_data: float, steps: int
) -> None:
    theirs = scheduler(name, EDM_SCHEDULE, None, steps, sigma_data=sigma_data, **config)
    plan = Sampler(solver, Karras()).plan(EDM_SCHEDULE, EDM(sigma_data), steps)
    ours, reference = trajectories(plan, theirs, timesteps=EDM_TIMESTEPS, stochastic=name != "EDMEulerScheduler")
    assert_same(ours, reference, within=PROMISED)
