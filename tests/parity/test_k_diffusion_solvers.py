"""Every solver with a fixed number of steps that k-diffusion has, against it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from diffusolve.noise import SD15, Grid, Scaling, VariancePreserving
from diffusolve.solvers import Solver, dpm_2, dpmpp_multistep, dpmpp_sde, euler, heun, lms
from diffusolve.spacing import Exponential, Karras, Linspace, Spacing
from tests.tables import for_each, in_pairs

from .k_diffusion_reference import IntervalNoise, denoiser, sampling
from .network import StandInNetwork, standard_noise
from .trajectory import TIGHT, Trajectory, assert_same, our_trajectory, plan_on, recorded

WITHIN = {torch.float32: TIGHT, torch.float64: 1e-12}
"""What rounding amounts to."""


class Way(NamedTuple):
    """What a solver is run on."""

    noise_schedule: VariancePreserving
    prediction_type: str
    spacing: Spacing

    def grid(self, steps: int) -> Grid:
        return self.spacing.grid(self.noise_schedule, steps).in_scaling(Scaling.VARIANCE_EXPLODING)


LINEAR, COSINE = VariancePreserving(), VariancePreserving(beta_schedule="squaredcos_cap_v2")

WAYS: dict[str, Way] = {
    "linspace": Way(SD15, "epsilon", Linspace()),
    "karras": Way(SD15, "v_prediction", Karras()),
    "exponential to sigma_min": Way(LINEAR, "v_prediction", Exponential(final_sigma="sigma_min")),
    "karras, squaredcos": Way(COSINE, "epsilon", Karras(rho=5.0, sigma_max=100.0)),
}
FROM_SIGMA_20000 = Way(COSINE, "v_prediction", Linspace())


class Case(NamedTuple):
    """A solver, and the function and arguments of k-diffusion that mean the same."""

    solver: Solver
    name: str
    arguments: Mapping[str, Any] = MappingProxyType({})


dpmpp = dpmpp_multistep.with_options(lower_order_final=False)
dpmpp_3m = dpmpp.with_options(order=3, third_order="authors", solver_type="heun")  # its second step is of the Heun type

CASES: list[Case] = [
    Case(euler, "sample_euler"),
    Case(euler.with_options(eta=1.0), "sample_euler_ancestral"),
    Case(euler.with_options(eta=0.5, s_noise=0.9), "sample_euler_ancestral", {"eta": 0.5, "s_noise": 0.9}),
    Case(euler.with_options(eta=3.0), "sample_euler_ancestral", {"eta": 3.0}),
    Case(heun, "sample_heun"),
    Case(dpm_2, "sample_dpm_2"),
    Case(dpm_2.with_options(eta=1.0), "sample_dpm_2_ancestral"),
    Case(dpm_2.with_options(eta=0.5, s_noise=0.9), "sample_dpm_2_ancestral", {"eta": 0.5, "s_noise": 0.9}),
    *(Case(lms.with_options(order=order), "sample_lms", {"order": order}) for order in (1, 2, 3, 4)),
    Case(dpmpp, "sample_dpmpp_2m"),
    *(
        Case(
            dpmpp.with_options(eta=eta, solver_type=solver_type, s_noise=1.1),
            "sample_dpmpp_2m_sde",
            {"eta": eta, "solver_type": solver_type, "s_noise": 1.1},
        )
        for solver_type in ("midpoint", "heun")
        for eta in (0.0, 0.5, 1.0)
    ),
    *(
        Case(
            dpmpp_sde.with_options(eta=eta, s_noise=0.9, r=r, noise="path"),
            "sample_dpmpp_sde",
            {"eta": eta, "s_noise": 0.9, "r": r},
        )
        for eta in (0.0, 0.5, 1.0)
        for r in (0.5, 0.3)
    ),
    *(
        Case(dpmpp_3m.with_options(eta=eta, s_noise=0.9), "sample_dpmpp_3m_sde", {"eta": eta, "s_noise": 0.9})
        for eta in (0.0, 0.5, 1.0)
    ),
]


def both(case: Case, way: Way, steps: int, dtype: torch.dtype) -> tuple[Trajectory, Trajectory]:
    """Our trajectory and that of k-diffusion."""
    plan = plan_on(way.grid(steps), case.solver, way.prediction_type)
    x = plan.start.sigma * standard_noise(dtype=dtype)
    noise = IntervalNoise(dtype)
    function = getattr(sampling, case.name)
    stochastic = "noise_sampler" in inspect.signature(function).parameters
    arguments = {**case.arguments, **({"noise_sampler": noise.theirs} if stochastic else {})}
    sigmas = torch.tensor(plan.sigmas, dtype=dtype)

    def walk(network: StandInNetwork) -> torch.Tensor:
        model = denoiser(network, way.noise_schedule, way.prediction_type, dtype)
        return function(model, x, sigmas, disable=True, **arguments)

    ours = our_trajectory(plan, x, StandInNetwork(dtype=dtype), noise=noise.ours)
    return ours, recorded(walk, StandInNetwork(dtype=dtype))


def name_of(case: Case) -> str:
    return " ".join([case.name, *(f"{key}={value}" for key, value in case.arguments.items())])


PRECISIONS_AND_STEPS = [(torch.float32, 5), (torch.float32, 20), (torch.float64, 15)]


@for_each(("case", "way", "rest"), in_pairs(CASES, WAYS, PRECISIONS_AND_STEPS))
def test_solvers_walk_the_same_trajectory_as_k_diffusion(case: Case, way: str, rest: tuple[torch.dtype, int]) -> None:
    dtype, steps = rest
    assert_same(*both(case, WAYS[way], steps, dtype), within=WITHIN[dtype])


@for_each("steps", [5, 50])
@for_each("case", CASES, ids=name_of)
def test_solvers_walk_the_same_trajectory_as_k_diffusion_from_sigma_20000(case: Case, steps: int) -> None:
    assert_same(*both(case, FROM_SIGMA_20000, steps, torch.float64), within=1e-9)
