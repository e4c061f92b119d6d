"""PNDM against diffusers, whose steps are those of the paper where they are of equal lengths."""

from __future__ import annotations

from diffusolve.noise import Grid
from diffusolve.solvers import pndm
from tests.tables import for_each

from .diffusers_reference import BETAS, scheduler, trajectories
from .trajectory import assert_same, plan_on


@for_each("steps", [4, 5, 10, 20, 50, 100])
@for_each("betas", BETAS)
@for_each("start", ["runge_kutta", "improved_euler"])
def test_pndm_walks_the_same_trajectory_as_diffusers(start: str, betas: str, steps: int) -> None:
    skip = start == "improved_euler"
    reference = scheduler(
        "PNDMScheduler", BETAS[betas], "epsilon", steps, skip_prk_steps=skip, set_alpha_to_one=True, steps_offset=0
    )
    begins = [1000 - 1000 // steps * (step + 1) for step in range(steps)]
    grid = Grid.from_sigmas(BETAS[betas], [*BETAS[betas].sigma(begins), 0.0], begins)
    plan = plan_on(grid, pndm.with_options(start=start), "epsilon")
    assert plan.nfe == steps + (1 if skip else 9)
    assert_same(*trajectories(plan, reference))
