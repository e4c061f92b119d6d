"""Where alpha or sigma is zero the numbers are finite, and they are the limits of those nearby."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffusolve.errors import SingularPointError
from diffusolve.noise import Cosine, FlowMatching, Grid, NoiseSchedule, Point, Scaling, VariancePreserving
from diffusolve.plan import Plan, trace
from diffusolve.prediction import Flow, Sample, VPrediction
from diffusolve.sampling import Sampler, run_directly, sample
from diffusolve.solvers import (
    SOLVERS,
    Solver,
    deis,
    dpm_2,
    dpm_fast,
    dpm_singlestep,
    dpmpp_2s_ancestral,
    dpmpp_multistep,
    dpmpp_singlestep,
    er_sde,
    euler,
    exp_heun_2_x0,
    heun,
    lms,
    res_multistep,
    sa_solver,
    seeds_2,
    seeds_3,
    ud10_ab,
    unipc,
)
from diffusolve.solvers.pndm import pndm
from diffusolve.spacing import Beta, Karras, Linspace, Sigmas, Spacing, Timesteps, Trailing
from tests.every_solver import EVERY_SOLVER, as_taken_by
from tests.tables import for_each

SINGULAR: dict[str, tuple[NoiseSchedule, str]] = {
    "zero terminal SNR": (VariancePreserving(rescale_betas_zero_snr=True), "v_prediction"),
    "zero terminal SNR, x0": (VariancePreserving("squaredcos_cap_v2", rescale_betas_zero_snr=True), "sample"),
    "cosine": (Cosine(), "v_prediction"),
    "shifted cosine": (Cosine(math.log(64 / 256)), "v_prediction"),
    "flow matching": (FlowMatching(), "flow"),
    "shifted flow matching": (FlowMatching(3.0), "flow"),
}
SPACINGS: dict[str, Spacing] = {
    "linspace": Linspace(),
    "sgm_uniform": Linspace(to_first=False),
    "trailing": Trailing(),
    "trailing, to sigma_min": Trailing(final_sigma="sigma_min"),
    "beta": Beta(),
}
SOLVERS_WITH_OPTIONS: dict[str, Solver] = {
    **{name: made for name, made in SOLVERS.items() if not made.adaptive},
    "euler ancestral": euler.with_options(eta=1.0),
    "euler churn": euler.with_options(s_churn=4.0),
    "heun churn": heun.with_options(s_churn=4.0),
    "dpm_2 churn": dpm_2.with_options(s_churn=4.0, eta=0.5),
    "2S a, half": dpmpp_2s_ancestral.with_options(eta=0.5),
    "fast a": dpm_fast.with_options(eta=0.7),
    "2M heun": dpmpp_multistep.with_options(solver_type="heun"),
    "2M SDE": dpmpp_multistep.with_options(eta=1.0),
    "3M": dpmpp_multistep.with_options(order=3, lower_order_final=False),
    "3M SDE": dpmpp_multistep.with_options(order=3, eta=0.5),
    "deis 1": deis.with_options(order=1),
    "2S heun": dpmpp_singlestep.with_options(solver_type="heun"),
    "3S": dpmpp_singlestep.with_options(order=3),
    "3S SDE": dpmpp_singlestep.with_options(order=3, eta=0.5),
    "3S of the noise": dpm_singlestep.with_options(order=3, solver_type="heun"),
    "unipc 3 of the noise": unipc.with_options(order=3, form="noise"),
    "plms": pndm.with_options(start="improved_euler"),
    "unipc 3": unipc.with_options(order=3),
    "unipc 4 bh1": unipc.with_options(order=4, variant="bh1", lower_order_final=False),
    "unip 3": unipc.with_options(order=3, corrector=False),
    "res ancestral": res_multistep.with_options(eta=1.0),
    "res, eta 3": res_multistep.with_options(eta=3.0),
    "ud10_ab, as in ComfyUI": ud10_ab.with_options(noise_weight=0.1),
    "er_sde 2, reverse": er_sde.with_options(max_stage=2, noise_scaler="reverse_time_sde"),
    "er_sde, eta 0": er_sde.with_options(eta=0.0),
    "er_sde, eta 20": er_sde.with_options(eta=20.0),
    "seeds_2, phi_2": seeds_2.with_options(solver_type="phi_2", r=0.8, eta=0.5),
    "seeds_3, eta 0": seeds_3.with_options(eta=0.0),
    "exp_heun sde": exp_heun_2_x0.with_options(eta=1.0),
    "sa, eta 0": sa_solver.with_options(eta=0.0),
    "sa, all the way": sa_solver.with_options(sde_start_percent=0.0, sde_end_percent=1.0),
    "sa, tau 3, pece": sa_solver.with_options(sde_start_percent=0.0, sde_end_percent=1.0, eta=3.0, use_pece=True),
}
every_solver = for_each("solver", SOLVERS_WITH_OPTIONS.values(), ids=SOLVERS_WITH_OPTIONS)


def numbers(plan: Plan) -> list[float]:
    found = [number for stage in plan.stages for number in (stage.scale, stage.a, stage.b)]
    updates = [plan.opening, *(stage.update for stage in plan.stages)]
    return found + [c for update in updates for write in update.writes for _, c in write.terms]


@every_solver
@for_each("spacing", SPACINGS.values(), ids=SPACINGS)
def test_plans_from_pure_noise_are_finite(solver: Solver, spacing: Spacing) -> None:
    for schedule, prediction in SINGULAR.values():
        for steps in (1, 2, 5, 16):
            plan = Sampler(solver, spacing).plan(schedule, prediction, steps)
            assert (plan.start.alpha, plan.start.log_snr) == (0.0, -math.inf)
            assert max(abs(number) for number in numbers(plan)) < 1e4  # False for NaN


@every_solver
@for_each(("schedule", "prediction"), SINGULAR.values(), ids=SINGULAR)
def test_runs_from_pure_noise_stay_near_the_data(solver: Solver, schedule: NoiseSchedule, prediction: str) -> None:
    """A network that always says x0 = 0.25, in whatever it predicts, is believed."""
    if solver.name == "flow_sde":  # whose published steps end with noise
        solver = solver.with_options(discretization="exact")
    sampler = Sampler(solver, Trailing())
    grid = sampler.grid(schedule, 12)
    x = grid[0].sigma * np.random.default_rng(0).standard_normal((3, 4))

    def network(x: np.ndarray, timestep: np.ndarray) -> np.ndarray:
        alpha, sigma = (float(value) for value in schedule.alpha_sigma(float(timestep[0])))
        noise = (x - alpha * 0.25) / sigma
        return {"v_prediction": alpha * noise - sigma * 0.25, "flow": noise - 0.25, "sample": 0.25 + 0 * x}[prediction]

    made = sample(network, x, sampler, steps=12, noise_schedule=schedule, prediction_type=prediction, noise=0)
    np.testing.assert_allclose(made, 0.25, atol=1e-9)


REFUSES = {
    "dpm_multistep": {"alpha = 0", "sigma = 0"},
    "dpm_adaptive": {"alpha = 0", "sigma = 0"},
}
"""Solvers that have no limit at one of the ends, or need a finite way, and say so."""


def test_every_solver_wherever_it_is_defined_is_finite_at_both_ends_or_says_that_it_is_singular_there() -> None:
    ends = {"alpha = 0": [1.0, 0.8, 0.6, 0.4, 0.3, 0.2], "sigma = 0": [0.9, 0.8, 0.6, 0.4, 0.2, 0.0]}
    found: dict[str, set[str]] = {}
    for name, solver in EVERY_SOLVER.items():
        for end, sigmas in ends.items():
            grid = as_taken_by(solver, Grid.from_sigmas(FlowMatching(), sigmas))
            drawn = iter(np.random.default_rng(0).standard_normal(200))
            try:
                made = run_directly(
                    solver, grid, Flow(), lambda x, t: 0.3 * x, np.ones(3), lambda x, s, t, d=drawn: next(d) + 0 * x
                )
                assert np.abs(made).max() < 10, name
            except SingularPointError:
                found.setdefault(name, set()).add(end)
    assert found == REFUSES


# Limits


def grid_from(log_snr: float, scaling: Scaling) -> Grid:
    """Four steps to sigma = 0; the first point has `log_snr`, which may be beyond what 1 - sigma can tell from 0."""
    if scaling is Scaling.FLOW:
        schedule: NoiseSchedule = FlowMatching()
        rest = Grid.from_sigmas(schedule, [0.9, 0.7, 0.5, 0.2, 0.0])
    else:
        schedule = Cosine()
        rest = Grid.from_sigmas(schedule, [6.0, 2.0, 1.0, 0.3, 0.0])
    ratio = math.exp(log_snr)
    norm = 1 + ratio if scaling is Scaling.FLOW else math.hypot(1, ratio)
    return Grid((Point(1.0, ratio / norm, 1 / norm), *rest), schedule, scaling)


def results(solver: Solver, grids: list[Grid]) -> list[np.ndarray]:
    """From the same noise, with the same outputs of a network."""
    rng = np.random.default_rng(0)
    x, outputs, noises = (
        rng.standard_normal((1, 40)),
        rng.standard_normal((20, 1, 40)),
        rng.standard_normal((40, 1, 40)),
    )
    made = []
    for grid in grids:
        prediction = Flow() if grid.scaling is Scaling.FLOW else VPrediction()
        network, noise = iter(outputs), iter(noises)
        made.append(
            run_directly(solver, grid, prediction, lambda x, t, n=network: next(n), x, lambda x, s, t, n=noise: next(n))
        )
    return made


WITH_LIMIT: dict[str, Solver] = {
    **{name: SOLVERS_WITH_OPTIONS[name] for name in ("euler", "heun", "dpm_2", "lms", "dpmpp_multistep")},
    **{name: SOLVERS_WITH_OPTIONS[name] for name in ("euler ancestral", "2M heun", "2M SDE", "3M", "3M SDE")},
    **{name: SOLVERS_WITH_OPTIONS[name] for name in ("euler churn", "heun churn")},
    **{name: SOLVERS[name] for name in ("heunpp2", "ipndm", "ipndm_v", "gradient_estimation", "epd", "ud10_ab", "lcm")},
    **{name: SOLVERS[name] for name in ("res_multistep", "er_sde", "exp_heun_2_x0")},
    **{name: SOLVERS_WITH_OPTIONS[name] for name in ("res ancestral", "er_sde 2, reverse", "er_sde, eta 0")},
    **{name: SOLVERS_WITH_OPTIONS[name] for name in ("exp_heun sde", "sa, eta 0", "sa, all the way")},
    "ud10_ab, as in ComfyUI": SOLVERS_WITH_OPTIONS["ud10_ab, as in ComfyUI"],
    "unip 1": unipc.with_options(order=1, corrector=False),
    "unip 2": unipc.with_options(order=2, corrector=False),
}
"""The others start with a step of first order that stands apart from those that follow."""


@for_each("solver", WITH_LIMIT.values(), ids=WITH_LIMIT)
@for_each("scaling", [Scaling.FLOW, Scaling.VARIANCE_PRESERVING], ids=lambda scaling: scaling.value)
def test_starting_at_pure_noise_is_the_limit_of_starting_near_it(solver: Solver, scaling: Scaling) -> None:
    if solver.integrates_dx_dsigma and not scaling.is_linear_in_sigma:
        return  # these run in the flow matching scaling
    *near, limit = results(solver, [grid_from(log_snr, scaling) for log_snr in (-20, -80, -320, -math.inf)])
    errors = [float(np.abs(result - limit).max()) for result in near]
    assert errors[1] <= 0.5 * errors[0] + 1e-12
    assert errors[2] <= 0.5 * errors[1] + 1e-12
    assert errors[2] < 0.01


def test_unipc_does_not_correct_the_step_from_pure_noise() -> None:
    """The corrector's weight grows with log-SNR in bh1, so the first step is DDIM and is left as it is."""
    near, limit = (trace(unipc, grid_from(log_snr, Scaling.FLOW), Flow()) for log_snr in (-20, -math.inf))
    kept = [[write.register for stage in plan.stages for write in stage.update.writes] for plan in (near, limit)]
    assert [register.startswith("kept") for register in kept[0]].count(True) == 3
    assert [register.startswith("kept") for register in kept[1]].count(True) == 2
    ddim = trace(euler, grid_from(-math.inf, Scaling.FLOW), Flow())
    assert limit.stages[0].update.writes == ddim.stages[0].update.writes


@for_each(
    "solver",
    [euler, euler.with_options(eta=1.0), dpmpp_multistep.with_options(order=1), lms, lms.with_options(order=2)],
    ids=str,
)
def test_ending_at_the_data_is_the_limit_of_ending_near_them(solver: Solver) -> None:
    """For the solvers whose last step has a limit; the others end with a step of first order."""
    sigmas = [0.9, 0.6, 0.3]
    grids = [Grid.from_sigmas(FlowMatching(), [*sigmas, end]) for end in (1e-3, 1e-5, 1e-7, 0.0)]
    *near, limit = results(solver, grids)
    errors = [float(np.abs(result - limit).max()) for result in near]
    assert errors[0] > 50 * errors[1] > 2500 * errors[2]


# What remains singular is said


def test_epsilon_cannot_start_from_pure_noise() -> None:
    with pytest.raises(SingularPointError, match=r"epsilon prediction says nothing .* v_prediction, sample or flow"):
        Sampler(euler, Trailing()).plan(Cosine(), "epsilon", 5)


def test_variance_exploding_samples_cannot_start_from_pure_noise() -> None:
    with pytest.raises(SingularPointError, match="infinite at timestep 1 "):
        Sampler(euler, Trailing(), Scaling.VARIANCE_EXPLODING).plan(Cosine(), "v_prediction", 5)


@pytest.mark.parametrize("spacing", [Timesteps((999, 500)), Sigmas((math.inf, 2.0, 0.0))], ids=["timesteps", "sigmas"])
def test_custom_spacings_may_start_from_pure_noise(spacing: Spacing) -> None:
    schedule = VariancePreserving(rescale_betas_zero_snr=True)
    plan = Sampler(SOLVERS["heun"], spacing).plan(schedule, Sample(), 2)
    assert (plan.start.timestep, plan.start.alpha, plan.start.sigma) == (999, 0.0, 1.0)


def test_karras_over_a_finite_part_of_an_infinite_range_is_an_ordinary_grid() -> None:
    plan = Sampler(SOLVERS["heun"], Karras(sigma_max=80.0)).plan(Cosine(), "v_prediction", 5)
    assert plan.start.sigma == pytest.approx(80.0)
