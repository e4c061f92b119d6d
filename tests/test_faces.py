"""The same sampler through the catalog, k-diffusion's function and the scheduler class makes the same sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusolve import k_diffusion
from diffusolve.backends import Run
from diffusolve.catalog import CATALOG, Entry, sampler, to_diffusers
from diffusolve.noise import SD15, VarianceExploding
from diffusolve.randomness import BrownianPath
from diffusolve.sampling import sample
from diffusolve.spacing import Sigmas
from tests.tables import for_each

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STEPS = 16
"""Scheduler classes take lower orders at the end of runs with fewer than 15."""

SHAPE = (2, 3, 8, 8)
LOW, HIGH = 0.03, 14.0
FUNCTIONS = [entry for entry in CATALOG.values() if entry.k_diffusion is not None]
CLASSES = [
    entry
    for entry in CATALOG.values()
    if entry.diffusers is not None and not entry.diffusers.own_steps and entry.name != "SA-Solver"
]
"""But SA-Solver, whose class asks once more at the end of a curve, and corrects: `test_translation.py` compares it."""

of_each = {"ids": lambda entry: entry.name}


def normal(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def denoised(x: Tensor, sigma: Any) -> Tensor:
    """A stand-in for the data prediction, for samples data + sigma * noise. It does not depend on the timestep."""
    return 0.8 * torch.tanh(x + 0.3 * x.roll(1, -1)) / (1 + 0.01 * sigma)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@for_each("entry", FUNCTIONS, **of_each)
def test_the_catalog_and_the_function_of_k_diffusion_agree(entry: Entry) -> None:
    pytest.importorskip("torchsde", reason="noise along a Brownian path needs torchsde, which is not installed")
    function: Callable[..., Any] = getattr(k_diffusion, entry.k_diffusion or "")
    path = BrownianPath(LOW, HIGH, 3)
    drawing: dict[str, Any] = {}
    if "noise_sampler" in inspect.signature(function).parameters:
        drawing["noise_sampler"] = lambda s, t: path(x, float(s), float(t))

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        return denoised(x, sigma[:, None, None, None])

    x = HIGH * normal()
    options: dict[str, Any] = {"discard_next_to_last_sigma": False}
    if entry.name == "DPM++ SDE":
        options["noise"] = "path"  # as k-diffusion draws it
    if entry.spaces_itself:
        ends = (LOW, HIGH) if entry.solver.adaptive else (LOW, HIGH, STEPS)
        theirs = function(network, x, *ends, disable=True, **drawing)
        steps = None if entry.solver.adaptive else STEPS
    else:
        sigmas = k_diffusion.get_sigmas_karras(STEPS, LOW, HIGH).double()
        theirs = function(network, x, sigmas, disable=True, **drawing)
        options |= {"spacing": Sigmas(tuple(sigmas.tolist()))}
        steps = None
    ours = sample(
        network,
        x,
        sampler(entry.name, **options),
        steps=steps,
        noise_schedule=VarianceExploding(LOW, HIGH),
        prediction_type="sample",
        noise=BrownianPath(LOW, HIGH, 3),
    )
    assert difference(ours, theirs) < 1e-5


KNOWN_DIFFERENCES: dict[str, dict[str, Any]] = {
    "DPM++ 3M": {"third_order": "authors"},
    "DPM++ 3M SDE": {"third_order": "diffusers_sde"},
    "DPM++ SDE": {"s_noise": 0.0},
}
"""Options that make a sampler what its scheduler class is. DPM++ SDE is compared without its noise, which is along a
Brownian path."""


@for_each("entry", CLASSES, **of_each)
def test_the_catalog_and_the_scheduler_class_agree(entry: Entry) -> None:
    """Where the steps fall is the class's; how they are made is compared."""
    scheduler = to_diffusers(f"{entry.name} Karras").scheduler(STABLE_DIFFUSION)
    scheduler.set_timesteps(STEPS)
    start, end = scheduler.grid[0], scheduler.grid[-1]
    options: dict[str, Any] = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(5)
    if entry.name == "DPM++ SDE":
        options["s_noise"] = 0.0
    x = normal() * start.sigma
    for timestep, stage in zip(scheduler.timesteps, scheduler.plan.stages, strict=True):
        at, ratio = x / stage.point.alpha, stage.point.sigma / stage.point.alpha
        x = scheduler.step((at - denoised(at, ratio)) / ratio, timestep, x, **options).prev_sample
    theirs = x / end.alpha

    ratios = tuple(dict.fromkeys(float(point.sigma / point.alpha) for point in scheduler.grid))
    own = {"discard_next_to_last_sigma": False, **KNOWN_DIFFERENCES.get(entry.name, {})}
    spacing = {} if entry.spaces_itself else {"spacing": Sigmas(ratios)}
    plan = sampler(entry.name, **spacing, **own).plan(SD15, "sample", STEPS if entry.spaces_itself else None)
    generator = torch.Generator().manual_seed(5)
    drawn = {"generator": generator, "dtype": scheduler.noise_dtype or torch.float64}
    run = Run(plan, lambda like, s, t: torch.randn(like.shape, **drawn).double())
    x = run.begin(normal() * plan.start.sigma)
    while not run.is_done:
        point = run.stage.point
        x = run.step(denoised(x / point.alpha, point.sigma / point.alpha), x)
    assert difference(x / plan.end.alpha, theirs) < 1e-4


def test_every_row_of_a1111_is_compared() -> None:
    compared = {entry.name for entry in (*FUNCTIONS, *CLASSES)}
    rest = {entry.name for entry in CATALOG.values() if entry.a1111} - compared
    assert rest == {"Restart", "LCM", "DDIM CFG++"}, "these have neither a function of k-diffusion nor a class here"
