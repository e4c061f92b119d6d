"""FlowMatchEulerDiscreteScheduler against diffusers', and what it does on its own."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve import FlowMatching
from diffusolve.errors import UnknownNameError
from diffusolve.plan import plan_for
from diffusolve.prediction import Flow
from diffusolve.solvers import euler
from diffusolve.spacing import Shifted, Sigmas

from .parity import PROMISED, both, combinations, difference, diffusers, ours, theirs

FLOW = "FlowMatchEulerDiscreteScheduler"
CURVES = [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
DYNAMIC = {"use_dynamic_shifting": True}
LINEAR = {**DYNAMIC, "time_shift_type": "linear"}

GIVEN: list[dict[str, Any]] = [
    {"num_inference_steps": 1},
    {"num_inference_steps": 7},
    {"sigmas": [1.0, 0.7, 0.2]},
    {"sigmas": np.linspace(1.0, 0.05, 12), "num_inference_steps": 12},
    {"timesteps": [900.0, 500.0, 100.0]},
    {"timesteps": [900.0, 500.0, 100.0], "sigmas": [0.95, 0.7, 0.2]},
]


def random(seed: int, shape: tuple[int, ...] = (2, 4, 8, 8)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(x: Tensor, timestep: Tensor) -> Tensor:
    return torch.sin(1.3 * x + timestep.float() / 1000.0)


def trajectory(scheduler: Any, first: int = 0, seed: int = 1) -> list[Tensor]:
    """What each step led to."""
    generator = torch.Generator().manual_seed(seed)
    x, samples = random(0), []
    for timestep in scheduler.timesteps[first:]:
        x = scheduler.step(network(x, timestep), timestep, x, generator=generator).prev_sample
        samples.append(x)
    return samples


def differences(config: dict[str, Any], given: dict[str, Any]) -> str | None:
    """What differs between ours and theirs after `set_timesteps` and in a whole run; None if nothing does."""
    mine, reference = both(FLOW, config)
    mine.set_timesteps(**given)
    reference.set_timesteps(**given)
    if mine.num_inference_steps != reference.num_inference_steps:
        return f"{mine.num_inference_steps} steps, there {reference.num_inference_steps}"
    for name in ("timesteps", "sigmas"):
        a, b = getattr(mine, name), getattr(reference, name)
        if a.dtype != b.dtype or a.shape != b.shape or difference(a, b) > 1e-6:
            return f"{name} {a} and there {b}"
    worst = max(difference(a, b) for a, b in zip(trajectory(mine), trajectory(reference), strict=True))
    return None if worst <= PROMISED else f"samples differ by {worst}"


def test_every_pair_of_options_makes_the_steps_of_diffusers() -> None:
    options = combinations(
        shift=({}, {"shift": 3.0}, {**DYNAMIC, "shift": 3.0}, LINEAR),
        curve=({}, *CURVES),
        shift_terminal=(None, 0.1),
        invert_sigmas=(None, True),
        stochastic_sampling=(None, True),
    )
    wrong = []
    for config in options:
        for given in GIVEN:
            if config.get("shift_terminal") and given.get("num_inference_steps") == 1:
                continue  # where diffusers divides by 0
            mu = {"mu": 0.8} if config.get("use_dynamic_shifting") else {}
            found = differences(config, {**given, **mu})
            if found:
                wrong.append(f"{config} {given}: {found}")
    assert not wrong, "\n".join(wrong)


def test_the_signatures_are_those_of_diffusers() -> None:
    for method in ("__init__", "set_timesteps", "step", "set_shift", "time_shift"):
        mine, reference = (
            [
                (p.name, p.default)
                for p in inspect.signature(getattr(getattr(library, FLOW), method)).parameters.values()
            ]
            for library in (diffusolve, diffusers)
        )
        assert mine == reference, method


def test_before_set_timesteps_it_stands_on_all_training_timesteps() -> None:
    for config in ({}, {"shift": 3.0}, {**DYNAMIC, "shift": 3.0}, {"num_train_timesteps": 10}):
        mine, reference = both(FLOW, config)
        assert difference(mine.timesteps, reference.timesteps) < 1e-6
        assert difference(mine.sigmas, reference.sigmas) < 1e-6
        assert mine.sigmas.shape == reference.sigmas.shape == mine.timesteps.shape == (len(mine),)
        for name in ("sigma_min", "sigma_max", "shift", "step_index", "begin_index"):
            assert getattr(mine, name) == pytest.approx(getattr(reference, name)), name
        at, x, noise = torch.tensor([3, 7]), random(0), random(1)
        expected = reference.scale_noise(x, reference.timesteps[at], noise)
        assert difference(mine.scale_noise(x, mine.timesteps[at], noise), expected) < 1e-6
        a, b = (s.step(noise, s.timesteps[3], x).prev_sample for s in (mine, reference))
        assert difference(a, b) < 1e-5
        assert mine.step_index == reference.step_index == 4


def test_the_shift_may_be_set() -> None:
    mine, reference = both(FLOW, {"shift": 3.0})
    for shift in (5.0, 1.0):
        for scheduler in (mine, reference):
            scheduler.set_shift(shift)
            scheduler.set_timesteps(6)
        assert mine.shift == shift
        assert mine.config.shift == 3.0
        assert mine.sigma_min == pytest.approx(reference.sigma_min)
        assert difference(mine.sigmas, reference.sigmas) < 1e-6


def test_each_mu_has_its_own_steps_and_the_configuration_stays() -> None:
    mine, reference = both(FLOW, DYNAMIC)
    before = dict(mine.config)
    for mu in (0.5, 1.15, 0.5):
        mine.set_timesteps(5, mu=mu)
        reference.set_timesteps(5, mu=mu)
        assert difference(mine.sigmas, reference.sigmas) < 1e-6
    assert dict(mine.config) == before


def test_a_run_may_begin_in_the_middle() -> None:
    for config in ({"shift": 3.0}, {"invert_sigmas": True}, {"stochastic_sampling": True}):
        for tell in (False, True):
            mine, reference = both(FLOW, config)
            for scheduler in (mine, reference):
                scheduler.set_timesteps(8)
                if tell:
                    scheduler.set_begin_index(3)
            a, b = trajectory(mine, 3), trajectory(reference, 3)
            assert max(difference(x, y) for x, y in zip(a, b, strict=True)) < PROMISED


def test_noise_is_scaled_as_in_diffusers() -> None:
    x, noise = random(0), random(1)
    for config in ({"shift": 3.0}, {"invert_sigmas": True}):
        mine, reference = both(FLOW, config)
        for scheduler in (mine, reference):
            scheduler.set_timesteps(5)
        for at in ([0, 4], [2, 2]):
            a, b = (s.scale_noise(x, s.timesteps[torch.tensor(at)], noise) for s in (mine, reference))
            assert difference(a, b) < 1e-6
        for scheduler in (mine, reference):
            scheduler.set_begin_index(1)
        a, b = (s.scale_noise(x, s.timesteps[:1].repeat(2), noise) for s in (mine, reference))
        assert difference(a, b) < 1e-6
        for scheduler in (mine, reference):
            scheduler.step(noise, scheduler.timesteps[1], x)
        a, b = (s.scale_noise(x, s.timesteps[:1].repeat(2), noise) for s in (mine, reference))
        assert difference(a, b) < 1e-6


def test_tokens_may_stand_at_timesteps_of_their_own() -> None:
    x, output = random(0, (2, 6, 3)), random(1, (2, 6, 3))
    own = torch.tensor([1000.0, 500.0, 0.0, 100.0, 900.0, 999.0]).repeat(2, 1)
    for config in ({"shift": 3.0}, {"stochastic_sampling": True}, {"invert_sigmas": True}):
        for dtype in (torch.float32, torch.bfloat16):
            mine, reference = both(FLOW, config)
            made = []
            for scheduler in (mine, reference):
                scheduler.set_timesteps(5)
                generator = torch.Generator().manual_seed(0)
                first = scheduler.step(
                    output.to(dtype), scheduler.timesteps[0], x.to(dtype), per_token_timesteps=own, generator=generator
                ).prev_sample
                second = scheduler.step(output, scheduler.timesteps[1], first, generator=generator).prev_sample
                made.append((first, second))
            for a, b in zip(*made, strict=True):
                assert a.dtype == b.dtype
                assert difference(a, b) < 1e-5, config
            assert mine.step_index == reference.step_index == 2


def test_the_helpers_that_pipelines_reach_for_are_there() -> None:
    mine, reference = both(FLOW, {**DYNAMIC, "shift_terminal": 0.1})
    t = torch.tensor([1.0, 0.5, 0.2])
    assert mine._sigma_to_t(0.25) == reference._sigma_to_t(0.25) == 250.0
    for sigma in (1.0, 2.0):
        assert difference(mine.time_shift(0.7, sigma, t), reference.time_shift(0.7, sigma, t)) < 1e-6
    assert difference(mine.stretch_shift_to_terminal(t), reference.stretch_shift_to_terminal(t)) < 1e-6
    mine.set_timesteps(6, mu=1.0)
    reference.set_timesteps(6, mu=1.0)
    assert [mine.index_for_timestep(t) for t in mine.timesteps] == list(range(6))
    assert len(mine) == len(reference) == 1000


def test_its_plan_is_eulers_on_flow_matching() -> None:
    scheduler = ours(FLOW, {"shift": 3.0, "shift_terminal": 0.1})
    scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.3, 0.1])
    spacing = Shifted(inner=Sigmas((1.0, 0.6, 0.3, 0.1, 0.0)), shift=3.0, terminal=0.1)
    plan = plan_for(euler, spacing.grid(FlowMatching()), Flow())
    assert [stage.point.sigma for stage in scheduler.plan.stages] == [stage.point.sigma for stage in plan.stages]
    assert [s.update for s in scheduler.plan.stages] == [s.update for s in plan.stages]


def test_a_network_whose_time_runs_backwards_leads_to_the_same_data() -> None:
    """With the time and the sign of the output turned round, a run is that of the network itself."""
    forwards, backwards = ours(FLOW, {}), ours(FLOW, {"invert_sigmas": True})
    for scheduler in (forwards, backwards):
        scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.3])
    x = y = random(0)
    for t, r in zip(forwards.timesteps, backwards.timesteps, strict=True):
        assert float(t + r) == pytest.approx(1000.0)
        x = forwards.step(network(x, t), t, x).prev_sample
        y = backwards.step(-network(y, 1000.0 - r), r, y).prev_sample
    assert difference(y, x) < 1e-5


def test_threads_share_one_scheduler_to_the_bit() -> None:
    shared, mus = ours(FLOW, DYNAMIC), [0.5 + 0.1 * i for i in range(8)]
    results: dict[float, list[Tensor]] = {}

    def work(mu: float) -> None:
        shared.set_timesteps(10, mu=mu)
        results[mu] = trajectory(shared)

    threads = [threading.Thread(target=work, args=(mu,)) for mu in mus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mu in mus:
        alone = ours(FLOW, DYNAMIC)
        alone.set_timesteps(10, mu=mu)
        assert all(torch.equal(a, b) for a, b in zip(results[mu], trajectory(alone), strict=True))


def test_its_configuration_is_saved_and_loaded_by_either_library(tmp_path: Any) -> None:
    mine = ours(FLOW, {"shift": 3.0, "shift_terminal": 0.1})
    mine.save_pretrained(tmp_path / "mine")
    loaded = getattr(diffusers, FLOW).from_pretrained(tmp_path / "mine")
    assert {key: loaded.config[key] for key in theirs(FLOW, {}).config if key[0] != "_"} == {
        key: value for key, value in mine.config.items() if key[0] != "_"
    }
    loaded.save_pretrained(tmp_path / "theirs")
    again = getattr(diffusolve, FLOW).from_pretrained(tmp_path / "theirs")
    assert again.config.shift == 3.0
    assert again._compatibles == theirs(FLOW, {})._compatibles == []


def test_bad_input_is_told_what_was_expected() -> None:
    scheduler = ours(FLOW, {})
    for given, message in (
        ({}, "num_inference_steps is missing"),
        ({"num_inference_steps": 0}, "expected at least 1"),
        ({"num_inference_steps": 4, "sigmas": [1.0, 0.5]}, "sigmas are given for 2 steps"),
        ({"timesteps": [900.0], "sigmas": [1.0, 0.5]}, "1 timesteps are given and sigmas for 2 steps"),
        ({"sigmas": [2.0, 1.0]}, "from 1 down to above 0"),
        ({"sigmas": [0.5, 0.9]}, "strictly decreasing"),
        ({"timesteps": [500.0, 900.0]}, "strictly decreasing"),
        ({"timesteps": [1500.0, 900.0]}, "from 1000 down"),
    ):
        with pytest.raises(ValueError, match=message):
            scheduler.set_timesteps(**given)
    with pytest.raises(ValueError, match=r"mu is missing.*base_shift \(0.5 at 256\)"):
        ours(FLOW, DYNAMIC).set_timesteps(4)
    with pytest.raises(ValueError, match=r"mu is 0: .*above 0"):
        ours(FLOW, LINEAR).set_timesteps(4, mu=0.0)
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        ours(FLOW, {"time_shift_type": "lineal"})
    with pytest.raises(ValueError, match="exclude each other"):
        ours(FLOW, {**CURVES[0], **CURVES[1]})
    with pytest.raises(ValueError, match=r"shift is -1.0: expected a number from 0.0001 to 10,000"):
        scheduler.set_shift(-1.0)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="the nearest is 1000"):
        scheduler.step(random(0), 998.0, random(0))
