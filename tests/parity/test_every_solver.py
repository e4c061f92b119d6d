"""No solver goes uncompared, and the comparison can tell solvers apart."""

from __future__ import annotations

import pytest

from diffusolve.noise import SD15
from diffusolve.sampling import Sampler
from diffusolve.solvers import SOLVERS, Solver, dpmpp_multistep, euler, lms, unipc
from diffusolve.spacing import Karras

from .network import StandInNetwork, standard_noise
from .trajectory import PROMISED, Trajectory, difference, our_trajectory

COMPARED = {
    "test_diffusers_one_step": ["euler", "euler_with_late_churn"],
    "test_diffusers_two_stage": ["heun", "dpm_2"],
    "test_diffusers_multistep": ["lms", "dpmpp_multistep", "dpm_multistep", "unipc"],
    "test_diffusers_pndm": ["pndm"],
    "test_diffusers_singlestep_and_deis": ["dpm_singlestep", "dpmpp_singlestep", "deis", "unipc"],
    "test_k_diffusion_solvers": ["euler", "heun", "dpm_2", "lms", "dpmpp_multistep", "dpmpp_sde"],
    "test_k_diffusion_adaptive": ["dpm_adaptive"],
}
"""Module of this package -> the solvers that it compares."""


def test_every_solver_is_compared_with_an_independent_implementation() -> None:
    assert set(SOLVERS) <= {name for names in COMPARED.values() for name in names}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lms, lms.with_options(order=3)),
        (dpmpp_multistep, dpmpp_multistep.with_options(solver_type="heun")),
        (dpmpp_multistep, dpmpp_multistep.with_options(lower_order_final=False)),
        (dpmpp_multistep.with_options(order=3), dpmpp_multistep.with_options(order=3, third_order="authors")),
        (unipc, unipc.with_options(variant="bh1")),
        (unipc, unipc.with_options(order=3)),
        (euler.with_options(eta=0.5), euler.with_options(eta=0.51)),
        (unipc, unipc.with_options(corrector=False)),
    ],
    ids=str,
)
def test_the_comparison_tells_neighbouring_solvers_apart(one: Solver, other: Solver) -> None:
    def trajectory(solver: Solver) -> Trajectory:
        plan = Sampler(solver, Karras(final_sigma="sigma_min")).plan(SD15, "epsilon", 10)
        return our_trajectory(plan, plan.start.sigma * standard_noise(), StandInNetwork(), noise=0)

    assert difference(trajectory(one), trajectory(other)) > PROMISED
