"""Published tables as plans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import diffusolve
from diffusolve.denoisers import GaussianMixtureDenoiser
from diffusolve.denoisers.exact import Predicting
from diffusolve.learning import published
from diffusolve.noise import FlowMatching

TABLES = Path(diffusolve.learning.__file__).parent / "data" / "neural_solver.json"


def test_a_published_table_walks_as_its_formula_says() -> None:
    document = json.loads(TABLES.read_text(encoding="utf-8"))
    for table in document["tables"]:
        plan = published("neural solver", len(table["steps"]))
        assert plan.nfe == len(table["steps"])
        assert "2505.21114" in plan.extra["published"]["source"]
        x = np.random.default_rng(0).standard_normal((2, 5))
        seen: list[np.ndarray] = []
        expected, time = x.copy(), 0.0
        for length, weights in zip(np.array(table["steps"]) / sum(table["steps"]), table["weights"], strict=True):
            # Velocities from noise to data; a network of flow matching predicts noise - data.
            seen.append(-np.tanh(expected + time))
            rest = sum((weight * velocity for weight, velocity in zip(weights, seen, strict=False)), 0.0 * x)
            expected = expected + length * (rest + (1.0 - sum(weights)) * seen[-1])
            time += length
        made = diffusolve.sample(lambda x, t: np.tanh(x + 1.0 - t[:, None] / 1000.0), x, plan)
        np.testing.assert_allclose(made, expected, rtol=1e-7, atol=1e-9)


def test_optimal_steps_are_eulers_on_sigmas_of_the_table() -> None:
    for name, steps, first, last in (
        ("flux", 10, 0.9968, 0.2808),
        ("wan", 20, 1.0, 0.208),
        ("chroma", 40, 0.992, 0.048),
    ):
        plan = published(f"optimal steps {name}", steps)
        assert (plan.nfe, plan.sigmas[0], plan.sigmas[-2], plan.sigmas[-1]) == (steps, first, last, 0.0)
        assert "2503.21774" in plan.extra["published"]["source"]
        x = np.random.default_rng(0).standard_normal((2, 5))
        expected = x.copy()
        for high, low in zip(plan.sigmas, plan.sigmas[1:], strict=False):
            expected = expected + (low - high) * np.tanh(expected + high)
        made = diffusolve.sample(lambda x, t: np.tanh(x + t[:, None] / 1000.0), x, plan)
        np.testing.assert_allclose(made, expected, rtol=1e-7, atol=1e-9)
        with pytest.raises(ValueError, match=f"tables of {steps} steps"):
            published(f"optimal steps {name}", 5)


def test_published_tables_are_nearer_than_euler_on_another_model() -> None:
    schedule = FlowMatching()
    means = np.random.default_rng(0).normal(size=(5, 6))
    network = Predicting(GaussianMixtureDenoiser(schedule, means, [0.6, 0.7, 0.8, 0.5, 0.6]), "flow")
    like = np.zeros((64, 6), np.float32)
    for steps in (5, 8, 10):
        euler = diffusolve.sampler("Euler Uniform").plan(schedule, "flow", steps)
        ours, theirs = (
            diffusolve.learning.evaluate(network, plan, like, range(64)).error
            for plan in (published("neural solver", steps), euler)
        )
        assert ours < 0.7 * theirs


def test_tables_of_ones_own_are_read_and_those_that_are_none_refused(tmp_path: Path) -> None:
    def written(**changed: object) -> Path:
        path = tmp_path / "tables.json"
        document = {"format": "diffusolve published tables", "source": "a paper", "tables": [{"sigmas": [1, 0.6, 0]}]}
        path.write_text(json.dumps({**document, **changed}))
        return path

    plan = published(written(), 2)
    assert plan.sigmas == (1.0, pytest.approx(0.6), 0.0)
    euler = diffusolve.sampler("Euler", "Uniform").plan("flux", "flow", 2)
    assert plan.stages[0].update.writes[-1].terms != euler.stages[0].update.writes[-1].terms
    for changed, words in (
        ({"format": "a plan"}, 'expected "format"'),
        ({"source": ""}, 'lacks "source"'),
        ({"tables": [{}]}, 'expected "sigmas" or "steps"'),
        ({"tables": [{"steps": [0.5, 0.4]}]}, "a way of 0.9"),
        ({"tables": [{"sigmas": [1, 0.2, 0.6, 0]}]}, "expected positive numbers"),
        ({"tables": [{"steps": [0.5, 0.5], "weights": [[], [1, 2]]}]}, "expected lists of 0, 1, ... 1 numbers"),
        ({"tables": [{"steps": [0.5, 0.5], "weights": [1, 2]}]}, "expected a list of lists"),
        ({"tables": [{"steps": [0.5, 0.5], "weights": [[], [1e13]]}]}, '"weights" of a table holds 10000000000000.0'),
        ({"tables": [{"steps": [0.5, True]}]}, '"steps" of a table holds True: expected finite numbers'),
        ({"tables": [{"steps": []}]}, "expected positive numbers"),
        ({"tables": [{"steps": 2}]}, '"steps" of a table is 2: expected a list'),
        ({"tables": [{"steps": [0.5, 0.5], "weight": [[], [1]]}]}, "no other keys than sigmas, steps, weights"),
        ({"tables": [{"steps": [0.5, 0.5]}, {"sigmas": [1, 0.5, 0]}]}, "two tables of 2 steps"),
    ):
        with pytest.raises(ValueError, match=words):
            published(written(**changed), 2)
    with pytest.raises(ValueError, match="tables of 5, 6, 7, 8, 9, 10, 15 steps"):
        published("neural solver", 4)
    with pytest.raises(ValueError, match="networks of flow matching"):
        published("neural solver", 5, "sd15")
    with pytest.raises(ValueError, match="did you mean 'neural solver'"):
        published("neural solvr", 5)
