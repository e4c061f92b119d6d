"""Solvers that leave the points of their grid: churn (Karras et al. 2022, algorithm 2) and DPM fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusolve.noise import SD15, FlowMatching, Grid, Point, Scaling, VarianceExploding, VariancePreserving
from diffusolve.plan import Combination, plan_for
from diffusolve.prediction import EDM, Epsilon, Flow
from diffusolve.solvers import Evaluate, Keep, Noise, Solver, dpm_2, dpm_fast, dpmpp_2s_ancestral, euler, heun
from diffusolve.spacing import Karras, Linspace, Sigmas, Trailing, UniformLogSNR
from tests.strategies import plannable_solvers, solvers_off_the_grid
from tests.tables import for_each
from tests.test_solvers import GRIDS, drive, every_grid, varying

VE = VarianceExploding(0.01, 50.0)
CHURNING = [made.with_options(s_churn=3.0) for made in (euler, heun, dpm_2)]
every_churning_solver = pytest.mark.parametrize("solver", CHURNING, ids=lambda made: made.name)

Seen = list[tuple[Any, Point]]


def seen_by(
    solver: Solver, grid: Grid, x: Any, data: Callable[[Any, Point], Any], noise: Iterator[Any] | None = None
) -> tuple[Seen, Any]:
    """All samples that the network is shown, with their points, and the result."""
    run, seen, answer = solver(grid, x), [], None
    while True:
        try:
            request = run.send(answer)
        except StopIteration as stop:
            return seen, stop.value
        if isinstance(request, Evaluate):
            seen.append((request.x, request.point))
            answer = (request.x, *[data(request.x, request.point)] * (1 + request.unguided))
        elif isinstance(request, Noise):
            answer = next(noise)  # type: ignore[arg-type]
        else:
            assert isinstance(request, Keep)
            answer = request.x


def linear_in_sigma(grid: Grid) -> Grid:
    return (
        grid
        if grid.scaling.is_linear_in_sigma
        else grid.in_scaling(Scaling.VARIANCE_EXPLODING if grid[0].alpha else Scaling.FLOW)
    )


@given(plannable_solvers | solvers_off_the_grid, st.sampled_from(sorted(GRIDS)), st.sampled_from([0.0, 0.4, 1.0, 3.0]))
def test_the_network_is_shown_samples_with_the_signal_and_the_noise_of_their_point(
    solver: Solver, name: str, eta: float
) -> None:
    """If it always says x0. On flow matching schedules signal and noise add up to 1 wherever it is asked."""
    options = {"eta": eta, "s_noise": 1.0}
    solver = solver.with_options(**{key: options[key] for key in options.keys() & solver.defaults.keys()})
    grid = linear_in_sigma(GRIDS[name]) if solver.integrates_dx_dsigma else GRIDS[name]
    start = Combination({"x0": grid[0].alpha, "start": grid[0].sigma})
    fresh = (Combination({f"noise{i}": 1.0}) for i in range(1000))
    seen, result = seen_by(solver, grid, start, lambda x, point: Combination({"x0": 1.0}), fresh)
    inner = {"path"} & set(dict(solver.options).values())  # noise of overlapping intervals, taken for independent
    for x, point in seen if inner else [*seen, (result, grid[-1])]:
        noise = math.sqrt(sum(c**2 for source, c in x.terms.items() if source != "x0"))
        assert x.terms.get("x0", 0.0) == pytest.approx(point.alpha, abs=1e-9)
        if not inner:
            assert noise == pytest.approx(point.sigma, rel=1e-7, abs=1e-9)
        if grid.scaling is Scaling.FLOW:
            assert point.alpha + point.sigma == pytest.approx(1.0)


# Churn


@pytest.mark.parametrize("final_sigma", ["zero", "sigma_min"])
@pytest.mark.parametrize("churn", [(2.0, 0.0, math.inf, 1.0), (50.0, 0.1, 20.0, 1.007)], ids=str)
def test_heun_with_churn_is_algorithm_2_of_karras_et_al(final_sigma: str, churn: tuple[float, ...]) -> None:
    s_churn, s_tmin, s_tmax, s_noise = churn
    grid = Karras(sigma_max=30.0, final_sigma=final_sigma).grid(VE, 8)
    noises = np.random.default_rng(0).standard_normal(len(grid)).tolist()
    x, drawn, reached = 30.0, iter(noises), []
    for t, t_next in pairwise(grid.sigmas.tolist()):
        gamma = min(s_churn / grid.steps, math.sqrt(2) - 1) if s_tmin <= t <= s_tmax else 0
        t_hat = t + gamma * t
        if gamma > 0:
            x = x + math.sqrt(t_hat**2 - t**2) * s_noise * next(drawn)
        reached.append(t_hat)
        d = (x - varying(x, Point(0, 1.0, t_hat))) / t_hat
        x_next = x + (t_next - t_hat) * d
        if t_next != 0:
            d_next = (x_next - varying(x_next, Point(0, 1.0, t_next))) / t_next
            x_next = x + (t_next - t_hat) * (d + d_next) / 2
        x = x_next
    solver = heun.with_options(s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise)
    assert drive(solver, grid, 30.0, varying, iter(noises))[-1] == pytest.approx(x, rel=1e-9)
    plan = plan_for(solver, grid, EDM())
    assert plan.sigmas[:-1] == pytest.approx(reached)
    assert [stage.point.timestep for stage in plan.stages if stage.stage == 0] == pytest.approx(reached)


@every_churning_solver
@for_each("schedule", [SD15, VariancePreserving()], ids=["scaled_linear", "linear"])
def test_churn_does_not_depend_on_how_samples_are_scaled(solver: Solver, schedule: VariancePreserving) -> None:
    """Noise is added at the same ratios of sigma to alpha. With Euler's steps, which are DDIM's, all else is equal."""
    solver = solver.with_options(s_churn=1.7, s_tmin=0.5, s_tmax=11.0, s_noise=1.1)
    noises = np.random.default_rng(0).standard_normal(20).tolist()
    places, walks = [], []
    for scaling in [scaling for scaling in Scaling if scaling.is_linear_in_sigma or not solver.integrates_dx_dsigma]:
        grid = Grid.from_sigmas(schedule, np.geomspace(12.0, 0.1, 6)).in_scaling(scaling)
        stages = [stage for stage in plan_for(solver, grid, Epsilon()).stages if stage.stage == 0]
        places.append([(stage.point.log_snr, stage.point.timestep) for stage in stages])
        seen, result = seen_by(
            solver,
            grid,
            grid[0].alpha * 0.4 + grid[0].sigma * 1.3,
            lambda x, point: math.tanh(x / math.hypot(point.alpha, point.sigma)) + 0.1 * point.timestep / 1000,
            iter(noises),
        )
        walks.append([*(x / math.hypot(p.alpha, p.sigma) for x, p in seen), result / grid[-1].alpha])
    raised = [a - p.log_snr for (a, _), p in zip(places[0], grid, strict=False)]
    assert [round(value, 9) for value in raised] == [0.0, *[round(-math.log(1.34), 9)] * 3, 0.0]
    for other in places[1:]:
        np.testing.assert_allclose(other, places[0], rtol=1e-9)
    for other in walks[1:] if not solver.integrates_dx_dsigma else []:
        np.testing.assert_allclose(other, walks[0], rtol=1e-9)


@every_churning_solver
def test_beyond_the_noisiest_level_the_network_is_told_of_that_level(solver: Solver) -> None:
    grid = linear_in_sigma(Linspace().grid(SD15, 5))
    plan = plan_for(solver.with_options(s_churn=5.0), grid, Epsilon())
    first = plan.stages[0]
    hat = SD15.sigma_max * math.sqrt(2)
    assert first.point.timestep == 999
    assert first.point.sigma / first.point.alpha == pytest.approx(hat)
    assert first.scale * math.hypot(first.point.alpha, first.point.sigma) == pytest.approx(1.0), "as it was trained"
    assert plan.stages[-1].point.timestep < plan.stages[0].point.timestep
    fine = linear_in_sigma(Linspace().grid(SD15, 60))
    for stage in plan_for(solver.with_options(s_churn=60.0), fine, Epsilon()).stages:
        assert (stage.point.timestep == 999) is (stage.point.sigma / stage.point.alpha >= SD15.sigma_max)
    with pytest.raises(ValueError, match="outside this noise schedule's range"):
        grid.at_log_snr(-math.log(hat))
    with pytest.raises(ValueError, match="outside this noise schedule's range"):
        grid.at_sigma(first.point.sigma if grid.scaling is not Scaling.VARIANCE_EXPLODING else hat)
    bounded = plan_for(solver.with_options(s_churn=5.0, s_tmax=SD15.sigma_max * 0.999), grid, Epsilon())
    assert bounded.stages[0].point.sigma == grid[0].sigma


@every_churning_solver
@for_each("name", ["flow", "cosine"])
def test_where_only_noise_is_left_a_part_of_it_is_replaced(solver: Solver, name: str) -> None:
    grid = linear_in_sigma(GRIDS[name])
    (x, point), *_ = seen_by(
        solver,
        grid,
        Combination({"start": 1.0}),
        lambda x, point: Combination({}),
        (Combination({f"noise{i}": 1.0}) for i in range(99)),
    )[0]
    gamma = min(3.0 / grid.steps, math.sqrt(2) - 1)
    assert (point.alpha, point.sigma, point.timestep) == (0.0, 1.0, grid[0].timestep)
    assert x.terms == pytest.approx({"start": 1 / (1 + gamma), "noise0": math.sqrt(1 - (1 + gamma) ** -2)})
    near = Grid((Point(grid[0].timestep, 1e-12, 1.0), *grid[1:]), grid.noise_schedule, grid.scaling)
    (x_near, _), *_ = seen_by(
        solver,
        near,
        Combination({"start": 1.0}),
        lambda x, point: Combination({}),
        (Combination({f"noise{i}": 1.0}) for i in range(99)),
    )[0]
    assert x_near.terms == pytest.approx(x.terms)


@pytest.mark.parametrize("made", [euler, heun, dpm_2], ids=lambda made: made.name)
def test_no_churn_is_no_churn(made: Solver) -> None:
    grid = linear_in_sigma(GRIDS["variance preserving"])
    plain = plan_for(made, grid, Epsilon())
    assert plan_for(made.with_options(s_churn=0.0, s_tmin=1.0, s_tmax=5.0), grid, Epsilon()).stages == plain.stages
    assert plan_for(made.with_options(s_churn=9.0, s_tmin=1e6), grid, Epsilon()).stages == plain.stages
    assert not plain.is_stochastic
    assert plan_for(made.with_options(s_churn=9.0), grid, Epsilon()).is_stochastic


@every_churning_solver
@for_each(
    ("options", "message"),
    [
        ({"s_churn": -0.1}, "s_churn is -0.1: expected at least 0"),
        ({"s_churn": math.nan}, "s_churn is nan"),
        ({"s_tmin": 3.0, "s_tmax": 2.0}, "s_tmin is 3 and s_tmax 2: expected 0 <= s_tmin <= s_tmax"),
        ({"s_tmin": -1.0}, "s_tmin is -1"),
    ],
)
def test_impossible_churn_is_refused(solver: Solver, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(solver.with_options(**options)(GRIDS["flow"], 1.0))


# DPM fast


@every_grid
@for_each("eta", [0.0, 0.7])
def test_dpm_fast_evaluates_as_often_as_the_grid_has_steps(grid: Grid, eta: float) -> None:
    for steps in range(1, len(grid)):
        seen, _ = seen_by(dpm_fast.with_options(eta=eta), grid[: steps + 1], 1.0, varying, iter([0.3] * 50))
        assert len(seen) == steps


@for_each(
    ("steps", "orders"),
    [(1, [1]), (2, [2]), (3, [2, 1]), (4, [3, 1]), (5, [3, 2]), (6, [3, 2, 1]), (7, [3, 3, 1]), (9, [3, 3, 2, 1])],
)
def test_dpm_fast_has_steps_of_order_3_and_then_of_2_and_1(steps: int, orders: list[int]) -> None:
    """Equal steps in log-SNR, divided into as many parts as their order."""
    grid = UniformLogSNR(sigma_max=10.0, sigma_min=0.1, final_sigma="sigma_min").grid(VE, steps)
    seen, _ = seen_by(dpm_fast, grid, 1.0, varying)
    h = math.log(100) / len(orders)
    expected = [-math.log(10.0) + h * (i + k / p) for i, p in enumerate(orders) for k in range(p)]
    assert [point.log_snr for _, point in seen] == pytest.approx(expected)
    plan = plan_for(dpm_fast, grid, Epsilon())
    assert [stage.stage for stage in plan.stages] == [k for p in orders for k in range(p)]
    assert plan.steps == len(orders)


def test_dpm_fast_takes_nothing_but_its_ends_from_a_grid() -> None:
    one = Sigmas((10.0, 9.0, 8.0, 0.5, 0.3, 0.1)).grid(VE)
    other = Karras(sigma_max=10.0, sigma_min=0.1, final_sigma="sigma_min").grid(VE, 5)
    assert plan_for(dpm_fast, one, Epsilon()) == plan_for(dpm_fast, other, Epsilon())


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_steps_that_are_infinitely_long_stay_and_the_others_are_equal(eta: float) -> None:
    grid = Trailing().grid(FlowMatching(), 8)
    seen, _ = seen_by(dpm_fast.with_options(eta=eta), grid, 1.0, varying, iter([0.3] * 50))
    points = [point for _, point in seen]
    assert points[0] == grid[0]
    assert points[1] == grid[1]
    assert points[-1] == grid[-2]
    if eta == 0:
        between = np.diff([point.log_snr for point in points[1:]])
        h = (grid[-2].log_snr - grid[1].log_snr) / 3
        assert between == pytest.approx([h / 3, h / 3, h / 3, h / 2, h / 2, h])


@for_each("eta", [0.0, 0.7])
@for_each("steps", [5, 6, 7])
def test_a_run_that_begins_in_the_middle_asks_about_the_same_levels(steps: int, eta: float) -> None:
    grid = UniformLogSNR(sigma_max=10.0, sigma_min=0.1, final_sigma="sigma_min").grid(VE, steps)
    solver = dpm_fast.with_options(eta=eta)
    seen, result = seen_by(solver, grid, 3.0, varying, iter([0.3] * 9))
    begun = 0
    for order in (3, *((2,) if steps == 5 else (2, 1) if steps == 6 else (3, 1))):
        for k in range(order):
            x, point = seen[begun + k]
            drawn = iter([0.3] * 9)
            rest, end = seen_by(solver.with_options(skipped=begun + k), grid, x, varying, drawn)
            assert [p.sigma for _, p in rest] == pytest.approx([p.sigma for _, p in seen[begun + k :]], rel=1e-12)
            assert rest[0][1].timestep == pytest.approx(point.timestep)
            if k == 0:  # otherwise what is left of the step is of a lower order
                assert end == pytest.approx(result, rel=1e-12)
        begun += order


@for_each("skipped", [0, 1, 2, 3, 4])
def test_a_run_that_begins_in_the_middle_is_exact_for_data_that_never_change(skipped: int) -> None:
    grid = UniformLogSNR(sigma_max=0.95, sigma_min=0.05, final_sigma="sigma_min").grid(FlowMatching(), 5)
    point = seen_by(dpm_fast, grid, 1.0, lambda x, point: 0.0)[0][skipped][1]
    x = point.alpha * 0.3 + point.sigma * 1.7
    _, end = seen_by(dpm_fast.with_options(skipped=skipped), grid, x, lambda x, point: 0.3)
    assert end == pytest.approx(grid[-1].alpha * 0.3 + grid[-1].sigma * 1.7, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skipped": 8}, "skipped is 8: expected 0 to 7, of 8 evaluations"),
        ({"skipped": -1}, "skipped is -1"),
        ({"eta": -1.0}, "eta is -1"),
        ({"eta": math.nan}, "eta is nan"),
    ],
)
def test_impossible_options_of_dpm_fast_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(dpm_fast.with_options(**options)(GRIDS["flow"], 1.0))


# DPM++ 2S ancestral


@for_each("name", ["variance preserving", "flow, to sigma_min", "cosine"])
@for_each("eta", [0.0, 0.6, 1.0])
def test_dpmpp_2s_ancestral_is_algorithm_1_of_its_paper_to_less_noise(name: str, eta: float) -> None:
    """Lu et al. 2022, DPM-Solver++, algorithm 1 with r = 1/2, up to DDIM's variance."""
    grid = GRIDS[name]
    noises = np.random.default_rng(1).standard_normal(len(grid)).tolist()
    x, expected = 0.9, [0.9]
    for s, t, noise in zip(grid, grid[1:], noises, strict=False):
        up = eta * t.sigma * math.sqrt(1 - math.exp(2 * (s.log_snr - t.log_snr)))
        down = math.sqrt(t.sigma**2 - up**2)
        data = varying(x, s)
        if down > 0 and s.alpha > 0:
            h = math.log(t.alpha / down) - s.log_snr
            ratio = math.exp(s.log_snr + h / 2)
            middle = grid.at_log_snr(math.log(ratio))
            u = middle.sigma / s.sigma * x - middle.alpha * (math.exp(-h / 2) - 1) * data
            x = down / s.sigma * x - t.alpha * (math.exp(-h) - 1) * varying(u, middle)
        else:
            x = down / s.sigma * x + (t.alpha - s.alpha * down / s.sigma) * data
        x = x + up * noise
        expected.append(x)
    solver = dpmpp_2s_ancestral.with_options(eta=eta)
    used = iter(noises)
    np.testing.assert_allclose(drive(solver, grid, 0.9, varying, used), expected, rtol=1e-9)


def test_the_parts_of_dpmpp_2s_ancestral_are_those_that_the_algorithm_needs() -> None:
    grid = Karras().grid(VE, 10)
    for options, registers in (({}, 2), ({"r": 0.4}, 3), ({"eta": 0.0}, 2)):
        plan = plan_for(dpmpp_2s_ancestral.with_options(**options), grid, Flow())
        assert (plan.nfe, plan.steps, plan.registers) == (2 * 10 - 1, 10, registers)
        assert plan.is_stochastic is (options.get("eta") != 0.0)


def test_impossible_options_of_dpmpp_2s_ancestral_are_refused() -> None:
    for options, message in (({"r": 0.0}, "r is 0: expected a part"), ({"r": 1.0}, "r is 1"), ({"eta": -1.0}, "eta")):
        with pytest.raises(ValueError, match=message):
            next(dpmpp_2s_ancestral.with_options(**options)(GRIDS["flow"], 1.0))
