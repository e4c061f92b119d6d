"""What a step costs beyond the network, here and in diffusers: ``python -m benchmarks.step``.

The loops of both libraries are run in turn, many times, in one process; a figure is the median over the rounds of the
time of a loop, set-up excluded, divided by its steps. The network is free: its output is a tensor made beforehand.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffusolve.backends import Run
from diffusolve.noise import SD15, Space
from diffusolve.sampling import Sampler
from diffusolve.solvers import dpmpp_multistep, euler, unipc
from diffusolve.spacing import Linspace

STEPS = 20
SHAPES = ((1, 4, 64, 64), (1, 16, 128, 128))
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CASES = {
    "Euler": (Sampler(euler, Linspace(), Space.VARIANCE_EXPLODING), EulerDiscreteScheduler),
    "DPM++ 2M": (Sampler(dpmpp_multistep, Linspace(to_first=False, whole=True)), DPMSolverMultistepScheduler),
    "UniPC": (Sampler(unipc, Linspace(to_first=False, whole=True)), UniPCMultistepScheduler),
}


def loop_here(sampler: Sampler, x: Tensor, output: Tensor) -> Callable[[], float]:
    """A function that runs the loop once and returns its seconds."""
    plan = sampler.plan(SD15, "epsilon", STEPS)

    def loop() -> float:
        run, sample = Run(plan), x
        begun = time.perf_counter()
        sample = run.begin(sample)
        for _ in range(STEPS):
            run.model_input(sample)
            sample = run.step(output, sample)
        return time.perf_counter() - begun

    return loop


def loop_in_diffusers(kind: type, x: Tensor, output: Tensor) -> Callable[[], float]:
    """The same loop with a diffusers scheduler."""
    scheduler = kind(**BETAS)

    def loop() -> float:
        scheduler.set_timesteps(STEPS)
        sample = x
        begun = time.perf_counter()
        for timestep in scheduler.timesteps:
            scheduler.scale_model_input(sample, timestep)
            sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        return time.perf_counter() - begun

    return loop


def main(rounds: Annotated[int, typer.Option(min=3, help="How often each loop is run.")] = 60) -> None:
    """Print microseconds per step here and in diffusers, and their ratio."""
    torch.set_num_threads(2)
    table = Table(
        "solver", "shape", "here, us", "diffusers, us", "ratio", title="scale_model_input + step, float32, CPU"
    )
    with torch.no_grad():
        for name, (sampler, kind) in CASES.items():
            for shape in SHAPES:
                x, output = torch.randn(shape), torch.randn(shape)
                loops = loop_here(sampler, x, output), loop_in_diffusers(kind, x, output)
                times = [[loop() for loop in loops] for _ in range(rounds)]
                here, there = (statistics.median(column) / STEPS * 1e6 for column in zip(*times[2:], strict=True))
                table.add_row(name, "x".join(map(str, shape)), f"{here:.1f}", f"{there:.1f}", f"{there / here:.1f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
