"""The command `diffusolve bench`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from diffusolve.backends import Run
from diffusolve.catalog import sampler as sampler_called
from diffusolve.cli.traffic import bytes_per_element
from diffusolve.errors import NotPlannableError, unknown_name
from diffusolve.noise import noise_schedule
from diffusolve.plan import Plan
from diffusolve.prediction import prediction as prediction_called

if TYPE_CHECKING:
    import torch

__all__ = ["bench_command"]

DTYPES = ("float64", "float32", "bfloat16", "float16")
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 3, 50, 2.0
"""Of measuring: rounds go on for so many seconds, within these numbers."""

RING = 4
"""The number of buffers copied in a circle: about as many as a step has arrays, so that caches help as much."""


def bench_command(
    name: Annotated[str, typer.Argument(help='A sampler by name, for example "DPM++ 2M Karras".')],
    steps: Annotated[int, typer.Option(min=1, help="How many steps.")] = 20,
    shape: Annotated[str, typer.Option(help="Of the samples, for example 8x4x64x64.")] = "1x4x64x64",
    dtype: Annotated[str, typer.Option(help=f"Of samples and outputs: {', '.join(DTYPES)}.")] = "float32",
    device: Annotated[str, typer.Option(help="Where they are: cpu, cuda, cuda:1, mps, ...")] = "cpu",
    schedule: Annotated[str, typer.Option(help="A noise schedule: sd15, sdxl, sd3, flux, edm, ddpm, ...")] = "sd15",
    prediction: Annotated[str, typer.Option(help="What the network predicts.")] = "epsilon",
) -> None:
    """Time a sampler's steps without the network, and reading and writing their arrays once."""
    recipe = sampler_called(name)
    if recipe.solver.adaptive:
        raise NotPlannableError(f"{recipe.name} chooses its steps by the data, so that no two runs take the same ones.")
    plan = recipe.plan(noise_schedule(schedule), prediction_called(prediction), steps)
    like = _tensor(shape, dtype, device)
    step, copy = _medians(plan, like)
    size = like.itemsize
    floor = bytes_per_element(plan, sample=size, output=size, shown=size, kept=max(size, 4)) / (2 * size) * copy
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{recipe.name}, {plan.nfe} evaluations of {shape} {dtype} on {device}, no noise drawn", style="bold")
    console.print(f"an evaluation without the network {step * 1e6:9.1f} us, {step / floor:.2f} times the memory floor:")
    console.print(f"its arrays read and written once  {floor * 1e6:9.1f} us")


def _tensor(shape: str, dtype: str, device: str) -> torch.Tensor:
    """Normally distributed numbers.

    Raises:
        ValueError: there is no such shape, precision or device, or not enough memory.
    """
    import torch

    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(f"shape {shape!r}: expected whole numbers above 0 with x between them, for example 1x4x64x64.")
    if device == "meta":
        raise ValueError("device 'meta' has no memory and computes nothing: expected one that does, for example 'cpu'.")
    if dtype not in DTYPES:
        raise unknown_name("precision", dtype, DTYPES)
    try:
        return torch.randn(*map(int, sizes), device=device).to(getattr(torch, dtype))
    except (RuntimeError, AssertionError, TypeError) as error:  # as PyTorch was built, and as the device likes
        raise ValueError(f"no {shape} {dtype} on {device!r}: {str(error).partition(chr(10))[0]}") from error


def _medians(plan: Plan, like: torch.Tensor) -> tuple[float, float]:
    """The seconds of an evaluation of `plan`, and of copying an array `like` this one, measured in turn."""
    import torch

    noise, output = torch.randn_like(like), torch.randn_like(like)
    buffers = [torch.randn_like(like) for _ in range(RING)]

    def walk() -> None:
        run = Run(plan, lambda *_: noise)
        x = run.begin(like)
        for stage in plan.stages:
            run.model_input(x)
            x = run.step(output, x, output if stage.reads_unguided else None)

    def copy() -> None:
        for index in range(plan.nfe):
            buffers[index % RING].copy_(buffers[index % RING - 1])

    def timed(work: Callable[[], None]) -> float:
        begun = time.perf_counter()
        work()
        if like.device.type != "cpu":
            getattr(torch, like.device.type).synchronize(like.device)
        return (time.perf_counter() - begun) / plan.nfe

    with torch.no_grad():
        timed(walk), timed(copy)  # for the caches
        times: list[tuple[float, float]] = []
        begun = time.perf_counter()
        while len(times) < LEAST_ROUNDS or (len(times) < MOST_ROUNDS and time.perf_counter() - begun < SECONDS):
            times.append((timed(walk), timed(copy)))
    runs, copies = zip(*times, strict=True)
    return statistics.median(runs), statistics.median(copies)
