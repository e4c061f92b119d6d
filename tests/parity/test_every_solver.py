"""No solver goes uncompared, and the comparison can tell solvers apart."""

from __future__ import annotations

from diffusolve.noise import SD15
from diffusolve.sampling import Sampler
from diffusolve.solvers import SOLVERS, Solver, dpmpp_multistep, euler, ipndm, ipndm_v, lms, sa_solver, unipc
from diffusolve.spacing import Karras
from tests.tables import for_each

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
    "test_k_diffusion_face": ["euler", "heun", "dpm_2", "dpm_fast", "dpmpp_2s_ancestral"],
    "test_diffusers_published": ["ipndm", "lcm", "sa_solver"],
}
"""Module of this package -> the solvers that it compares."""

WITHOUT_A_PEER = {
    "heunpp2": "its formula by hand; first order; Heun where both have two slopes",
    "ipndm_v": "is lms, which is compared, but for the last step",
    "gradient_estimation": "its formula by hand; Euler for gamma 1, and Adams-Bashforth's second order for gamma 3/2",
    "epd": "its formula by hand; DPM-Solver-2's like where there is one point",
    "ud10_ab": "ComfyUI's samples; its formula by hand; iPNDM of order 2 and Euler where the weights say so",
    "res_singlestep": "is seeds_2 without noise in order 2; third order, as measured",
    "res_multistep": "is dpmpp_multistep, which is compared, without noise and with eta 1; marginals between",
    "er_sde": "quadrature of the paper's integrals; Euler ancestral and DPM++ 1M SDE in first order; marginals",
    "seeds_2": "is dpmpp_sde, which is compared, for phi_1 with eta 1; quadrature for phi_2",
    "seeds_3": "third order; the exact solution for data that are quadratic in log-SNR",
    "exp_heun_2_x0": "the exact solution for data that are linear in log-SNR",
    "flow_sde": "the published update and density by hand; is dpmpp_multistep, which is compared, in exact steps",
    "tcd": "its class is compared with diffusers': tests/schedulers/test_matrix.py",
    "restart": "is heun, which is compared, between the restarts; these keep the distribution",
}
"""Solvers that no installed package has -> what stands in for a comparison (tests/test_published_solvers.py)."""


def test_every_solver_is_compared_with_an_independent_implementation() -> None:
    compared = {name for names in COMPARED.values() for name in names}
    assert set(SOLVERS) <= compared | set(WITHOUT_A_PEER)
    assert not compared & set(WITHOUT_A_PEER)


@for_each(
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
        (ipndm, ipndm.with_options(max_order=3)),
        (ipndm, ipndm_v),
        (sa_solver, sa_solver.with_options(corrector_order=3)),
        (sa_solver, sa_solver.with_options(sde_end_percent=0.7)),
        (sa_solver.with_options(predictor_order=2), sa_solver.with_options(predictor_order=2, simple_order_2=True)),
    ],
    ids=str,
)
def test_the_comparison_tells_neighbouring_solvers_apart(one: Solver, other: Solver) -> None:
    def trajectory(solver: Solver) -> Trajectory:
        plan = Sampler(solver, Karras(final_sigma="sigma_min")).plan(SD15, "epsilon", 10)
        return our_trajectory(plan, plan.start.sigma * standard_noise(), StandInNetwork(), noise=0)

    assert difference(trajectory(one), trajectory(other)) > PROMISED
