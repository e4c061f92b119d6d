"""The command `diffusolve sample`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from diffusolve.cli.checks import MOST_SAMPLES, check_asked, plan_in
from diffusolve.cli.classes import MODEL_HELP
from diffusolve.cli.options import OPTION_HELP, SPACING_HELP, sampler_asked
from diffusolve.cli.worlds import WorldOption
from diffusolve.files import check_writable, write_atomically

if TYPE_CHECKING:
    from diffusolve.plan import Plan
    from diffusolve.sampling import Sampler

__all__ = ["sample_command"]

DEFAULT_SAMPLER, DEFAULT_STEPS = "DPM++ 2M", 20


def sample_command(
    model: Annotated[
        str,
        typer.Option(help=MODEL_HELP),
    ] = ("digits"),
    sampler: Annotated[
        str | None,
        typer.Option(help=f'A sampler by name, for example "Euler a"; without it, {DEFAULT_SAMPLER}.'),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A plan file to run instead of a sampler, a learned one for example.")
    ] = None,
    world: WorldOption = None,
    spacing: Annotated[str | None, typer.Option(help=SPACING_HELP)] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help=OPTION_HELP)] = None,
    steps: Annotated[
        int | None,
        typer.Option(help=f"How many steps, {DEFAULT_STEPS} without it; adaptive samplers choose for themselves."),
    ] = None,
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
    recipe: Plan | Sampler
    if sampler is not None and sampler.endswith(".json"):
        raise ValueError(f"sampler is {sampler!r}, a file: expected a name, or --plan {sampler}.")
    if plan is None:
        recipe = sampler_asked(sampler or DEFAULT_SAMPLER, spacing, world, option)
        if steps is None and not recipe.solver.adaptive:
            steps = DEFAULT_STEPS
    else:
        given = {"--sampler": sampler, "--world": world, "--spacing": spacing, "--option": option, "--steps": steps}
        if said := [name for name, value in given.items() if value not in (None, [])]:
            raise ValueError(f"a plan says all steps already: leave {' and '.join(said)} out, or --plan.")
        recipe = plan_in(plan)
    check_asked({} if steps is None else {"steps": steps}, num, seed, guidance)
    # Heavy imports come after the cheap checks, and everything that can be wrong is found before sampling.
    from diffusolve.comparing.picture import check_picture_path, encode, tile

    check_picture_path(out)
    check_writable(out)

    import torch

    from diffusolve.denoisers.load import load_model
    from diffusolve.plan import Plan, check_made_for
    from diffusolve.sampling import sample_with_report, start

    console = Console()
    loaded = load_model(model, num, prompt=prompt, label=label, guidance=guidance)
    adaptive, name = False, f"the plan in {plan}"
    begins: Any = recipe
    if isinstance(recipe, Plan):
        check_made_for(recipe, loaded.network.noise_schedule, loaded.network.prediction)
    else:
        adaptive, name = recipe.solver.adaptive, recipe.name
        begins = recipe.grid(loaded.network.noise_schedule, 1 if adaptive else steps)
    seeds = list(range(seed, seed + num))
    begun = time.perf_counter()
    x, report = sample_with_report(
        loaded.network,
        start(begins, torch.empty(num, *loaded.shape), seeds),
        recipe,
        steps=steps,
        noise=seeds,
        progress=sys.stderr.isatty(),  # logs are for what happened
    )
    with torch.no_grad():
        images = loaded.decode(x).float().numpy()
    seconds = time.perf_counter() - begun
    write_atomically(out, encode(tile(images), out))
    rejected = f", {report.rejected} rejected" if adaptive else ""
    console.print(
        f"[bold]{name}[/bold]: {num} samples of {model} in {report.accepted} steps{rejected}, {report.nfe} "
        f"function evaluations, {seconds:.2f} s; picture in [bold]{out}[/bold]",
        highlight=False,
        soft_wrap=True,
    )
