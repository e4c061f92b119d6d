"""On a GPU: the numbers of the CPU, and nothing that waits. Without one this is skipped.

What a loop reads back is found without a GPU too, under fake tensors: tests/schedulers/test_no_reads.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve import BatchRun, PlanModule, sampler, start
from diffusolve.noise import SD15
from diffusolve.schedulers.compatible import COMPATIBLE
from tests.tables import for_each

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

SHAPE = (2, 4, 16, 16)
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NAMES = [name for name in COMPATIBLE if name != "DPMSolverSDEScheduler"]
"""DPMSolverSDEScheduler draws its noise with torchsde, which waits."""


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def network(x: Tensor) -> Tensor:
    return torch.tanh(x + x.roll(1, -1) / 2)


def walk(scheduler: Any, device: str, dtype: torch.dtype = torch.float32, **arguments: Any) -> Tensor:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)
    scheduler.set_timesteps(6, device=device)
    x = (x * float(scheduler.init_noise_sigma)).to(device)
    with no_waiting() if device == "cuda" else torch.no_grad():
        for timestep in scheduler.timesteps:
            output = network(scheduler.scale_model_input(x, timestep))
            x = scheduler.step(output, timestep, x, **arguments, return_dict=False)[0]
    return x.cpu()


@for_each("name", NAMES)
@for_each("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_loop_waits_for_nothing_and_makes_the_samples_of_the_cpu(name: str, dtype: torch.dtype) -> None:
    scheduler = getattr(diffusolve, name)(**BETAS)
    takes_generator = "generator" in scheduler.step.__code__.co_varnames
    samples = [
        walk(
            scheduler, device, dtype, **({"generator": torch.Generator().manual_seed(1)} if takes_generator else {})
        ).double()
        for device in ("cpu", "cuda")
    ]
    scale = float(samples[0].abs().max())
    torch.testing.assert_close(samples[1], samples[0], rtol=0, atol=20 * torch.finfo(dtype).eps * scale)


@for_each("name", NAMES)
def test_adding_noise_waits_for_nothing(name: str) -> None:
    scheduler = getattr(diffusolve, name)(**BETAS)
    scheduler.set_timesteps(6, device="cuda")
    x, noise = torch.randn(2, *SHAPE, device="cuda").unbind()
    timesteps = scheduler.timesteps[1:3]
    with no_waiting():
        noisy = scheduler.add_noise(x, noise, timesteps)
    there = scheduler.add_noise(x.cpu(), noise.cpu(), timesteps.cpu())
    torch.testing.assert_close(noisy.cpu(), there, rtol=1e-5, atol=1e-4)


@for_each("name", ["Euler", "Heun", "DPM++ 2M Karras", "UniPC", "LMS"])
@for_each("backend", ["auto", "fused"])
def test_backends_make_the_samples_of_the_cpu(name: str, backend: str) -> None:
    plan = sampler(name).plan(SD15, "epsilon", 6)
    x = start(plan, torch.empty(SHAPE), 0)
    ends = []
    for device in ("cpu", "cuda"):
        run = diffusolve.Run(plan, backend=backend if device == "cuda" else "auto")
        sample = run.begin(x.to(device))
        while not run.is_done:
            sample = run.step(network(run.model_input(sample)), sample)
        ends.append(sample.cpu())
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-4)


def test_a_whole_run_is_captured_in_a_graph() -> None:
    plan = sampler("UniPC").plan(SD15, "epsilon", 6)
    module = PlanModule(plan).cuda()
    x = start(plan, torch.empty(SHAPE), 0).cuda()

    def whole() -> Tensor:
        run, sample = diffusolve.Run(plan), x
        while not run.is_done:
            sample = run.step(network(run.model_input(sample)), sample)
        return sample

    wanted = whole()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        whole()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = whole()
    graph.replay()
    torch.testing.assert_close(captured, wanted)
    assert next(module.buffers()).is_cuda


def test_rows_of_a_batch_make_the_samples_of_the_cpu() -> None:
    ends: dict[str, dict[str, Tensor]] = {}
    for device in ("cpu", "cuda"):
        batch, ends[device] = BatchRun(), {}
        for seed, (name, steps) in enumerate([("UniPC", 5), ("Heun", 4), ("DPM++ 2M SDE", 6)]):
            plan = sampler(name).plan(SD15, "epsilon", steps)
            batch.join(plan, start(plan, torch.empty(1, 4, 8, 8), seed)[0].to(device), noise=seed, tag=name)
        while len(batch):
            for inputs in batch.inputs():
                for row in batch.advance(inputs, network(inputs.x)):
                    ends[device][row.tag] = row.result.cpu()
    for name, there in ends["cpu"].items():
        torch.testing.assert_close(ends["cuda"][name], there, rtol=1e-3, atol=1e-3)
