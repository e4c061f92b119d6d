"""The measurements of ``docs/which-sampler.md``, written into it: ``python -m benchmarks.which_sampler``."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console

from diffusolve import sampler
from diffusolve.catalog import CATALOG, SCHEDULE_TYPES
from diffusolve.cli.main import main as diffusolve
from diffusolve.comparing.cells import steps_of_column
from diffusolve.denoisers import DatasetDenoiser, load_digits_data
from diffusolve.denoisers.load import load_model
from diffusolve.errors import unknown_name
from diffusolve.noise import SD15, FlowMatching
from diffusolve.sampling import sample, start

PAGE = Path(__file__).parent.parent / "docs" / "which-sampler.md"

LEARNED = Path(__file__).parent / "results" / "learned"

EVALUATIONS = (5, 10, 20, 50)

Images = npt.NDArray[np.float64]
"""Images as rows of pixels, shape (count, 64)."""

FEW = ("Euler", "DPM++ 2M", "DPM++ 3M", "UniPC", "DEIS", "iPNDM", "Heun", "DPM fast")
"""Deterministic samplers for the tables that go through another setting."""

BOTH_KINDS = (
    "Euler",
    "Heun",
    "DPM++ 2M",
    "UniPC",
    "DEIS",
    "Euler a",
    "DPM++ 2S a",
    "DPM++ SDE",
    "DPM++ 2M SDE",
    "DPM++ 3M SDE",
    "ER-SDE",
    "SEEDS-2",
    "SA-Solver",
    "LCM",
)
"""Deterministic and stochastic samplers for the tables of distributions."""

WITH_STEPS = tuple(
    name for name, entry in CATALOG.items() if not (entry.solver.adaptive or dict(entry.solver.options).get("cfg_pp"))
)

COUNT = 1000
"""Samples for each number in the tables of distributions; half as many from the network."""

SHIFTS = (1.0, 3.0, 6.0)
"""Of flow matching."""

Table = dict[str, dict[str, float]]
"""Row -> column -> number; NaN where there is none."""


# Distance to the exact solution


def distances(arguments: Sequence[str]) -> dict[str, dict[int, tuple[float, int]]]:
    """What ``diffusolve compare ARGUMENTS --error`` measures: sampler -> column -> (distance, evaluations taken)."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {ending: str(Path(folder) / f"made.{ending}") for ending in ("png", "pdf", "json")}
        written = ("--out", paths["png"], "--error", paths["pdf"], "--json", paths["json"])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                diffusolve(["compare", *arguments, *written])
        except SystemExit as stop:
            if stop.code:
                raise
        made = json.loads(Path(paths["json"]).read_text(encoding="utf-8"))
    return {
        one["name"]: {
            cell["column"]: (nan if cell["error"] is None else cell["error"], cell["evaluations"])
            for cell in one["columns"]
        }
        for one in made["samplers"]
        if any(cell["error"] is not None for cell in one["columns"])
    }


def distance_table(model: str) -> Table:
    """All deterministic samplers on Karras sigmas, a column for each number of evaluations."""
    columns = [*map(str, EVALUATIONS)]
    made = distances(["--all", "--model", model, "--spacing", "Karras", "--num", "40", "--evaluations", *columns])
    table = {
        name.removesuffix(" Karras"): {
            # An adaptive sampler takes what it needs: not comparable where that is more than the column allows.
            f"{count}": distance if taken <= count else nan
            for count, (distance, taken) in cells.items()
        }
        for name, cells in made.items()
    }
    learned = {f"{count}": learned_distance(model, count) for count in EVALUATIONS}
    return table | ({} if all(map(isnan, learned.values())) else {"learned for this network": learned})


def learned_distance(model: str, count: int) -> float:
    """The distance of the plan that ``benchmarks.learning`` keeps for so many evaluations; NaN if none was learned."""
    path = LEARNED / f"{model}-{count}.json"
    if not path.exists() or json.loads(path.read_text(encoding="utf-8"))["learned"]["way"] == "kept start":
        return nan
    ((distance, _),) = distances(["--plan", str(path), "--model", model, "--num", "40"])[path.name].values()
    return distance


def spacing_table(model: str) -> Table:
    """Schedule types down, samplers and 10 and 20 evaluations across."""
    names = [name for name in FEW if not CATALOG[name].spaces_itself]
    table: Table = {}
    for schedule_type in SCHEDULE_TYPES:
        try:
            SCHEDULE_TYPES[schedule_type].spacing.grid(SD15, 10)
        except ValueError:  # for flow matching alone
            continue
        settings = ["--model", model, "--spacing", schedule_type, "--num", "40", "--evaluations", "10", "20"]
        made = distances([*names, *settings])
        table[schedule_type] = {
            f"{name}, {count}": made[f"{name} {schedule_type}"][count][0] for name in names for count in (10, 20)
        }
    return table


def guidance_table(model: str) -> Table:
    """Samplers down, guidance scales and 10 and 20 evaluations across."""
    table: Table = {name: {} for name in FEW}
    for count in (10, 20):
        for scale in (1, 3, 7):
            settings = ["--model", model, "--spacing", "Karras", "--guidance", f"{scale}", "--num", "40"]
            made = distances([*FEW, *settings, "--evaluations", f"{count}"])
            for name in FEW:
                table[name][f"scale {scale}, {count}"] = made[f"{name} Karras"][count][0]
    return table


# Distance between distributions


def frechet(made: Images, data: Images) -> float:
    """Frechet distance between normal distributions with the images' means and covariances: FID, but of pixels."""
    cov_made, cov_data = np.cov(made.T), np.cov(data.T)
    values, vectors = np.linalg.eigh(cov_made)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_data @ root).clip(0)).sum()
    apart = float(((made.mean(0) - data.mean(0)) ** 2).sum())
    return apart + float(np.trace(cov_made) + np.trace(cov_data) - 2 * cross)


def frechet_row(network: Any, name: str, spacing: str, count: int, columns: Sequence[int]) -> dict[int, float]:
    """Number of evaluations -> Frechet distance of `count` samples to the data.

    Args:
        network: makes digits, shape (count, 1, 8, 8).
        name: the sampler's.
        spacing: the schedule type.
        count: how many samples.
        columns: numbers of evaluations.
    """
    recipe, data, seeds = sampler(name, spacing), rows_of_pixels(load_digits_data()[0]), list(range(count))
    row = {}
    for column in columns:
        try:
            steps = steps_of_column(recipe, network, column, "evaluations")
        except ValueError:  # not in so few evaluations
            row[column] = nan
            continue
        x = start(recipe.grid(network.noise_schedule, steps or 1), torch.empty(count, 1, 8, 8), seeds)
        row[column] = frechet(rows_of_pixels(sample(network, x, recipe, steps=steps, noise=seeds).numpy()), data)
    return row


def frechet_table(model: str, names: Sequence[str], count: int) -> Table:
    """Samplers on Karras sigmas down, evaluations across; for a model of ``diffusolve compare``."""
    network = load_model(model, count, prompt=None, label=None, guidance=1.0).network
    return {
        name: {f"{column}": number for column, number in made.items()}
        for name in names
        for made in [frechet_row(network, name, "Karras", count, EVALUATIONS)]
    }


def flow_table(count: int = COUNT) -> Table:
    """Samplers down; shifts of flow matching and evaluations across. The denoiser is the exact one of all digits."""
    table: Table = {name: {} for name in BOTH_KINDS}
    for shift in SHIFTS:
        network = DatasetDenoiser(FlowMatching(shift=shift), load_digits_data()[0])
        for name in BOTH_KINDS:
            made = frechet_row(network, name, "Uniform", count, EVALUATIONS[:3])
            table[name] |= {f"shift {shift:g}, {column}": number for column, number in made.items()}
    return table


def rows_of_pixels(images: npt.NDArray[Any]) -> Images:
    return np.asarray(images, np.float64).reshape(len(images), -1)


def real(count: int) -> float:
    """Frechet distance to all digits that 95 of 100 random choices of `count` digits stay under."""
    data, drawn = rows_of_pixels(load_digits_data()[0]), np.random.default_rng(0)
    made = [frechet(data[drawn.integers(len(data), size=count)], data) for _ in range(100)]
    return float(np.quantile(made, 0.95))


# The page


def markdown(table: Mapping[str, Mapping[str, float]], heading: str, good: float | None = None) -> str:
    """`table` with two digits; in bold what is no more than `good`, or the least number of each column without it."""
    columns = list(next(iter(table.values())))
    least = {column: min(row[column] for row in table.values() if not isnan(row[column])) for column in columns}
    lines = [f"| {heading} | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, row in table.items():
        bold = {column: row[column] <= (least[column] if good is None else good) for column in columns}
        cells = [f"**{digits(row[column])}**" if bold[column] else digits(row[column]) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def distributions(table: Table, count: int) -> str:
    """A table of Frechet distances, and how far real digits are."""
    near = real(count)
    return (
        f"{markdown(table, 'sampler', near)}\n\n{count} samples each. Of 100 random choices of {count} real digits, 95 "
        f"are nearer than {digits(near)}: bold numbers are no further, and say nothing about each other."
    )


def digits(number: float) -> str:
    """A number with two digits, as tables have it."""
    if isnan(number):
        return "-"
    return f"{number:.1e}" if 0.0 < number < 1e-3 else f"{number:.2g}"


def replace_between(text: str, name: str, content: str) -> str:
    """`text` with `content` between the comments ``<!-- begin NAME -->`` and ``<!-- end NAME -->``."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{PAGE} must have {begin} and {end} once each.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


MEASUREMENTS: Mapping[str, Callable[[], str]] = {
    "distance-digits": lambda: markdown(distance_table("digits"), "sampler"),
    "distance-exact": lambda: markdown(distance_table("exact"), "sampler"),
    "distance-emoji": lambda: markdown(distance_table("emoji"), "sampler"),
    "spacings": lambda: markdown(spacing_table("digits"), "schedule type"),
    "spacings-emoji": lambda: markdown(spacing_table("emoji"), "schedule type"),
    "guidance": lambda: markdown(guidance_table("digits"), "sampler"),
    "guidance-emoji": lambda: markdown(guidance_table("emoji"), "sampler"),
    "frechet-exact": lambda: distributions(frechet_table("exact", WITH_STEPS, COUNT), COUNT),
    "frechet-digits": lambda: distributions(frechet_table("digits", BOTH_KINDS, COUNT // 2), COUNT // 2),
    "flow": lambda: distributions(flow_table(), COUNT),
}
"""Name of a table of the page -> its Markdown."""


def main(
    tables: Annotated[list[str] | None, typer.Argument(help="Only these; without names all of them.")] = None,
) -> None:
    """Measure, and write the tables into the page."""
    names = tables or list(MEASUREMENTS)
    for name in names:
        if name not in MEASUREMENTS:
            raise unknown_name("table", name, MEASUREMENTS)
    torch.set_num_threads(1)  # the network is small: more threads would only wait for each other
    console = Console(stderr=True)
    for name in names:
        console.print(f"measuring {name}", highlight=False)
        made = MEASUREMENTS[name]()
        PAGE.write_text(replace_between(PAGE.read_text(encoding="utf-8"), name, made), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
