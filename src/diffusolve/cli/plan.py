"""The command `diffusolve plan`. Needs no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusolve.cli.options import OPTION_HELP, SPACING_HELP, sampler_asked
from diffusolve.cli.plot import check_plot_path, encode_figure
from diffusolve.cli.worlds import WorldOption
from diffusolve.errors import NotPlannableError
from diffusolve.files import check_writable, write_atomically
from diffusolve.noise import Scaling, noise_schedule
from diffusolve.plan import OUTPUT, Plan, PlanPoint, Stage, Update
from diffusolve.plan.plan import sizes_of
from diffusolve.prediction import prediction as prediction_called

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure", "plan_command", "sigma_of", "table"]

PREDICTIONS = {"cosine": "v_prediction", "edm": "edm", "sd3": "flow", "flux": "flow"}
"""Name of a noise schedule -> what the networks trained with it predict; epsilon where it is not here."""

SIGMA = {
    Scaling.VARIANCE_PRESERVING: "sigma / alpha, for samples alpha * data + sigma * noise",
    Scaling.VARIANCE_EXPLODING: "for samples data + sigma * noise",
    Scaling.FLOW: "for samples (1 - sigma) * data + sigma * noise",
}
"""The meaning of the number called sigma, by the scaling of the samples that the network was trained on."""


def plan_command(
    name: Annotated[str, typer.Argument(help='A sampler by name, for example "DPM++ 2M Karras" or "Euler a".')],
    steps: Annotated[int, typer.Option(help="How many steps.")] = 20,
    spacing: Annotated[str | None, typer.Option(help=SPACING_HELP)] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help=OPTION_HELP)] = None,
    schedule: Annotated[str, typer.Option(help="A noise schedule: sd15, sdxl, sd3, flux, edm, ddpm, ...")] = "sd15",
    prediction: Annotated[
        str | None,
        typer.Option(
            help="What the network predicts: epsilon, v_prediction, sample, flow or edm; else as its schedule's do."
        ),
    ] = None,
    world: WorldOption = None,
    json: Annotated[Path | None, typer.Option(help="Write the plan to this file (docs/plan-format.md).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw sigma and log-SNR into this file.")] = None,
) -> None:
    """Show a sampler's steps as a table of numbers."""
    if name.endswith(".json"):
        raise ValueError(
            f"name is {name!r}, a file: expected a sampler's name. In Python print(diffusolve.Plan.from_json(text)) "
            "shows the plan in a text."
        )
    recipe = sampler_asked(name, spacing, world, option)
    if recipe.solver.adaptive:
        of_world = "" if world is None else f" --world {world}"
        raise NotPlannableError(
            f"{recipe.name} chooses its steps by looking at the data, so there is no table of its steps: see what it "
            f'does with diffusolve sample --sampler "{name}"{of_world}.'
        )
    noise = noise_schedule(schedule)
    predicts = prediction_called(prediction or PREDICTIONS.get(schedule, "epsilon"))
    if plot is not None:
        check_plot_path(plot)
    for path in (json, plot):
        if path is not None:
            check_writable(path)
    plan = recipe.plan(noise, predicts, steps)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # the formulas fit, whatever reads them
    title = f"{recipe.name} on {schedule}, {plan.prediction} prediction"
    console.print(Text(f"{title}: {sizes_of(plan)}{', stochastic' if plan.is_stochastic else ''}", style="bold"))
    console.print(table(plan, noise.scaling))
    begins = f"{plan.initial} begins as {plan.start.sigma:.6g} * noise."
    console.print(Text(f"{begins} sigma: {SIGMA[noise.scaling]}."), soft_wrap=not console.is_terminal)
    if json is not None:
        write_atomically(json, plan.to_json(indent=2).encode())
        console.print(Text(f"plan in {json}"), soft_wrap=True)
    if plot is not None:
        write_atomically(plot, encode_figure(figure(plan, noise.scaling, title), plot))
        console.print(Text(f"plot in {plot}"), soft_wrap=True)


def sigma_of(point: PlanPoint, scaling: Scaling) -> float:
    """The sigma at `point`, whatever its scaling, by the convention of `scaling`."""
    if scaling is Scaling.FLOW:
        return point.sigma / (point.alpha + point.sigma)
    return point.sigma / point.alpha if point.alpha else math.inf


def table(plan: Plan, scaling: Scaling) -> Table:
    """`plan` with a row for each evaluation: where it is, and the formulas that follow from it.

    Args:
        plan: what to show.
        scaling: the noise schedule's; says what the column sigma means.
    """
    rows = Table(box=box.SIMPLE)
    for heading in ("step", "timestep", "sigma", "log-SNR"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_column("formulas", overflow="fold")

    def add(number: str, point: PlanPoint, timestep: str, formulas: list[str]) -> None:
        numbers = (number, timestep, f"{sigma_of(point, scaling):.6g}", f"{point.log_snr:.4g}")
        rows.add_row(*numbers, Text("\n".join(formulas)))

    if plan.opening.writes:
        add("start", plan.start, "", _writes(plan.opening))
    for stage in plan.stages:
        number = f"{stage.step}" if stage.stage == 0 else f"{stage.step}.{stage.stage}"
        add(number, stage.point, f"{stage.point.timestep:.6g}", [_data(stage), *_writes(stage.update)])
    add("end", plan.end, "", [plan.result])
    return rows


def figure(plan: Plan, scaling: Scaling, title: str) -> Figure:
    """Two plots over the steps: sigma, by the convention of `scaling`, and log-SNR. Infinite values are left out."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    points = [(float(stage.step), stage.point) for stage in plan.stages if stage.stage == 0] + [(plan.steps, plan.end)]
    inner = [(stage.step + 0.5, stage.point) for stage in plan.stages if stage.stage > 0]
    sigmas = {point: sigma_of(point, scaling) for _, point in points + inner}
    log_snrs = {point: point.log_snr for _, point in points + inner}
    drawing = Figure(figsize=(9, 3.6), layout="constrained")
    drawing.suptitle(title)
    plots = {"sigma": sigmas, "log-SNR, log(alpha / sigma)": log_snrs}
    for axes, (label, value) in zip(drawing.subplots(1, 2), plots.items(), strict=True):
        axes.plot(*_drawn(points, value), marker="o", markersize=3, linewidth=1.2)
        if inner:
            axes.plot(*_drawn(inner, value), "x", markersize=4, color="tab:orange", label="evaluations inside a step")
            axes.legend(fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.grid(alpha=0.2)
    return drawing


def _drawn(points: list[tuple[float, PlanPoint]], value: dict[PlanPoint, float]) -> tuple[list[float], list[float]]:
    """The two coordinates of a line; NaN is not drawn."""
    return [step for step, _ in points], [v if math.isfinite(v := value[point]) else math.nan for _, point in points]


def _data(stage: Stage) -> str:
    """The data prediction of a stage."""
    seen = stage.sample if stage.scale == 1.0 else f"{stage.scale:.6g} {stage.sample}"
    return f"{stage.data} = {_formula([(stage.sample, stage.a), (f'network({seen})', stage.b)])}"


def _writes(update: Update) -> list[str]:
    return [f"{write.register} = {_formula(list(write.terms))}" for write in update.writes]


def _formula(terms: list[tuple[str, float]]) -> str:
    named = [("network" if source == OUTPUT else source, coefficient) for source, coefficient in terms if coefficient]
    signed = [f"{'-' if c < 0 else '+'} {'' if abs(c) == 1 else f'{abs(c):.6g} '}{source}" for source, c in named]
    return " ".join(signed).removeprefix("+ ") or "0"
