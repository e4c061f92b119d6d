"""Every solver converges with the order that its paper gives it."""

from __future__ import annotations

import pytest

from benchmarks.orders import (
    CASES,
    MARGINAL_CASES,
    SDE_CASES,
    Case,
    marginals,
    moments,
    order,
    started_exactly,
    std_order,
)
from diffusolve.solvers import Solver, dpm_2, dpm_fast, dpmpp_2s_ancestral, dpmpp_multistep, dpmpp_sde
from tests.every_solver import EVERY_SOLVER
from tests.tables import for_each

STEPS = (80, 160)

UNEVEN = ("DPM++ 3S midpoint",)
"""Cases whose error falls by turns more and less than the order says."""


def doubled(case: Case) -> tuple[int, ...]:
    """Two numbers of steps, the second about twice the first, between which the order of a case is measured."""
    return case.steps if case.name in UNEVEN else case.steps[:2]


@for_each("case", CASES, ids=lambda case: case.name)
def test_started_from_exact_values_the_measured_order_is_the_papers(case: Case) -> None:
    assert order(started_exactly(case.solver, case.history), doubled(case)) == pytest.approx(case.order, abs=0.15)


@for_each("case", CASES, ids=lambda case: case.name)
def test_the_usual_start_costs_orders_above_two_only(case: Case) -> None:
    # The first step is of first order: it leaves an error of second order that nothing later removes.
    assert order(case.solver, [steps // 2 for steps in doubled(case)]) > min(case.order, 2) - 0.15


@for_each("case", SDE_CASES, ids=lambda case: case.name)
def test_the_mean_of_an_sde_solver_is_exact_and_its_standard_deviation_converges(case: Case) -> None:
    assert moments(case.solver, 10)[0] < 1e-12
    assert std_order(case.solver, doubled(case)) == pytest.approx(case.order, abs=0.15)


@for_each("case", MARGINAL_CASES, ids=lambda case: case.name)
def test_solvers_with_any_amount_of_noise_keep_the_distribution(case: Case) -> None:
    assert marginals(case.solver, 10)[0] < 1e-12
    assert std_order(case.solver, doubled(case), marginals) == pytest.approx(case.order, abs=0.15)


def test_the_authors_code_makes_3m_a_method_of_second_order() -> None:
    published = dpmpp_multistep.with_options(order=3, third_order="authors")
    assert order(started_exactly(published, 3), STEPS) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(
    "solver", [dpm_2.with_options(eta=1.0), dpmpp_2s_ancestral, dpm_fast.with_options(eta=1.0)], ids=str
)
def test_ancestral_solvers_with_several_evaluations_are_of_first_order(solver: Solver) -> None:
    """They go on to less noise without looking, so that their mean is not exact either."""
    coarse, fine = (moments(solver, steps) for steps in (324, 648))
    for error, half in zip(coarse, fine, strict=True):
        assert error / half == pytest.approx(2, abs=0.2)


def test_noise_of_overlapping_intervals_needs_a_brownian_path() -> None:
    """DPM++ SDE as k-diffusion has it, with independent noise, is of first order."""
    assert std_order(dpmpp_sde.with_options(noise="path"), STEPS) == pytest.approx(1, abs=0.15)


def test_every_solver_is_measured() -> None:
    elsewhere = {
        "lcm": "lands where its network says and follows no equation: tests/test_published_solvers.py",
        "after_rest_of_step": "another solver after a step of DDIM: tests/schedulers/test_flow_everywhere.py",
        "rescaled_flow": "for flow matching only; without noise and rescaling it is Euler: tests/schedulers",
        "euler_ancestral_rf": "for flow matching only, by the numbers of diffusers: tests/schedulers/test_matrix.py",
        "flow_heun_with_late_churn": "likewise; without churn it is Heun's method",
        "ddim_with_deviation": "a step of DDIM with a deviation that a subclass chooses: tests/programs",
    }
    assert {case.solver.name for case in CASES + SDE_CASES} == set(EVERY_SOLVER) - elsewhere.keys()
