"""Learned plans: work that is kept and gone on from, and levels by the teacher's path."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from diffusolve.denoisers import GaussianMixtureDenoiser
from diffusolve.learning.model import Model
from diffusolve.learning.path import RIDGE, levels_of_path
from diffusolve.learning.teacher import follow
from diffusolve.noise import SD15

pytestmark = pytest.mark.usefixtures("likely_samplers")

MEANS = np.random.default_rng(0).normal(size=(5, 6))
LIKE = torch.zeros(64, 6)
LITTLE: dict[str, Any] = {"pairs": 48, "teacher_steps": 32, "minutes": 5.0, "checkpointing": False, "iterations": 30}


class Counting:
    """A mixture of blobs that counts how often it is asked, and is interrupted when it is asked `of` once too often."""

    def __init__(self, of: Callable[[torch.Tensor], bool] | None = None, most: int = 0, scale: float = 1.0) -> None:
        self.mixture = GaussianMixtureDenoiser(SD15, scale * MEANS, [0.6, 0.7, 0.8, 0.5, 0.6])
        self.noise_schedule, self.prediction = self.mixture.noise_schedule, self.mixture.prediction
        self.asked, self.of, self.most = 0, of, most

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        if self.of is not None and self.of(x):
            self.most -= 1
            if self.most < 0:
                raise KeyboardInterrupt
        data: torch.Tensor = self.mixture(x, timestep)
        return data


def refining(x: torch.Tensor) -> bool:
    return x.requires_grad


def fitting(x: torch.Tensor) -> bool:
    return len(x) == 48 + 48 // 4  # pairs to learn from and to choose by at once


def test_what_was_stopped_goes_on_to_the_same_plan(tmp_path: Path) -> None:
    whole = Counting()
    plan = diffusolve.learn(whole, LIKE, 3, keep=tmp_path / "whole", **LITTLE)
    for name, of, saved in (("refining", refining, 600), ("fitting", fitting, 400)):
        stopped = Counting(of, 150)
        _, report = diffusolve.learn_with_report(stopped, LIKE, 3, keep=tmp_path / name, **LITTLE)
        assert report.stopped == "interrupted"
        again = Counting()
        assert diffusolve.learn(again, LIKE, 3, keep=tmp_path / name, **LITTLE) == plan
        assert again.asked < whole.asked - saved  # exact samples and the catalog, and the fit
    # All of it is there: nothing but the judgement by the test noises is done again.
    again = Counting()
    assert diffusolve.learn(again, LIKE, 3, keep=tmp_path / "whole", **LITTLE) == plan
    assert again.asked < 0.55 * whole.asked


def test_more_pairs_take_those_that_are_kept(tmp_path: Path) -> None:
    """Whole batches of 64: the first of 128 wanted are those of 64 before."""
    options = {**LITTLE, "method": "fit", "levels": "path", "keep": tmp_path}
    asked: list[int] = []

    class Rows(Counting):
        """Counts the rows that a teacher is asked about."""

        def __call__(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            asked.append(len(x))
            return super().__call__(x, timestep)

    diffusolve.learn(Rows(), LIKE, 3, **{**options, "pairs": 64})
    asked.clear()
    plan = diffusolve.learn(Rows(), LIKE, 3, **{**options, "pairs": 128})
    again = sum(asked)
    asked.clear()
    assert diffusolve.learn(Rows(), LIKE, 3, **{**options, "pairs": 128, "keep": tmp_path / "apart"}) == plan
    assert again <= sum(asked) - 64 * 33  # one batch of a teacher of 32 steps


def test_a_folder_of_another_network_is_refused(tmp_path: Path) -> None:
    options = {**LITTLE, "method": "fit", "levels": "path", "keep": tmp_path}
    diffusolve.learn(Counting(), LIKE, 3, **options)
    with pytest.raises(ValueError, match="holds the work on another network, or other guidance"):
        diffusolve.learn(Counting(scale=1.5), LIKE, 3, **options)


def test_the_levels_of_the_path_are_the_best_of_all_there_are() -> None:
    model = Model(Counting(), LIKE)
    pairs = follow(model, range(24), (), 9)
    states = np.array([state.numpy() for state in [*pairs.states, pairs.final]], np.float64)
    slopes = np.array([slope.numpy() for slope in pairs.slopes], np.float64)
    sigmas = [*pairs.sigmas, 0.0]
    for steps, order in ((1, 1), (3, 1), (4, 2), (4, 3)):

        def cost(levels: tuple[int, ...], order: int = order) -> float:
            total = 0.0
            for i, last in enumerate(levels[:-1]):
                used = [slopes[level].ravel() for level in levels[max(0, i + 1 - order) : i + 1]]
                way = (states[levels[i + 1]] - states[last]).ravel()
                ridge = np.sqrt(RIDGE * np.mean(np.sum(np.square(used), axis=1)))
                matrix = np.vstack([np.array(used).T, ridge * np.eye(len(used))])
                left = np.linalg.lstsq(matrix, np.append(way, np.zeros(len(used))), rcond=None)[1]
                total += float(np.sqrt(left[0] / way.size))
            return total

        ways = [(0, *inner, 10) for inner in combinations(range(1, 10), steps - 1)]
        best = min(map(cost, ways))
        found = levels_of_path(pairs, steps, order)
        assert cost(tuple(int(np.argmin(np.abs(np.array(sigmas) - level))) for level in found)) < 1.001 * best
    with pytest.raises(
        ValueError, match=r"a plan of 11 evaluations .* the teacher's path has 10: give teacher_steps=10"
    ):
        levels_of_path(pairs, 11)


def test_a_fit_on_the_levels_of_the_path_beats_the_start_without_a_search() -> None:
    few, many = Counting(), Counting()
    options = {**LITTLE, "pairs": 96, "method": "fit"}
    _, report = diffusolve.learn_with_report(few, LIKE, 4, levels="path", **options)
    _, searched = diffusolve.learn_with_report(many, LIKE, 4, **options)
    assert report.error < 0.9 * report.start_error
    assert searched.error < report.error
    assert few.asked < 0.8 * many.asked
