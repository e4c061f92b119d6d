"""Evaluations that need no output of each other, asked for in one call."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from diffusolve import Sampler
from diffusolve.catalog import CATALOG
from diffusolve.denoisers import ClassifierFreeGuidance
from diffusolve.plan import Plan
from diffusolve.sampling import sample_with_report
from diffusolve.solvers import epd
from diffusolve.spacing import Karras

EPD = Sampler(epd, Karras())


class Counting:
    """A network that remembers how many samples it was called with."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, x: Any, timestep: Any) -> Any:
        self.calls.append(len(x))
        return np.tanh(x + timestep[:, None] / 1000) if isinstance(x, np.ndarray) else torch.tanh(x + timestep[:, None])


def test_epd_is_its_formula() -> None:
    points, weights = (0.2, 0.6, 0.9), (0.5, 0.3, 0.2)
    sampler = Sampler(epd.with_options(points=points, weights=weights), Karras())
    plan = sampler.plan("sd15", "epsilon", 4)
    x = 14.6 * np.random.default_rng(0).standard_normal((2, 3))

    def noise(x: Any, timestep: Any) -> Any:
        return np.tanh(x) * (1 + timestep.reshape(-1, 1) / 1000)

    made, timesteps = diffusolve.sample(noise, x, plan), iter(plan.timesteps)

    def slope(x: Any, sigma: float) -> Any:
        return noise(x / np.sqrt(1 + sigma**2), np.array([next(timesteps)]))

    for high, low in pairwise(plan.sigmas):
        first = slope(x, high)
        if low == 0.0:
            x = x - high * first
            continue
        between = [high + part * (low - high) for part in points]
        slopes = [slope(x + (sigma - high) * first, sigma) for sigma in between]
        x = x + (low - high) * sum(weight * d for weight, d in zip(weights, slopes, strict=True))
    np.testing.assert_allclose(made, x, rtol=1e-6)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_rounds_are_one_call_each_and_change_no_bits(library: str) -> None:
    start: Any = 14.6 * np.random.default_rng(0).standard_normal((3, 5))
    start = start if library == "numpy" else torch.from_numpy(start).float()
    plan = EPD.plan("sd15", "epsilon", 4)
    assert (plan.nfe, plan.depth) == (10, 7)
    assert "10 evaluations in 7 rounds" in repr(plan)
    for clip in (None, lambda data: data.clip(-3, 3)):
        one, several = Counting(), Counting()
        expected, alone = sample_with_report(one, start, plan, clip=clip)
        made, report = sample_with_report(several, start, plan, clip=clip, at_once=True)
        assert (made == expected).all()
        assert one.calls == [3] * 10
        assert several.calls == [3, 6, 3, 6, 3, 6, 3]
        assert (alone.calls, report.calls, report.nfe) == (10, 7, 10)


def test_a_clip_sees_predictions_only() -> None:
    plan, seen = EPD.plan("sd15", "sample", 3), []
    x = torch.ones(2, 3)

    def clip(data: Any) -> Any:
        seen.append(data)
        return data

    diffusolve.sample(lambda x, t: 0.1 * x + 7.0, x, plan, clip=clip, at_once=True)
    assert len(seen) == plan.nfe
    assert all(data.min() > 6.0 for data in seen)


def test_samplers_of_the_catalog_ask_one_after_the_other() -> None:
    several = []
    for name, entry in CATALOG.items():
        if entry.solver.adaptive:
            continue
        plan = diffusolve.sampler(name).plan("sd15", "epsilon", 8)
        several += [name] if plan.depth != plan.nfe else []
        assert [place for places in plan.rounds for place in places] == list(range(plan.nfe))
    assert not several


def test_rounds_follow_from_a_plan_alone_and_noise_ends_them() -> None:
    plan = EPD.plan("sd15", "epsilon", 3)
    assert Plan.from_json(plan.to_json()).rounds == plan.rounds
    euler = diffusolve.sampler("Euler a").plan("sd15", "epsilon", 4)
    assert euler.depth == euler.nfe


def test_guidance_repeats_its_conditions() -> None:
    def network(x: Any, timestep: Any, condition: Any) -> Any:
        return torch.tanh(x + condition[:, None] * timestep[:, None] / 1000)

    for scale in (1.0, 3.0):
        guided = ClassifierFreeGuidance(network, torch.tensor([1.0, 2.0]), torch.zeros(2), scale)
        plan, x = EPD.plan("sd15", "epsilon", 3), torch.ones(2, 3)
        assert torch.equal(diffusolve.sample(guided, x, plan, at_once=True), diffusolve.sample(guided, x, plan))
    with pytest.raises(ValueError, match="a condition for 2 samples, but the batch has 3"):
        diffusolve.sample(guided, torch.ones(3, 3), plan, at_once=True)


def test_what_cannot_be_is_said() -> None:
    x = torch.ones(1, 2)
    with pytest.raises(ValueError, match="donate=True may overwrite: leave one of them out"):
        diffusolve.sample(lambda x, t: x, x, EPD.plan("sd15", "epsilon", 2), at_once=True, donate=True)
    with pytest.raises(ValueError, match="needs every output before it asks again: leave at_once out"):
        diffusolve.sample(
            lambda x, t: x,
            x,
            diffusolve.sampler("DPM adaptive"),
            noise_schedule="sd15",
            prediction_type="epsilon",
            at_once=True,
        )
    for options, words in (
        ({"points": ()}, "points is \\(\\): expected at least one part of a step"),
        ({"points": (0.5, 1.5)}, "points is 1.5: expected a part of the step"),
        ({"weights": (1.0,)}, "weights are 1 for 2 points: expected one for each"),
        ({"weights": (0.5, 0.6)}, "weights add up to 1.1: expected 1"),
    ):
        with pytest.raises(ValueError, match=words):
            Sampler(epd.with_options(**options), Karras()).plan("sd15", "epsilon", 2)
