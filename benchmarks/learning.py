"""Learned plans and the catalog's best, for docs/learning.md: ``python -m benchmarks.learning``.

Each plan is learned within so many minutes of one core's time, and kept in ``benchmarks/results/learned/`` with the
account of how it was learned; the page's table and picture are made of these files. With ``--page`` nothing is learned.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.which_sampler import replace_between
from diffusolve.cli.learn import Learnable, learnable
from diffusolve.denoisers import GaussianMixtureDenoiser, load_digits_data
from diffusolve.denoisers.named import shape_of
from diffusolve.learning import learn_with_report
from diffusolve.learning.whole import PAIRS
from diffusolve.noise import SD15
from diffusolve.plan import Plan

FOLDER = Path(__file__).parent / "results" / "learned"
if TYPE_CHECKING:
    from diffusolve.learning.whole import Method

DOCS = Path(__file__).parent.parent / "docs"

BATCH = 64


def mixture_of_digits() -> GaussianMixtureDenoiser:
    """The exact denoiser of ten normal distributions with the means and mean variances of the ten digits."""
    images, labels = load_digits_data()
    classes = [images[labels == label] for label in range(10)]
    return GaussianMixtureDenoiser(SD15, [one.mean(0) for one in classes], [one.std(0).mean() for one in classes])


def taken(model: str, guidance: float) -> Learnable:
    """The model by its name, the mixture among them."""
    if model == "mixture":
        return Learnable(mixture_of_digits(), shape_of("digits"))
    return learnable(model, None, None, guidance)


def learned(
    model: str,
    steps: int,
    at_once: int,
    method: str | None,
    guidance: float,
    seed: int,
    minutes: float,
    pairs: int | None,
    iterations: int | None,
    keep: Path | None,
) -> Plan:
    """A plan, learned on one core; what it says of itself are seconds of the processor's time."""
    known = taken(model, guidance)
    plan, report = learn_with_report(
        known.network,
        torch.empty(BATCH, *known.shape),
        steps,
        method=cast("Method | None", method),  # checked there
        conditions=known.conditions,
        seed=seed,
        at_once=at_once,
        minutes=minutes,
        pairs=pairs,
        iterations=iterations,
        keep=keep,
        checkpointing=False,
        about={"model": model, "guidance": guidance, "method": method or "fit and refine"},
        clock=time.process_time,
    )
    Console(stderr=True).print(f"{model}, {steps}: {report}", highlight=False)
    return plan


def plans() -> Iterator[tuple[Plan, dict[str, Any]]]:
    """The plans that are kept, by model, guidance and evaluations, and what they say of themselves."""
    made = [Plan.from_json(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")]
    told: list[tuple[Plan, dict[str, Any]]] = [(plan, plan.extra["learned"]) for plan in made]
    yield from sorted(told, key=lambda pair: (pair[1]["model"], pair[1]["guidance"], pair[0].nfe, pair[1]["method"]))


def model_of(told: dict[str, Any]) -> str:
    """The model that a plan is for, with its guidance."""
    model: str = told["model"]
    return model + (f", guidance {told['guidance']:g}" if told["guidance"] != 1.0 else "")


def evaluations_of(plan: Plan) -> str:
    """Their number, and in how many rounds if several are asked at once."""
    return f"{plan.nfe} in {plan.depth} rounds" if plan.depth < plan.nfe else str(plan.nfe)


def way_of(told: dict[str, Any]) -> str:
    """How a plan was learned: the method, and the number of pairs if it is another than the usual."""
    if told["way"] == "kept start":
        return f"{told['method']}: the start is kept"
    usual = PAIRS["fit" if told["method"] == "fit" else "refine"][0]
    method: str = told["method"]
    return method + (f", {told['pairs']:,} pairs" if told["pairs"] > usual else "")


def seeds_table() -> str:
    """The page's table of training seeds: the parts of the catalog's best that are left, for plans of several seeds."""
    alike: dict[tuple[str, str, str], dict[int, float]] = {}
    for plan, told in plans():
        key = model_of(told), evaluations_of(plan), way_of(told)
        part = told["error"] / told["catalog"][str(told["steps"])][1]
        alike.setdefault(key, {})[told["seed"]] = part
    lines = [
        "| model | evaluations | part of the catalog's best, seed by seed | mean | standard deviation |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for (model, evaluations, _), parts in alike.items():
        if len(parts) > 1:
            each = [parts[seed] for seed in sorted(parts)]
            lines.append(
                f"| {model} | {evaluations} | {', '.join(f'{part:.2f}' for part in each)} | "
                f"{statistics.fmean(each):.2f} | {statistics.stdev(each):.2f} |"
            )
    return "\n".join(lines)


def table() -> str:
    """The page's table."""
    lines = [
        "| model | evaluations | way | best of the catalog | learned | part of it | as good in the catalog | noises "
        "| seconds |",
        "| --- | ---: | --- | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for plan, told in plans():
        if told["seed"] != 0:
            continue
        name, error = told["catalog"][str(told["steps"])]
        last = max(map(int, told["catalog"]))
        as_good = told["catalog"][str(last)]
        there = f"{as_good[0]} in {last}" if as_good[1] <= told["error"] else f"none in {last}"
        lines.append(
            f"| {model_of(told)} | {evaluations_of(plan)} | {way_of(told)} | {error:.4f}, {name} | "
            f"{told['error']:.4f} ± {told['spread']:.4f} | {told['error'] / error:.2f} | {there} | "
            f"{told['test_pairs']:,} | {told['seconds']:.0f} |"
        )
    return "\n".join(lines)


def picture() -> Figure:
    """Errors against evaluations, and levels before and after, of the digits network."""
    drawing = Figure(figsize=(9, 3.6), layout="constrained")
    errors, levels = drawing.subplots(1, 2)
    catalog: dict[int, float] = {}
    for plan, told in plans():
        if told["model"] != "digits" or told["guidance"] != 1.0 or told["seed"] != 0 or plan.depth < plan.nfe:
            continue
        for count, (_, error) in told["catalog"].items():
            catalog[int(count)] = min(error, catalog.get(int(count), error))
        marker = "s" if told["method"] == "fit and refine" else "^"
        errors.plot([plan.nfe], [told["error"]], marker, color="tab:orange", label=told["method"])
        if marker == "s":
            drawn = [stage.point.log_snr for stage in plan.stages]
            levels.plot(range(len(drawn)), drawn, marker="o", markersize=4, label=f"learned, {plan.nfe} evaluations")
    errors.plot(sorted(catalog), [catalog[count] for count in sorted(catalog)], marker="o", label="best of the catalog")
    errors.set(yscale="log", xlabel="evaluations", ylabel="distance to the exact solution")
    levels.set(xlabel="evaluation", ylabel="log-SNR, log(alpha / sigma)")
    for axes in (errors, levels):
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        axes.legend(handles.values(), handles.keys(), fontsize=8)
        axes.grid(alpha=0.2)
    return drawing


def main(
    model: Annotated[str, typer.Option(help="One of those of diffusolve sample, or mixture.")] = "digits",
    steps: Annotated[list[int] | None, typer.Option(help="Evaluations; without it 5, 6, 8 and 10.")] = None,
    at_once: Annotated[int, typer.Option(help="Evaluations of each round after the first; steps are rounds then.")] = 1,
    method: Annotated[str | None, typer.Option(help="fit or refine; both without it.")] = None,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the noises.")] = 0,
    minutes: Annotated[float, typer.Option(help="Of one core's time, for each plan.")] = 5.0,
    pairs: Annotated[int | None, typer.Option(help="To learn from; without it as many as learn() takes.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Of refining each start; as in learn() without it.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="A folder for the work in progress, one for each model, guidance and seed.")
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="Learn nothing, write the page from what is kept.")] = False,
) -> None:
    """Learn, keep, and write the page."""
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for count in [] if page else steps or [5, 6, 8, 10]:
        plan = learned(model, count, at_once, method, guidance, seed, minutes, pairs, iterations, keep)
        parts = [
            model,
            f"g{guidance:g}" if guidance != 1.0 else "",
            str(count) + (f"x{at_once}" if at_once > 1 else ""),
            method or "",
            f"p{pairs}" if pairs is not None else "",
            f"s{seed}" if seed else "",
        ]
        path = FOLDER / ("-".join(filter(None, parts)) + ".json")
        path.write_text(plan.to_json(indent=1) + "\n", encoding="utf-8")
    where = DOCS / "learning.md"
    text = where.read_text(encoding="utf-8")
    for name, lines in (("learned", table()), ("seeds", seeds_table())):
        text = replace_between(text, name, lines)
    where.write_text(text, encoding="utf-8")
    picture().savefig(DOCS / "images" / "learning.png", dpi=120)


if __name__ == "__main__":
    typer.run(main)
