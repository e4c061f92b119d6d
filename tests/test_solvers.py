"""Solvers against their papers' formulas and exact solutions (their orders of convergence: test_convergence.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import Polynomial
from scipy import integrate

from diffusolve.denoisers import GaussianDenoiser
from diffusolve.errors import NotPlannableError, SingularPointError, UnknownNameError
from diffusolve.noise import SD15, Cosine, FlowMatching, Grid, Point, Scaling, VarianceExploding
from diffusolve.plan import Combination, trace
from diffusolve.prediction import Sample
from diffusolve.sampling import run_directly
from diffusolve.solvers import (
    SOLVERS,
    ErrorRatio,
    Evaluate,
    Keep,
    Noise,
    Solver,
    SolverRun,
    StepEnded,
    Value,
    dpm_2,
    dpm_adaptive,
    dpm_fast,
    dpmpp_multistep,
    euler,
    heun,
    lms,
    unipc,
)
from diffusolve.solvers import solver as make_solver
from diffusolve.solvers.dpm_adaptive import PIDController
from diffusolve.solvers.linear_multistep import adams_weights
from diffusolve.spacing import Karras, Trailing
from tests.strategies import plannable_solvers
from tests.tables import for_each

VE = VarianceExploding(0.01, 50.0)
GRIDS = {
    "variance preserving": Trailing().grid(SD15, 8),
    "variance preserving, to sigma_min": Karras(final_sigma="sigma_min").grid(SD15, 8),
    "variance exploding": Karras().grid(VE, 8),
    "variance exploding, to sigma_min": Karras(final_sigma="sigma_min").grid(VE, 8),
    "flow": Trailing().grid(FlowMatching(3.0), 8),
    "flow, to sigma_min": Karras(final_sigma="sigma_min", sigma_max=0.99).grid(FlowMatching(3.0), 8),
    "cosine": Trailing().grid(Cosine(), 8),
}
every_grid = for_each("grid", GRIDS.values(), ids=GRIDS)

Data = Callable[[float, Point], float]


def grid_for(solver: Solver, name: str) -> Grid:
    """The grid called `name`, in a scaling where the solver's equation holds."""
    grid = GRIDS[name]
    if solver.integrates_dx_dsigma and not grid.scaling.is_linear_in_sigma:
        return grid.in_scaling(Scaling.VARIANCE_EXPLODING if grid[0].alpha else Scaling.FLOW)
    return grid


def drive(solver: Solver, grid: Grid, x: float, data: Data, noise: Iterator[float] | None = None) -> list[float]:
    """The samples at the points of `grid`, a solver running on plain numbers."""
    run, noise = solver(grid, x), noise or repeat(0.0)
    samples, answer = [], None
    while True:
        try:
            request = run.send(answer)
        except StopIteration as stop:
            return [*samples, stop.value]
        if isinstance(request, Evaluate):
            if request.stage == 0:
                samples.append(request.x)
            answer = (request.x, *[data(request.x, request.point)] * (1 + request.unguided))
        elif isinstance(request, Noise):
            answer = next(noise)
        elif isinstance(request, Keep):
            answer = request.x
        else:
            assert isinstance(request, (ErrorRatio, StepEnded))
            answer = 0.0 if isinstance(request, ErrorRatio) else None


# What every solver must do


@given(plannable_solvers, st.sampled_from(sorted(GRIDS)), st.floats(-2, 2), st.floats(-3, 3))
def test_constant_data_are_reached_exactly(solver: Solver, name: str, x0: float, noise: float) -> None:
    """With a prediction that never changes the exact solution is a straight line: the same noise at each point."""
    if solver.name == "lcm":  # it takes new noise at each point
        return
    if "eta" in solver.defaults:
        solver = solver.with_options(eta=0.0)
    grid = grid_for(solver, name)
    samples = drive(solver, grid, grid[0].alpha * x0 + grid[0].sigma * noise, lambda x, point: x0)
    for sample, point in zip(samples, grid, strict=True):
        assert sample == pytest.approx(point.alpha * x0 + point.sigma * noise, abs=1e-9 * (1 + grid[0].sigma))


@given(plannable_solvers, st.sampled_from(sorted(GRIDS)), st.floats(0.01, 1), st.booleans())
def test_stochastic_solvers_keep_the_variance_of_the_noise(solver: Solver, name: str, eta: float, twice: bool) -> None:
    """With a prediction that never changes, the noise at each point has that point's sigma as standard deviation."""
    if "eta" not in solver.defaults and solver.name != "lcm":
        return
    s_noise = 2.0 if twice else 1.0
    solver, grid = solver.with_options(s_noise=s_noise), grid_for(solver, name)
    if "eta" in solver.defaults:
        solver = solver.with_options(eta=eta)
    # x in units of the noises it is made of: a Combination follows each of them through the whole run
    samples: list[Combination] = drive(  # type: ignore[assignment]
        solver,
        grid,
        Combination({"start": grid[0].sigma}),  # type: ignore[arg-type]
        lambda x, point: Combination({}),  # type: ignore[arg-type, return-value]
        (Combination({f"noise{i}": 1.0}) for i in range(100)),  # type: ignore[misc]
    )
    for sample, t in zip(samples[1:], grid[1:], strict=True):
        variance = sum(c**2 for c in sample.terms.values())
        if s_noise == 1.0:
            assert math.sqrt(variance) == pytest.approx(t.sigma, rel=1e-9, abs=1e-12)
        elif t.sigma > 0:
            assert variance > t.sigma**2


@for_each("solver", SOLVERS.values(), ids=SOLVERS)
def test_solvers_evaluate_once_at_the_beginning_of_each_step(solver: Solver) -> None:
    if solver.adaptive or solver is dpm_fast:  # they have steps of their own
        return
    grid = GRIDS["flow"]
    assert len(drive(solver, grid, 1.0, lambda x, point: 0.5 * x)) == len(grid)


@for_each("solver", SOLVERS.values(), ids=SOLVERS)
def test_solvers_ask_for_points_between_the_ends_of_the_step(solver: Solver) -> None:
    grid = GRIDS["flow, to sigma_min"]
    seen: list[Point] = []

    def data(x: float, point: Point) -> float:
        seen.append(point)
        return 0.3 * x

    drive(solver, grid, 1.0, data)
    assert seen[0] == grid[0]
    for point in seen:
        assert grid[0].log_snr <= point.log_snr <= grid[-1].log_snr
        assert point.alpha + point.sigma == pytest.approx(1.0)


# Against the papers, written down again


def varying(x: float, point: Point) -> float:
    """Some data prediction that depends on everything."""
    return math.tanh(0.7 * x) + 0.3 * math.cos(2 * point.alpha) - 0.1 * point.sigma / (1 + point.sigma)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_euler_on_a_discrete_schedule_is_equation_12_of_ddim(eta: float) -> None:
    grid = Trailing(final_sigma="sigma_min").grid(SD15, 6)
    table = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    alphas = [*table[[p.timestep for p in grid[:-1]]], table[0]]
    noises = np.random.default_rng(0).standard_normal(6)
    x, expected = 1.3, [1.3]
    for alpha_t, alpha_s, point, noise in zip(alphas, alphas[1:], grid, noises, strict=False):
        x0 = varying(x, point)
        epsilon = (x - math.sqrt(alpha_t) * x0) / math.sqrt(1 - alpha_t)
        sigma = eta * math.sqrt((1 - alpha_s) / (1 - alpha_t)) * math.sqrt(1 - alpha_t / alpha_s)  # equation 16
        x = math.sqrt(alpha_s) * x0 + math.sqrt(1 - alpha_s - sigma**2) * epsilon + sigma * noise
        expected.append(x)
    samples = drive(euler.with_options(eta=eta), grid, 1.3, varying, iter(noises))
    np.testing.assert_allclose(samples, expected, rtol=1e-9)


def test_euler_ancestral_is_the_posterior_of_ddpm() -> None:
    """Ho et al. 2020, equations 6 and 7, from each timestep to the one before it."""
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    bar = np.cumprod(1 - beta)
    times = [700, 699, 698]
    grid = Grid.from_sigmas(SD15, SD15.sigma(times), times)
    x, expected = -0.4, [-0.4]
    for t, point in zip(times[:-1], grid, strict=False):
        x0 = varying(x, point)
        mean = math.sqrt(bar[t - 1]) * beta[t] / (1 - bar[t]) * x0
        mean += math.sqrt(1 - beta[t]) * (1 - bar[t - 1]) / (1 - bar[t]) * x
        variance = (1 - bar[t - 1]) / (1 - bar[t]) * beta[t]
        x = mean + math.sqrt(variance) * 0.9
        expected.append(x)
    samples = drive(euler.with_options(eta=1.0), grid, -0.4, varying, iter([0.9] * 2))
    np.testing.assert_allclose(samples, expected, rtol=1e-9)


def test_euler_ancestral_is_the_ancestral_step_of_k_diffusion_where_alpha_is_1() -> None:
    x, expected, noises = 30.0, [30.0], np.random.default_rng(1).standard_normal(8)
    grid = GRIDS["variance exploding"]
    for s, t, noise in zip(grid.sigmas, grid.sigmas[1:], noises, strict=False):
        up = min(t, 0.8 * math.sqrt(t**2 * (s**2 - t**2) / s**2))
        down = math.sqrt(t**2 - up**2)
        d = (x - varying(x, Point(0, 1.0, s))) / s
        x = x + d * (down - s) + (0.9 * noise * up if t > 0 else 0.0)
        expected.append(x)
    samples = drive(euler.with_options(eta=0.8, s_noise=0.9), grid, 30.0, varying, iter(noises))
    np.testing.assert_allclose(samples, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["variance exploding", "variance exploding, to sigma_min"])
def test_heun_is_algorithm_1_of_karras_et_al(name: str) -> None:
    grid = GRIDS[name]
    x, expected = 30.0, [30.0]
    for s, t in pairwise(grid.sigmas):
        d = (x - varying(x, Point(0, 1.0, s))) / s
        end = x + (t - s) * d
        if t != 0:
            d_end = (end - varying(end, Point(0, 1.0, t))) / t
            end = x + (t - s) * (d + d_end) / 2
        x = end
        expected.append(x)
    np.testing.assert_allclose(drive(heun, grid, 30.0, varying), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["variance exploding", "variance exploding, to sigma_min"])
def test_dpm_2_is_algorithm_1_of_dpm_solver(name: str) -> None:
    """Lu et al. 2022, algorithm 1 with r = 1/2, in the noise prediction, where alpha is 1."""
    grid = GRIDS[name]
    x, expected = 30.0, [30.0]
    for s, t in pairwise(grid.sigmas):
        epsilon = (x - varying(x, Point(0, 1.0, s))) / s
        if t == 0:
            x = x - s * epsilon
        else:
            h = math.log(s / t)
            middle = s * math.exp(-h / 2)
            u = x - middle * math.expm1(h / 2) * epsilon
            x = x - t * math.expm1(h) * (u - varying(u, Point(0, 1.0, middle))) / middle
        expected.append(x)
    np.testing.assert_allclose(drive(dpm_2, grid, 30.0, varying), expected, rtol=1e-9)


@given(st.lists(st.floats(0.1, 1.0), min_size=2, max_size=6), st.floats(0.05, 1.0))
def test_adams_weights_integrate_the_lagrange_polynomials(gaps: list[float], h: float) -> None:
    nodes = [sum(gaps[: i + 1]) for i in range(len(gaps))]  # newest (smallest sigma) first
    end = nodes[0] - h
    for weight, node in zip(adams_weights(nodes, end), nodes, strict=True):
        others = [other for other in nodes if other != node]
        basis = Polynomial.fromroots(others) / np.prod([node - other for other in others])
        expected, _ = integrate.quad(basis, nodes[0], end)
        assert weight == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_is_exact_for_slopes_that_are_polynomials_of_sigma(order: int) -> None:
    slope = Polynomial([0.3, -0.2, 0.05, 0.01][:order])
    integral = slope.integ()
    grid = GRIDS["variance exploding"]
    samples = drive(lms.with_options(order=order), grid, 7.0, lambda x, p: x - p.sigma * slope(p.sigma))
    # from where the history is full
    for (s, x), (t, y) in pairwise(list(zip(grid.sigmas, samples, strict=True))[order - 1 :]):
        assert y - x == pytest.approx(integral(t) - integral(s), rel=1e-8, abs=1e-10)


def exact_step(x: float, s: Point, t: Point, data_of_log_snr: Callable[[float], float]) -> float:
    """The exact solution for data that depend on the log-SNR alone (Lu et al. 2022, DPM-Solver++, equation 8)."""
    integral, _ = integrate.quad(lambda u: math.exp(u - t.log_snr) * data_of_log_snr(u), s.log_snr, t.log_snr)
    return t.sigma / s.sigma * x + t.alpha * integral


MULTISTEP = {
    "DPM++ 2M (heun)": (dpmpp_multistep.with_options(order=2, solver_type="heun"), 1),
    "DPM++ 3M": (dpmpp_multistep.with_options(order=3), 2),
    "UniP-3, bh1": (unipc.with_options(order=3, variant="bh1", corrector=False), 2),
    "UniP-3, bh2": (unipc.with_options(order=3, variant="bh2", corrector=False), 2),
    "UniP-4": (unipc.with_options(order=4, corrector=False, lower_order_final=False), 3),
}


@for_each(("solver", "degree"), MULTISTEP.values(), ids=MULTISTEP)
@for_each("name", ["flow, to sigma_min", "variance preserving, to sigma_min"])
def test_multistep_solvers_are_exact_for_data_that_are_polynomials_of_the_log_snr(
    solver: Solver, degree: int, name: str
) -> None:
    data = Polynomial([0.5, 0.3, -0.1, 0.02][: degree + 1])
    grid = GRIDS[name]
    solver = solver.with_options(lower_order_final=False)
    samples = drive(solver, grid, 1.0, lambda x, p: data(p.log_snr))
    full = list(zip(grid, samples, strict=True))[degree:]
    for (s, x), (t, y) in pairwise(full):
        assert y == pytest.approx(exact_step(x, s, t, data), rel=1e-8)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [2, 3])
def test_the_unipc_corrector_makes_the_step_exact_for_one_degree_more(order: int, variant: str) -> None:
    """Its result is seen in the kept samples."""
    data = Polynomial([0.5, 0.3, -0.1, 0.02][: order + 1])
    grid = GRIDS["flow, to sigma_min"]
    solver = unipc.with_options(order=order, variant=variant, lower_order_final=False)
    corrected: list[tuple[float, Point]] = []
    run = solver(grid, 1.0)
    request = next(run)
    with suppress(StopIteration):
        while True:
            if isinstance(request, Keep):
                assert request.point is not None
                corrected.append((request.x, request.point))
                request = run.send(request.x)
            else:
                request = run.send((request.x, data(request.point.log_snr)))
    assert [point for _, point in corrected] == list(grid[1:-1])
    for (x, s), (y, t) in pairwise(corrected[order - 1 :]):
        assert y == pytest.approx(exact_step(x, s, t, data), rel=1e-8)


def test_dpmpp_2m_is_algorithm_2_of_its_paper() -> None:
    grid = GRIDS["variance preserving, to sigma_min"]
    solver = dpmpp_multistep.with_options(lower_order_final=False)
    x, expected = 1.1, [1.1]
    older = newer = older_h = None
    for s, t in pairwise(grid):
        h = math.log(t.alpha / t.sigma) - math.log(s.alpha / s.sigma)
        newer = varying(x, s)
        d = newer
        if older is not None:
            r = older_h / h
            d = (1 + 1 / (2 * r)) * newer - 1 / (2 * r) * older
        x = t.sigma / s.sigma * x - t.alpha * (math.exp(-h) - 1) * d
        expected.append(x)
        older, older_h = newer, h
    np.testing.assert_allclose(drive(solver, grid, 1.1, varying), expected, rtol=1e-9)


# The family resemblance: one step of first order is the same by every derivation


FIRST_ORDER = {
    "DPM++ 1": dpmpp_multistep.with_options(order=1),
    "UniP-1": unipc.with_options(order=1, corrector=False),
}


@every_grid
@for_each("solver", FIRST_ORDER.values(), ids=FIRST_ORDER)
def test_first_order_exponential_integrators_are_ddim(grid: Grid, solver: Solver) -> None:
    np.testing.assert_allclose(drive(solver, grid, 0.7, varying), drive(euler, grid, 0.7, varying), rtol=1e-9)


@pytest.mark.parametrize("name", ["variance exploding", "flow", "flow, to sigma_min"])
def test_lms_of_order_1_is_euler(name: str) -> None:
    one = lms.with_options(order=1)
    np.testing.assert_allclose(
        drive(one, GRIDS[name], 0.7, varying), drive(euler, GRIDS[name], 0.7, varying), rtol=1e-9
    )


@every_grid
def test_the_first_order_sde_solver_is_euler_ancestral(grid: Grid) -> None:
    noises = np.random.default_rng(2).standard_normal(8)
    sde = drive(dpmpp_multistep.with_options(order=1, eta=1.0), grid, 0.7, varying, iter(noises))
    np.testing.assert_allclose(sde, drive(euler.with_options(eta=1.0), grid, 0.7, varying, iter(noises)), rtol=1e-9)


@for_each("solver", [euler, dpmpp_multistep], ids=lambda s: s.name)
@for_each("name", [name for name, grid in GRIDS.items() if grid[0].alpha > 0])
def test_a_vanishing_eta_is_no_noise(solver: Solver, name: str) -> None:
    ode = drive(solver, GRIDS[name], 0.7, varying)
    sde = drive(solver.with_options(eta=1e-15), GRIDS[name], 0.7, varying, iter([1.0] * 8))
    np.testing.assert_allclose(sde, ode, atol=1e-5)


@pytest.mark.parametrize("order", [2, 3])
def test_short_runs_of_dpmpp_end_in_lower_orders_and_long_ones_do_not(order: int) -> None:
    solver = dpmpp_multistep.with_options(order=order)
    for steps, same in ((14, False), (15, True)):
        grid = Karras(final_sigma="sigma_min").grid(VE, steps)
        stable = drive(solver, grid, 40.0, varying)
        free = drive(solver.with_options(lower_order_final=False), grid, 40.0, varying)
        assert stable[:-2] == free[:-2]
        assert (stable[-1] == free[-1]) is same


# Singular ends


@for_each("solver", SOLVERS.values(), ids=SOLVERS)
def test_solvers_of_dx_dsigma_refuse_grids_where_their_equation_does_not_hold(solver: Solver) -> None:
    grid = GRIDS["variance preserving"]
    if not solver.integrates_dx_dsigma:
        return
    for attempt in (
        lambda: trace(solver, grid, Sample()),
        lambda: run_directly(solver, grid, Sample(), lambda x, t: x, np.ones((1, 2)), None),
    ):
        with pytest.raises(NotPlannableError, match=r"variance_preserving grid: use grid.in_scaling"):
            attempt()


@every_grid
@for_each("solver", [euler, dpmpp_multistep, unipc, heun, dpm_2, lms], ids=lambda s: s.name)
def test_the_step_to_the_data_ends_at_the_prediction(grid: Grid, solver: Solver) -> None:
    if grid[-1].sigma > 0 or solver is lms:  # LMS goes on with its polynomial
        return
    if solver.integrates_dx_dsigma and not grid.scaling.is_linear_in_sigma:
        grid = grid.in_scaling(Scaling.VARIANCE_EXPLODING if grid[0].alpha else Scaling.FLOW)
    seen: list[float] = []

    def data(x: float, point: Point) -> float:
        seen.append(varying(x, point))
        return seen[-1]

    end = drive(solver, grid, 0.9, data)[-1]
    assert end == pytest.approx(seen[-1], rel=1e-9, abs=1e-9)


# DPM adaptive


def test_dpm_adaptive_comes_nearer_with_a_smaller_tolerance() -> None:
    grid = Karras(final_sigma="sigma_min").grid(VE, 1)
    x = np.linspace(-60, 60, 12).reshape(4, 3)
    denoiser = GaussianDenoiser(VE, 0.3, 0.5)
    exact = denoiser.exact(x, (1.0, grid[0].sigma), (1.0, grid[-1].sigma))
    for order in (2, 3):
        errors = []
        for tolerance in (0.05, 0.005, 0.0005):
            solver = dpm_adaptive.with_options(order=order, rtol=tolerance, atol=tolerance / 6)
            errors.append(np.abs(run_directly(solver, grid, Sample(), denoiser, x, None) - exact).max())
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 5e-3


def test_dpm_adaptive_takes_more_steps_for_a_smaller_tolerance() -> None:
    grid = Karras(final_sigma="sigma_min").grid(VE, 1)
    counts = []
    for tolerance in (0.05, 0.005, 0.0005):
        steps: list[StepEnded] = []
        run_directly(
            dpm_adaptive.with_options(rtol=tolerance, atol=tolerance / 6),
            grid,
            Sample(),
            GaussianDenoiser(VE, 0.3, 0.5),
            np.ones((2, 3)) * 40,
            None,
            on_step=steps.append,
        )
        taken = [step for step in steps if step.accepted]
        assert taken[0].s == grid[0]
        assert taken[-1].t == grid[-1]
        assert all(a.t == b.s for a, b in pairwise(taken))
        counts.append(len(taken))
    assert counts[0] < counts[1] < counts[2]


def test_dpm_adaptive_with_noise_keeps_the_variance() -> None:
    schedule = VarianceExploding(0.1, 20.0)
    grid = Karras(final_sigma="sigma_min").grid(schedule, 1)
    rng = np.random.default_rng(0)
    x = math.hypot(20.0, 0.5) * rng.standard_normal((1, 20000))
    solver = dpm_adaptive.with_options(eta=1.0, rtol=0.001, atol=0.0001)
    denoiser = GaussianDenoiser(schedule, 0.0, 0.5)
    end = run_directly(solver, grid, Sample(), denoiser, x, lambda x, s, t: rng.standard_normal(x.shape))
    assert end.std() == pytest.approx(math.hypot(0.1, 0.5), rel=0.02)  # 20,000 samples know it to 0.5 %


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Trailing(final_sigma="sigma_min").grid(Cosine(), 4), "starts at alpha = 0"),
        (Karras().grid(VE, 4), "ends at sigma = 0"),
    ],
)
def test_dpm_adaptive_refuses_infinite_ranges(grid: Grid, message: str) -> None:
    with pytest.raises(SingularPointError, match=rf"{message}: use a spacing with final_sigma='sigma_min'"):
        next(dpm_adaptive(grid, 1.0))


@given(st.floats(0, 10), st.integers(1, 3))
def test_the_controller_shrinks_after_large_errors_and_grows_after_small_ones(error: float, order: int) -> None:
    controller = PIDController(0.05, 0.0, 1.0, 0.0, order, 0.81)
    accepted = controller.propose(error)
    assert controller.h == pytest.approx(0.05 * (1 + math.atan((error + 1e-8) ** (-1 / order) - 1)))
    assert accepted == (controller.h >= 0.81 * 0.05)


# Solvers as values


@make_solver(paper="none")
def plain(grid: Grid, x: Value) -> SolverRun:
    """A solver without options."""
    x, data = yield Evaluate(x, grid[0])
    return data


@for_each(
    ("make", "message"),
    [
        (lambda: euler.with_options(etta=1.0), "unknown option of euler 'etta': did you mean 'eta'"),
        (lambda: heun.with_options(eta=1.0), "unknown option of heun 'eta': did you mean 's_"),
        (lambda: plain.with_options(eta=1.0), "unknown option of plain 'eta': choose one of 'start_percent'"),
        (lambda: next(dpmpp_multistep.with_options(solver_type="midpiont")(GRIDS["flow"], 1.0)), "'midpoint'"),
        (lambda: next(unipc.with_options(variant="bh3")(GRIDS["flow"], 1.0)), "did you mean '(bh1|bh2)'"),
    ],
)
def test_unknown_options_offer_the_nearest(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        make()


@for_each(
    ("solver", "message"),
    [
        (dpmpp_multistep.with_options(order=4), "order is 4: expected 1, 2 or 3"),
        (dpmpp_multistep.with_options(order=0), "order is 0: expected 1, 2 or 3"),
        (dpm_adaptive.with_options(order=1), "order is 1: expected 2 or 3"),
        (unipc.with_options(order=0), "order is 0: expected at least 1"),
        (lms.with_options(order=0), "order is 0: expected at least 1"),
        (euler.with_options(eta=-0.5), "eta is -0.5"),
        (dpmpp_multistep.with_options(eta=-0.5), "eta is -0.5"),
        (dpmpp_multistep.with_options(eta=math.inf), "eta is inf"),
        (dpm_adaptive.with_options(eta=-0.5), "eta is -0.5"),
    ],
)
def test_impossible_options_are_refused(solver: Solver, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(solver(GRIDS["flow, to sigma_min"], 1.0))


def test_equal_options_make_equal_solvers() -> None:
    assert euler.with_options(eta=0.5) == euler.with_options(eta=1.0).with_options(eta=0.5)
    assert euler.with_options(eta=0.0) == euler
    assert hash(unipc.with_options(order=3, variant="bh1")) == hash(unipc.with_options(variant="bh1", order=3))
    assert euler != heun


def test_solvers_print_their_options() -> None:
    assert str(dpmpp_multistep.with_options(order=3, eta=1.0)) == "dpmpp_multistep(eta=1.0, order=3)"
    assert str(heun) == "heun()"


@for_each("solver", SOLVERS.values(), ids=SOLVERS)
def test_every_solver_names_its_paper_and_documents_its_options(solver: Solver) -> None:
    assert solver.paper
    assert solver.__doc__
    assert solver.name == next(name for name, known in SOLVERS.items() if known is solver)
