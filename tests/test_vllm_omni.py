"""The adapter for vLLM-Omni's step-wise execution: by its wheel's own states and batches where there is one.

Set VLLM_OMNI_WHEEL to the path of a wheel of 0.30 (`pip download --no-deps vllm-omni==0.30.0`), or install it: its
interfaces are imported without its `__init__` files, which need vLLM. Elsewhere stand-ins with these fields are used.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.backends import Run
from diffusolve.errors import UnknownNameError
from integrations.vllm_omni import FusedSteps

PARENTS = (
    "vllm_omni",
    "vllm_omni.diffusion",
    "vllm_omni.diffusion.models",
    "vllm_omni.diffusion.worker",
    "vllm_omni.diffusion.interaction",
    "vllm_omni.diffusion.interaction.modality_handlers",
)


@dataclass
class StandInState:
    """As much of ``StepRequestState`` as the adapter and its test use."""

    request_id: str
    sampling: Any
    latents: Tensor | None = None
    timesteps: Any = None
    step_index: int = 0
    scheduler: Any = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        return len(self.timesteps)

    @property
    def current_timestep(self) -> Any:
        return self.timesteps[self.step_index]

    @property
    def denoise_completed(self) -> bool:
        return self.step_index >= self.total_steps


class StandInBatch:
    """As much of ``InputBatch``."""

    def __init__(self, states: list[Any]) -> None:
        self.states = tuple(states)
        self.latents = torch.cat([state.latents for state in states])
        rows = [state.current_timestep.reshape(1).expand(len(state.latents)) for state in states]
        self.timesteps = torch.cat(rows)

    @classmethod
    def make_batch(cls, states: list[Any]) -> StandInBatch:
        return cls(states)


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules of the wheel that hold the interfaces."""
    spec = importlib.util.find_spec("vllm_omni")
    root = os.environ.get("VLLM_OMNI_WHEEL") or (
        spec and (spec.submodule_search_locations or [""])[0][: -len("/vllm_omni")]
    )
    if not root:
        pytest.skip("no wheel of vLLM-Omni: set VLLM_OMNI_WHEEL")
    before = set(sys.modules)
    for name in PARENTS:
        package = ModuleType(name)
        package.__path__ = [os.path.join(root, *name.split("."))]
        monkeypatch.setitem(sys.modules, name, package)
    load = importlib.import_module
    yield SimpleNamespace(
        interface=load("vllm_omni.diffusion.models.interface"),
        utils=load("vllm_omni.diffusion.worker.utils"),
        input_batch=load("vllm_omni.diffusion.worker.input_batch"),
    )
    for name in set(sys.modules) - before - set(PARENTS):
        if name.startswith("vllm_omni"):
            del sys.modules[name]


class Pipeline:
    """A pipeline of flow matching whose network is ``tanh``; its scheduler is diffusers' or ours."""

    supports_step_execution = True
    interrupt = False

    def __init__(self) -> None:
        self.scheduler = diffusolve.FlowMatchEulerDiscreteScheduler(shift=3.0)
        self.batches: list[int] = []

    def prepare_encode(self, state: Any, **kwargs: Any) -> Any:
        self.scheduler.set_timesteps(state.sampling.num_inference_steps)
        generator = torch.Generator().manual_seed(state.sampling.seed)
        state.latents = torch.randn(state.sampling.count, 2, 3, generator=generator)
        state.timesteps, state.scheduler = self.scheduler.timesteps.clone(), self.scheduler
        return state

    def denoise_step(self, input_batch: Any, **kwargs: Any) -> Tensor:
        self.batches.append(len(input_batch.latents))
        return network(input_batch.latents, input_batch.timesteps)

    def step_scheduler(self, state: Any, noise_pred: Tensor, **kwargs: Any) -> None:
        raise AssertionError("the adapter takes its place")

    def post_decode(self, state: Any, **kwargs: Any) -> Tensor:
        return state.latents


class Fused(FusedSteps, Pipeline):
    pass


def network(x: Tensor, timesteps: Tensor) -> Tensor:
    return torch.tanh(x) * (0.5 + timesteps.reshape(-1, 1, 1) / 2000)


def request(make: Any, number: int, steps: int, sampler: str | None, count: int = 1) -> Any:
    asked = {} if sampler is None else {"sampler": sampler}
    sampling = SimpleNamespace(num_inference_steps=steps, seed=number, count=count, extra_args=asked)
    return make(f"request{number}", sampling)


ASKED = ((0, 4, None, 1), (1, 6, "DPM++ 2M", 2), (2, 3, "Heun", 1), (3, 5, "Flow SDE", 1), (4, 5, "Euler a", 1))


def served(make: Any, batches: Any, pipeline: Any) -> dict[str, Tensor]:
    """What the runner's loop makes of the requests, of which one joins at each step."""
    coming, active, done = [request(make, *asked) for asked in ASKED], [], {}
    while coming or active:
        if coming:
            active.append(pipeline.prepare_encode(coming.pop(0)))
        batch = batches.make_batch(active)
        predicted, offset = pipeline.denoise_step(batch, states=active), 0
        for state in [*active]:
            count = len(state.latents)
            pipeline.step_scheduler(state, predicted[offset : offset + count])
            offset += count
            if state.denoise_completed:
                done[state.request_id] = pipeline.post_decode(state)
                active.remove(state)
    return done


def check(done: dict[str, Tensor]) -> None:
    """Each request has what a run of its plan alone makes."""
    for number, steps, name, count in ASKED:
        pipeline = Pipeline()
        state = pipeline.prepare_encode(request(StandInState, number, steps, name, count))
        sigmas = tuple(map(float, state.scheduler.sigmas))
        solver = diffusolve.sampler(name or "Euler").solver
        plan = diffusolve.Sampler(solver, diffusolve.spacing.Sigmas(sigmas=sigmas)).plan(
            diffusolve.FlowMatching(num_train_timesteps=1000), "flow"
        )
        for row, x in enumerate(state.latents):
            batch = diffusolve.BatchRun()
            alone = batch.join(plan, x, noise=number + row if plan.is_stochastic else None)
            while len(batch):
                (inputs,) = batch.inputs()
                batch.advance(inputs, network(inputs.x, inputs.timesteps))
            torch.testing.assert_close(done[f"request{number}"][row], alone.result)
            if not plan.is_stochastic:
                run, x = Run(plan), x[None]
                while not run.is_done:
                    x = run.step(network(x, torch.tensor([run.stage.point.timestep])), x)
                torch.testing.assert_close(done[f"request{number}"][row], x[0])


def test_requests_of_any_samplers_are_moved_together() -> None:
    pipeline = Fused()
    check(served(StandInState, StandInBatch, pipeline))
    assert max(pipeline.batches) >= 5, "they were asked together"
    assert len(pipeline._batch) == 0


def test_requests_that_are_given_up_leave_nothing() -> None:
    pipeline = Fused()
    state = pipeline.prepare_encode(request(StandInState, 0, 4, None))
    assert len(pipeline._batch) == 1
    del state
    gc.collect()
    assert len(pipeline._batch) == 0


def test_what_cannot_be_served_is_an_error() -> None:
    pipeline = Fused()
    with pytest.raises(UnknownNameError, match="Eulr"):
        pipeline.prepare_encode(request(StandInState, 0, 4, "Eulr"))
    with pytest.raises(ValueError, match=r"Euler CFG\+\+ needs the network's output without guidance"):
        pipeline.prepare_encode(request(StandInState, 0, 4, "Euler CFG++"))
    pipeline.scheduler = diffusolve.EulerDiscreteScheduler()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="request0 is a EulerDiscreteScheduler: expected one for flow matching"):
        pipeline.prepare_encode(request(StandInState, 0, 4, None))


def test_the_wheels_own_states_and_batches_are_served(wheel: SimpleNamespace) -> None:
    pipeline = Fused()
    assert wheel.interface.supports_step_execution(pipeline)
    made = served(wheel.utils.StepRequestState, _wheel_batches(wheel), pipeline)
    check(made)


def _wheel_batches(wheel: SimpleNamespace) -> Any:
    def make_batch(states: list[Any]) -> Any:
        for state in states:
            state.sampling.true_cfg_scale, state.sampling.cfg_normalize = 4.0, False
        return wheel.input_batch.InputBatch.make_batch(states)

    return SimpleNamespace(make_batch=make_batch)


def test_stand_ins_have_the_wheels_fields_and_signatures(wheel: SimpleNamespace) -> None:
    theirs = {each.name for each in fields(wheel.utils.StepRequestState)}
    assert {each.name for each in fields(StandInState)} <= theirs
    for name in ("total_steps", "current_timestep", "denoise_completed"):
        assert isinstance(getattr(wheel.utils.StepRequestState, name), property)
    assert {"states", "latents", "timesteps"} <= {each.name for each in fields(wheel.input_batch.InputBatch)}
    for name in ("prepare_encode", "denoise_step", "step_scheduler", "post_decode"):
        protocol = inspect.signature(getattr(wheel.interface.SupportsStepExecution, name))
        ours = inspect.signature(getattr(Fused, name))
        assert list(protocol.parameters) == list(ours.parameters), name
