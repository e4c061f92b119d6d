"""What a step costs beyond the network, here and in diffusers: ``python -m benchmarks.step``.

The loops of both libraries are run in turn, many times, in one process; a figure is the median over the rounds of the
time of a loop, set-up excluded, divided by its evaluations. The network is free: its output is a tensor made
beforehand. A step is ``scale_model_input`` and ``step``.

Small samples are timed with one thread of PyTorch, since nothing of their size is shared out, and threads that wait for
more work after one library's loop would slow the other's.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import diffusers
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import diffusolve
from diffusolve.backends import Run
from diffusolve.noise import SD15, Space
from diffusolve.sampling import Sampler
from diffusolve.schedulers.compatible import KarrasDiffusionSchedulers
from diffusolve.solvers import dpmpp_multistep, euler, unipc
from diffusolve.spacing import Linspace

STEPS = 20
SMALL, LARGE = (1, 4, 64, 64), (1, 16, 128, 128)
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STOCHASTIC = (
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
)
CORE = {
    "Euler": (Sampler(euler, Linspace(), Space.VARIANCE_EXPLODING), "EulerDiscreteScheduler"),
    "DPM++ 2M": (Sampler(dpmpp_multistep, Linspace(to_first=False, whole=True)), "DPMSolverMultistepScheduler"),
    "UniPC": (Sampler(unipc, Linspace(to_first=False, whole=True)), "UniPCMultistepScheduler"),
}

Loop = Callable[[], float]


def run_loop(sampler: Sampler, x: Tensor, output: Tensor) -> Loop:
    """A function that walks the sampler's plan once and returns the seconds of an evaluation."""
    plan = sampler.plan(SD15, "epsilon", STEPS)

    def loop() -> float:
        run = Run(plan)
        begun = time.perf_counter()
        sample = run.begin(x)
        for _ in range(STEPS):
            run.model_input(sample)
            sample = run.step(output, sample)
        return (time.perf_counter() - begun) / STEPS

    return loop


def scheduler_loop(scheduler: Any, x: Tensor, output: Tensor) -> Loop:
    """The same for the loop of a pipeline with `scheduler`, ours or diffusers'."""

    def loop() -> float:
        scheduler.set_timesteps(STEPS)
        sample, timesteps = x, scheduler.timesteps
        begun = time.perf_counter()
        for timestep in timesteps:
            scheduler.scale_model_input(sample, timestep)
            sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        return (time.perf_counter() - begun) / len(timesteps)

    return loop


def compared(here: Loop, there: Loop, rounds: int) -> tuple[float, float]:
    """Median microseconds of both, run in turn."""
    times = [(here(), there()) for _ in range(rounds + 2)][2:]
    mine, theirs = (statistics.median(column) * 1e6 for column in zip(*times, strict=True))
    return mine, theirs


def core_table(rounds: int, threads: int) -> Table:
    """The core's runs against diffusers' classes."""
    table = Table("solver", "shape", "here, us", "diffusers, us", "ratio", title="Run of a plan")
    for name, (sampler, theirs) in CORE.items():
        for shape in (SMALL, LARGE):
            torch.set_num_threads(1 if shape == SMALL else threads)
            x, output = torch.randn(shape), torch.randn(shape)
            there = scheduler_loop(getattr(diffusers, theirs)(**BETAS), x, output)
            mine, other = compared(run_loop(sampler, x, output), there, rounds)
            table.add_row(name, "x".join(map(str, shape)), f"{mine:.1f}", f"{other:.1f}", f"{other / mine:.1f}")
    return table


def class_table(rounds: int) -> Table:
    """All scheduler classes against diffusers' of the same name."""
    table = Table(
        "class", "here, us", "diffusers, us", "ratio", title=f"Scheduler classes, {'x'.join(map(str, SMALL))}"
    )
    ratios = []
    torch.set_num_threads(1)
    for kind in KarrasDiffusionSchedulers:
        x, output = torch.randn(SMALL), torch.randn(SMALL)
        pair = [scheduler_loop(getattr(library, kind.name)(**BETAS), x, output) for library in (diffusolve, diffusers)]
        mine, other = compared(*pair, rounds)
        stochastic = kind.name in STOCHASTIC
        if not stochastic:
            ratios.append(other / mine)
        note = " (draws noise)" if stochastic else ""
        table.add_row(kind.name + note, f"{mine:.1f}", f"{other:.1f}", f"{other / mine:.1f}")
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    table.add_section()
    table.add_row("geometric mean, deterministic", "", "", f"{mean:.1f}")
    table.add_row("smallest, deterministic", "", "", f"{min(ratios):.1f}")
    return table


def main(
    rounds: Annotated[int, typer.Option(min=3, help="How often each loop is run.")] = 60,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch for large samples.")] = 2,
) -> None:
    """Print microseconds per evaluation here and in diffusers, and their ratio."""
    console = Console()
    with torch.no_grad():
        console.print(core_table(rounds, threads))
        console.print(class_table(rounds))


if __name__ == "__main__":
    typer.run(main)
