"""The command `diffusolve sample`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from diffusolve.catalog import sampler as sampler_called
from diffusolve.cli.checks import MOST_SAMPLES, check_asked
from diffusolve.cli.classes import MODEL_HELP
from diffusolve.cli.options import OPTION_HELP, SPACING_HELP, options_of
from diffusolve.cli.worlds import WorldOption
from diffusolve.files import check_writable, write_atomically

__all__ = ["sample_command"]


def sample_command(
    model: Annotated[
        str,
        typer.Option(help=MODEL_HELP),
    ] = ("digits"),
    sampler: Annotated[str, typer.Option(help='A sampler by name, for example "DPM++ 2M Karras" or "Euler a".')] = (
        "DPM++ 2M"
    ),
    world: WorldOption = None,
    spacing: Annotated[str | None, typer.Option(help=SPACING_HELP)] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help=OPTION_HELP)] = None,
    steps: Annotated[int, typer.Option(help="How many steps; adaptive samplers choose for themselves.")] = 20,
    num: Annotated[int, typer.Option(help=f"How many samples, at most {MOST_SAMPLES:,}.")] = 64,
    label: Annotated[
        str | None,
        typer.Option("--class", help="Make this class only, of those that diffusolve list --model NAME shows."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="For text-to-image pipelines.")] = None,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 is none.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Sample number i starts from noise of seed + i.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the picture goes; its ending says the format.")] = Path(
        "samples.png"
    ),
) -> None:
    """Make samples and write them as a picture."""
    recipe = sampler_called(sampler, spacing, world=world, **options_of(option))
    check_asked({"steps": steps}, num, seed, guidance)
    # Heavy imports come after the cheap checks, and everything that can be wrong is found before sampling.
    from diffusolve.comparing.picture import check_picture_path, encode, tile

    check_picture_path(out)
    check_writable(out)

    import torch

    from diffusolve.denoisers.load import load_model
    from diffusolve.sampling import sample_with_report, start

    console = Console()
    loaded = load_model(model, num, prompt=prompt, label=label, guidance=guidance)
    adaptive = recipe.solver.adaptive
    grid = recipe.grid(loaded.network.noise_schedule, 1 if adaptive else steps)
    seeds = list(range(seed, seed + num))
    begun = time.perf_counter()
    x, report = sample_with_report(
        loaded.network,
        start(grid, torch.empty(num, *loaded.shape), seeds),
        recipe,
        steps=None if adaptive else steps,
        noise=seeds,
        progress=sys.stderr.isatty(),  # logs are for what happened
    )
    with torch.no_grad():
        images = loaded.decode(x).float().numpy()
    seconds = time.perf_counter() - begun
    write_atomically(out, encode(tile(images), out))
    rejected = f", {report.rejected} rejected" if adaptive else ""
    console.print(
        f"[bold]{recipe.name}[/bold]: {num} samples of {model} in {report.accepted} steps{rejected}, {report.nfe} "
        f"function evaluations, {seconds:.2f} s; picture in [bold]{out}[/bold]",
        highlight=False,
        soft_wrap=True,
    )
