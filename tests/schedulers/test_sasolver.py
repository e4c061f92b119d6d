"""SASolverScheduler where the matrix does not reach: its function of the timestep, high orders, bad input."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import diffusolve
from diffusolve.errors import SingularPointError
from diffusolve.solvers import sa_solver
from tests.schedulers.parity import PROMISED, STABLE_DIFFUSION, difference, ours, theirs, walk

CONFIG: dict[str, Any] = {**STABLE_DIFFUSION, "timestep_spacing": "trailing"}


def less(timestep: Any) -> float:
    """Some noise everywhere."""
    return 0.6


def late(timestep: Any) -> float:
    """Noise in the second half only."""
    return 1.0 if timestep < 500 else 0.0


def test_noise_is_what_the_function_of_the_timestep_says_as_in_diffusers() -> None:
    different = []
    for tau in (less, late, lambda timestep: 0.0):
        for config in ({}, {"algorithm_type": "noise_prediction"}, {"predictor_order": 1, "corrector_order": 2}):
            mine, reference = (
                ours("SASolverScheduler", {**CONFIG, **config}),
                theirs("SASolverScheduler", CONFIG | config),
            )
            for scheduler in (mine, reference):
                scheduler.tau_func = tau
                scheduler.set_timesteps(8)
            pairs = zip(walk(mine).samples, walk(reference).samples, strict=True)
            if not max(difference(x, y) for x, y in pairs) < PROMISED:
                different.append((tau, config))
    assert not different


def test_a_function_of_the_timestep_set_after_set_timesteps_takes_effect() -> None:
    expected = diffusolve.SASolverScheduler(**CONFIG, tau_func=less)
    found = diffusolve.SASolverScheduler(**CONFIG)
    untouched = diffusolve.SASolverScheduler(**CONFIG)
    for scheduler in (expected, found, untouched):
        scheduler.set_timesteps(6)
    found.tau_func = less
    end = walk(expected).samples[-1]
    torch.testing.assert_close(walk(found).samples[-1], end)
    assert difference(walk(untouched).samples[-1], end) > 0.01


def test_a_function_of_the_timestep_set_in_the_middle_of_a_run_is_an_error() -> None:
    scheduler, x = diffusolve.SASolverScheduler(**CONFIG), torch.ones(1, 4, 4, 4)
    scheduler.set_timesteps(6)
    scheduler.step(x, scheduler.timesteps[0], x)
    scheduler.tau_func = less
    with pytest.raises(ValueError, match="tau_func was set in the middle of a run"):
        scheduler.step(x, scheduler.timesteps[1], x)
    scheduler.set_timesteps(6)
    scheduler.step(x, scheduler.timesteps[0], x)


def test_high_orders_are_those_of_diffusers_to_the_last_step() -> None:
    for predictor, corrector in ((2, 3), (3, 3), (3, 4), (4, 4)):
        config = {**CONFIG, "predictor_order": predictor, "corrector_order": corrector}
        mine, reference = ours("SASolverScheduler", config), theirs("SASolverScheduler", config)
        for scheduler in (mine, reference):
            scheduler.set_timesteps(9)
        pairs = zip(walk(mine).samples, walk(reference).samples, strict=True)
        assert max(difference(x, y) for x, y in pairs) < PROMISED


def test_copies_and_pickles_walk_as_the_original_does() -> None:
    scheduler = diffusolve.SASolverScheduler(**CONFIG, tau_func=less)
    scheduler.set_timesteps(5)
    others = copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))
    expected = walk(scheduler).samples[-1]
    for other in others:
        torch.testing.assert_close(walk(other).samples[-1], expected)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="predictor_order is 5: expected a whole number from 1 to 4"):
        diffusolve.SASolverScheduler(predictor_order=5)
    with pytest.raises(ValueError, match="algorithm_type"):
        diffusolve.SASolverScheduler(algorithm_type="data")
    with pytest.raises(ValueError, match="data predictions only"):
        diffusolve.SASolverScheduler(
            algorithm_type="noise_prediction", prediction_type="flow_prediction", use_flow_sigmas=True
        )
    negative = diffusolve.SASolverScheduler(tau_func=lambda timestep: -1.0)
    with pytest.raises(ValueError, match="tau_func gives -1 at timestep 999"):
        negative.set_timesteps(3)
    sampler = diffusolve.Sampler(sa_solver.with_options(form="noise"), diffusolve.sampler("Euler").spacing)
    with pytest.raises(SingularPointError, match="form is 'noise'"):
        sampler.plan(diffusolve.SD15, "epsilon", steps=5)
    with pytest.raises(ValueError, match="simple_order_2 is for data predictions only"):
        diffusolve.Sampler(
            sa_solver.with_options(form="noise", simple_order_2=True), diffusolve.sampler("Euler").spacing
        ).plan(diffusolve.SD15, "epsilon", steps=5)
