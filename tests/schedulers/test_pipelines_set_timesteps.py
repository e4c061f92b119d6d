"""Every way in which diffusers' pipelines set timesteps, accepted by every class that can sample a flow model."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffusolve

diffusers = pytest.importorskip("diffusers", reason="these tests read diffusers' pipelines, which is not installed")

SAMPLES_FLOWS = (
    "DEISMultistepScheduler",
    "DPMSolverFastScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepAncestralScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
"""Classes that can sample a flow model."""

OF_ONE_CLASS = {
    "block_length",
    "intermediate_timesteps",
    "is_amplify_first_chunk",
    "jump_length",
    "jump_n_sample",
    "max_timesteps",
    "original_inference_steps",
    "stage_index",
    "start_time",
    "strength",
    "temperature",
}
"""Arguments that only the pipelines of one scheduler class pass, for it alone."""

COMMON = ("num_inference_steps", "device", "timesteps", "sigmas")
STEPS = 4

Shape = tuple[str, ...]
"""Names of arguments beside the number of steps and the device."""


def named(call: ast.Call, positions: tuple[str, ...]) -> dict[str, ast.expr] | None:
    """A call's arguments by name; None when its positions are those of a class of its own, or are not known."""
    arguments = list(call.args)
    if any(isinstance(argument, ast.Starred) for argument in arguments) or len(arguments) > len(positions):
        return None
    by_name = dict(zip(positions, arguments, strict=False))
    return by_name | {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def shapes(arguments: dict[str, ast.expr]) -> set[Shape]:
    """The arguments that the scheduler gets: pipelines leave timesteps or sigmas out where their user gave none."""
    given = {key for key, value in arguments.items() if not (isinstance(value, ast.Constant) and value.value is None)}
    rest = tuple(sorted(given - {"scheduler", *COMMON}))
    schedules = [(), *((key,) for key in ("timesteps", "sigmas") if key in given)]
    return {tuple(sorted((*schedule, *rest))) for schedule in schedules}


@cache
def calls() -> Counter[Shape]:
    """How often each shape of call is made in the sources of the installed pipelines."""
    found: Counter[Shape] = Counter()
    for folder in ("pipelines", "modular_pipelines"):
        for path in sorted((Path(diffusers.__file__).parent / folder).rglob("*.py")):
            for call in calls_in(path.read_text()):
                found.update(shapes_of_call(call))
    return found


def calls_in(source: str) -> Iterator[ast.Call]:
    """The calls that set timesteps, each parsed on its own: whole files would take ten seconds."""
    for match in re.finditer(r"(?<!def )\b(retrieve_timesteps|set_timesteps)\(", source):
        end = match.end()
        while end < len(source):
            end = source.find(")", end) + 1
            if not end:
                break
            try:
                parsed = ast.parse(source[match.start() : end], mode="eval").body
            except SyntaxError:
                continue  # that was a parenthesis within the arguments
            if isinstance(parsed, ast.Call):
                yield parsed
            break


def shapes_of_call(call: ast.Call) -> set[Shape]:
    """The shapes that a call may have."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    positions = ("scheduler", *COMMON) if name == "retrieve_timesteps" else ("num_inference_steps", "device")
    arguments = named(call, positions)
    return shapes(arguments) if arguments is not None else set()


def values(shape: Shape) -> dict[str, Any]:
    """Arguments as the pipelines make them."""
    every = {
        "mu": 0.8,
        "sigmas": np.linspace(1.0, 1 / STEPS, STEPS).tolist(),
        "timesteps": [1000.0, 800.0, 500.0, 200.0],
    }
    return {key: every[key] for key in shape}


def scheduler_for_flow(library: Any, name: str, dynamic: bool) -> Any:
    """A class's scheduler, made from the configuration of a flow model's own."""
    own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    return getattr(library, name).from_config(own.config)


def refusal(name: str, shape: Shape) -> str | None:
    """What goes wrong when a class gets a call of that shape, in words."""
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import retrieve_timesteps

    arguments = values(shape)
    reference = scheduler_for_flow(diffusers, "FlowMatchEulerDiscreteScheduler", "mu" in shape)
    expected, _ = retrieve_timesteps(reference, STEPS, "cpu", **arguments)
    try:
        scheduler = scheduler_for_flow(diffusolve, name, "mu" in shape)
        timesteps, steps = retrieve_timesteps(scheduler, STEPS, "cpu", **arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:150]
    if not torch.isfinite(timesteps.double()).all() or steps < STEPS:
        return f"{steps} timesteps {timesteps.tolist()} for {STEPS} steps"
    # Some classes round timesteps to whole ones.
    if abs(float(timesteps[0]) - float(expected[0])) > 1:
        return f"starts at {float(timesteps[0])}, not at {float(expected[0])}"
    return None


def test_pipelines_make_the_calls_that_are_tried() -> None:
    flow = {shape for shape in calls() if not OF_ONE_CLASS & set(shape)}
    assert {(), ("sigmas",), ("timesteps",), ("mu", "sigmas"), ("mu", "timesteps"), ("mu",)} <= flow
    unknown = {key for shape in flow for key in shape} - {"mu", "sigmas", "timesteps"}
    assert sum(calls().values()) > 300
    assert not unknown, f"pipelines pass {sorted(unknown)}: say here what for"


def test_every_class_that_samples_flows_accepts_the_calls_of_every_pipeline() -> None:
    tried = [shape for shape in sorted(calls()) if not OF_ONE_CLASS & set(shape)]
    refused: dict[str, list[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in SAMPLES_FLOWS:
            if hasattr(diffusolve, name):
                found = [f"{name}, {shape}: {text}" for shape in tried if (text := refusal(name, shape))]
                refused |= {name: found} if found else {}
    failures = [line for found in refused.values() for line in found]
    assert not failures, "\n".join([f"{len(failures)} calls are refused:", *failures])


def test_pipelines_see_what_a_class_accepts() -> None:
    missing = [
        f"{name}.set_timesteps does not show {key}"
        for name in SAMPLES_FLOWS
        if hasattr(diffusolve, name)
        for key in ("sigmas", "timesteps", "mu")
        if key not in inspect.signature(getattr(diffusolve, name).set_timesteps).parameters
    ]
    assert not missing, "\n".join(missing)
