"""Real pipelines with small random weights: our scheduler in place of their own, other samplers, and many threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve
from tests.schedulers.tiny_pipelines import EULER, PIPELINES, Tiny

diffusers = pytest.importorskip("diffusers", reason="these tests compare with diffusers, which is not installed")

WITHIN = 1e-4
"""The largest difference in units of the largest value."""

PER_TOKEN = "LTX with conditions"
"""The pipeline that tells `step` a timestep for each token, which in either library FlowMatchEuler alone takes."""


def flow_pipelines() -> Iterator[tuple[str, Tiny, Any]]:
    """The pipelines of flow models that take any scheduler, with their scheduler of diffusers for Euler's method."""
    for name, tiny in PIPELINES.items():
        which = next((k for k, (kind, _) in enumerate(tiny.own) if kind == EULER), None)
        if which is not None and name != PER_TOKEN:
            yield name, tiny, tiny.own_scheduler(diffusers, which)


def difference(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).abs().max() / expected.abs().max())


def test_every_pipeline_makes_the_same_with_our_scheduler_in_place_of_its_own() -> None:
    wrong = []
    for name, tiny in PIPELINES.items():
        for which, (kind, _) in enumerate(tiny.own):
            expected = tiny(tiny.own_scheduler(diffusers, which), 4)
            made = tiny(tiny.own_scheduler(diffusolve, which), 4)
            assert torch.isfinite(expected).all()
            assert float(expected.std()) > 0.1, name
            if not difference(made, expected) < WITHIN:
                wrong.append(f"{name}, {kind}: off by {difference(made, expected):.1e}")
    assert not wrong, "\n".join(wrong)


def test_from_config_of_a_flow_models_scheduler_samples_the_same_whichever_class_it_is() -> None:
    wrong = []
    for name, tiny, own in flow_pipelines():
        expected = tiny(own, 4)
        for kind in ("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler"):
            made = tiny(getattr(diffusolve, kind).from_config(own.config), 4)
            if not difference(made, expected) < WITHIN:
                wrong.append(f"{name}, {kind}: off by {difference(made, expected):.1e}")
    assert not wrong, "\n".join(wrong)


def test_other_samplers_are_nearer_to_many_steps_of_euler_than_euler_in_as_many_evaluations() -> None:
    """In 20, the least that one of these pipelines takes by default.

    In 8 that is so of all but UniPC on sigmas that are stretched to end above 0 (Qwen-Image, LTX): the last step before
    the data is then so long in log-SNR that the ``B(h) = h`` of bh1 weighs its slope up to three times too high.
    """
    wrong = []
    for name, tiny, own in flow_pipelines():
        reference = tiny(own, 100)
        error = float((tiny(own, 20) - reference).norm())
        for sampler, steps in (("DPM++ 2M", 20), ("UniPC", 20), ("DEIS", 20), ("Heun", 10)):
            other = float((tiny(diffusolve.scheduler(sampler, like=own), steps) - reference).norm())
            if not other < error:
                wrong.append(f"{name}, {sampler}: {other:.4f}, Euler {error:.4f}")
    assert not wrong, "\n".join(wrong)


def test_a_pipeline_is_patched_in_place() -> None:
    tiny = PIPELINES["Flux"]
    tiny.built.scheduler = tiny.own_scheduler(diffusers)
    diffusolve.patch(tiny.built, "DPM++ 2M")
    assert type(tiny.built.scheduler) is diffusolve.DPMSolverMultistepScheduler
    expected = tiny(diffusolve.scheduler("DPM++ 2M", like=tiny.own_scheduler(diffusers)), 4)
    assert torch.equal(tiny(tiny.built.scheduler, 4), expected)


def test_pipelines_that_step_every_token_at_its_own_time_do_so_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, told = PIPELINES[PER_TOKEN], []
    scheduler = tiny.own_scheduler(diffusolve)
    step = scheduler.step
    monkeypatch.setattr(
        scheduler,
        "step",
        lambda *args, **options: told.append(options["per_token_timesteps"]) or step(*args, **options),
    )
    tiny(scheduler, 4)
    assert [len(times.unique()) for times in told] == [2] * 4, "the picture's tokens stand at 0"


def test_pipelines_that_ask_for_a_class_take_ours_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """They then call `step` otherwise than for other classes, or hand the history back."""
    called: Counter[int] = Counter()
    for name, which, arguments in (("CogVideoX", 1, 5), ("CogVideoX", 0, 3), ("Stable Cascade's prior", 0, 0)):
        tiny = PIPELINES[name]
        scheduler = tiny.own_scheduler(diffusolve, which)
        step = scheduler.step

        def counted(*args: Any, step: Any = step, **options: Any) -> Any:
            called[len(args)] += 1
            return step(*args, **options)

        monkeypatch.setattr(scheduler, "step", counted)
        tiny(scheduler, 3)
        assert called.pop(arguments, 0) == 3, name
        assert not called, f"{name}: {called}"


def test_threads_share_a_pipeline_to_the_bit() -> None:
    tiny = PIPELINES["Flux"]
    tiny.built.scheduler = scheduler = tiny.own_scheduler(diffusolve)
    alone = {steps: tiny(scheduler, steps) for steps in (2, 3)}
    together: dict[int, Tensor] = {}

    def work(number: int) -> None:
        together[number] = tiny(scheduler, 2 + number % 2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[number], alone[2 + number % 2]) for number in range(32))
