"""Learned plans: the numbers that are learned, that they are right, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from diffusolve import learning
from diffusolve.denoisers import Denoiser, GaussianMixtureDenoiser
from diffusolve.learning.model import Model
from diffusolve.learning.report import LearningReport
from diffusolve.learning.table import NotALearnersPlanError, Table, plan_of, table_of
from diffusolve.learning.teacher import Pairs, follow
from diffusolve.noise import SD15, FlowMatching, NoiseSchedule
from diffusolve.sampling import sample, start

MEANS = np.random.default_rng(0).normal(size=(5, 6))


def mixture(schedule: NoiseSchedule = SD15) -> GaussianMixtureDenoiser:
    """Five blobs in six dimensions, whose exact denoiser is known."""
    return GaussianMixtureDenoiser(schedule, MEANS, [0.6, 0.7, 0.8, 0.5, 0.6])


LIKE = torch.zeros(64, 6)
LITTLE: dict[str, Any] = {"pairs": 96, "teacher_steps": 48, "minutes": 1.0, "checkpointing": False}


@pytest.fixture(scope="module")
def learned() -> tuple[diffusolve.Plan, LearningReport]:
    return diffusolve.learn_with_report(mixture(), LIKE, 4, iterations=60, about={"model": "mixture"}, **LITTLE)


def test_a_learned_plan_beats_the_catalog_on_noises_held_out(
    learned: tuple[diffusolve.Plan, LearningReport],
) -> None:
    plan, report = learned
    assert plan.nfe == 4
    assert not report.kept_start
    assert report.error < 0.75 * report.catalog[4][1]
    assert report.judged > 150  # samplers on schedule types, the whole catalog
    # By another teacher, and noises of another range.
    begun = start(plan, torch.zeros(128, 6, dtype=torch.float64), list(range(500, 628)))
    exact = sample(mixture(), begun, diffusolve.sampler("Heun Exponential"), steps=200)
    apart = float((sample(mixture(), begun, plan) - exact).square().mean().sqrt())
    assert apart < 0.9 * report.catalog[4][1]


def test_the_reported_error_holds_for_other_seeds_within_its_spread(
    learned: tuple[diffusolve.Plan, LearningReport],
) -> None:
    plan, report = learned
    other = learning.evaluate(mixture(), plan, LIKE, range(777, 777 + 256))
    assert abs(other.error - report.error) < 4 * (other.spread + report.spread)


def test_least_squares_finds_the_weights_of_a_solver_that_made_the_path() -> None:
    model = Model(mixture(), torch.zeros(64, 6, dtype=torch.float64))
    known = table_of(diffusolve.sampler("DEIS Karras").plan(SD15, "sample", 5), SD15, model.scaling)
    x = 14.6 * torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plan, states, slopes = plan_of(known, SD15, model.scaling, model.prediction), [x], []
    for i, stage in enumerate(plan.stages):
        slopes.append(model.slopes(states[-1], stage, ()))
        step = float(known.sigmas[i + 1] - known.sigmas[i])
        moved = zip(known.weights[i], slopes, strict=False)
        states.append(states[-1] + step * sum(float(weight) * slope for weight, slope in moved))
    path = Pairs(x, (), known.sigmas[:-1], states[:-1], slopes, states[-1])
    euler = Table(known.sigmas, known.shifts, np.eye(5))
    found, made = learning.fit_weights(model, path, euler, ridge=0.0)
    np.testing.assert_allclose(found.weights, known.weights, atol=1e-6)
    torch.testing.assert_close(made, states[-1], rtol=0, atol=1e-6)


SOLVERS = ("Euler Karras", "DPM++ 2M Karras", "UniPC Exponential", "DEIS Uniform", "iPNDM Karras", "DPM2 Karras")


def test_the_plans_of_the_catalog_are_tables_and_back() -> None:
    wrong = []
    for schedule, predicts in ((SD15, "epsilon"), (FlowMatching(), "flow")):
        model = Model(Denoiser(None, predicts, schedule), torch.zeros(2, 6))
        for name in SOLVERS:
            if schedule is not SD15 and name == "UniPC Exponential":
                name = "UniPC Uniform"
            plan = diffusolve.sampler(name).plan(schedule, predicts, 4)
            again = plan_of(table_of(plan, schedule, model.scaling), schedule, model.scaling, model.prediction)

            def network(x: Any, t: Any) -> Any:
                return np.tanh(x + t[:, None] / 500)

            norm = model.scaling.norm(plan.start.alpha, plan.start.sigma)
            begun = np.random.default_rng(1).normal(size=(3, 6)) * again.start.sigma
            one = sample(network, norm * begun, plan)
            two = sample(network, begun, again)
            if not np.allclose(one, two, rtol=1e-6, atol=1e-6):
                wrong.append((schedule, name, np.abs(one - two).max()))
    assert wrong == []


def test_plans_of_another_form_are_no_tables() -> None:
    scaling = Model(mixture(), LIKE).scaling
    for name, words in (("Euler a", "adds noise"), ("Heun Karras", "ever lower levels")):
        with pytest.raises(NotALearnersPlanError, match=words):
            table_of(diffusolve.sampler(name).plan(SD15, "epsilon", 4), SD15, scaling)


def test_json_keeps_where_a_plan_comes_from_and_what_else_it_says(
    learned: tuple[diffusolve.Plan, LearningReport],
) -> None:
    plan, report = learned
    told = json.loads(plan.to_json())
    assert told["learned"]["model"] == "mixture"
    assert told["learned"]["error"] == report.error
    told["note"] = {"by": "a user"}
    again = diffusolve.Plan.from_json(json.dumps(told))
    assert again == plan
    assert json.loads(again.to_json()) == told


@pytest.mark.usefixtures("likely_samplers")
def test_fit_needs_neither_torch_nor_gradients_and_flow_starts_at_pure_noise() -> None:
    like = np.zeros((64, 6), np.float32)
    plan, report = diffusolve.learn_with_report(mixture(FlowMatching()), like, 4, **LITTLE)
    assert report.way in ("fit", "kept start")
    assert report.error <= report.start_error
    assert plan.start.alpha == 0.0
    with pytest.raises(TypeError, match='method="fit"'):
        diffusolve.learn(mixture(FlowMatching()), like, 4, method="refine")


@pytest.mark.usefixtures("likely_samplers")
def test_equal_seeds_learn_equal_plans() -> None:
    one, two = (diffusolve.learn(mixture(), LIKE, 3, iterations=6, **LITTLE) for _ in range(2))
    assert one == two


def frozen(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return 0.3 * x


def test_what_cannot_be_learned_is_an_error_that_says_what_can() -> None:
    network = Denoiser(frozen, "sample", SD15)
    other = diffusolve.sampler("Euler Karras").plan("edm", "sample", 4)
    longer = diffusolve.sampler("Euler Karras").plan(SD15, "sample", 9)
    noisy = diffusolve.sampler("Euler Karras").plan(SD15, "epsilon", 4)
    for options, kind, words in (
        ({"method": "refine"}, TypeError, "no gradients flow through the network"),
        ({"method": "guess"}, ValueError, "unknown method of learning 'guess'"),
        ({"steps": 0}, ValueError, "steps is 0"),
        ({"pairs": 5}, ValueError, "4 evaluations has 10 weights"),
        ({"minutes": 0}, ValueError, "minutes is 0"),
        ({"start": other}, ValueError, "another noise schedule"),
        ({"start": longer}, ValueError, "takes 9 evaluations"),
        ({"start": noisy}, ValueError, "made for epsilon prediction, but the network predicts sample"),
        ({"steps": "4"}, TypeError, "steps is '4': expected a whole number"),
        ({"conditions": (torch.zeros(0),)}, ValueError, "conditions are empty"),
        ({"conditions": torch.zeros(8)}, TypeError, "expected a tuple of arrays"),
        ({"conditions": (3,)}, TypeError, "conditions hold 3: expected arrays"),
        ({"conditions": (torch.zeros(3), torch.zeros(5))}, ValueError, r"conditions have \[3, 5\] rows"),
        ({"held_out": torch.zeros(8)}, TypeError, "held_out are .*expected a tuple of arrays"),
        ({"held_out": (torch.zeros(8),)}, ValueError, r"held_out has rows of shapes \[\(\)\], but conditions of \[\]"),
        ({"minutes": np.nan}, ValueError, "minutes is nan"),
        ({"pairs": 64.0}, TypeError, "pairs is 64.0: expected a whole number"),
        ({"seed": -1}, ValueError, "seed is -1: expected at least 0"),
        ({"seed": 1.5}, TypeError, "seed is 1.5: expected a whole number"),
        ({"teacher_steps": 0}, ValueError, "teacher_steps is 0: expected at least 1"),
        ({"iterations": 0}, ValueError, "iterations is 0: expected at least 1"),
        ({"relaxed": -1.0}, ValueError, "relaxed is -1: expected 0 or more"),
        ({"relaxed": "much"}, ValueError, "relaxed is 'much': expected a finite number"),
        ({"about": "me"}, TypeError, "about is 'me': expected a mapping"),
        ({"about": {"error": 0.0}}, ValueError, "about has 'error', which the report says"),
        ({"about": {"model": object()}}, TypeError, "which JSON cannot hold"),
        ({"keep": 5}, TypeError, "keep is 5: expected the path of a folder"),
        ({"keep": "/dev/null/work"}, OSError, "cannot keep the work in /dev/null/work"),
        ({"clock": 5}, TypeError, "clock is 5: expected a function"),
        ({"start": "DEIS Karras"}, TypeError, "the plan is 'DEIS Karras': expected a Plan"),
    ):
        with pytest.raises(kind, match=words):
            diffusolve.learn(network, LIKE, **{"steps": 4, **options})
    with pytest.raises(learning.TeacherError, match=r"a teacher of 2 steps is .* give more teacher_steps"):
        diffusolve.learn(mixture(), LIKE, 4, teacher_steps=2)
    with pytest.raises(TypeError, match="expected an array of the shape"):
        diffusolve.learn(network, tuple(LIKE.shape), 4)
    for like, kind, words in (
        (torch.zeros(0, 6), ValueError, "expected room for one sample"),
        (torch.zeros(8, 6, dtype=torch.int64), TypeError, "expected floating point numbers"),
    ):
        with pytest.raises(kind, match=words):
            diffusolve.learn(network, like, 4)


def test_what_cannot_be_judged_is_an_error_that_says_what_can() -> None:
    network = Denoiser(frozen, "sample", SD15)
    plan = diffusolve.sampler("Euler Karras").plan(SD15, "sample", 4)
    noisy = diffusolve.sampler("Euler Karras").plan(SD15, "epsilon", 4)
    for given, kind, words in (
        ((noisy, range(2)), ValueError, "made for epsilon prediction"),
        (("DEIS Karras", range(2)), TypeError, "expected a Plan"),
        ((plan, 5), TypeError, r"seeds is 5: expected whole numbers, range\(5\) for example"),
        ((plan, []), ValueError, "seeds is empty"),
        ((plan, [1.5]), TypeError, "a seed is 1.5"),
        ((plan, range(4), (torch.zeros(3),)), ValueError, "conditions have 3 rows for 4 seeds"),
        ((plan, range(4), torch.zeros(4)), TypeError, "expected a tuple of arrays"),
    ):
        with pytest.raises(kind, match=words):
            learning.evaluate(network, given[0], LIKE, *given[1:])


def test_a_network_of_nan_and_one_of_black_images() -> None:
    with pytest.raises(learning.TeacherError, match="the network returns NaN or infinity"):
        diffusolve.learn(Denoiser(lambda x, timestep: x * np.nan, "sample", SD15), LIKE, 4)
    black = Denoiser(lambda x, timestep: 0 * x, "sample", SD15)
    assert diffusolve.learn(black, LIKE, 2, method="fit", pairs=8).nfe <= 2


def test_nan_and_an_interruption_keep_the_best_so_far() -> None:
    from diffusolve.learning.refine import refine_table

    model = Model(mixture(), LIKE)
    pairs = follow(model, range(32), (), 32)
    table = table_of(diffusolve.sampler("iPNDM Karras").plan(SD15, "sample", 3), SD15, model.scaling)

    def interrupted(course: Any) -> None:
        if course.iterations == 4:
            raise KeyboardInterrupt

    course = refine_table(model, pairs, pairs, table, 50, ask_every=2, on_iteration=interrupted)
    assert course.stopped == "interrupted"
    assert course.error < course.course[0][1]
    assert refine_table(model, pairs, pairs, table, 50, time_left=lambda: -1.0).iterations == 0

    asked = []

    def broken(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        asked.append(1)
        return mixture()(x, timestep) * (float("nan") if len(asked) > 30 else 1.0)

    model = Model(Denoiser(broken, "sample", SD15), LIKE)
    course = refine_table(model, pairs, pairs, table, 50, ask_every=2, checkpointing=False, time_left=lambda: 9.0)
    assert "NaN" in course.stopped
    assert np.isfinite(course.table.weights).all()
    assert course.error < 1.0


def test_there_are_as_many_noises_as_their_time_allows() -> None:
    from diffusolve.learning.kept import Kept
    from diffusolve.learning.whole import PAIRS, _Task

    model = Model(mixture(), LIKE)
    task = _Task(model, (), (), 0, 5.0, False, Kept(None, model, ()))
    for seconds, counts in ((10.0, (191, 47, 63)), (75.0, (384, 96, 128)), (200.0, (384, 256, 1024))):
        clock = iter((0.0, 3 * len(LIKE) * 1e-3)).__next__  # a thousandth of a second an evaluation
        assert task.counts(None, PAIRS["refine"], 32, seconds, clock) == counts
    assert task.counts(96, PAIRS["refine"], 32, 1.0, iter((0.0, 1.0)).__next__) == (96, 24, 32)


def test_what_was_good_on_the_noises_to_choose_by_alone_is_not_kept() -> None:
    from diffusolve.learning.report import Candidate
    from diffusolve.learning.whole import _Chosen

    model = Model(mixture(), LIKE)
    train = follow(model, range(64), (), 32)
    known = {name: diffusolve.sampler(name).plan(SD15, "sample", 5) for name in ("Euler", "iPNDM", "DEIS Karras")}
    near, middle, far = sorted(known, key=lambda name: learning.evaluate(mixture(), known[name], LIKE, range(64)).error)
    for offered, kept in (([far], middle), ([near], near), ([near, far], near), ([far, far], middle)):
        chosen = _Chosen(Candidate(middle, known[middle], 1.0), None, {}, model)
        for place, name in enumerate(offered):
            chosen.offer(name, table_of(known[name], SD15, model.scaling), 0.5 ** (place + 1))  # as if by luck
        assert chosen.best.name == offered[-1]
        chosen.settle(train)
        assert chosen.best.name == chosen.candidates[-1].name == kept


def test_checkpointing_and_a_relaxed_start_learn_the_same_way() -> None:
    from diffusolve.learning.refine import refine_table

    model = Model(mixture(), LIKE)
    pairs = follow(model, range(32), (), 32)
    table = table_of(diffusolve.sampler("iPNDM Karras").plan(SD15, "sample", 3), SD15, model.scaling)
    one, two, relaxed = (
        refine_table(model, pairs, pairs, table, 5, checkpointing=checkpointing, relaxed=radius)
        for checkpointing, radius in ((True, 0.0), (False, 0.0), (False, 0.01))
    )
    np.testing.assert_allclose(one.table.weights, two.table.weights, rtol=1e-9)
    assert relaxed.error < relaxed.course[0][1]
