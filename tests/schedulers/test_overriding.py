"""Subclasses that override any method: steps call it as diffusers' do, or its definition raises."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from typing import Any

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
