"""Subclasses that override any method: steps call it as diffusers' do, or its definition raises."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from abc import ABCMeta
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable
from unittest import mock

import pytest
import torch

import diffusolve

diffusers = pytest.importorskip("diffusers", reason="these tests compare with diffusers, which is not installed")

CLASSES = [
    "CMStochasticIterative",
    "CosineDPMSolverMultistep",
    "DDIM",
    "DDIMInverse",
    "DDPM",
    "DEISMultistep",
    "DPMSolverMultistep",
    "DPMSolverMultistepInverse",
    "DPMSolverSDE",
    "DPMSolverSinglestep",
    "EDMDPMSolverMultistep",
    "EDMEuler",
    "EulerAncestralDiscrete",
    "EulerDiscrete",
    "FlowMatchEulerDiscrete",
    "FlowMatchHeunDiscrete",
    "FlowMatchLCM",
    "HeunDiscrete",
    "IPNDM",
    "KDPM2AncestralDiscrete",
    "KDPM2Discrete",
    "LCM",
    "LMSDiscrete",
    "PNDM",
    "SASolver",
    "TCD",
    "UnCLIP",
    "UniPCMultistep",
]

ENTRIES = {"step", "set_timesteps", "scale_model_input", "add_noise", "register_to_config"}
"""Methods that programs call themselves."""


def walk(scheduler: Any) -> None:
    """Three steps of a run; what they make is nobody's concern."""
    scheduler.set_timesteps(4)
    x = torch.zeros(1, 1, 2, 2)
    for t in scheduler.timesteps[:3]:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(0.1 * seen, t, x, return_dict=False)[0]


def is_called(cls: Any, name: str) -> bool:
    """True where a run of a subclass calls its method `name`."""
    calls: list[str] = []
    own = getattr(cls, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return own(*args, **kwargs)

    static = isinstance(inspect.getattr_static(cls, name), staticmethod)
    body = {name: staticmethod(method) if static else method, "__module__": "a_program"}
    walk(type("Subclass", (cls,), body)())
    return bool(calls)


def silent(name: str) -> list[str]:
    """The methods of a class that diffusers' runs call, and ours neither call nor refuse."""
    theirs, mine = getattr(diffusers, name), getattr(diffusolve, name)
    shared = set(dir(diffusers.SchedulerMixin)) | set(dir(diffusers.ConfigMixin)) | ENTRIES
    found = []
    for method in dir(theirs):
        if method in shared or method.startswith("__") or not callable(getattr(theirs, method)):
            continue
        called = False
        with contextlib.suppress(AttributeError, TypeError):  # of methods that take other classes for their first
            called = is_called(theirs, method)
        if called:
            with contextlib.suppress(TypeError, AttributeError):  # refused, or not there to be derived from
                found += [] if is_called(mine, method) else [f"{name}.{method}"]
    return found


def test_no_overridden_method_is_silently_left_out() -> None:
    verbosity = diffusers.logging.get_verbosity()
    diffusers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [method for name in CLASSES for method in silent(f"{name}Scheduler")]
    finally:
        diffusers.logging.set_verbosity(verbosity)
    # The variance is asked for where it counts: with eta above 0.
    assert found == ["DDIMScheduler._get_variance"]


def test_methods_set_on_a_class_later_or_by_another_base_are_overridden_too() -> None:
    x = torch.ones(1, 1, 2, 2)

    def stepped(scheduler: Any) -> Any:
        scheduler.set_timesteps(4)
        return scheduler.step(0.1 * x, scheduler.timesteps[0], x, eta=1.0, generator=torch.Generator().manual_seed(0))

    class Derived(diffusolve.DDIMScheduler):
        pass

    class Mixin:
        def _get_variance(self, *_: Any) -> Any:
            return torch.tensor(0.0)

    class Mixed(Mixin, diffusolve.DDIMScheduler):  # type: ignore[misc]
        pass

    begun = diffusolve.DDIMScheduler(), Derived()
    before = stepped(begun[0]).prev_sample
    with mock.patch.object(diffusolve.DDIMScheduler, "_get_variance", Mixin._get_variance):
        changed = [stepped(scheduler).prev_sample for scheduler in (*begun, Derived())]
    assert all(torch.equal(sample, stepped(Mixed()).prev_sample) for sample in changed)
    assert not torch.equal(before, changed[0])
    assert all(torch.equal(before, stepped(scheduler).prev_sample) for scheduler in begun)

    multistep = diffusolve.DPMSolverMultistepScheduler()
    multistep.set_timesteps(4)
    expected = multistep.step(x, multistep.timesteps[0], x).prev_sample
    asked = []

    def converted(self: Any, model_output: Any, *_: Any, sample: Any = None) -> Any:
        asked.append(model_output)
        return 0.0 * model_output

    with mock.patch.object(diffusolve.DPMSolverMultistepScheduler, "convert_model_output", converted):
        multistep.set_timesteps(4)
        assert not torch.equal(multistep.step(x, multistep.timesteps[0], x).prev_sample, expected)
    assert len(asked) == 1
    multistep.set_timesteps(4)
    assert torch.equal(multistep.step(x, multistep.timesteps[0], x).prev_sample, expected)

    limiting = diffusolve.DDPMScheduler(thresholding=True, clip_sample=False)
    with mock.patch.object(diffusolve.DDPMScheduler, "_threshold_sample", lambda self, sample: 0.0 * sample):
        limiting.set_timesteps(4)
        assert not limiting.step(x, limiting.timesteps[-1], x).pred_original_sample.any()

    never = "DDIMScheduler overrides index_for_timestep, which steps here do not call"
    with mock.patch.object(diffusolve.DDIMScheduler, "index_for_timestep", lambda self, *_: self.order):
        with pytest.raises(TypeError, match=never):
            begun[0].set_timesteps(4)
        with pytest.raises(TypeError, match=never):
            diffusolve.DDIMScheduler()
    assert all(torch.equal(before, stepped(scheduler).prev_sample) for scheduler in begun)


def test_classes_go_together_with_the_metaclasses_and_bases_that_programs_have() -> None:
    @runtime_checkable
    class Steps(Protocol):
        def step(self, model_output: Any, timestep: Any, sample: Any) -> Any: ...

    class Registered(ABCMeta):
        pass

    class ByProtocol(diffusolve.EulerDiscreteScheduler, Steps):  # type: ignore[misc]
        pass

    class ByMetaclass(diffusolve.EulerDiscreteScheduler, metaclass=Registered):
        pass

    class ByGeneric(diffusolve.EulerDiscreteScheduler, Generic[TypeVar("T")]):  # type: ignore[misc]
        pass

    class ByModule(torch.nn.Module, diffusolve.EulerDiscreteScheduler):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            diffusolve.EulerDiscreteScheduler.__init__(self)

    x = torch.ones(1, 1, 2, 2)
    results = []
    for cls in (diffusolve.EulerDiscreteScheduler, ByProtocol, ByMetaclass, ByGeneric, ByModule):
        scheduler: Any = cls()
        scheduler.set_timesteps(4)
        results.append(scheduler.step(x, scheduler.timesteps[0], x).prev_sample)
    assert all(torch.equal(result, results[0]) for result in results)
    assert isinstance(diffusolve.EulerDiscreteScheduler(), Steps)


def test_a_method_set_on_a_base_for_a_while_leaves_no_trace_in_derived_classes() -> None:
    class Derived(diffusolve.DEISMultistepScheduler):
        pass

    def stepped() -> torch.Tensor:
        scheduler.set_timesteps(4)
        result: torch.Tensor = scheduler.step(x, scheduler.timesteps[0], x).prev_sample
        return result

    x, scheduler = torch.ones(1, 1, 2, 2), Derived()
    before = stepped()
    with mock.patch.object(diffusolve.DEISMultistepScheduler, "convert_model_output", lambda self, out, **_: 0.0 * out):
        diffusolve.DEISMultistepScheduler().set_timesteps(4)
        assert not torch.equal(stepped(), before)
    assert torch.equal(stepped(), before)


def test_pndm_hands_arguments_by_name_to_an_overridden_step() -> None:
    class Named(diffusolve.PNDMScheduler):
        def step_plms(self, sample: Any, timestep: Any, model_output: Any, return_dict: bool = True) -> Any:  # type: ignore[override]
            return super().step_plms(0.5 * model_output, timestep, sample, return_dict)

    x = torch.ones(1, 1, 2, 2)
    plain, named = diffusolve.PNDMScheduler(skip_prk_steps=True), Named(skip_prk_steps=True)
    for scheduler in (plain, named):
        scheduler.set_timesteps(4)
    t = plain.timesteps[0]
    assert torch.equal(named.step(2.0 * x, t, x).prev_sample, plain.step(x, t, x).prev_sample)
