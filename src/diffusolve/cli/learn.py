"""The command `diffusolve learn`."""

from __future__ import annotations

import sys
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer
from rich.console import Console
from rich.text import Text

from diffusolve.cli.checks import check_asked, plan_in
from diffusolve.cli.classes import MODEL_HELP, MODELS
from diffusolve.cli.plot import check_plot_path, encode_figure
from diffusolve.denoisers.named import check_model, classes_of, is_named, label_of
from diffusolve.files import check_writable, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from diffusolve.learning import LearningReport
    from diffusolve.learning.whole import Levels, Method
    from diffusolve.plan import Plan

__all__ = ["Learnable", "figure", "learn_command", "learnable"]

HELD_OUT = 4
"""Of so many prompts one is held out for validation and test, where there are as many."""


class Learnable(NamedTuple):
    """A model as learning takes it: the network, the shape of a sample, conditions to learn from and held out."""

    network: Any
    shape: tuple[int, ...]
    conditions: tuple[Any, ...] = ()
    held_out: tuple[Any, ...] | None = None


def learn_command(
    out: Annotated[Path, typer.Option(help="Where the plan goes, as JSON (docs/plan-format.md).")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "digits",
    steps: Annotated[int, typer.Option(help="How many times the plan waits for the network.")] = 5,
    at_once: Annotated[
        int,
        typer.Option(help="Evaluations of each round after the first, for hardware that answers them as soon as one."),
    ] = 1,
    method: Annotated[
        str | None,
        typer.Option(help="fit (no gradients) or refine (gradients alone); both, one after the other, else."),
    ] = None,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 is none.")] = 1.0,
    label: Annotated[
        str | None, typer.Option("--class", help="Learn for this class only; all in turn without it.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="For text-to-image pipelines: a text file with a prompt on each line.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="A plan to begin from, in place of the best of the catalog.")
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(help="Pairs of noise and exact sample to learn from; else what a quarter of the time pays."),
    ] = None,
    teacher_steps: Annotated[
        int | None, typer.Option(help="Steps of the exact solution; else as many as it takes.")
    ] = None,
    levels: Annotated[
        str,
        typer.Option(help="Of a fit: search (over curves), or path (by the teacher's path alone; for dear networks)."),
    ] = "search",
    keep: Annotated[
        Path | None,
        typer.Option(help="A folder for the work in progress: learning that was stopped goes on from there."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Other seeds learn from other noises.")] = 0,
    minutes: Annotated[float, typer.Option(help="The time that all of it may take, about.")] = 5.0,
    batch: Annotated[int, typer.Option(help="The most samples that the network is asked about at once.")] = 64,
    workers: Annotated[int, typer.Option(help="Processes that make the pairs; 1 makes them in this one.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Workers are Ray actors, on this machine or RAY_ADDRESS.")] = False,
    ray_address: Annotated[str | None, typer.Option(help="Workers are Ray actors of the cluster there.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw errors and levels into this file.")] = None,
) -> None:
    """Learn a plan: the same images in fewer evaluations of the network.

    Ctrl-C ends it; the best plan until then is written. With --keep the same command goes on from there, and commands
    for other numbers of steps take the exact samples from there.
    """
    check_asked({"steps": steps, "at-once": at_once, "batch": batch, "workers": workers}, 1, seed, guidance)
    check_writable(out)
    if plot is not None:
        check_plot_path(plot)
        check_writable(plot)
        if plot.resolve() == out.resolve():
            raise ValueError(f"plot and out are both {out}: expected two files.")
    told = _prompts(prompts)

    import torch

    from diffusolve.learning import learn_with_report

    begun = None if start is None else plan_in(start)
    known = learnable(model, label, told, guidance)

    def write(plan: Plan) -> None:
        write_atomically(out, plan.to_json(indent=2).encode())

    plan, report = learn_with_report(
        known.network,
        torch.empty(batch, *known.shape),
        steps,
        method=cast("Method | None", method),  # checked there
        conditions=known.conditions,
        held_out=known.held_out,
        start=begun,
        pairs=pairs,
        teacher_steps=teacher_steps,
        seed=seed,
        minutes=minutes,
        levels=cast("Levels", levels),
        at_once=at_once,
        keep=keep,
        checkpointing=model not in MODELS,
        about={"model": model, "guidance": guidance, "class": label, "prompts": None if told is None else len(told)},
        on_best=write,
        progress=sys.stderr.isatty(),  # logs are for what happened
        workers=workers,
        ray=ray,
        ray_address=ray_address,
    )
    write(plan)
    console = Console()
    console.print(Text(str(report)), soft_wrap=True, highlight=False)
    console.print(Text(f"plan in {out}"), soft_wrap=True)
    if plot is not None:
        write_atomically(plot, encode_figure(figure(plan, report, model), plot))
        console.print(Text(f"plot in {plot}"), soft_wrap=True)


def _prompts(path: Path | None) -> list[str] | None:
    """The lines of a file that are not empty. Raises ValueError if there are none."""
    if path is None:
        return None
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: expected a prompt on each line.")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no prompts: expected one on each line.")
    return lines


def learnable(model: str, label: str | None, prompts: list[str] | None, guidance: float) -> Learnable:
    """The network of `model`, with the conditions to learn for.

    Raises:
        UnknownNameError: no such model or class.
        ValueError: an option that the model has no use for.
    """
    import torch

    from diffusolve.denoisers.load import load_model
    from diffusolve.denoisers.named import conditional_denoiser
    from diffusolve.learning import Guided

    check_model(model)
    if not is_named(model):
        return _of_pipeline(model, label, prompts, guidance)
    if prompts is not None:
        raise ValueError(f"the {model} model takes no prompts.")
    loaded = load_model(model, 1, prompt=None, label=label, guidance=guidance)
    if not classes_of(model):
        return Learnable(loaded.network, loaded.shape)
    count = len(classes_of(model))
    labels = torch.arange(count) if label is None else torch.tensor([label_of(model, label)])
    network = Guided(conditional_denoiser(model), torch.tensor([count]), guidance)
    return Learnable(network, loaded.shape, (labels,))


def _of_pipeline(path: str, label: str | None, prompts: list[str] | None, guidance: float) -> Learnable:
    """The network of a pipeline, with the embeddings of `prompts`."""
    from diffusolve.denoisers import ClassifierFreeGuidance
    from diffusolve.denoisers.pipeline import load_pipeline
    from diffusolve.learning import Guided

    number = None if label is None else label_of(path, label)
    if prompts is None:
        loaded = load_pipeline(path, 1, label=number, guidance=guidance)
        if number is not None:
            raise ValueError("a class of a pipeline cannot be learned for yet: use diffusolve.learn in Python.")
        return Learnable(loaded.network, loaded.shape)
    loaded = load_pipeline(path, 1, prompt=prompts, label=number, guidance=guidance)
    guided = loaded.network
    assert isinstance(guided, ClassifierFreeGuidance)
    rows = guided.condition
    none = guided.both[:1]
    network = Guided(guided.network, none, guidance)
    if len(prompts) < HELD_OUT:
        return Learnable(network, loaded.shape, (rows,))
    apart = [i for i in range(len(prompts)) if i % HELD_OUT == HELD_OUT - 1]
    rest = [i for i in range(len(prompts)) if i % HELD_OUT != HELD_OUT - 1]
    return Learnable(network, loaded.shape, (rows[rest],), (rows[apart],))


def figure(plan: Plan, report: LearningReport, model: str) -> Figure:
    """Two plots: errors against evaluations, the catalog's best and the learned plan's; levels before and after."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawing = Figure(figsize=(9, 3.6), layout="constrained")
    drawing.suptitle(f"A plan of {report.steps} evaluations, learned for {model}")
    errors, log_snrs = drawing.subplots(1, 2)
    counts = list(report.catalog)
    errors.plot(counts, [error for _, error in report.catalog.values()], marker="o", label="best of the catalog")
    errors.errorbar([plan.nfe], [report.error], [report.spread], marker="s", color="tab:orange", label="learned")
    errors.set_yscale("log")
    errors.set_xlabel("evaluations")
    errors.set_ylabel("distance to the exact solution")
    errors.legend(fontsize=8)
    learned = [stage.point.log_snr for stage in plan.stages]
    for numbers, name in ((report.start_levels, report.start), (learned, f"learned ({report.way})")):
        finite = [value if isfinite(value) else nan for value in numbers]
        log_snrs.plot(range(len(finite)), finite, marker="o", markersize=4, label=name)
    log_snrs.set_xlabel("evaluation")
    log_snrs.set_ylabel("log-SNR, log(alpha / sigma)")
    log_snrs.legend(fontsize=8)
    for axes in (errors, log_snrs):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.2)
    return drawing
