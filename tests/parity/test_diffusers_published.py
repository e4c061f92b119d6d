"""SA-Solver, LCM and iPNDM against diffusers."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusolve.noise import Cosine, Grid, Scaling
from diffusolve.solvers import ipndm, lcm, sa_solver
from tests.tables import for_each

from .diffusers_reference import BETAS, KARRAS, TRAILING, Way, scheduler, their_trajectory, trajectories
from .network import StandInNetwork, standard_noise
from .trajectory import PROMISED, Trajectory, assert_same, difference, our_trajectory, plan_on

AUTHORS = sa_solver.with_options(simple_order_2=True, lower_order_final=True, longest_step=inf)
"""SA-Solver as diffusers has it."""

WHEN: dict[str, tuple[dict[str, float], Callable[[float], float] | None]] = {
    "never": ({"eta": 0.0}, lambda timestep: 0.0),
    "always": ({"sde_start_percent": 0.0, "sde_end_percent": 1.0}, lambda timestep: 1.0),
    "less": ({"sde_start_percent": 0.0, "sde_end_percent": 1.0, "eta": 0.6}, lambda timestep: 0.6),
    "between timesteps 200 and 800": ({}, None),
}
"""When there is noise -> our options, and the function of the timestep for diffusers, whose default is the last one."""

WAYS: dict[str, Way] = {
    "linspace": Way(BETAS["scaled_linear"], "epsilon", {}),
    "karras, v": Way(BETAS["linear"], "v_prediction", KARRAS),
    "trailing, x0": Way(BETAS["scaled_linear"], "sample", TRAILING),
}


def sa_trajectories(
    predictor: int, corrector: int, when: str, way: Way, steps: int, **more: Any
) -> tuple[Trajectory, Trajectory]:
    """Ours and that of diffusers."""
    orders = {"predictor_order": predictor, "corrector_order": corrector}
    options, tau = WHEN[when]
    reference = scheduler("SASolverScheduler", way.noise_schedule, way.prediction_type, steps, **way.config, **orders)
    if tau is not None:
        reference.tau_func = tau
    solver = AUTHORS.with_options(**orders, **options, **more)
    sigmas, timesteps = (np.asarray(numbers, np.float64) for numbers in (reference.sigmas, reference.timesteps))
    # Grid.through takes the step of no length that diffusers puts at the end of Karras sigmas.
    grid = Grid.through(way.noise_schedule, sigmas, np.append(timesteps, 0))
    plan = plan_on(grid, solver, way.prediction_type)
    return trajectories(plan, _WithoutIdleNoise(reference), stochastic=True)


class _WithoutIdleNoise:
    """A scheduler whose generator does not move on in steps that add no noise."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor, generator: torch.Generator) -> Any:
        before = generator.get_state()
        result = self.scheduler.step(output, timestep, sample, generator=generator)
        if self.scheduler.tau_func(timestep) == 0:
            generator.set_state(before)
        return result


@for_each("steps", [5, 8, 20])
@for_each("way", WAYS)
@for_each("when", WHEN)
@for_each(("predictor", "corrector"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)])
def test_sa_solver_walks_the_same_trajectory_as_diffusers(
    predictor: int, corrector: int, when: str, way: str, steps: int
) -> None:
    assert_same(*sa_trajectories(predictor, corrector, when, WAYS[way], steps), within=PROMISED)


@for_each("when", WHEN)
@for_each(("predictor", "corrector"), [(3, 3), (3, 4), (4, 4)])
def test_sa_solver_of_high_order_is_that_of_diffusers_as_far_as_its_float32_weights_go(
    predictor: int, corrector: int, when: str
) -> None:
    within = 1e-3 if corrector == 3 else 5e-3
    assert_same(*sa_trajectories(predictor, corrector, when, WAYS["linspace"], 10), within=within)


def test_the_comparison_sees_the_authors_second_order() -> None:
    ours, theirs = sa_trajectories(2, 2, "never", WAYS["linspace"], 10, simple_order_2=False)
    assert difference(ours, theirs) > 100 * PROMISED


@for_each("steps", [1, 2, 4, 8])
@for_each("prediction_type", ["epsilon", "v_prediction"])
def test_lcm_walks_the_same_trajectory_as_diffusers(prediction_type: str, steps: int) -> None:
    """But for the boundary condition of the distilled network, of diffusers; a large scaling switches it off."""
    schedule = BETAS["scaled_linear"]
    reference = scheduler("LCMScheduler", schedule, prediction_type, steps, timestep_scaling=1e6)
    begins = np.asarray(reference.timesteps)
    grid = Grid.from_sigmas(schedule, [*schedule.sigma(begins), 0.0], begins)
    assert_same(*trajectories(plan_on(grid, lcm, prediction_type), reference, stochastic=True))


def test_the_boundary_condition_that_lcm_leaves_out_is_below_the_promised_error() -> None:
    schedule = BETAS["scaled_linear"]
    reference = scheduler("LCMScheduler", schedule, "epsilon", 4)
    begins = np.asarray(reference.timesteps)
    grid = Grid.from_sigmas(schedule, [*schedule.sigma(begins), 0.0], begins)
    assert_same(*trajectories(plan_on(grid, lcm, "epsilon"), reference, stochastic=True), within=PROMISED)


class SilentAtFirst(StandInNetwork):
    """Knows nothing of pure noise: its first output is 0."""

    def __call__(self, x: Tensor, timestep: Any) -> Tensor:
        output = super().__call__(x, timestep)
        return 0 * output if len(self.seen) == 1 else output


@pytest.mark.parametrize("steps", [5, 12, 30])
def test_ipndm_walks_the_same_trajectory_as_diffusers(steps: int) -> None:
    """To the last step, which is of first order here.

    Diffusers' class has one noise schedule, with sigma / alpha = tan(pi / 2 * timestep), and begins at alpha = 0, where
    its formula says x0 = 0, whatever the network does.
    """
    reference = scheduler("IPNDMScheduler", Cosine(), None, steps)
    ratios = [float(s / max(a, 1e-6)) for a, s in zip(reference.alphas, reference.betas, strict=True)]
    timesteps = np.asarray(reference.timesteps, np.float64)
    grid = Grid.from_sigmas(Cosine(), ratios, timesteps).in_scaling(Scaling.VARIANCE_EXPLODING)
    plan = plan_on(grid, ipndm, "v_prediction")
    x = standard_noise(dtype=torch.float64)
    theirs = their_trajectory(reference, x, SilentAtFirst(1.0, torch.float64))
    ours = our_trajectory(plan, plan.start.sigma * x, SilentAtFirst(1.0, torch.float64))
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps)
    assert_same(*(Trajectory(made.samples[:-1], made.timesteps) for made in (ours, theirs)))
