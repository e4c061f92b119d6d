"""Plans learned for several evaluations at once: rounds whose evaluations wait for none of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from diffusolve import learning
from diffusolve.denoisers import GaussianMixtureDenoiser
from diffusolve.learning.model import Model
from diffusolve.learning.refine import refine_table
from diffusolve.learning.table import in_rounds, plan_of, table_of, used
from diffusolve.learning.teacher import follow
from diffusolve.noise import SD15

MIXTURE = GaussianMixtureDenoiser(SD15, np.random.default_rng(0).normal(size=(5, 6)), [0.6, 0.7, 0.8, 0.5, 0.6])
LIKE = torch.zeros(64, 6, dtype=torch.float64)
LITTLE: dict[str, Any] = {"pairs": 96, "teacher_steps": 48, "minutes": 1.0, "checkpointing": False}


def test_what_weights_there_are_is_told_by_the_rounds() -> None:
    # Evaluations 0 | 1 2 | 3 4: rows lead to evaluations 1, 2, 3, 4 and to the last sample.
    expected = [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert used(5, 2).astype(int).tolist() == expected
    assert np.array_equal(used(5, 1), np.tril(np.ones((5, 5), bool)))
    assert used(1, 3).tolist() == [[True]]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_solver_put_in_rounds_stays_of_first_order_and_waits_as_often_as_there_are_rounds(at_once: int) -> None:
    model = Model(MIXTURE, LIKE)
    table = table_of(diffusolve.sampler("DEIS Karras").plan(SD15, "sample", 7), SD15, model.scaling)
    changed = in_rounds(table, at_once)
    assert not changed.weights[~used(7, at_once)].any()
    np.testing.assert_allclose(changed.weights.sum(1), table.weights.sum(1), atol=1e-12)
    assert (changed.weights == table.weights).all() == (at_once == 1)
    plan = plan_of(changed, SD15, model.scaling, model.prediction)
    assert (plan.nfe, plan.depth) == (7, 1 + 6 // at_once)


@pytest.mark.usefixtures("likely_samplers")
def test_evaluations_at_once_bring_a_plan_nearer_in_as_many_rounds() -> None:
    alone, report = diffusolve.learn_with_report(MIXTURE, LIKE, 4, method="fit", **LITTLE)
    plan, parallel = diffusolve.learn_with_report(MIXTURE, LIKE, 4, method="fit", at_once=2, **LITTLE)
    assert (alone.nfe, alone.depth, plan.nfe, plan.depth) == (4, 4, 7, 4)
    assert [*map(len, plan.rounds)] == [1, 2, 2, 2]
    assert parallel.error < 0.9 * report.error
    assert (parallel.steps, parallel.evaluations) == (4, 7)
    assert "7 evaluations in 4 rounds" in str(parallel)
    assert "rounds" not in str(report)
    assert plan.extra["learned"]["evaluations"] == 7

    begun = diffusolve.start(plan, LIKE[:3], [1, 2, 3])
    asked: list[int] = []

    def counted(x: Any, timestep: Any) -> Any:
        asked.append(len(x))
        return MIXTURE(x, timestep)

    network = diffusolve.denoisers.Denoiser(counted, "sample", "sd15")
    together = diffusolve.sample(network, begun, plan, at_once=True)
    assert asked == [3, 6, 6, 6]
    assert torch.equal(together, diffusolve.sample(MIXTURE, begun, plan))


def test_gradients_leave_out_the_same_weights() -> None:
    model = Model(MIXTURE, LIKE)
    pairs, others = (follow(model, seeds, (), 48) for seeds in (range(64), range(64, 128)))
    begun = table_of(diffusolve.sampler("iPNDM Karras").plan(SD15, "sample", 7), SD15, model.scaling)
    whole = refine_table(model, pairs, others, begun, 50, at_once=3, checkpointing=False)
    assert not whole.table.weights[~used(7, 3)].any()
    assert whole.table.weights[used(7, 3)].all()
    assert whole.error < 0.8 * whole.course[0][1]
    assert plan_of(whole.table, SD15, model.scaling, model.prediction).depth == 3


@pytest.mark.usefixtures("likely_samplers")
def test_a_start_has_the_rounds_asked_for() -> None:
    model, sequential = Model(MIXTURE, LIKE), diffusolve.sampler("DEIS Karras").plan("sd15", "sample", 5)
    rounds = in_rounds(table_of(sequential, SD15, model.scaling), 2)
    plan = plan_of(rounds, SD15, model.scaling, model.prediction)
    assert learning.learn(MIXTURE, LIKE, 3, at_once=2, start=plan, method="fit", **LITTLE).depth == 3
    with pytest.raises(ValueError, match="start waits for the network 5 times, but steps is 3: leave the start out"):
        learning.learn(MIXTURE, LIKE, 3, at_once=2, start=sequential, **LITTLE)
    with pytest.raises(
        ValueError, match="takes 5 evaluations, but steps is 4 with 2 evaluations at once, 7: they must"
    ):
        learning.learn(MIXTURE, LIKE, 4, at_once=2, start=plan, **LITTLE)


@pytest.mark.parametrize(
    ("at_once", "error", "message"),
    [
        (0, ValueError, "at_once is 0: expected at least 1"),
        (1.5, TypeError, r"at_once is 1\.5: expected a whole number"),
        (True, TypeError, "at_once is True: expected a whole number"),
    ],
)
def test_a_number_of_evaluations_that_is_none_is_said(at_once: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        learning.learn(MIXTURE, LIKE, 3, at_once=at_once)


def test_fewer_pairs_than_weights_of_all_rounds_are_an_error() -> None:
    with pytest.raises(ValueError, match="pairs is 16, but a plan of 7 evaluations has 25 weights"):
        learning.learn(MIXTURE, LIKE, 4, at_once=2, pairs=16)
