"""`diffusolve bench`: the time of a step of one's own, and of moving its arrays."""

from __future__ import annotations

import re

import pytest
import torch

from diffusolve.cli import bench
from diffusolve.noise import SD15
from tests.test_cli import run


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.0)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("DPM++ 2M Karras", "--steps", "4"), "DPM++ 2M Karras, 4 evaluations of 1x4x64x64 float32 on cpu"),
        (("Heun", "--steps", "3", "--shape", "2x8", "--dtype", "bfloat16"), "Heun, 5 evaluations of 2x8 bfloat16"),
        (
            ("Euler a", "--shape", "8", "--dtype", "float64", "--schedule", "flux", "--prediction", "flow"),
            "Euler a, 20",
        ),
        (("Euler CFG++", "--steps", "2", "--shape", "3x3"), "Euler CFG++, 2 evaluations of 3x3"),
    ],
)
def test_times_of_a_step_and_of_its_arrays_are_printed(
    arguments: tuple[str, ...], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bench", *arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith(what)
    step, ratio, floor = map(float, re.findall(r"([\d.]+) (?:us|times)", said))
    assert step > 0.0
    assert ratio == pytest.approx(step / floor, abs=0.01 + 0.06 * ratio / floor)  # of rounded numbers


def test_the_step_that_is_timed_is_a_run_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round walks the whole plan: three rounds, and one for the caches."""
    plan = bench.sampler_called("UniPC").plan(SD15, "epsilon", 5)
    walks = []

    class Watched(bench.Run):  # type: ignore[misc]
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            walks.append(self)

    monkeypatch.setattr(bench, "Run", Watched)
    bench._medians(plan, torch.ones(2, 2))
    assert len(walks) == 1 + bench.LEAST_ROUNDS
    assert all(walk.is_done for walk in walks)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Eulr",), "did you mean 'Euler'"),
        (("DPM adaptive",), "chooses its steps by the data"),
        (("Euler", "--dtype", "flot32"), "unknown precision 'flot32': did you mean 'float32'"),
        (("Euler", "--shape", "4,4"), "shape '4,4': expected whole numbers above 0"),
        (("Euler", "--shape", "4x0"), "shape '4x0': expected whole numbers above 0"),
        (("Euler", "--device", "gpu"), "no 1x4x64x64 float32 on 'gpu'"),
        (("Euler", "--device", "meta"), "'meta' has no memory"),
        (("Euler", "--schedule", "sd16"), "did you mean 'sd15'"),
        (("Euler", "--prediction", "epsilonn"), "did you mean 'epsilon'"),
        (("Euler", "--steps", "0"), "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_timed_is_an_error_that_says_why(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bench", *arguments) == 2
    assert said in capsys.readouterr().err
