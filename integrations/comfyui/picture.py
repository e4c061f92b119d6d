"""A plan as a picture: its sigmas, and the coefficients of its sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusolve import Plan
from diffusolve.plan import UNGUIDED, Stage

MOST_NUMBERS = 24
"""Coefficients are written out for as many evaluations at most; beyond, colours have to do."""


def sums(plan: Plan) -> list[dict[str, float]]:
    """For each evaluation of `plan` the next sample as a sum: source -> coefficient.

    Sources are "sample", "x0" for the data prediction just made and "x0, 1 before" for the one before it, "noise", and
    "kept" for everything else that a sampler remembers.
    """
    made_at = {stage.data: index for index, stage in enumerate(plan.stages)}
    result = []
    for index, stage in enumerate(plan.stages):
        total: dict[str, float] = {}
        for register, coefficient in _spelled_out(plan, index).items():
            source = _source(plan, stage, register, index, made_at)
            total[source] = total.get(source, 0.0) + coefficient
        result.append(total)
    return result


def _spelled_out(plan: Plan, index: int) -> dict[str, float]:
    """The next sample after evaluation `index` as a sum of what was there before it."""
    stage = plan.stages[index]
    written: dict[str, dict[str, float]] = {}
    for write in stage.update.writes:
        total: dict[str, float] = {}
        for source, coefficient in write.terms:
            for part, share in written.get(source, {source: 1.0}).items():
                total[part] = total.get(part, 0.0) + coefficient * share
        written[write.register] = total
    return written.get(plan.next_sample(index), {})


def _source(plan: Plan, stage: Stage, register: str, index: int, made_at: Mapping[str, int]) -> str:
    if register == stage.sample:
        return "sample"
    if register == UNGUIDED:
        return "x0, unguided"
    if register in made_at:
        age = index - made_at[register]
        return f"x0, {age} before" if age else "x0"
    noises = {noise.register for noise in stage.update.noises}
    return "noise" if register in noises else "kept"


def picture(plan: Plan, sigmas: list[float], title: str, logarithmic: bool) -> npt.NDArray[np.float32]:
    """Sigma at each step above, a map of coefficients below; shape (height, width, 3), from 0 to 1.

    Args:
        sigmas: at the beginning of each step and at the end, as ComfyUI has them.
        logarithmic: how sigma is drawn; 0 is then left out.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("the picture needs matplotlib: pip install 'diffusolve[plot]'.") from error
    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    figure.suptitle(title)
    upper, lower = figure.subplots(2, 1)
    upper.plot([sigma if sigma or not logarithmic else np.nan for sigma in sigmas], marker="o", markersize=3)
    upper.set(xlabel="step", ylabel="sigma", yscale="log" if logarithmic else "linear")
    upper.xaxis.set_major_locator(MaxNLocator(integer=True))
    upper.grid(alpha=0.2)
    _draw_map(figure, lower, sums(plan))
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: npt.NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3]
    return np.asarray(pixels / np.float32(255), np.float32)


def _draw_map(figure: Any, axes: Any, rows: list[dict[str, float]]) -> None:
    """The coefficients of `rows` as colours, and as numbers where they are few: evaluations across, sources down."""
    sources = sorted({source for row in rows for source in row}, key=_place)
    table = np.array([[row.get(source, np.nan) for row in rows] for source in sources])
    size = float(np.nanmax(np.abs(table)))
    shown = axes.imshow(table, aspect="auto", cmap="RdBu_r", vmin=-size, vmax=size)
    axes.set_yticks(range(len(sources)), sources)
    axes.set(xlabel="evaluation of the model", title="the next sample is the sum of", xticks=range(len(rows)))
    axes.title.set_fontsize("medium")
    if len(rows) > MOST_NUMBERS:
        axes.set_xticks(range(0, len(rows), 10))
    else:
        for (i, j), value in np.ndenumerate(table):
            if np.isfinite(value):
                colour = "white" if abs(value) > size / 2 else "black"
                axes.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(shown, ax=axes)


def _place(source: str) -> tuple[int, str]:
    """The sample above, then predictions from the newest to the oldest, then the rest."""
    order = ["sample", "x0", "x0, unguided"]
    if source in order:
        return order.index(source), ""
    return (10 + int(source.split()[1]), "") if source.startswith("x0, ") else (10_000, source)
