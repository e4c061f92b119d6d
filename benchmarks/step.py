"""The README's table of what a step costs, and all scheduler classes: ``python -m benchmarks.step``.

``python -m benchmarks.suite step`` measures more kinds of arrays, and the functions of k-diffusion; docs/benchmarks.md
says how.
"""

from __future__ import annotations

from typing import Annotated

import diffusers
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.suite.loops import Shape, configured, noise_and_output, run_loop, scheduler_loop
from benchmarks.suite.peers import quiet
from benchmarks.suite.result import Figure, geometric_mean
from benchmarks.suite.step import CLASSES, SMALL, STEPS, Case, class_case, measured
from benchmarks.suite.timing import Effort
from diffusolve.cli.traffic import bytes_per_element
from diffusolve.noise import SD15, Scaling
from diffusolve.sampling import Sampler
from diffusolve.solvers import dpmpp_multistep, euler, unipc
from diffusolve.spacing import Linspace

SHAPES: tuple[Shape, ...] = (SMALL, (1, 16, 128, 128))
CORE = {
    "Euler": (Sampler(euler, Linspace(), Scaling.VARIANCE_EXPLODING), "EulerDiscreteScheduler"),
    "DPM++ 2M": (Sampler(dpmpp_multistep, Linspace(to_first=False, whole=True)), "DPMSolverMultistepScheduler"),
    "UniPC": (Sampler(unipc, Linspace(to_first=False, whole=True)), "UniPCMultistepScheduler"),
}


def core_case(name: str, shape: Shape) -> Case:
    """The run of a plan, against the loop of a pipeline with diffusers' class."""
    sampler, theirs = CORE[name]
    plan = sampler.plan(SD15, "epsilon", STEPS)
    x, output = noise_and_output(shape, torch.float32)
    return Case(
        lambda: run_loop(plan, x, output),
        lambda: scheduler_loop(configured(getattr(diffusers, theirs)), x, output, STEPS),
        bytes_per_element(plan, sample=4, output=4, shown=4),
        STEPS,
        shape,
        torch.float32,
    )


def printed(title: str, heading: str, figures: list[Figure]) -> Table:
    """`figures` as a table."""
    table = Table(heading, "array", "here, us", "diffusers, us", "ratio", "floor, us", title=title)
    for figure in figures:
        numbers = (figure.here, figure.there, figure.ratio, figure.floor)
        table.add_row(figure.row, figure.column, *("-" if number is None else f"{number:.1f}" for number in numbers))
    return table


def main(rounds: Annotated[int, typer.Option(min=3, help="How often each loop is run.")] = 60) -> None:
    """Print microseconds per evaluation here and in diffusers, their ratio, and the floor."""
    console, effort = Console(), Effort(False, float("inf"), rounds, rounds)
    with torch.no_grad(), quiet():
        core = [measured(name, core_case(name, shape), effort) for name in CORE for shape in SHAPES]
        console.print(printed("Run of a plan", "solver", core))
        classes = [measured(name, class_case(name, SMALL, torch.float32), effort) for name in CLASSES]
        console.print(printed("Scheduler classes, no noise drawn", "class", classes))
    ratios = [figure.ratio for figure in classes if figure.ratio is not None]
    console.print(f"geometric mean of the classes {geometric_mean(ratios):.1f}, smallest {min(ratios):.1f}")


if __name__ == "__main__":
    typer.run(main)
