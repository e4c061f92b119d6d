"""Solvers that few packages have, against their papers' formulas, their relatives and closed forms.

Their orders of convergence: test_convergence.py. Those that diffusers has: parity/test_diffusers_published.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
from numpy.polynomial import Polynomial
from scipy import integrate

from benchmarks.orders import GAUSSIAN, SCHEDULE, SPACING, marginal, propagated
from diffusolve.backends import Run
from diffusolve.errors import UnknownNameError
from diffusolve.noise import SD15, Cosine, FlowMatching, Grid, Point, Scaling, VarianceExploding
from diffusolve.plan import Combination, Plan, trace
from diffusolve.prediction import Flow, Sample
from diffusolve.sampling import run_directly
from diffusolve.solvers import (
    Solver,
    dpmpp_multistep,
    dpmpp_sde,
    er_sde,
    euler,
    exp_heun_2_x0,
    gradient_estimation,
    heun,
    heunpp2,
    ipndm,
    ipndm_v,
    lcm,
    lms,
    res_multistep,
    restart,
    sa_solver,
    seeds_2,
    seeds_3,
    ud10_ab,
    unipc,
)
from diffusolve.solvers.er_sde import NOISE_SCALERS, integrals
from diffusolve.solvers.sa_solver import stochastic_adams_weights
from diffusolve.spacing import Karras, Trailing
from tests.interpreter import Interpreter
from tests.tables import for_each
from tests.test_solvers import GRIDS, Data, drive, every_grid, varying
from tests.test_tracing import SHAPE, Network, NoiseSource, run_plan

VE_GRID = Grid.from_sigmas(VarianceExploding(0.01, 50.0), [10.0, 6.0, 3.0, 1.0, 0.4])
ALWAYS_SDE = sa_solver.with_options(sde_start_percent=0.0, sde_end_percent=1.0)
TO_SIGMA_MIN = [name for name in GRIDS if name.endswith("to sigma_min")]


def noises(seed: int = 3) -> Iterator[float]:
    return iter(np.random.default_rng(seed).standard_normal(400).tolist())


def at(sigma: float) -> Point:
    """A point where alpha is 1."""
    return Point(sigma, 1.0, sigma)


def slope(x: float, sigma: float) -> float:
    """The papers' noise prediction where alpha is 1."""
    return (x - varying(x, at(sigma))) / sigma


def ve_drive(solver: Solver, x: float, grid: Grid = VE_GRID) -> list[float]:
    return drive(solver, grid, x, lambda x, point: varying(x, at(point.sigma)), noises())


def linear_in_sigma(name: str) -> Grid:
    """A grid on which dx/dsigma = (x - x0) / sigma holds."""
    grid = GRIDS[name]
    if grid.scaling.is_linear_in_sigma:
        return grid
    return grid.in_scaling(Scaling.VARIANCE_EXPLODING if grid[0].alpha else Scaling.FLOW)


# Formulas, written down again


def test_heunpp2_weighs_three_slopes_then_two_then_one() -> None:
    x, expected = 12.0, [12.0]
    for a, b, c in (
        (10.0, 6.0, 3.0),
        (6.0, 3.0, 1.0),
    ):  # three slopes: weights b / 30 and c / 30, the rest for the first
        d1 = slope(x, a)
        y = x + (b - a) * d1
        d2 = slope(y, b)
        d3 = slope(y + (c - b) * d2, c)
        x = x + (b - a) * ((1 - b / 30 - c / 30) * d1 + b / 30 * d2 + c / 30 * d3)
        expected.append(x)
    d1 = slope(x, 3.0)  # two slopes: weight 1 / 20 for the second
    x = x - 2.0 * (19 / 20 * d1 + 1 / 20 * slope(x - 2.0 * d1, 1.0))
    expected.append(x)
    expected.append(x - 0.6 * slope(x, 1.0))
    np.testing.assert_allclose(ve_drive(heunpp2, 12.0), expected, rtol=1e-12)


def test_heunpp2_takes_two_slopes_and_one_in_runs_of_two_steps_and_of_one() -> None:
    two, one = VE_GRID[:3], VE_GRID[:2]
    d = slope(12.0, 10.0)
    x = 12.0 - 4.0 * (14 / 20 * d + 6 / 20 * slope(12.0 - 4.0 * d, 6.0))
    assert ve_drive(heunpp2, 12.0, two)[1] == pytest.approx(x, rel=1e-12)
    assert ve_drive(heunpp2, 12.0, one)[1] == pytest.approx(12.0 - 4.0 * d, rel=1e-12)


def test_heunpp2_churns_as_algorithm_2_of_karras_et_al() -> None:
    """The noise level is raised by a fifth first, and the first slope is the one there."""
    noise = noises()
    x, expected = 12.0, [12.0]
    for s, t in ((10.0, 6.0), (6.0, 3.0)):
        hat = 1.2 * s
        x += 0.9 * math.sqrt(hat**2 - s**2) * next(noise)
        d = slope(x, hat)
        if t == 6.0:
            x += (t - hat) * (14 / 20 * d + 6 / 20 * slope(x + (t - hat) * d, t))
        else:
            x += (t - hat) * d
        expected.append(x)
    solver = heunpp2.with_options(s_churn=0.4, s_noise=0.9)
    assert ve_drive(solver, 12.0, VE_GRID[:3])[-1] == pytest.approx(expected[-1], rel=1e-12)


def test_ipndm_is_adams_bashforth_with_the_weights_of_equal_steps() -> None:
    tables = [(1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)]
    for max_order in (1, 2, 3, 4):
        x, expected, slopes = 12.0, [12.0], []
        for s, t in pairwise(VE_GRID.sigmas):
            slopes = [slope(x, s), *slopes][:max_order]
            x = x + (t - s) * sum(w * d for w, d in zip(tables[len(slopes) - 1], slopes, strict=True))
            expected.append(x)
        np.testing.assert_allclose(ve_drive(ipndm.with_options(max_order=max_order), 12.0), expected, rtol=1e-12)


def test_ipndm_v_integrates_the_polynomial_through_the_last_slopes() -> None:
    for max_order in (1, 2, 3, 4):
        x, expected, slopes = 12.0, [12.0], []
        for s, t in pairwise(VE_GRID.sigmas):
            slopes = [(s, slope(x, s)), *slopes][:max_order]
            nodes, values = zip(*slopes, strict=True)
            through = Polynomial.fit(nodes, values, len(nodes) - 1).integ()
            x = x + through(t) - through(s)
            expected.append(x)
        np.testing.assert_allclose(ve_drive(ipndm_v.with_options(max_order=max_order), 12.0), expected, rtol=1e-9)


@pytest.mark.parametrize("ge_gamma", [0.5, 1.0, 2.0])
def test_gradient_estimation_is_algorithm_2_of_its_paper(ge_gamma: float) -> None:
    """Equation 12: the noise is gamma * eps_t + (1 - gamma) * eps_{t+1}."""
    x, expected, older = 12.0, [12.0], None
    for s, t in pairwise(VE_GRID.sigmas):
        eps = slope(x, s)
        mean = eps if older is None else ge_gamma * eps + (1 - ge_gamma) * older
        x, older = x + (t - s) * mean, eps
        expected.append(x)
    solver = gradient_estimation.with_options(ge_gamma=ge_gamma)
    np.testing.assert_allclose(ve_drive(solver, 12.0), expected, rtol=1e-12)


def test_lcm_is_algorithm_3_of_its_paper() -> None:
    """The data prediction, noised again."""
    for grid in GRIDS.values():
        x, noise, expected = 0.7, noises(), [0.7]
        for s, t in pairwise(grid):
            x = t.alpha * varying(x, s)
            x += 0.9 * t.sigma * next(noise) if t.sigma else 0.0
            expected.append(x)
        made = drive(lcm.with_options(s_noise=0.9), grid, 0.7, varying, noises())
        np.testing.assert_allclose(made, expected, rtol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_res_multistep_is_the_exponential_integrator_of_its_paper(eta: float) -> None:
    """Where alpha is 1, with the paper's phi functions and the ancestral step of Karras et al.'s code."""

    def phi_1(z: float) -> float:
        return (math.exp(z) - 1) / z

    def phi_2(z: float) -> float:
        return (phi_1(z) - 1) / z

    noise = noises()
    x, expected = 12.0, [12.0]
    before = None
    for s, t in pairwise(VE_GRID.sigmas):
        data = varying(x, at(s))
        up = min(t, eta * math.sqrt(t**2 * (s**2 - t**2) / s**2))
        down = math.sqrt(t**2 - up**2)
        h = math.log(s / down)
        if before is None:
            x = math.exp(-h) * x + h * phi_1(-h) * data
        else:
            older, older_h = before
            c2 = -older_h / h  # where the older prediction stands, in steps
            b2 = phi_2(-h) / c2
            x = math.exp(-h) * x + h * ((phi_1(-h) - b2) * data + b2 * older)
        before = data, h
        x += up * next(noise) if eta else 0.0
        expected.append(x)
    np.testing.assert_allclose(ve_drive(res_multistep.with_options(eta=eta), 12.0), expected, rtol=1e-10)


PHIS: dict[str, Callable[[float], float]] = {
    "er_sde": lambda x: x * (math.exp(x**0.3) + 10),
    "reverse_time_sde": lambda x: x * x,
    "ode": lambda x: x,
}


def er_sde_by_the_paper(
    grid: Grid, x: float, data: Data, phi: Callable[[float], float], stage: int, noise: Iterator[float]
) -> list[float]:
    """ER-SDE-Solver of order `stage` as the paper has it: for x / alpha, over rho = sigma / alpha."""

    def integral(end: float, rho: float, power: int) -> float:
        """Of ``phi(end) / phi(r) * (r - rho) ** power``."""
        return float(integrate.quad(lambda r: phi(end) / phi(r) * (r - rho) ** power, end, rho, epsabs=1e-13)[0])

    made, history = [x], []
    for s, t in pairwise(grid):
        history = [(s.sigma / s.alpha, data(x, s)), *history][:stage]
        rho, end, x0 = s.sigma / s.alpha, t.sigma / t.alpha, history[0][1]
        ratio = phi(end) / phi(rho)
        y = ratio * x / s.alpha + (1 - ratio) * x0
        if len(history) > 1:
            d1 = (x0 - history[1][1]) / (rho - history[1][0])
            y += (end - rho + integral(end, rho, 0)) * d1
        if len(history) > 2:
            older = (history[1][1] - history[2][1]) / (history[1][0] - history[2][0])
            d2 = (d1 - older) / ((rho - history[2][0]) / 2)
            y += ((end - rho) ** 2 / 2 + integral(end, rho, 1)) * d2
        variance = end**2 - rho**2 * ratio**2
        if variance > 1e-12:
            y += math.sqrt(variance) * next(noise)
        x = t.alpha * y
        made.append(x)
    return made


@for_each("stage", [1, 2, 3])
@for_each("scaler", PHIS)
@for_each("name", TO_SIGMA_MIN)
def test_er_sde_is_the_papers_solver_on_every_noise_schedule(name: str, scaler: str, stage: int) -> None:
    grid = GRIDS[name]
    solver = er_sde.with_options(max_stage=stage, noise_scaler=scaler, third_order="authors")
    expected = er_sde_by_the_paper(grid, 0.7, varying, PHIS[scaler], stage, noises())
    np.testing.assert_allclose(drive(solver, grid, 0.7, varying, noises()), expected, rtol=1e-7)


def test_er_sde_with_eta_raises_the_noise_to_that_power() -> None:
    """phi(x) / x to the power eta; for the reverse SDE phi is then x to the power 1 + eta."""
    grid = GRIDS["flow, to sigma_min"]
    for scaler in ("er_sde", "reverse_time_sde"):
        solver = er_sde.with_options(noise_scaler=scaler, eta=1.7, third_order="authors")
        phi = PHIS[scaler]
        expected = er_sde_by_the_paper(grid, 0.7, varying, lambda x, phi=phi: x * (phi(x) / x) ** 1.7, 3, noises())
        np.testing.assert_allclose(drive(solver, grid, 0.7, varying, noises()), expected, rtol=1e-7)


def seeds_by_the_paper(
    grid: Grid, x: float, data: Data, eta: float, nodes: tuple[float, ...], noise: Iterator[float]
) -> list[float]:
    """SEEDS-2 (phi_2) and SEEDS-3 for data predictions: the noise of each part of a step decays over those after it."""
    made = [x]
    for s, t in pairwise(grid):
        h, x0 = t.log_snr - s.log_snr, data(x, s)
        drawn: list[tuple[float, float]] = []  # where the parts so far end, and their noises
        difference, before = 0.0, 1.0
        for r in (*nodes, 1.0):
            if eta and (not drawn or drawn[-1][0] < r):
                drawn.append((r, next(noise)))
            p = grid.at_log_snr(s.log_snr + r * h)
            g = (1 + eta) * r * h
            y = p.sigma / s.sigma * math.exp(-eta * r * h) * x + p.alpha * (1 - math.exp(-g)) * x0
            y += p.alpha * (1 - (1 - math.exp(-g)) / g) * difference * r / before
            y += p.sigma * sum(
                math.sqrt(integrate.quad(decay_of_variance, begin * h, end * h, (eta, r * h))[0]) * z
                for begin, (end, z) in zip((0.0, *(end for end, _ in drawn)), drawn, strict=False)
            )
            difference, before = data(y, p) - x0, r
        x = y
        made.append(x)
    return made


def decay_of_variance(u: float, eta: float, end: float) -> float:
    """What is left at `end` of the variance that comes in at `u`."""
    return 2 * eta * math.exp(-2 * eta * (end - u))


@for_each("eta", [0.0, 0.5, 1.0])
@for_each("name", TO_SIGMA_MIN)
def test_seeds_decomposes_the_noise_of_a_step_on_every_noise_schedule(name: str, eta: float) -> None:
    grid = GRIDS[name]
    for solver, nodes in (
        (seeds_2.with_options(solver_type="phi_2"), (0.5,)),
        (seeds_2.with_options(solver_type="phi_2", r=0.3), (0.3,)),
        (exp_heun_2_x0, (1.0,)),
        (seeds_3, (1 / 3, 2 / 3)),
        (seeds_3.with_options(r_1=0.25, r_2=0.7), (0.25, 0.7)),
    ):
        made = drive(solver.with_options(eta=eta), grid, 0.7, varying, noises())
        np.testing.assert_allclose(made, seeds_by_the_paper(grid, 0.7, varying, eta, nodes, noises()), rtol=1e-8)


@for_each("tau", [0.0, 0.5, 1.0, 2.0])
@for_each("corrected", [False, True])
@for_each("order", [1, 2, 3, 4])
def test_the_weights_of_sa_solver_are_the_integrals_of_its_paper(order: int, corrected: bool, tau: float) -> None:
    """Equations 14 and 17, by quadrature, in units of alpha at the end of the step."""
    log_snrs = [0.3, -0.1, -0.35, -0.9, -1.2]  # the end of the step, its beginning, and before
    end, *_ = points = [Point(0.0, 1.0, math.exp(-log_snr)) for log_snr in log_snrs]
    begin = points[1]
    known = points[:order] if corrected else points[1 : order + 1]
    weights = stochastic_adams_weights(known, begin, end, tau)
    for weight, point in zip(weights, known, strict=True):
        others = [other.log_snr for other in known if other is not point]
        basis = math.prod((Polynomial([-u, 1.0]) / (point.log_snr - u) for u in others), start=Polynomial([1.0]))
        k = 1 + tau**2

        def integrand(u: float, basis: Polynomial = basis, k: float = k) -> float:
            return float(k * math.exp(k * (u - end.log_snr)) * basis(u))

        assert weight == pytest.approx(integrate.quad(integrand, begin.log_snr, end.log_snr)[0], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("use_pece", [False, True])
def test_sa_solver_corrects_with_the_noise_that_it_predicted_with(use_pece: bool) -> None:
    grid = GRIDS["flow, to sigma_min"]
    noise, tau = noises(), 0.8
    solver = ALWAYS_SDE.with_options(predictor_order=2, corrector_order=2, eta=tau, use_pece=use_pece, s_noise=0.9)
    x = corrected = 0.7
    expected, known, step_before = [], [], None
    for s, t in pairwise(grid):
        expected.append(x)
        data = varying(x, s)
        if step_before is not None:
            start, before, added = step_before
            corrected = adams(start, before, s, tau, [(data, s), *known[:1]]) + added
            data = varying(corrected, s) if use_pece else data
        known = [(data, s), *known][:2]
        h = t.log_snr - s.log_snr
        added = 0.9 * t.sigma * math.sqrt(1 - math.exp(-2 * tau**2 * h)) * next(noise)
        step_before = corrected, s, added
        x = adams(corrected, s, t, tau, known) + added
    np.testing.assert_allclose(drive(solver, grid, 0.7, varying, noises()), [*expected, x], rtol=1e-10)


def adams(x: float, s: Point, t: Point, tau: float, known: list[tuple[float, Point]]) -> float:
    h = t.log_snr - s.log_snr
    weights = stochastic_adams_weights([point for _, point in known], s, t, tau)
    kept = t.sigma / s.sigma * math.exp(-(tau**2) * h) * x
    return kept + t.alpha * sum(w * data for w, (data, _) in zip(weights, known, strict=True))


# Exactness: what each method integrates without error


@for_each("scaler", PHIS)
@for_each("name", TO_SIGMA_MIN)
def test_er_sde_is_exact_for_data_that_are_polynomials_of_sigma_over_alpha(name: str, scaler: str) -> None:
    grid = GRIDS[name]
    phi = PHIS[scaler]
    for stage in (1, 2, 3):
        data = Polynomial([0.5, 0.03, -0.001][:stage])
        solver = er_sde.with_options(max_stage=stage, noise_scaler=scaler)
        made = drive(solver, grid, 1.0, lambda x, p, data=data: data(p.sigma / p.alpha))
        for (s, x), (t, y) in pairwise(list(zip(grid, made, strict=True))[stage - 1 :]):
            rho, end = s.sigma / s.alpha, t.sigma / t.alpha
            # The integral of D d(-1 / phi), by parts
            change, _ = integrate.quad(lambda r, data=data: data.deriv()(r) / phi(r), end, rho, epsabs=1e-14)
            moved = phi(end) * (data(end) / phi(end) - data(rho) / phi(rho) + change)
            assert y / t.alpha == pytest.approx(phi(end) / phi(rho) * x / s.alpha + moved, rel=1e-8, abs=1e-10)


@for_each("tau", [0.0, 0.7, 1.0])
@for_each("name", TO_SIGMA_MIN)
def test_sa_solver_is_exact_for_data_that_are_polynomials_of_the_log_snr(name: str, tau: float) -> None:
    grid = GRIDS[name]
    for order in (1, 2, 3, 4):
        data = Polynomial([0.5, 0.3, -0.1, 0.02][:order])
        solver = ALWAYS_SDE.with_options(predictor_order=order, corrector_order=0, eta=tau)
        made = drive(solver, grid, 1.0, lambda x, p, data=data: data(p.log_snr))
        for (s, x), (t, y) in pairwise(list(zip(grid, made, strict=True))[order - 1 :]):
            assert y == pytest.approx(exact_step(x, s, t, tau**2, data), rel=1e-8)


@pytest.mark.parametrize(
    ("longest_step", "last"),
    [(1.5, (3, 4)), (3.9, (1, 2)), (4.1, (3, 4)), (math.inf, (3, 4))],
    ids=str,
)
def test_sa_solver_takes_fewer_data_predictions_in_steps_much_longer_than_those_before(
    longest_step: float, last: tuple[int, int]
) -> None:
    """Four steps of ln 1.5, and one that is 1.2 times as long, or 4 times where `longest_step` is not the usual."""
    ratio = 1.2 if longest_step == 1.5 else 4.0
    sigmas = [1.5 ** (5 - step) for step in range(5)]
    grid = Grid.from_sigmas(VarianceExploding(0.01, 50.0), [*sigmas, sigmas[-1] * 1.5**-ratio, 0.01])
    solver = sa_solver.with_options(eta=0.0, use_pece=True, longest_step=longest_step)
    plan = trace(solver, grid, Sample())
    orders = [
        sum(source.startswith("data") for source, _ in write.terms)
        for stage in plan.stages
        for write in stage.update.writes
        if write.register.startswith("x")
    ]
    assert orders[:8] == [1, 2, 2, 3, 3, 4, 3, 4]  # predictor and corrector in turn
    assert tuple(orders[8:10]) == last


@for_each("eta", [0.0, 1.0])
@for_each("name", TO_SIGMA_MIN)
def test_exponential_heun_and_phi_2_are_exact_for_data_that_are_linear_in_the_log_snr(name: str, eta: float) -> None:
    grid = GRIDS[name]
    data = Polynomial([0.5, 0.3])
    for solver in (exp_heun_2_x0, seeds_2.with_options(solver_type="phi_2", r=0.4), seeds_3):
        made = drive(solver.with_options(eta=eta), grid, 1.0, lambda x, p: data(p.log_snr))
        for (s, x), (t, y) in pairwise(zip(grid, made, strict=True)):
            assert y == pytest.approx(exact_step(x, s, t, eta, data), rel=1e-8)


def exact_step(x: float, s: Point, t: Point, eta: float, data: Polynomial) -> float:
    """The mean along the reverse SDE with `eta`, for data that depend on the log-SNR alone."""
    k = 1 + eta

    def integrand(u: float) -> float:
        return float(k * math.exp(k * (u - t.log_snr)) * data(u))

    integral, _ = integrate.quad(integrand, s.log_snr, t.log_snr, epsabs=1e-13)
    return t.sigma / s.sigma * math.exp(-eta * (t.log_snr - s.log_snr)) * x + t.alpha * integral


@for_each("eta", [0.01, 1.0, 30.0, 1e6])
@for_each("scaler", ["er_sde", "reverse_time_sde"])
@for_each(("rho", "end"), [(2.0, 1.9), (80.0, 0.002), (1e5, 3e4)])
def test_the_integrals_of_er_sde_are_exact_for_any_amount_of_noise(
    rho: float, end: float, scaler: str, eta: float
) -> None:
    log_scale = NOISE_SCALERS[scaler]

    def integrand(r: float, power: int) -> float:
        return -math.expm1(eta * (log_scale(end) - log_scale(r)) - math.log(r / end)) * (rho - r) ** power

    edges = end * (rho / end) ** np.concatenate(([0.0], np.geomspace(1e-10, 1.0, 200)))
    made = integrals(lambda at: eta * log_scale(at), rho, end)
    for power, value in enumerate(made):
        expected = sum(integrate.quad(integrand, a, b, (power,))[0] for a, b in pairwise(edges))
        assert value == pytest.approx(expected, rel=1e-8)


# Relatives


SAME: dict[str, tuple[Solver, Solver]] = {
    "RES multistep is DPM++ 2M in its heun form": (
        res_multistep,
        dpmpp_multistep.with_options(solver_type="heun", lower_order_final=False),
    ),
    "RES multistep ancestral is DPM++ 2M SDE Heun": (
        res_multistep.with_options(eta=1.0),
        dpmpp_multistep.with_options(solver_type="heun", eta=1.0, lower_order_final=False),
    ),
    "SEEDS-2 without noise is DPM++ 2S": (seeds_2.with_options(eta=0.0, r=0.4), dpmpp_sde.with_options(eta=0.0, r=0.4)),
    "SEEDS-2 is DPM++ SDE with disjoint noise": (seeds_2.with_options(r=0.4), dpmpp_sde.with_options(r=0.4)),
    "exponential Heun is SEEDS-2 at the end of the step": (
        exp_heun_2_x0.with_options(eta=0.7),
        seeds_2.with_options(eta=0.7, r=1.0, solver_type="phi_2"),
    ),
    "ER-SDE 1 of the ODE is DDIM": (er_sde.with_options(max_stage=1, noise_scaler="ode"), euler),
    "ER-SDE 1 of the reverse SDE is Euler ancestral": (
        er_sde.with_options(max_stage=1, noise_scaler="reverse_time_sde"),
        euler.with_options(eta=1.0),
    ),
    "ER-SDE 1 of the reverse SDE has the eta of DPM++ SDE": (
        er_sde.with_options(max_stage=1, noise_scaler="reverse_time_sde", eta=0.3),
        dpmpp_multistep.with_options(order=1, eta=0.3),
    ),
    "ER-SDE without noise is that of the ODE": (er_sde.with_options(eta=0.0), er_sde.with_options(noise_scaler="ode")),
    "SA-Solver 2/0 without noise is DPM++ 2M in its heun form": (
        sa_solver.with_options(eta=0.0, predictor_order=2, corrector_order=0, longest_step=math.inf),
        dpmpp_multistep.with_options(solver_type="heun", lower_order_final=False),
    ),
    "SA-Solver 2/0 is DPM++ 2M SDE Heun": (
        ALWAYS_SDE.with_options(predictor_order=2, corrector_order=0, longest_step=math.inf),
        dpmpp_multistep.with_options(solver_type="heun", eta=1.0, lower_order_final=False),
    ),
    "SA-Solver 1/0 with tau has tau squared for eta": (
        ALWAYS_SDE.with_options(predictor_order=1, corrector_order=0, eta=0.6),
        dpmpp_multistep.with_options(order=1, eta=0.36),
    ),
    "SA-Solver where it never is an SDE is that without noise": (
        sa_solver.with_options(sde_start_percent=0.0, sde_end_percent=0.0),
        sa_solver.with_options(eta=0.0),
    ),
    "LCM is Euler ancestral that keeps nothing": (lcm, euler.with_options(eta=1e9)),
}


@every_grid
@for_each(("one", "other"), SAME.values(), ids=SAME)
def test_relatives_give_the_same_numbers(one: Solver, other: Solver, grid: Grid) -> None:
    if one is SAME["SA-Solver where it never is an SDE is that without noise"][0]:
        grid = grid[1:]  # the noisiest level itself is where the SDE would begin
    made, expected = (drive(solver, grid, 0.7, varying, noises()) for solver in (one, other))
    np.testing.assert_allclose(made, expected, rtol=1e-9)


@for_each("name", TO_SIGMA_MIN)
@for_each("other", [dpmpp_multistep.with_options(order=3), unipc.with_options(order=3, corrector=False)], ids=str)
def test_sa_solver_3_without_noise_is_dpmpp_3m_and_unip_3(other: Solver, name: str) -> None:
    """There is one parabola through three data predictions; the start-ups differ, and these data forget them."""
    sa = sa_solver.with_options(eta=0.0, predictor_order=3, corrector_order=0)
    other = other.with_options(lower_order_final=False)
    made, expected = (drive(solver, GRIDS[name], 0.7, lambda x, p: math.sin(p.log_snr)) for solver in (sa, other))
    for s, t, x, y, u, v in list(
        zip(GRIDS[name], GRIDS[name][1:], made, made[1:], expected, expected[1:], strict=False)
    )[2:]:
        kept = t.sigma / s.sigma
        assert y - kept * x == pytest.approx(v - kept * u, rel=1e-8, abs=1e-10)


STRAIGHT_SAME: dict[str, tuple[Solver, Solver]] = {
    "gradient estimation with gamma 1 is Euler": (gradient_estimation.with_options(ge_gamma=1.0), euler),
    "iPNDM 1 is Euler": (ipndm.with_options(max_order=1), euler),
    "iPNDM-v 1 is Euler": (ipndm_v.with_options(max_order=1), euler),
    "Restart without restarts is Heun": (restart.with_options(restart_list=()), heun),
    "Restart of few steps is Heun": (restart, heun),
}


@for_each("name", GRIDS)
@for_each(("one", "other"), STRAIGHT_SAME.values(), ids=STRAIGHT_SAME)
def test_relatives_on_grids_linear_in_sigma_give_the_same_numbers(one: Solver, other: Solver, name: str) -> None:
    grid = linear_in_sigma(name)
    np.testing.assert_allclose(drive(one, grid, 0.7, varying), drive(other, grid, 0.7, varying), rtol=1e-9)


@for_each("max_order", [1, 2, 3, 4])
@for_each("name", GRIDS)
def test_ipndm_v_is_lms_but_for_the_step_to_the_data(name: str, max_order: int) -> None:
    grid = linear_in_sigma(name)
    made = drive(ipndm_v.with_options(max_order=max_order), grid, 0.7, varying)
    expected = drive(lms.with_options(order=max_order), grid, 0.7, varying)
    np.testing.assert_allclose(made[:-1], expected[:-1], rtol=1e-9)
    if grid[-1].sigma > 0:
        assert made[-1] == pytest.approx(expected[-1], rel=1e-9)


@pytest.mark.parametrize("max_order", [2, 3, 4])
def test_ipndm_v_is_ipndm_where_the_steps_are_equal_and_not_elsewhere(max_order: int) -> None:
    one, other = ipndm.with_options(max_order=max_order), ipndm_v.with_options(max_order=max_order)
    equal = Grid.from_sigmas(FlowMatching(), np.linspace(1.0, 0.0, 9))
    np.testing.assert_allclose(drive(one, equal, 0.7, varying), drive(other, equal, 0.7, varying), rtol=1e-9)
    assert np.abs(np.subtract(ve_drive(one, 12.0), ve_drive(other, 12.0))).max() > 1e-3


def test_gradient_estimation_with_gamma_three_halves_is_ipndm_of_order_2() -> None:
    one, other = gradient_estimation.with_options(ge_gamma=1.5), ipndm.with_options(max_order=2)
    np.testing.assert_allclose(ve_drive(one, 12.0), ve_drive(other, 12.0), rtol=1e-12)


@every_grid
@for_each("solver", [res_multistep, er_sde, seeds_2, seeds_3, exp_heun_2_x0, ALWAYS_SDE], ids=str)
def test_a_vanishing_eta_is_no_noise(solver: Solver, grid: Grid) -> None:
    if grid[0].alpha == 0:
        return  # there any noise at all replaces the old one
    ode = drive(solver.with_options(eta=0.0), grid, 0.7, varying)
    sde = drive(solver.with_options(eta=1e-12), grid, 0.7, varying, noises())
    np.testing.assert_allclose(sde, ode, atol=1e-4)


# Noise on every noise schedule, flow matching included

WITH_NOISE: dict[str, Solver] = {
    "lcm": lcm,
    "res": res_multistep.with_options(eta=0.8),
    "er_sde": er_sde,
    "er_sde, reverse": er_sde.with_options(noise_scaler="reverse_time_sde", eta=2.0),
    "seeds_2": seeds_2,
    "seeds_2, phi_2": seeds_2.with_options(solver_type="phi_2", r=0.9, eta=0.5),
    "seeds_3": seeds_3,
    "exp_heun": exp_heun_2_x0.with_options(eta=1.0),
    "sa_solver": sa_solver,
    "sa_solver, pece": sa_solver.with_options(use_pece=True),
    "restart": restart.with_options(restart_list=((0.5, (4, 2, 5.0)), (0.4, (3, 1, 2.0)))),
}


@every_grid
@for_each("solver", WITH_NOISE.values(), ids=WITH_NOISE)
def test_samples_are_alpha_times_the_data_and_noise_of_sigma(solver: Solver, grid: Grid) -> None:
    """With a prediction that never changes: a Combination follows the data and each noise through the whole run."""
    if solver.integrates_dx_dsigma:
        grid = linear_in_sigma(next(name for name, known in GRIDS.items() if known is grid))
    points: list[Point] = []
    start = grid[0]

    def data(x: float, point: Point) -> float:
        points.append(point)
        return Combination({"data": 1.0})  # type: ignore[return-value]

    samples: list[Combination] = []

    def seen(x: float, point: Point) -> float:
        samples.append(x)  # type: ignore[arg-type]
        return data(x, point)

    end = drive(
        solver,
        grid,
        Combination({"data": start.alpha, "start": start.sigma}),  # type: ignore[arg-type]
        seen,
        (Combination({f"noise{i}": 1.0}) for i in range(100)),  # type: ignore[misc]
    )[-1]
    drawn = set()
    for sample, point in zip([*samples, end], [*points, grid[-1]], strict=True):
        terms = dict(sample.terms)  # type: ignore[union-attr]
        drawn |= {name for name in terms if name.startswith("noise")}
        assert terms.pop("data", 0.0) == pytest.approx(point.alpha, abs=1e-9)
        assert math.sqrt(sum(c**2 for c in terms.values())) == pytest.approx(point.sigma, rel=1e-9, abs=1e-9)
    assert drawn


def test_sa_solver_draws_noise_in_its_part_of_the_schedule_only() -> None:
    """Steps that begin at timesteps from 20 to 80 % of SD 1.5's levels."""
    grid = Trailing().grid(SD15, 10)
    plan = trace(sa_solver, grid, Sample())
    stages = [(stage.point.timestep, bool(stage.update.noises)) for stage in plan.stages]
    assert stages == [(timestep, 0.2 * 999 <= timestep <= 0.8 * 999) for timestep in grid.timesteps]
    assert [timestep for timestep, noisy in stages if noisy] == [799, 699, 599, 499, 399, 299]


@pytest.mark.parametrize("schedule", [FlowMatching(3.0), VarianceExploding(), Cosine()], ids=lambda s: type(s).__name__)
def test_sa_solver_counts_percent_in_levels_of_any_noise_schedule(schedule: FlowMatching) -> None:
    plan = trace(
        sa_solver.with_options(sde_start_percent=0.5, sde_end_percent=1.0), Trailing().grid(schedule, 10), Flow()
    )
    count = schedule.num_train_timesteps
    half = count / 2 - 1 if isinstance(schedule, FlowMatching) else (count - 1) / 2  # of the time, 0 at index -1
    middle = schedule.scaling.log_snr(schedule.sigma_at_index(half))
    noisy = [bool(stage.update.noises) for stage in plan.stages[:-1]]
    assert noisy == [stage.point.log_snr >= middle - 1e-9 for stage in plan.stages[:-1]]
    assert 0 < sum(noisy) < len(noisy)


# What an evaluation costs


@for_each(
    ("solver", "nfe", "nfe_to_min", "registers"),
    [
        (heunpp2, 10 + 9 + 8, 10 + 9 + 8, 3),  # the last but one step has two, the last one; kept: sample and slopes
        (ipndm, 10, 10, 4),
        (ipndm_v.with_options(max_order=2), 10, 10, 2),
        (gradient_estimation, 10, 10, 2),
        (ud10_ab, 10, 10, 2),  # the sample and the last slope, for the last step the last data prediction
        (ud10_ab.with_options(noise_weight=0.1), 10, 10, 3),
        (lcm, 10, 10, 1),
        (res_multistep.with_options(eta=1.0), 10, 10, 2),
        (er_sde, 10, 10, 3),
        (seeds_2, 2 * 10 - 1, 20, 3),
        (exp_heun_2_x0, 2 * 10 - 1, 20, 3),
        (seeds_3, 3 * 10 - 2, 30, 5),  # two samples, the first data prediction, two noises
        (sa_solver.with_options(corrector_order=0), 10, 10, 3),
        (sa_solver, 10, 10, 6),  # three data predictions, where the step began, its noise, and the sample
        (sa_solver.with_options(use_pece=True), 2 * 10 - 1, 2 * 10 - 1, 6),
    ],
    ids=str,
)
def test_evaluations_and_registers_are_those_that_the_algorithm_needs(
    solver: Solver, nfe: int, nfe_to_min: int, registers: int
) -> None:
    schedule = VarianceExploding(0.01, 50.0)
    to_zero, to_min = (
        trace(solver, Karras(final_sigma=end).grid(schedule, 10), Sample()) for end in ("zero", "sigma_min")
    )
    assert (to_zero.nfe, to_min.nfe) == (nfe, nfe_to_min)
    assert to_zero.steps == to_min.steps == 10
    assert max(to_zero.registers, to_min.registers) == registers


# Restart

INTERVAL = ((0.2, (4, 2, 1.0)),)


def test_restart_goes_back_to_more_noise_and_down_in_karras_levels() -> None:
    """Algorithm 1 of the paper, with levels from 1 to 0.2 in equal steps of sigma ** (1 / 7)."""
    grid = Grid.from_sigmas(VarianceExploding(0.01, 50.0), [10.0, 1.1, 0.3, 0.0])  # nearest to 1 and 0.2
    ramp = (np.linspace(1.1 ** (1 / 7), 0.3 ** (1 / 7), 4) ** 7).tolist()
    walk = [[10.0, 1.1, 0.3], ramp, [*ramp, 0.0]]
    noise = noises()
    x, expected = 12.0, []
    for number, levels in enumerate(walk):
        if number:
            x += 0.9 * math.sqrt(1.1**2 - 0.3**2) * next(noise)
        for s, t in pairwise(levels):
            expected.append(x)
            d = slope(x, s)
            y = x + (t - s) * d
            x = y if t == 0 else x + (t - s) / 2 * (d + slope(y, t))
    solver = restart.with_options(restart_list=INTERVAL, s_noise=0.9)
    np.testing.assert_allclose(ve_drive(solver, 12.0, grid), [*expected, x], rtol=1e-9)


@for_each("schedule", [VarianceExploding(), FlowMatching(), SD15], ids=lambda s: type(s).__name__)
@for_each(
    ("steps", "way", "times"), [(12, 0, 0), (19, 0, 0), (20, 9, 1), (35, 9, 1), (36, 9, 2), (37, 9, 2), (50, 12, 2)]
)
def test_restart_chooses_as_a1111_does_and_keeps_the_number_of_steps(
    schedule: FlowMatching, steps: int, way: int, times: int
) -> None:
    grid = Trailing().grid(schedule, steps)
    grid = grid if grid.scaling.is_linear_in_sigma else grid.in_scaling(Scaling.VARIANCE_EXPLODING)
    plan = trace(restart, grid, Flow())
    assert (plan.steps, plan.nfe) == (steps, 2 * steps - 1)
    starts = [stage.point.log_snr for stage in plan.stages if stage.stage == 0]
    up = [number for number, (s, t) in enumerate(pairwise(starts), 1) if t < s]
    assert len(up) == times == len([stage for stage in plan.stages if stage.update.noises])
    assert [later - first for first, later in pairwise(up)] == [way] * (times - 1)
    for number in up:
        main = [stage.point for stage in plan.stages if stage.stage == 0][: up[0]]
        top = min(main, key=lambda point: abs(math.exp(-point.log_snr) - 2.0))
        assert starts[number] == pytest.approx(top.log_snr)


def test_restart_has_no_restarts_of_its_own_where_there_is_no_room_for_them() -> None:
    grid = Grid.from_sigmas(VarianceExploding(), np.linspace(0.09, 0.01, 21))
    assert trace(restart, grid, Sample()).stages == trace(heun, grid, Sample()).stages


def test_dictionaries_and_lists_are_restart_lists_too() -> None:
    as_a1111 = restart.with_options(restart_list={0.2: [4, 2, 1.0]})
    assert as_a1111 == restart.with_options(restart_list=INTERVAL)
    assert hash(as_a1111) == hash(restart.with_options(restart_list=[[0.2, [4, 2, 1.0]]]))


@pytest.mark.parametrize("scaling", [Scaling.VARIANCE_EXPLODING, Scaling.FLOW], ids=lambda scaling: scaling.value)
def test_restarts_keep_the_distribution_to_second_order(scaling: Scaling) -> None:
    errors = []
    for steps in (80, 160, 320):
        solver = restart.with_options(restart_list=((0.3, (steps // 4, 3, 2.0)), (0.1, (steps // 8, 1, 0.5))))
        plan = trace(solver, SPACING.grid(SCHEDULE, steps).in_scaling(scaling), Sample())
        mean, std = propagated(plan, *marginal(plan.start))
        true_mean, true_std = marginal(plan.end)
        assert np.abs(mean - true_mean).max() < 1e-12
        errors.append(np.abs(std - true_std).max())
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.5)
    assert errors[1] / errors[2] == pytest.approx(4, abs=0.5)


def test_restarts_contract_the_error_of_a_wrong_start() -> None:
    """Theorem 1 of the paper: noise that is added takes a part of what went wrong before with it."""

    def error(times: int) -> float:
        made = restart.with_options(restart_list=((0.15, (20, times, 6.0)),) if times else ())
        plan = trace(made, SPACING.grid(SCHEDULE, 60).in_scaling(Scaling.VARIANCE_EXPLODING), Sample())
        mean, std = marginal(plan.start)
        wrong_mean, wrong_std = propagated(plan, mean + 2.0, 1.3 * std)
        true_mean, true_std = marginal(plan.end)
        return float(np.abs(wrong_mean - true_mean).max() + np.abs(wrong_std - true_std).max())

    errors = [error(times) for times in (0, 1, 2, 4)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 8 * errors[3]


# Consistency sampling


@every_grid
def test_lcm_of_an_exact_consistency_model_has_the_datas_distribution_after_any_step(grid: Grid) -> None:
    """For normal data the end of the probability-flow ODE is known; coefficients of (1, start, noises) are followed."""
    mean, std = 0.4, 0.7
    unit = np.eye(20)
    clean: list[np.ndarray] = []

    def consistency(x: np.ndarray, point: Point) -> np.ndarray:
        ratio = std / math.hypot(point.alpha * std, point.sigma)
        clean.append(mean * unit[0] + ratio * (x - point.alpha * mean * unit[0]))
        return clean[-1]

    first = grid[0]
    start = first.alpha * mean * unit[0] + math.hypot(first.alpha * std, first.sigma) * unit[1]
    made = drive(lcm, grid, start, consistency, iter(unit[2:]))  # type: ignore[arg-type]
    for x in clean:
        assert x[0] == pytest.approx(mean)
        assert np.linalg.norm(x[1:]) == pytest.approx(std)
    for x, point in zip(made, grid, strict=True):
        assert x[0] == pytest.approx(point.alpha * mean)  # type: ignore[index]
        assert np.linalg.norm(x[1:]) == pytest.approx(math.hypot(point.alpha * std, point.sigma))  # type: ignore[index]


def test_lcm_of_a_denoiser_has_the_moments_of_its_jumps() -> None:
    """The mean of the data, and a spread that the last denoiser shrinks: why it wants a consistency model."""
    grid = SPACING.grid(SCHEDULE, 6)
    plan = trace(lcm, grid, Sample())
    mean, std = propagated(plan, *marginal(plan.start))
    variance = (plan.start.alpha * GAUSSIAN.std) ** 2 + plan.start.sigma**2
    for s, t in pairwise(grid):
        gain = s.alpha * GAUSSIAN.std**2 / ((s.alpha * GAUSSIAN.std) ** 2 + s.sigma**2)
        variance = (t.alpha * gain) ** 2 * variance + t.sigma**2
    np.testing.assert_allclose(mean, grid[-1].alpha * GAUSSIAN.mean, rtol=1e-12)
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-12)


# Plans


@for_each(
    "solver",
    [WITH_NOISE["restart"], restart, sa_solver, sa_solver.with_options(use_pece=True, simple_order_2=True)],
    ids=str,
)
@for_each(
    "grid",
    [Karras().grid(VarianceExploding(0.01, 50.0), 24), Trailing().grid(FlowMatching(3.0), 24)],
    ids=["variance exploding", "flow"],
)
def test_a_plan_does_what_its_solver_does(solver: Solver, grid: Grid) -> None:
    plan = trace(solver, grid, Flow())
    x = grid[0].sigma * np.random.default_rng(2).standard_normal(SHAPE)
    table = Interpreter(plan, Network(), NoiseSource())
    expected = table.run(x)
    direct = run_directly(solver, grid, Flow(), Network(), x, NoiseSource())
    tolerance = 1e-9 * table.scale
    assert np.abs(direct - expected).max() <= tolerance
    assert np.abs(run_plan(plan, x) - expected).max() <= tolerance
    assert Plan.from_json(plan.to_json()) == plan
    assert list(plan.live()) == table.held


def test_restarts_run_with_any_backend_as_steps_of_the_plan() -> None:
    plan = trace(restart.with_options(restart_list=INTERVAL), VE_GRID, Sample())
    assert plan.steps == VE_GRID.steps + 2 * 3
    run = Run(plan, lambda like, sigma_from, sigma_to: np.zeros_like(like))
    x = run.begin(np.full((1, 2), 12.0))
    while not run.is_done:
        x = run.step(np.full((1, 2), 0.25), x)
    # Up from 0.4 to 1 and down again, a straight line from the data each time, adding no noise
    np.testing.assert_allclose(x, 0.25 + (12.0 - 0.25) * 0.4 / 10.0 * (0.4 / 1.0) ** 2)


# Bad input


@for_each(
    ("solver", "message"),
    [
        (ipndm.with_options(max_order=5), r"max_order is 5: expected 1, 2, 3 or 4"),
        (gradient_estimation.with_options(ge_gamma=math.inf), r"ge_gamma is inf: expected a number"),
        (res_multistep.with_options(eta=-1.0), r"eta is -1: expected at least 0"),
        (er_sde.with_options(max_stage=4), r"max_stage is 4: expected 1, 2 or 3"),
        (seeds_2.with_options(r=0.0), r"r is 0: expected a part of the step, above 0 and up to 1"),
        (seeds_2.with_options(r=1.01), r"r is 1.01"),
        (seeds_2.with_options(eta=-0.1), r"eta is -0.1"),
        (seeds_3.with_options(r_1=0.7), r"r_1 is 0.7 and r_2 0.666667: expected 0 < r_1 < r_2 < 1"),
        (seeds_3.with_options(r_2=1.0), r"r_2 1: expected"),
        (exp_heun_2_x0.with_options(eta=math.inf), r"eta is inf"),
        (sa_solver.with_options(predictor_order=0), r"predictor_order is 0: expected 1 to 6"),
        (
            sa_solver.with_options(corrector_order=-1),
            r"corrector_order is -1: expected 0 to 6",
        ),
        (sa_solver.with_options(sde_start_percent=0.9), r"sde_start_percent is 0.9 and sde_end_percent 0.8: expected"),
        (sa_solver.with_options(sde_end_percent=80), r"sde_end_percent 80: expected 0 <= start <= end <= 1"),
        (sa_solver.with_options(eta=-1.0), r"eta is -1"),
        (sa_solver.with_options(longest_step=0.0), r"longest_step is 0: expected a positive number"),
        (heunpp2.with_options(s_churn=-1.0), r"s_churn is -1"),
        (restart.with_options(restart_list=(0.1, 10, 1, 2.0)), r"restart_list has 0.1: expected pairs"),
        (restart.with_options(restart_list=((0.1, (10, 1)),)), r"has \(0.1, \(10, 1\)\): expected pairs"),
        (restart.with_options(restart_list=5), r"restart_list is 5: expected a tuple of pairs"),
        (
            restart.with_options(restart_list={2.0: [10, 1, 0.1]}),
            r"min_sigma 2 and max_sigma 0.1: expected 0 < min_sigma",
        ),
        (restart.with_options(restart_list={0.0: [10, 1, 0.1]}), r"min_sigma 0 and"),
        (restart.with_options(restart_list={0.1: [1, 1, 2.0]}), r"restart_steps 1 and restart_times 1: expected whole"),
        (restart.with_options(restart_list={0.1: [4, 0, 2.0]}), r"restart_steps 4 and restart_times 0: expected whole"),
        (restart.with_options(restart_list={0.1: [4.5, 1, 2.0]}), r"restart_steps 4.5"),
        (
            restart.with_options(restart_list={3.0: [4, 1, 3.5]}),
            r"from sigma 3 back to 3.5, .* the nearest to both, at 3",
        ),
    ],
    ids=str,
)
def test_impossible_options_are_refused(solver: Solver, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        next(solver(VE_GRID, 1.0))


def test_a_grid_without_a_point_to_restart_from_is_refused() -> None:
    grid = Trailing().grid(FlowMatching(), 1)
    with pytest.raises(ValueError, match="from pure noise to the data in one step"):
        next(restart.with_options(restart_list=INTERVAL)(grid, 1.0))


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (er_sde.with_options(noise_scaler="er-sde"), "unknown noise_scaler 'er-sde': did you mean 'er_sde'"),
        (er_sde.with_options(third_order="tailor"), "did you mean 'taylor'"),
        (seeds_2.with_options(solver_type="phi2"), "unknown solver_type 'phi2': did you mean 'phi_2'"),
    ],
)
def test_unknown_names_offer_the_nearest(solver: Solver, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        next(solver(VE_GRID, 1.0))


def test_whole_numbers_written_as_floats_are_the_same_options() -> None:
    assert ipndm.with_options(max_order=3.0) == ipndm.with_options(max_order=3)
    assert sa_solver.with_options(predictor_order=2.0, eta=1) == sa_solver.with_options(predictor_order=2)
