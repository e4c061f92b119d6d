"""Errors of half and single precision against a float64 run, here and in diffusers: ``python -m benchmarks.accuracy``.

Both libraries sample the same float64 network from the same start; the network is asked in float64 whatever the
scheduler's precision, so that only the scheduler's own rounding differs.
"""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Any

import diffusers
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import diffusolve
from diffusolve.schedulers.compatible import KarrasDiffusionSchedulers

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
SHAPE = (16, 4, 32, 32)


MAGNITUDES = 2 ** (2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64) - 1)
"""Of outputs: from 1/2 to 2, so that no precision is lucky with where its numbers lie between powers of 2."""


def network(x: Tensor, timestep: Any) -> Tensor:
    """A smooth function of sample and timestep, computed in float64."""
    wide = x.double()
    return (torch.tanh(wide + wide.roll(1, -1) / 2 + float(timestep) / 1000) * MAGNITUDES).to(x.dtype)


def final_sample(library: Any, name: str, dtype: torch.dtype, steps: int, seed: int) -> Tensor:
    """What a scheduler makes of the noise of `seed`, in float64."""
    options = {"noise_sampler_seed": 0} if name == "DPMSolverSDEScheduler" else {}
    scheduler = getattr(library, name)(**BETAS, **options)
    scheduler.set_timesteps(steps)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = (x * float(scheduler.init_noise_sigma)).bfloat16().to(dtype)  # numbers that all precisions have
    noise = torch.Generator().manual_seed(1)
    drawing = {"generator": noise} if "generator" in scheduler.step.__code__.co_varnames else {}
    for timestep in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, timestep), timestep), timestep, x, **drawing)[0]
    return x.double()


def error(library: Any, name: str, dtype: torch.dtype, steps: int, exact: list[Tensor]) -> float:
    """Relative root mean square distance from `exact`, the float64 samples of seeds 0, 1 and so on."""
    made = [final_sample(library, name, dtype, steps, seed) for seed in range(len(exact))]
    squares = [float(((one - other).norm() / other.norm()) ** 2) for one, other in zip(made, exact, strict=True)]
    return sqrt(sum(squares) / len(squares))


def deterministic() -> list[str]:
    """The classes that draw no noise: drawn in another precision it would be other noise."""
    stochastic = ("DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
    return [kind.name for kind in KarrasDiffusionSchedulers if kind.name not in (*stochastic, "DPMSolverSDEScheduler")]


def main(steps: Annotated[int, typer.Option(min=1)] = 20, seeds: Annotated[int, typer.Option(min=1)] = 4) -> None:
    """Print the table."""
    table = Table(
        "class", *(f"{str(dtype).removeprefix('torch.')}, {who}" for dtype in DTYPES for who in ("here", "there"))
    )
    for name in deterministic():
        exact = [final_sample(diffusolve, name, torch.float64, steps, seed) for seed in range(seeds)]
        row = [f"{error(lib, name, dtype, steps, exact):.2e}" for dtype in DTYPES for lib in (diffusolve, diffusers)]
        table.add_row(name.removesuffix("Scheduler"), *row)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
