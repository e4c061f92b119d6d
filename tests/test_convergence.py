"""Every solver converges with the order that its paper gives it."""

from __future__ import annotations

import pytest

from benchmarks.orders import CASES, SDE_CASES, Case, moments, order, started_exactly, std_order
from diffusolve.solvers import SOLVERS, dpm_2, dpmpp_multistep, dpmpp_sde

STEPS = (80, 160, 320)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_started_from_exact_values_the_measured_order_is_the_papers(case: Case) -> None:
    assert order(started_exactly(case.solver, case.history), STEPS) == pytest.approx(case.order, abs=0.15)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_usual_start_costs_orders_above_two_only(case: Case) -> None:
    # The first step is of first order: it leaves an error of second order that nothing later removes.
    assert order(case.solver, STEPS) > min(case.order, 2) - 0.15


@pytest.mark.parametrize("case", SDE_CASES, ids=lambda case: case.name)
def test_the_mean_of_an_sde_solver_is_exact_and_its_standard_deviation_converges(case: Case) -> None:
    assert moments(case.solver, 10)[0] < 1e-12
    assert std_order(case.solver, STEPS) == pytest.approx(case.order, abs=0.15)


def test_the_authors_code_makes_3m_a_method_of_second_order() -> None:
    published = dpmpp_multistep.with_options(order=3, third_order="authors")
    assert order(started_exactly(published, 3), STEPS) == pytest.approx(2, abs=0.15)


def test_ancestral_dpm2_is_a_method_of_first_order() -> None:
    """It goes on to less noise without looking, so that its mean is not exact either."""
    coarse, fine = (moments(dpm_2.with_options(eta=1.0), steps) for steps in (320, 640))
    for error, half in zip(coarse, fine, strict=True):
        assert error / half == pytest.approx(2, abs=0.2)


def test_noise_of_overlapping_intervals_needs_a_brownian_path() -> None:
    """DPM++ SDE as k-diffusion has it, with independent noise, is of first order."""
    assert std_order(dpmpp_sde.with_options(noise="path"), STEPS) == pytest.approx(1, abs=0.15)


def test_every_solver_is_measured() -> None:
    assert {case.solver.name for case in CASES} == set(SOLVERS)
