"""Steps that may overwrite what they are given: the same numbers, in no new memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.backends import Run
from diffusolve.denoisers import GaussianDenoiser
from diffusolve.noise import SD15, VarianceExploding
from diffusolve.plan import Plan, trace
from diffusolve.prediction import Epsilon, Prediction, Sample
from diffusolve.sampling import Sampler, sample, start
from diffusolve.solvers import SOLVERS, Solver, dpmpp_multistep, euler, heun, lms
from diffusolve.spacing import Karras
from tests.tables import for_each

SHAPE = (2, 4, 8, 8)
PLANNABLE = {name: solver for name, solver in SOLVERS.items() if not solver.adaptive}
every_solver = for_each("solver", PLANNABLE.values(), ids=PLANNABLE)
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def plan_of(solver: Solver, prediction: Prediction) -> Plan:
    return trace(solver, Karras(sigma_max=10.0).grid(VarianceExploding(0.02, 20.0), 6), prediction)


def walk(plan: Plan, dtype: torch.dtype, donate: bool) -> Tensor:
    """A run in which all that may be overwritten is, as soon as it may."""
    generator = torch.Generator().manual_seed(0)

    def noise(*_: Any) -> Tensor:
        return torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype)

    run = Run(plan, noise, donate=donate)
    x = run.begin(noise() * plan.start.sigma)
    while not run.is_done:
        output = torch.tanh(run.model_input(x))
        made = run.step(output, x)
        for given in (x, output):
            if donate and given.data_ptr() not in {
                made.data_ptr(),
                *(kept.data_ptr() for kept in run.registers.values()),
            }:
                given.fill_(math.nan)
        x = made
    return x


@every_solver
@for_each("prediction", [Epsilon(), Sample()], ids=["epsilon", "sample"])
@for_each("dtype", DTYPES, ids=str)
def test_the_numbers_are_the_same(solver: Solver, prediction: Prediction, dtype: torch.dtype) -> None:
    plan = plan_of(solver, prediction)
    kept, donated = (walk(plan, dtype, donate).double() for donate in (False, True))
    scale = max(float(kept.abs().max()), plan.start.sigma)
    assert float((kept - donated).abs().max()) <= 30 * torch.finfo(dtype).eps * scale


@for_each("solver", [euler, dpmpp_multistep, heun, lms], ids=str)
@for_each("dtype", DTYPES[:2], ids=str)
def test_a_step_takes_no_new_memory_but_for_what_it_remembers(solver: Solver, dtype: torch.dtype) -> None:
    run = Run(plan_of(solver, Epsilon()), donate=True)
    x = run.begin(torch.randn(SHAPE, dtype=dtype))
    while not run.is_done:
        output = torch.randn(SHAPE, dtype=dtype)
        before = {array.data_ptr() for array in (x, output, *run.registers.values())}
        x = run.step(output, x)
        after = {array.data_ptr() for array in (x, *run.registers.values())}
        assert len(after - before) <= max(0, len(after) - len(before))


def test_without_it_nothing_that_is_given_changes() -> None:
    for solver in PLANNABLE.values():
        run = Run(plan_of(solver, Epsilon()), lambda x, s, t: torch.randn_like(x))
        x = run.begin(torch.randn(SHAPE))
        while not run.is_done:
            output = torch.tanh(run.model_input(x))
            given = x, output
            copies = [array.clone() for array in given]
            x = run.step(output, x)
            assert all(torch.equal(array, copy) for array, copy in zip(given, copies, strict=True))


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_sample_may_be_given_its_start_to_overwrite(library: str) -> None:
    network, made = GaussianDenoiser(SD15, 0.4, 0.6), Sampler(dpmpp_multistep, Karras())
    like = torch.zeros(SHAPE) if library == "torch" else np.zeros(SHAPE, np.float32)
    x = start(made.grid(SD15, 8), like, 0)
    kept = sample(network, x, made, steps=8)
    assert float(abs(x).max()) > 1, "it was not written to"
    np.testing.assert_allclose(np.asarray(sample(network, x, made, steps=8, donate=True)), np.asarray(kept), atol=1e-5)


def test_what_cannot_be_overwritten_is_refused() -> None:
    run = Run(plan_of(euler, Epsilon()), donate=True)
    x = run.begin(torch.randn(SHAPE))
    with pytest.raises(ValueError, match="the same array, and both are donated"):
        run.step(x, x)
    with pytest.raises(ValueError, match="requires gradients cannot be overwritten"):
        run.step(torch.randn(SHAPE, requires_grad=True), x)
    with pytest.raises(ValueError, match="donate=True lets a run overwrite"):
        sample(GaussianDenoiser(SD15), x, Sampler(euler), steps=3, donate=True, gradients=True)


@for_each("kind", list(diffusolve.KarrasDiffusionSchedulers), ids=lambda kind: kind.name)
def test_schedulers_overwrite_what_is_given_away(kind: Any) -> None:
    results = []
    for donate in (False, True):
        scheduler = getattr(diffusolve, kind.name)()
        scheduler.donate = donate
        scheduler.set_timesteps(5)
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
        torch.manual_seed(1)
        for timestep in scheduler.timesteps:
            output = torch.tanh(scheduler.scale_model_input(x, timestep))
            made = scheduler.step(output, timestep, x)
            x = made.prev_sample
        results.append(x)
    if kind.name != "DPMSolverSDEScheduler":  # whose path is seeded for each run
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    if "pred_original_sample" in made:
        with pytest.raises(ValueError, match=r"what scheduler\.donate lets a step overwrite"):
            _ = made.pred_original_sample
