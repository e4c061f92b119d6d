"""Every sampler with its samples, ``docs/gallery.md``: ``python -m benchmarks.gallery``.

With names, only the pictures of these samplers are made, and the page is written: ``... gallery "DPM++ 2M"``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track

from diffusolve.catalog import CATALOG, Entry, find
from diffusolve.cli.main import main as diffusolve
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from diffusolve.sampling import Sampler
from diffusolve.spacing import Karras

DOCS = Path(__file__).parent.parent / "docs"

STEPS = (5, 10, 20)

GUIDANCE, GUIDANCE_CFG_PP = 2.0, 0.6
"""CFG++ interpolates between the outputs, so that its scale is from 0 to 1."""

DESCRIPTIONS = {
    "DPM++ 2M": "a line in log-SNR through the last two data predictions, taken at the middle of the step",
    "DPM++ SDE": "two ancestral steps, the first to a point on the way where the network is asked again",
    "DPM++ 2M SDE": "DPM++ 2M along the reverse SDE: all the noise of each step is drawn anew",
    "DPM++ 2M SDE Heun": "DPM++ 2M SDE with the line integrated exactly",
    "DPM++ 2S a": "DPM++ 2S to less noise than asked for, then fresh noise",
    "DPM++ 3M SDE": "a parabola through the last three data predictions, along the reverse SDE",
    "Euler a": "an Euler step to less noise than asked for, then fresh noise",
    "Euler": "a straight line along the slope of the probability-flow ODE",
    "LMS": "Adams-Bashforth: a cubic through the last four slopes, integrated over sigma",
    "Heun": "the mean of the slopes at both ends of the step",
    "DPM2": "the slope at the geometric mean of both sigmas",
    "DPM2 a": "DPM2 to less noise than asked for, then fresh noise",
    "DPM fast": "third-order steps in log-SNR of its own choice, from the largest sigma to the smallest",
    "DPM adaptive": "two solutions of different order in each step; their difference chooses the next step's length",
    "Restart": "Heun; on reaching a small sigma, noise is added and taken away again",
    "DDIM": "Euler's method, on the timesteps that DDIM's paper takes",
    "PLMS": "a four-step linear multistep method on noise predictions, each step made with DDIM's formula",
    "UniPC": "a predictor of order 3, then a corrector that uses the next evaluation as well (variant bh1)",
    "LCM": "a jump to the data prediction, and noise of the next sigma on it; made for consistency models",
    "TCD": "a jump past the next point, and noise to come back to it; made for networks distilled to jump anywhere",
    "UniPC bh2": "UniPC with the other choice of its function B(h)",
    "DPM++ 3M": "a parabola through the last three data predictions, with Taylor's weights",
    "DPM++ 2S": "two steps as one: the line through both data predictions, from the first step's beginning",
    "DEIS": "a polynomial through the last three noise predictions, integrated exactly",
    "DDPM": "the ancestral sampling of DDPM: Euler a on a variance-preserving schedule",
    "Heun++ 2": "a weighted mean of the slopes at this sigma, the next and the one after",
    "iPNDM": "Adams-Bashforth with the weights of equal steps, whatever the steps are",
    "iPNDM-v": "Adams-Bashforth with the weights of the steps that are taken",
    "RES multistep": "DPM++ 2M with the line integrated exactly",
    "RES 2S": "an exponential Runge-Kutta step of two stages, the second in its middle",
    "RES 3S": "an exponential Runge-Kutta step of three stages, the last at its end",
    "RES 3M": "a parabola through the last three data predictions, integrated exactly",
    "RES multistep a": "RES multistep to less noise than asked for, then fresh noise",
    "Gradient estimation": "Euler with a slope that leans away from the last one",
    "CFG++ UD10 AB": "Euler CFG++, a quarter of the way to Adams-Bashforth, and to a line through the data at the end",
    "ER-SDE": "a polynomial through the last three data predictions, along an SDE with its own amount of noise",
    "SEEDS-2": "an exponential Runge-Kutta method of two stages for the reverse SDE",
    "SEEDS-3": "an exponential Runge-Kutta method of three stages for the reverse SDE",
    "SA-Solver": "Adams predictor and corrector along the reverse SDE, in part of the sigmas",
    "SA-Solver PECE": "SA-Solver with a second evaluation after the corrector",
    "Flow SDE": "Euler-Maruyama along an SDE with the marginals of flow matching's ODE, as Flow-GRPO has it",
    "Dance SDE": "Flow SDE with noise of one strength at all sigmas, as DanceGRPO has it",
    "Exponential Heun": "the line through the data predictions at both ends of the step, integrated exactly",
    "Exponential Heun SDE": "Exponential Heun along the reverse SDE",
}
"""What a sampler is, where its solver's own first line would say too little. Any other has that line."""

PAGE = """# Gallery

<!-- not run: python -m benchmarks.gallery runs these commands, in minutes -->

Every sampler of the catalog, in 5, 10 and 20 steps from the same noise: [emoji](emoji.md) of 32x32 pixels, from the
network that ships with the package, each sampler with the schedule type that A1111 chooses for it. The order is that of
convergence, for stochastic samplers that of the distribution. [Which sampler when](which-sampler.md) has the errors in
numbers.

This page and its pictures are made by

```sh
python -m benchmarks.gallery
```

which runs, for each sampler, the command below its picture.

{table}

{rows}
"""


def slug(name: str) -> str:
    """A sampler's name in file names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("++", "pp")).strip("-")


def anchor(name: str) -> str:
    """What links to a heading say: the heading in small letters, without signs, with hyphens for spaces."""
    return re.sub(r"[^a-z0-9 -]", "", name.lower()).replace(" ", "-")


def command(entry: Entry, out: str) -> list[str]:
    """The arguments of ``diffusolve`` that make an entry's picture."""
    plan = plan_of(entry)
    guidance = GUIDANCE_CFG_PP if plan is not None and plan.reads_unguided else GUIDANCE
    schedule_type = [] if entry.spaces_itself else ["--spacing", entry.automatic]
    steps = ["--steps", *map(str, STEPS)]
    settings = ["--model", "emoji", "--num", "6", "--guidance", f"{guidance:g}", "--out", out]
    return ["compare", entry.name, *schedule_type, *steps, *settings]


def plan_of(entry: Entry) -> Plan | None:
    """An entry's plan in the most steps of the page; None for adaptive solvers, which have none."""
    if entry.solver.adaptive:
        return None
    return Sampler(entry.solver, Karras(final_sigma="sigma_min")).plan(SD15, "epsilon", STEPS[-1])


def evaluations(entry: Entry) -> str:
    """Evaluations per step, in words."""
    plan = plan_of(entry)
    return "as many as needed" if plan is None else f"{round(plan.nfe / STEPS[-1])}"


def kind(entry: Entry) -> str:
    """Whether it adds noise, or chooses its steps itself."""
    plan = plan_of(entry)
    return "adaptive" if plan is None else "stochastic" if plan.is_stochastic else "deterministic"


def description(entry: Entry) -> str:
    """What a sampler is, in one line."""
    if entry.name not in DESCRIPTIONS and entry.name.endswith(" CFG++"):
        return f"{description(CATALOG[entry.name.removesuffix(' CFG++')])}; guided, and renoised without"
    first_line = (entry.solver.function.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return DESCRIPTIONS.get(entry.name, first_line)


def row(entry: Entry, picture: str) -> str:
    """An entry's part of the page: facts, picture, command."""
    first = description(entry)
    facts = f"{kind(entry)}; order {entry.order}; evaluations per step: {evaluations(entry)}; paper: {entry.paper}."
    run = " ".join(quoted(argument) for argument in command(entry, slug(entry.name) + ".png"))
    return (
        f"## {entry.name}\n\n{first[0].upper()}{first[1:]}. {facts[0].upper()}{facts[1:]}\n\n"
        f"![{entry.name} in 5, 10 and 20 steps]({picture})\n\n```sh\ndiffusolve {run}\n```"
    )


def quoted(argument: str) -> str:
    """An argument as one types it in a shell."""
    return f'"{argument}"' if re.search(r"[^\w.+/-]", argument) else argument


def overview() -> str:
    """All samplers as a table."""
    lines = ["| sampler | what it is | order | evaluations per step | paper |", "| --- | --- | --- | --- | --- |"]
    for entry in CATALOG.values():
        name = f"[{entry.name}](#{anchor(entry.name)})" + (" *" if kind(entry) == "stochastic" else "")
        paper = re.split(r"[,;]", entry.solver.paper)[0]
        lines.append(f"| {name} | {description(entry)} | {entry.order} | {evaluations(entry)} | {paper} |")
    return "\n".join([*lines, "", "\\* stochastic."])


def make(entry: Entry, path: Path) -> None:
    """Make an entry's picture."""
    try:
        diffusolve(command(entry, str(path)))
    except SystemExit as stop:
        if stop.code:
            raise


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Samplers whose pictures to make; all if left out.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the page.", file_okay=False)] = DOCS,
) -> None:
    """Write the gallery page and its pictures."""
    drawn = {find(name)[0].name for name in names} if names else CATALOG.keys()
    torch.set_num_threads(1)  # the network is small: more threads would only wait for each other
    pictures = out / "images" / "gallery"
    pictures.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    rows = []
    for entry in track(CATALOG.values(), "sampling", console=console):
        path = pictures / f"{slug(entry.name)}.png"
        if entry.name in drawn:
            make(entry, path)
        rows.append(row(entry, path.relative_to(out).as_posix()))
    kept = {f"{slug(name)}.png" for name in CATALOG}
    for path in pictures.glob("*.png"):
        if path.name not in kept:  # of a sampler that is not there any more
            path.unlink()
    (out / "gallery.md").write_text(PAGE.format(table=overview(), rows="\n\n".join(rows)), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
