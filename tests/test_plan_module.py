"""Plans as torch modules: the same numbers as a run, one graph for all steps, exported, without reading a tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._subclasses import FakeTensorMode

import diffusolve
from diffusolve import PlanModule
from diffusolve.backends import Clip, Run
from diffusolve.noise import SD15, FlowMatching, VarianceExploding
from diffusolve.plan import Plan
from diffusolve.sampling import Sampler
from diffusolve.solvers import SOLVERS, Solver, dpm_2, dpmpp_multistep, euler, unipc
from diffusolve.spacing import Karras, Trailing
from tests.tables import for_each

SHAPE = (2, 4, 8, 8)
PLANNABLE = {name: solver for name, solver in SOLVERS.items() if not solver.adaptive}
SETTINGS = {
    "epsilon": (SD15, "epsilon", Karras()),
    "v": (VarianceExploding(0.02, 40.0), "edm", Karras()),
    "flow": (FlowMatching(3.0), "flow", Trailing()),
}


def network(x: Tensor, timestep: Tensor) -> Tensor:
    return torch.tanh(x) * (1 + timestep / 2000)


def walk(plan: Plan, x: Tensor, noises: list[Tensor], transform: Any = None) -> Tensor:
    left = iter(noises)
    run = Run(plan, lambda like, s, t: next(left), transform)
    x = run.begin(x)
    while not run.is_done:
        shown = run.model_input(x)
        output = network(shown, torch.tensor(run.stage.point.timestep))
        x = run.step(output, x, 0.5 * shown if run.stage.reads_unguided else None)
    return x


def walk_module(steps: PlanModule, x: Tensor, noises: list[Tensor], body: Any = None) -> Tensor:
    state, left = steps.begin(x), iter(noises)
    for index, stage in zip(steps.indices, steps.plan.stages, strict=True):
        drawn = [next(left) for _ in stage.update.noises]
        noise = (*drawn, *[torch.full_like(x, torch.nan)] * (steps.noises - len(drawn)))  # the rest is not looked at
        shown = steps.model_input(x, index)
        unguided = 0.5 * shown if steps.plan.reads_unguided else None
        output = network(shown, steps.timestep(index))
        x, state = (body or steps)(output, x, state, index, noise, unguided)
    return x


def randn(count: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator, dtype=dtype) for _ in range(count)]


@for_each("setting", SETTINGS.values(), ids=SETTINGS)
@for_each("solver", PLANNABLE.values(), ids=PLANNABLE)
def test_a_module_does_what_a_run_does(solver: Solver, setting: Any) -> None:
    schedule, predicts, spacing = setting
    for made in (solver, *([solver.with_options(cfg_pp=True)] if "cfg_pp" in solver.defaults else [])):
        plan = Sampler(made, spacing).plan(schedule, predicts, 6)
        x, *noises = randn(60)
        x = x * plan.start.sigma
        steps = PlanModule(plan, dtype=torch.float64)
        wanted = walk(plan, x, noises)
        torch.testing.assert_close(walk_module(steps, x, noises), wanted, rtol=1e-9, atol=1e-9 * float(x.abs().max()))


def test_data_predictions_are_transformed() -> None:
    plan = Sampler(dpmpp_multistep, Karras()).plan(SD15, "v_prediction", 6)
    x, *noises = randn(3)
    steps = PlanModule(plan, lambda data: data.clamp(-0.3, 0.3), dtype=torch.float64)
    torch.testing.assert_close(walk_module(steps, x, noises), walk(plan, x, noises, Clip(0.3)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_samples_keep_their_precision(dtype: torch.dtype) -> None:
    plan = Sampler(unipc, Karras()).plan(SD15, "epsilon", 6)
    x, *noises = randn(3, dtype)
    made = walk_module(PlanModule(plan), x, noises)
    assert made.dtype == dtype
    torch.testing.assert_close(made, walk(plan, x, noises), rtol=2e-2 if dtype.itemsize == 2 else 1e-4, atol=1e-3)


@for_each("solver", [euler, dpm_2, dpmpp_multistep, unipc, euler.with_options(eta=1.0)], ids=str)
def test_all_steps_are_one_compiled_graph(solver: Solver) -> None:
    """A network and a step, without a graph break, compiled once."""
    torch._dynamo.reset()
    scheduler_steps = PlanModule(Sampler(solver, Karras()).plan(SD15, "epsilon", 8))
    net, counter = torch.nn.Conv2d(4, 4, 3, padding=1), CompileCounter()

    def body(x: Tensor, state: Any, index: Tensor, noise: Any) -> Any:
        output = net(scheduler_steps.model_input(x, index)) + scheduler_steps.timestep(index) / 1000
        return scheduler_steps(output, x, state, index, noise)

    compiled = torch.compile(body, fullgraph=True, backend=counter)
    x = torch.randn(1, 4, 8, 8)
    results = []
    with torch.no_grad():
        for each in (compiled, body):
            y, state = x, scheduler_steps.begin(x)
            for index in scheduler_steps.indices:
                noise = tuple(torch.full_like(x, 0.1) for _ in range(scheduler_steps.noises))
                y, state = each(y, state, index, noise)
            results.append(y)
    assert counter.frame_count == 1
    torch.testing.assert_close(*results)


def test_a_step_can_be_exported() -> None:
    scheduler = diffusolve.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(8)
    steps = PlanModule(scheduler.plan)
    x = torch.randn(1, 4, 8, 8)
    example = torch.randn_like(x), x, steps.begin(x), torch.tensor(0)
    exported = torch.export.export(steps, example).module()
    y = z = x
    state = other = steps.begin(x)
    for index in steps.indices:
        y, state = exported(0.5 * y, y, state, index)
        z, other = steps(0.5 * z, z, other, index)
    torch.testing.assert_close(y, z)
    for timestep in scheduler.timesteps:
        x = scheduler.step(0.5 * x, timestep, x, return_dict=False)[0]
    torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-4)


def test_no_step_reads_a_tensor() -> None:
    with FakeTensorMode():
        steps = PlanModule(Sampler(unipc, Karras()).plan(SD15, "epsilon", 4))
        x = torch.randn(SHAPE)
        state = steps.begin(x)
        for number in range(4):
            index = torch.full((), number)
            x, state = steps(network(steps.model_input(x, index), steps.timestep(index)), x, state, index)
    assert x.shape == SHAPE


def test_noise_is_drawn_where_none_is_given() -> None:
    steps = PlanModule(Sampler(euler.with_options(eta=1.0), Karras()).plan(SD15, "sample", 4))
    x = torch.zeros(SHAPE)
    torch.manual_seed(0)
    made, _ = steps(x, x, steps.begin(x), steps.indices[0])
    assert float(made.std()) > 0.1
    with pytest.raises(ValueError, match=r"0 tensors of noise: euler\(eta=1.0\) takes 1 in each step"):
        steps(x, x, steps.begin(x), steps.indices[0], ())


def test_cfg_pp_needs_the_unguided_output() -> None:
    steps = PlanModule(Sampler(euler.with_options(cfg_pp=True), Karras()).plan(SD15, "sample", 4))
    x = torch.zeros(SHAPE)
    with pytest.raises(ValueError, match="needs the network's output without guidance as well"):
        steps(x, x, steps.begin(x), steps.indices[0])
