"""Pairs made by several workers: the same bits as one makes, whoever dies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.cli.main import main
from diffusolve.denoisers import GaussianMixtureDenoiser
from diffusolve.learning import teachers as module
from diffusolve.learning.model import Model
from diffusolve.learning.teacher import Pairs, follow
from diffusolve.learning.teachers import Teachers
from diffusolve.noise import SD15
from diffusolve.workers import Died, Hands, Order
from diffusolve.workers.hands import Servant

pytestmark = pytest.mark.usefixtures("likely_samplers")


class Blobs:
    """Five blobs in six dimensions, moved by a condition.

    Args:
        deadly: of all other processes that call it the first to do so a ninth time ends, and makes this file.
    """

    noise_schedule = SD15
    prediction = "sample"

    def __init__(self, deadly: Path | None = None) -> None:
        means = np.random.default_rng(0).normal(size=(5, 6))
        self.mixture: Any = GaussianMixtureDenoiser(SD15, means, [0.6, 0.7, 0.8, 0.5, 0.6])
        self.deadly, self.home, self.calls = deadly, os.getpid(), 0

    def __call__(self, x: Tensor, timesteps: Tensor, moved: Tensor) -> Any:
        self.calls += 1
        if os.getpid() != self.home and self.calls % 9 == 0 and self.deadly and not self.deadly.exists():
            self.deadly.touch()
            os.kill(os.getpid(), 9)
        return self.mixture(x, timesteps) + moved


class Broken(Blobs):
    """A network that fails."""

    def __call__(self, x: Tensor, timesteps: Tensor, moved: Tensor) -> Any:
        raise KeyError("no such layer")


class Here(Hands):
    """Workers in this process, each with what it would have been sent, the last to be given something first to answer.

    Of those of number `dies` none answers.
    """

    def __init__(self, order: Order, dies: range = range(0)) -> None:
        self.order, self.dies = order, dies
        self.workers = list[Servant]()
        self.given = list[tuple[int, Any]]()
        self.answers = 0

    def start(self) -> int:
        self.workers.append(Servant(self.order))
        return len(self.workers) - 1

    def give(self, worker: int, *given: Any) -> None:
        self.given.append((worker, given))

    def wait(self, seconds: float) -> list[tuple[int, Any]]:
        worker, given = self.given.pop()
        self.answers += 1
        return [(worker, Died("was ended") if worker in self.dies else self.workers[worker].turn(*given))]

    def close(self) -> None:
        self.workers.clear()


def asked(network: Any) -> tuple[Model, range, tuple[Tensor, ...]]:
    """41 pairs in batches of 8."""
    return Model(network, torch.zeros(8, 6)), range(100, 141), (torch.linspace(0, 1, 41)[:, None],)


def check_same(pairs: Pairs, usual: Pairs) -> None:
    for one, other in zip([*pairs.states, *pairs.slopes], [*usual.states, *usual.slopes], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(pairs.final, usual.final)
    assert torch.equal(pairs.begun, usual.begun)


def test_processes_make_the_bits_of_one_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    model, seeds, rows = asked(Blobs(deadly=tmp_path / "killed"))
    usual = follow(model, seeds, rows, 12)
    teachers = Teachers(model, 2)
    try:
        check_same(follow(model, seeds, rows, 12, teachers=teachers), usual)
        assert (tmp_path / "killed").exists()
        check_same(follow(model, seeds[:3], (rows[0][:3],), 12, teachers=teachers), usual.first(3))
    finally:
        teachers.close()


def test_workers_make_the_pairs_of_learning_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[Here]()

    def here(order: Order, *_: Any) -> Here:
        made.append(Here(order, dies=range(1, 2)))
        return made[-1]

    monkeypatch.setattr(module, "workers_for", here)
    asked_for: dict[str, Any] = {"conditions": (torch.zeros(1, 1),), "pairs": 40, "teacher_steps": 16, "method": "fit"}
    _, report = diffusolve.learn_with_report(Blobs(), torch.zeros(16, 6), 2, workers=2, minutes=0.05, **asked_for)
    assert report.pairs == 40
    assert len(made) == 1
    assert made[0].answers == 3 + 1 + 1 + 1  # batches of 40, 10 and 16 pairs, one of them again
    assert made[0].workers == []  # they were closed


def test_what_is_wrong_with_workers_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for workers, kind, words in (
        (0, ValueError, "workers is 0: expected at least 1"),
        *((value, TypeError, r"workers is .*: expected a whole number, at least 1") for value in (1.5, True, "two")),
    ):
        with pytest.raises(kind, match=words):
            diffusolve.learn(Blobs(), torch.zeros(8, 6), 2, workers=workers)
    with pytest.raises(SystemExit):
        main(["learn", "--out", str(tmp_path / "plan.json"), "--workers", "0"])
    assert "workers is 0: expected at least 1" in capsys.readouterr().err
    local = Blobs()
    local.mixture = lambda *_: None
    model, seeds, rows = asked(local)
    with pytest.raises(ValueError, match=r"workers is 2, but the network.*cannot be sent to other processes.*class"):
        Teachers(model, 2)
    for network, dies, reason in (
        (Blobs(), range(99), r"5 workers died one after the other; the last, was ended"),
        (Broken(), range(0), r"KeyError: 'no such layer'"),
    ):
        monkeypatch.setattr(module, "workers_for", lambda order, *_, dies=dies: Here(order, dies))
        model, seeds, rows = asked(network)
        with pytest.raises(RuntimeError, match=reason):
            follow(model, seeds, rows, 6, teachers=Teachers(model, 2))
