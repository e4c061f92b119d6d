"""The backend whose kernels torch.compile makes: the same numbers, few kernels, only where asked for."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import diffusolve
from diffusolve.backends import Clip, Run, fused
from diffusolve.denoisers import GaussianDenoiser
from diffusolve.errors import UnknownNameError
from diffusolve.noise import SD15
from diffusolve.sampling import Sampler, sample, start
from diffusolve.solvers import SOLVERS, Solver, dpmpp_multistep, unipc
from diffusolve.spacing import Karras
from tests.tables import for_each

PLANNABLE = {name: solver for name, solver in SOLVERS.items() if not solver.adaptive}
SHAPE = (2, 4, 8, 8)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kernels run as they were traced, and are counted."""
    counter, compile_ = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=counter, **options))
    fused._kernel.cache_clear()
    torch._dynamo.reset()
    yield counter
    fused._kernel.cache_clear()


def walk(run: Run, x: Tensor) -> Tensor:
    x = run.begin(x)
    while not run.is_done:
        shown = run.model_input(x)
        x = run.step(torch.tanh(shown), x, 0.5 * shown if run.stage.reads_unguided else None)
    return x


def noise(like: Tensor, s: float, t: float) -> Tensor:
    generator = torch.Generator().manual_seed(int(1e6 * t))
    return torch.randn(like.shape, generator=generator).to(like.dtype)


EVERY_FORM = [(solver, torch.float32) for solver in PLANNABLE.values()]
EVERY_PRECISION = [
    (SOLVERS[name], dtype)
    for name in ("euler", "unipc", "sa_solver", "seeds_3", "dpmpp_2s_ancestral")
    for dtype in (torch.float64, torch.bfloat16)
]
"""Kernels depend on the form of a stage and the precisions of its arrays, and not on one by the other."""


@for_each(("solver", "dtype"), EVERY_FORM + EVERY_PRECISION, ids=str)
def test_the_numbers_are_the_same(solver: Solver, dtype: torch.dtype, counter: Any) -> None:
    """Solvers share the kernels, of which each is compiled once."""
    plan = Sampler(solver, Karras()).plan(SD15, "epsilon", 5)
    x = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * plan.start.sigma).to(dtype)
    before = fused._kernel.cache_info()
    made, wanted = (walk(Run(plan, noise, backend=backend), x) for backend in ("fused", "auto"))
    after = fused._kernel.cache_info()
    assert made.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(made, wanted, rtol=40 * eps, atol=40 * eps * max(1.0, float(wanted.abs().max())))
    assert after.hits + after.misses > before.hits + before.misses, "kernels made these numbers"
    assert counter.frame_count > 0


def test_clipping_is_part_of_the_kernel(counter: Any) -> None:
    plan = Sampler(dpmpp_multistep, Karras()).plan(SD15, "epsilon", 5)
    x = torch.randn(SHAPE)
    made, wanted = (walk(Run(plan, transform=Clip(0.2), backend=backend), x) for backend in ("fused", "auto"))
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)


@for_each("solver", [SOLVERS["heun"], SOLVERS["dpm_2"]], ids=str)
def test_a_remembered_sample_that_lost_its_memory_is_an_error(solver: Solver, counter: Any) -> None:
    run, x = Run(Sampler(solver, Karras()).plan(SD15, "epsilon", 5), backend="fused"), torch.randn(SHAPE)
    following = run.step(torch.tanh(x), x)
    assert any(held is x for held in run.registers.values())
    x.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="has lost its memory since: 0 bytes are left"):
        run.step(torch.tanh(following), following)


def test_kernels_are_few_and_shared_by_runs(counter: Any) -> None:
    plan = Sampler(unipc, Karras()).plan(SD15, "epsilon", 20)
    x = torch.randn(SHAPE)
    walk(Run(plan, backend="fused"), x)
    few = counter.frame_count
    assert few <= 6, "not one for each of 20 steps"
    walk(Run(plan, backend="fused"), x)
    other = Sampler(unipc, Karras(rho=5)).plan(SD15, "epsilon", 30)
    walk(Run(other, backend="fused"), x)
    assert counter.frame_count == few


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DDIMScheduler", "HeunDiscreteScheduler"])
def test_schedulers_use_it_once_they_are_compiled(name: str, counter: Any) -> None:
    results = []
    for compiles in (False, True):
        scheduler = getattr(diffusolve, name)()
        if compiles:
            assert counter.frame_count == 0, "nothing is compiled without being asked"
            scheduler.compile()
        scheduler.set_timesteps(5)
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            x = scheduler.step(torch.tanh(scheduler.scale_model_input(x, timestep)), timestep, x).prev_sample
        results.append(x)
    assert counter.frame_count > 0
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_it_works_with_the_compiler_that_users_have(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    # One kernel is not worth processes that import torch, headers compiled first, and trials of instruction sets.
    monkeypatch.setattr(config, "compile_threads", 1)
    monkeypatch.setattr(config, "cpp_cache_precompile_headers", False)
    monkeypatch.setattr(config.cpp, "vec_isa_ok", True)
    network, made = GaussianDenoiser(SD15, 0.4, 0.6), Sampler(dpmpp_multistep, Karras())
    x = start(made.grid(SD15, 1), torch.zeros(SHAPE), 0)
    result = sample(network, x, made, steps=1, backend="fused")
    torch.testing.assert_close(result, sample(network, x, made, steps=1), rtol=1e-5, atol=1e-5)


def test_what_is_no_backend_is_refused() -> None:
    plan = Sampler(dpmpp_multistep, Karras()).plan(SD15, "epsilon", 5)
    with pytest.raises(UnknownNameError, match=r"unknown backend 'fusd'.*did you mean 'fused'"):
        Run(plan, backend="fusd")
    with pytest.raises(TypeError, match="for torch tensors, not for a ndarray"):
        Run(plan, backend="fused").begin(np.zeros(SHAPE))
