"""DEIS' integrals, the groups of singlestep solvers, UniPC's parts, and Euler's data after churn."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import integrate

from benchmarks.orders import std_order
from diffusolve.denoisers import GaussianDenoiser
from diffusolve.errors import UnknownNameError
from diffusolve.noise import SD15, FlowMatching, Grid
from diffusolve.plan import trace
from diffusolve.prediction import Sample, prediction
from diffusolve.sampling import Sampler, run_directly, sample
from diffusolve.schedulers.as_in_diffusers import churned, data_after_churn, euler_with_late_churn
from diffusolve.solvers import deis, dpm_singlestep, dpmpp_multistep, dpmpp_singlestep, unipc
from diffusolve.solvers.deis import exponential_weights
from diffusolve.solvers.dpm_multistep import dpm_multistep
from diffusolve.solvers.moments import weights_of
from diffusolve.solvers.solver import Solver
from tests.tables import for_each

SIGMAS = (9.0, 5.0, 3.0, 1.6, 0.9, 0.4, 0.2)
GRID = Grid.from_sigmas(SD15, SIGMAS)
TO_DATA = Grid.from_sigmas(SD15, (*SIGMAS, 0.0))


def reads(solver: Solver, grid: Grid) -> list[int]:
    """How many evaluations each step makes its result of."""
    plan = trace(solver, grid, Sample())
    counts = []
    for stage in plan.stages:
        terms = {source for write in stage.update.writes if write.register[0] == "x" for source, _ in write.terms}
        counts.append(sum(source.startswith(("data", "kept")) for source in terms))
    return counts


# Quadrature


@pytest.mark.parametrize("nodes", [[0.7], [0.0, -0.4], [2.0, -1.0, 0.5], [0.0, 1.0, 2.0, 4.0, -3.0]], ids=len)
def test_weights_have_the_moments_asked_for(nodes: list[float]) -> None:
    moments = [1.0, -2.0, 0.5, 3.0, 0.25][: len(nodes)]
    weights = weights_of(nodes, moments)
    found = [sum(weight * node**k for weight, node in zip(weights, nodes, strict=True)) for k in range(len(nodes))]
    assert found == pytest.approx(moments, rel=1e-12, abs=1e-12)


# DEIS


@for_each("nodes", [[0.0], [0.0, 0.7], [0.0, 0.3, 1.1], [0.0, 0.5, 0.9, 2.0]], ids=len)
@for_each("end", [-0.01, -0.4, -3.0])
def test_the_weights_are_integrals_of_lagrange_polynomials(nodes: list[float], end: float) -> None:
    weights = exponential_weights(nodes, end)
    for j, weight in enumerate(weights):

        def basis(u: float, j: int = j) -> float:
            return math.prod((u - other) / (nodes[j] - other) for k, other in enumerate(nodes) if k != j) * math.exp(u)

        assert weight == pytest.approx(integrate.quad(basis, 0.0, end)[0], rel=1e-9, abs=1e-12)
    assert sum(weights) == pytest.approx(math.expm1(end), rel=1e-12)


@for_each("end", [-1e-9, -1e-4, -0.1, -1.0, -3.99, -4.01, -8.0, -40.0, 1e-4, 2.0, 5.0])
@for_each("count", [5, 6])
def test_the_weights_keep_their_digits_at_high_orders_in_steps_of_any_length(count: int, end: float) -> None:
    """Against rational arithmetic: equal steps, so that nodes are whole multiples of the step."""
    weights = exponential_weights([-k * end for k in range(count)], end)
    z = Fraction(end)
    for j, weight in enumerate(weights):
        basis = [Fraction(1)]  # in units of the step
        for k in (k for k in range(count) if k != j):
            shifted, scaled = [Fraction(0), *basis], [*(k * c for c in basis), Fraction(0)]
            basis = [(a + b) / (k - j) for a, b in zip(shifted, scaled, strict=True)]
        series, term = Fraction(0), Fraction(1)
        for n in range(1, 200):
            series += term * sum(c / (k + n) for k, c in enumerate(basis))
            term *= z / n
        assert weight == pytest.approx(float(series * z), rel=1e-11)


def test_deis_uses_as_many_evaluations_as_its_order() -> None:
    assert reads(deis, GRID)[1:] == [3, 4, 4, 4, 4]  # the data of this step, and its noise and that of earlier ones
    assert reads(deis.with_options(order=2), GRID)[1:] == [3, 3, 3, 3, 3]
    assert reads(deis, TO_DATA)[-1] == 1
    with pytest.raises(ValueError, match="order is 0"):
        trace(deis.with_options(order=0), GRID, Sample())


# Singlestep


def test_groups_are_full_and_the_rest_makes_the_best_of_what_is_left() -> None:
    assert reads(dpmpp_singlestep, GRID) == [1, 2, 1, 2, 1, 2]
    assert reads(dpmpp_singlestep.with_options(order=3, solver_type="heun"), GRID) == [1, 2, 3, 1, 2, 3]
    assert reads(dpmpp_singlestep.with_options(order=3), GRID) == [1, 2, 2, 1, 2, 2]  # leaves the second out
    heun = dpmpp_singlestep.with_options(order=3, solver_type="heun")
    assert reads(heun, GRID[:5]) == [1, 2, 1, 2]
    assert reads(heun, GRID[:6]) == [1, 2, 3, 1, 2]
    assert reads(heun, TO_DATA) == [1, 2, 3, 1, 2, 3, 1]
    assert reads(dpm_singlestep, TO_DATA) == [1, 2, 1, 2, 1, 2, 1]


def test_the_groups_may_be_given() -> None:
    solver = dpmpp_singlestep.with_options(solver_type="heun", orders=(1, 1, 2, 3, 1, 2))
    assert reads(solver, GRID) == [1, 1, 2, 3, 1, 2]
    assert reads(solver, TO_DATA[1:]) == [1, 1, 2, 3, 1, 1]


@pytest.mark.parametrize(("r", "kind"), [(0.05, "heun"), (0.39, "heun"), (0.41, "midpoint"), (0.9, "midpoint")])
def test_an_early_prediction_of_the_noise_is_not_taken_for_that_in_the_middle(r: float, kind: str) -> None:
    """Two steps of which the first is a part r of the way in log-SNR."""
    grid = Grid.from_sigmas(SD15, np.exp([2.0, 2.0 - 3.0 * r, -1.0]))
    always = {
        solver_type: trace(dpm_singlestep.with_options(solver_type=solver_type, earliest_midpoint=0.0), grid, Sample())
        for solver_type in ("midpoint", "heun")
    }
    assert always["midpoint"].stages != always["heun"].stages
    assert trace(dpm_singlestep, grid, Sample()).stages == always[kind].stages


@pytest.mark.parametrize("steps", [11, 13, 15])
def test_dpm_singlestep_makes_the_data_in_few_steps_whose_last_is_long(steps: int) -> None:
    """Data of standard deviation 0.3, flow matching: the last step above sigma = 0 is six times that before it."""
    network = GaussianDenoiser(FlowMatching(3.0), std=0.3)
    made = {
        at: sample(network, np.ones((1, 1)), Sampler(dpm_singlestep.with_options(earliest_midpoint=at)), steps=steps)
        for at in (0.0, 0.4)
    }
    assert made[0.4].item() == pytest.approx(0.3, rel=0.15)
    assert made[0.0].item() > 0.6


@pytest.mark.parametrize("earliest", [-0.1, 1.1, math.nan])
def test_parts_of_the_way_are_from_0_to_1(earliest: float) -> None:
    with pytest.raises(ValueError, match=rf"earliest_midpoint is {earliest:g}: expected (a part of the way|a number)"):
        trace(dpm_singlestep.with_options(earliest_midpoint=earliest), GRID, Sample())


@pytest.mark.parametrize("solver", [dpmpp_singlestep, dpm_singlestep], ids=str)
def test_impossible_groups_are_refused(solver: Solver) -> None:
    with pytest.raises(ValueError, match=r"orders has 2 numbers, but the grid has 6 steps"):
        trace(solver.with_options(orders=(1, 2)), GRID, Sample())
    for orders in ((1, 3, 1, 1, 1, 1), (2, 1, 1, 1, 1, 1), (1, 2, 2, 1, 1, 1), (1, 2, 3, 4, 1, 1), (0, 1, 1, 1, 1, 1)):
        with pytest.raises(ValueError, match="one more than that before it"):
            trace(solver.with_options(orders=orders), GRID, Sample())
    with pytest.raises(ValueError, match="order is 4"):
        trace(solver.with_options(order=4), GRID, Sample())
    with pytest.raises(UnknownNameError, match="solver_type"):
        trace(solver.with_options(solver_type="bh1"), GRID, Sample())


@pytest.mark.parametrize("name", ["noise", "third_order"])
def test_unknown_choices_are_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match=name):
        trace(dpmpp_singlestep.with_options(**{name: "nonsense"}), GRID, Sample())


def test_noise_of_overlapping_intervals_needs_a_brownian_path() -> None:
    """As diffusers draws it, independently, DPM++ 2S SDE is of first order."""
    assert std_order(dpmpp_singlestep.with_options(eta=1.0, noise="path"), (80, 160, 320)) == pytest.approx(1, abs=0.15)


# A step of no length


@for_each(
    "solver",
    [
        dpmpp_multistep,
        dpmpp_multistep.with_options(order=3, eta=1.0),
        dpm_multistep.with_options(order=3),
        deis,
        dpm_singlestep,
        dpmpp_singlestep.with_options(order=3, eta=1.0),
        unipc.with_options(order=3),
        unipc.with_options(order=3, form="noise"),
    ],
    ids=str,
)
def test_the_same_point_may_come_twice(solver: Solver) -> None:
    """Multistep predictors then do nothing. UniC corrects, and singlestep solvers do a group once more."""
    points = GRID.points
    for twice in range(1, len(points)):
        grid = Grid((*points[: twice + 1], *points[twice:]), GRID.noise_schedule, GRID.scaling)
        rng = np.random.default_rng(0)
        seen: list[Any] = []

        def network(x: Any, timestep: Any, seen: list[Any] = seen) -> Any:
            seen.append(x)
            return np.tanh(x)

        def noise(x: Any, s: float, t: float, rng: np.random.Generator = rng) -> Any:
            return rng.standard_normal(x.shape)

        end = run_directly(solver, grid, Sample(), network, rng.standard_normal((1, 5)), noise)
        assert np.isfinite(end).all()
        before, after = [*seen, end][twice : twice + 2]
        if solver.name not in ("unipc", "dpm_singlestep", "dpmpp_singlestep"):
            np.testing.assert_allclose(before, after, atol=1e-12)


# UniPC


def test_the_corrector_alone_leaves_the_prediction_to_the_caller() -> None:
    """With UniP's own predictions put in, UniC alone does what UniPC does."""
    together = trace(unipc, GRID, Sample())
    alone = trace(unipc.with_options(predictor=False), GRID, Sample())
    predictor = trace(unipc.with_options(corrector=False), GRID, Sample())
    kept = [[write for stage in plan.stages for write in stage.update.writes if write.register.startswith("kept")]
            for plan in (together, alone, predictor)]  # fmt: skip
    assert kept[0] == kept[1]
    assert kept[2] == []
    for stage in alone.stages[1:-1]:
        assert stage.update.writes[-1].terms == ((stage.update.writes[0].register, 1.0),)


def test_steps_without_correction_do_what_unip_does() -> None:
    none = unipc.with_options(uncorrected=tuple(range(10)))
    assert trace(none, GRID, Sample()).stages == trace(unipc.with_options(corrector=False), GRID, Sample()).stages
    one = trace(unipc.with_options(uncorrected=(2,)), GRID, Sample())
    corrected = [any(write.register.startswith("kept") for write in stage.update.writes) for stage in one.stages]
    assert corrected == [False, True, True, False, True, True]
    with pytest.raises(UnknownNameError, match="form"):
        trace(unipc.with_options(form="epsilon"), GRID, Sample())


# Euler with churn


@for_each("kind", ["epsilon", "v_prediction", "sample"])
@for_each("end", [0.5, 0.0])
def test_the_data_of_a_churned_step_follow_from_its_end(kind: str, end: float) -> None:
    from diffusolve.noise import Scaling

    grid = Grid.from_sigmas(SD15, (2.0, end)).in_scaling(Scaling.VARIANCE_EXPLODING)
    solver = euler_with_late_churn.with_options(s_churn=0.3, prediction=kind)
    x, output, noise = 1.7, -0.6, 0.8
    made = float(run_directly(solver, grid, prediction(kind), lambda x, t: np.array([output]), np.array([x]),
                              lambda x, s, t: np.array([noise]))[0])  # fmt: skip
    hat = churned(2.0, 1, 0.3, 0.0, math.inf)
    noisy = x + math.sqrt(hat**2 - 4.0) * noise
    data = {
        "epsilon": noisy - hat * output,
        "sample": output,
        "v_prediction": noisy / 5 - 2 / math.sqrt(5) * output,
    }[kind]
    assert made == pytest.approx(noisy + (end - hat) * (noisy - data) / hat)
    a, b = data_after_churn(2.0, hat, end, kind)
    assert a * made + b * output == pytest.approx(data)
