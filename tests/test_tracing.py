"""Tracing a solver and running the table gives what running the solver gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from diffusolve.backends import Run
from diffusolve.errors import NotPlannableError, SingularPointError
from diffusolve.noise import SD15, FlowMatching, Grid, NoiseSchedule, Scaling, VarianceExploding
from diffusolve.plan import Plan, trace
from diffusolve.prediction import Epsilon, Flow, Prediction, Sample
from diffusolve.sampling import Sampler, run_directly
from diffusolve.solvers import Evaluate, Keep, Noise, SolverRun, StepEnded, Value, dpm_adaptive, euler, solver
from diffusolve.spacing import Karras, Trailing
from tests.every_solver import EVERY_SOLVER, as_taken_by
from tests.interpreter import Interpreter
from tests.strategies import plannable_solvers, recipes, solvers_off_the_grid
from tests.tables import for_each

SHAPE = (2, 3, 5)


class Network:
    """Some smooth function of all that a network sees, with an offset that differs at each call."""

    def __init__(self) -> None:
        self.offsets = iter(np.random.default_rng(0).standard_normal((1000, *SHAPE)))
        self.timesteps: list[float] = []

    def __call__(self, x: Any, timestep: Any) -> Any:
        value = float(timestep if np.ndim(timestep) == 0 else timestep[0])
        self.timesteps.append(value)
        offset = next(self.offsets)
        if isinstance(x, torch.Tensor):
            return 0.3 * torch.tanh(x) + 0.1 * torch.from_numpy(offset)
        return 0.3 * np.tanh(x) + 0.1 * offset

    def guided_and_unguided(self, x: Any, timestep: Any) -> tuple[Any, Any]:
        guided = self(x, timestep)
        return guided, guided - 0.2 * x / (1 + abs(x)) - 0.05


class NoiseSource:
    """The same noise for equal intervals and shapes."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)
        self.intervals: list[tuple[float, float]] = []

    def __call__(self, x: Any, sigma_from: float, sigma_to: float) -> Any:
        self.intervals.append((sigma_from, sigma_to))
        drawn = self.rng.standard_normal(SHAPE)
        return torch.from_numpy(drawn) if isinstance(x, torch.Tensor) else drawn


def run_plan(plan: Plan, x: Any, transform: Callable[[Any, Any], Any] | None = None) -> Any:
    network, run = Network(), Run(plan, NoiseSource(), transform)
    x = run.begin(x)
    while not run.is_done:
        shown, timestep = run.model_input(x), run.stage.point.timestep
        if run.stage.reads_unguided:
            output, unguided = network.guided_and_unguided(shown, timestep)
            x = run.step(output, x, unguided)
        else:
            x = run.step(network(shown, timestep), x)
    return x


@settings(max_examples=300)
@given(recipes(plannable_solvers | solvers_off_the_grid))
def test_a_plan_does_what_its_solver_does(recipe: tuple[Sampler, NoiseSchedule, Prediction, int]) -> None:
    sampler, noise_schedule, prediction, steps = recipe
    grid = sampler.grid(noise_schedule, steps)
    plan = trace(sampler.solver, grid, prediction)
    x = grid[0].sigma * np.random.default_rng(2).standard_normal(SHAPE)

    noise, network = NoiseSource(), Network()
    table = Interpreter(plan, network, noise)
    expected = table.run(x)
    tolerance = 1e-9 * max(table.scale, 1e-6)

    direct_noise, direct_network = NoiseSource(), Network()
    direct = run_directly(sampler.solver, grid, prediction, direct_network, x, direct_noise)
    assert np.abs(direct - expected).max() <= tolerance
    assert direct_noise.intervals == noise.intervals
    assert direct_network.timesteps == network.timesteps == list(plan.timesteps)

    on_numpy = run_plan(plan, x)
    assert np.abs(on_numpy - expected).max() <= tolerance
    on_torch = run_plan(plan, torch.from_numpy(x))
    assert on_torch.dtype == torch.float64
    assert np.abs(on_torch.numpy() - on_numpy).max() <= tolerance / 1000
    not_folded = run_plan(plan, x, lambda data, stage: data)
    assert np.abs(not_folded - on_numpy).max() <= tolerance
    assert list(plan.live()) == table.held
    assert plan.registers == max(map(len, table.held))


def test_the_plan_of_every_solver_wherever_it_is_defined_does_what_the_solver_does() -> None:
    differ = []
    for name, each in EVERY_SOLVER.items():
        if each.adaptive:
            continue
        for schedule, prediction in ((SD15, Epsilon()), (VarianceExploding(), Sample()), (FlowMatching(), Flow())):
            steps = Karras(final_sigma="sigma_min", sigma_max=0.99 if schedule.scaling is Scaling.FLOW else None)
            grid = as_taken_by(each, steps.grid(schedule, 9))
            x = grid[0].sigma * np.random.default_rng(2).standard_normal(SHAPE)
            expected = run_directly(each, grid, prediction, Network(), x, NoiseSource())
            error = np.abs(run_plan(trace(each, grid, prediction), x) - expected).max() / np.abs(x).max()
            if not error < 1e-9:
                differ.append((name, schedule.scaling.value, error))
    assert not differ


@given(recipes())
def test_a_plan_has_its_grids_numbers(recipe: tuple[Sampler, NoiseSchedule, Prediction, int]) -> None:
    sampler, noise_schedule, prediction, steps = recipe
    grid = sampler.grid(noise_schedule, steps)
    plan = sampler.plan(noise_schedule, prediction, steps)
    assert plan.steps == steps
    assert plan.sigmas == tuple(grid.sigmas.tolist())
    assert tuple(stage.point.timestep for stage in plan.stages if stage.stage == 0) == tuple(grid.timesteps.tolist())
    for stage, point in zip([s for s in plan.stages if s.stage == 0], grid, strict=False):
        assert (stage.scale, stage.a, stage.b) == prediction.conversion(point)
        assert stage.point.log_snr == pytest.approx(point.log_snr, rel=1e-12, abs=1e-12)
    assert (plan.end.alpha, plan.end.sigma) == (grid[-1].alpha, grid[-1].sigma)


# Solvers that do what none of those shipped does


@solver(paper="Karras et al. 2022, algorithm 2, to first order: noise is added before each evaluation")
def churning(grid: Grid, x: Value, *, churn: float = 0.2) -> SolverRun:
    for s, t in pairwise(grid):
        hat = grid.at_sigma(s.sigma * (1 - churn / 2)) if s is grid[0] else s
        x = (hat.sigma / s.sigma) * x + churn * (yield Noise(s, hat))
        x, data = yield Evaluate(x, hat)
        x = (t.sigma / hat.sigma) * x + (1 - t.sigma / hat.sigma) * data
    return x


@solver(paper="none: asks for noise before the first evaluation and uses it after")
def early_noise(grid: Grid, x: Value) -> SolverRun:
    noise = yield Noise(grid[0], grid[-1])
    x, data = yield Evaluate(x, grid[0])
    return data + 0.5 * noise


@solver(paper="none: keeps, draws and evaluates what it never uses")
def wasteful(grid: Grid, x: Value) -> SolverRun:
    yield Keep(2.0 * x)
    yield Noise(grid[0], grid[1])
    for s in grid[:-1]:
        x, data = yield Evaluate(x, s)
        kept = yield Keep(x - data)
        yield Keep(3.0 * kept)
        yield Noise(s, grid[-1])
        x = 0.5 * x + 0.0 * data
    return x


@solver(paper="none: forgets everything")
def forgetful(grid: Grid, x: Value) -> SolverRun:
    x, _ = yield Evaluate(x, grid[0])
    return x - x


GRID = Karras().grid(VarianceExploding(), 4)


@for_each("made", [churning, early_noise, wasteful, forgetful], ids=lambda made: made.name)
@for_each("prediction", [Sample(), Flow()], ids=lambda made: made.name)
@for_each("folded", [True, False])
def test_plans_of_unusual_solvers_do_what_they_do(made: Any, prediction: Prediction, folded: bool) -> None:
    plan = trace(made, GRID, prediction)
    x = 80 * np.random.default_rng(2).standard_normal(SHAPE)
    expected = run_directly(made, GRID, prediction, Network(), x, NoiseSource())
    transform = None if folded else lambda data, stage: data
    if made is wasteful:
        assert not plan.is_stochastic
    np.testing.assert_allclose(run_plan(plan, x, transform), expected, atol=1e-9)
    np.testing.assert_allclose(Interpreter(plan, Network(), NoiseSource()).run(x), expected, atol=1e-9)
    assert Plan.from_json(plan.to_json()) == plan
    assert str(plan)


def test_noise_before_the_first_evaluation_is_the_plans_opening() -> None:
    plan = trace(churning, GRID, Sample())
    assert len(plan.opening.noises) == 1
    assert plan.start.sigma == GRID[0].sigma
    assert plan.stages[0].point.sigma == pytest.approx(0.9 * GRID[0].sigma)
    assert plan.is_stochastic


def test_what_nothing_reads_is_neither_written_nor_drawn() -> None:
    plan = trace(wasteful, GRID, Sample())
    written = [write.register for stage in plan.stages for write in stage.update.writes]
    assert written == ["x1", "x2", "x3", "x4"]
    assert plan.opening.writes == plan.opening.noises == ()
    assert plan.registers == 1
    assert all(write.terms == ((stage.sample, 0.5),) for stage in plan.stages for write in stage.update.writes)


def test_what_the_data_decide_has_no_plan() -> None:
    with pytest.raises(NotPlannableError, match=r"dpm_adaptive chooses its steps.*diffusolve.sample\(\)"):
        trace(dpm_adaptive, GRID, Sample())

    @solver(paper="none")
    def undeclared(grid: Grid, x: Value) -> SolverRun:
        yield StepEnded(grid[0], grid[1], True, x, 0.0, 0.0)
        return x

    with pytest.raises(NotPlannableError, match="undeclared yielded StepEnded"):
        trace(undeclared, GRID, Sample())


def test_a_formula_that_is_singular_is_named() -> None:
    @solver(paper="none")
    def divides_by_alpha(grid: Grid, x: Value) -> SolverRun:
        for s in grid[:-1]:
            x, data = yield Evaluate(x, s)
            x = x + (1 / s.alpha if s.alpha else math.inf) * data
        return x

    grid = Trailing().grid(FlowMatching(), 3)
    with pytest.raises(
        SingularPointError, match=r"divides_by_alpha\(\) .* coefficient of data0 .* sigma 1: .*singular"
    ):
        trace(divides_by_alpha, grid, Flow())


def test_a_yield_that_is_no_request_is_named() -> None:
    @solver(paper="none")
    def confused(grid: Grid, x: Value) -> SolverRun:
        yield "noise"  # type: ignore[misc]
        return x

    with pytest.raises(TypeError, match="confused yielded 'noise', which is no request"):
        run_directly(confused, GRID, Sample(), Network(), np.ones(SHAPE), NoiseSource())


def test_numpy_numbers_as_options_make_the_same_plan() -> None:
    grid = Trailing().grid(FlowMatching(), 3)
    plan = trace(euler.with_options(eta=np.float64(0.5)), grid, Flow())
    assert plan == trace(euler.with_options(eta=0.5), grid, Flow())
    assert Plan.from_json(plan.to_json()) == plan


@solver(paper="none")
def no_generator(grid: Grid, x: Value) -> Any:
    """Without a yield."""
    return x


@solver(paper="none")
def of_a_square(grid: Grid, x: Value) -> SolverRun:
    """A sample times a sample."""
    x, data = yield Evaluate(x, grid[0])
    return x * data  # type: ignore[operator]


@solver(paper="none")
def without_result(grid: Grid, x: Value) -> Any:
    """Nothing returned."""
    yield Evaluate(x, grid[0])


@solver(paper="none")
def asks_for_a_tuple(grid: Grid, x: Value) -> Any:
    """No request."""
    yield x, grid[0]


@solver(paper="none")
def the_wrong_way_round(grid: Grid, x: Value) -> SolverRun:
    """The point first."""
    x, _ = yield Evaluate(grid[0], x)  # type: ignore[arg-type]
    return x


@for_each(
    ("mistaken", "words"),
    [
        (no_generator, "no generator: expected a function that yields Evaluate"),
        (of_a_square, "multiplies samples by something else than a float: a step of a plan is linear"),
        (without_result, "without_result returns None: expected a sample"),
        (asks_for_a_tuple, "expected Evaluate(x, point), Noise(s, t) or Keep(x)"),
        (the_wrong_way_round, "evaluates Point("),
    ],
)
def test_a_mistake_in_a_solver_is_said_in_words(mistaken: Any, words: str) -> None:
    with pytest.raises((TypeError, NotPlannableError)) as said:
        Sampler(mistaken).plan(SD15, "epsilon", 3)
    assert words in str(said.value)


def test_what_is_no_solver_or_spacing_makes_no_sampler() -> None:
    with pytest.raises(TypeError, match=r"solver is <function .*: expected a Solver"):
        Sampler(of_a_square.function)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"spacing is 'Karras': expected one of diffusolve\.spacing"):
        Sampler(euler, "Karras")  # type: ignore[arg-type]
