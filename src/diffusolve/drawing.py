"""Tables as HTML and curves as figures, for notebooks and pages. Needs matplotlib for pictures, and only when asked."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Level",
    "Line",
    "Panel",
    "figure_of",
    "html_table",
    "level_panels",
    "log_counts",
    "needs_matplotlib",
    "notebook",
    "svg",
]

MOST_TICKS, CLOSE = 8, 1.2
"""The most marks of a logarithmic axis at the very numbers that it shows, and the least ratio of neighbours there."""

MOST_ROWS = 24
"""The most rows of a table in a notebook; the middle of longer ones is left out."""

CELL = "padding:2px 10px;text-align:{side};white-space:nowrap;font-variant-numeric:tabular-nums"
_SETTINGS = Lock()
"""Held while matplotlib's settings, which all threads share, are others."""

STYLES = ("-", "--", ":", "-.")
COLOURS = ("#3b5bdb", "#e8590c", "#2b8a3e", "#ae3ec9", "#c2255c", "#0b7285", "#5f3dc4", "#846358")


class Line(NamedTuple):
    """A curve of points ``(x[i], y[i])``; those that are infinite or NaN are left out."""

    x: Sequence[float]
    y: Sequence[float]
    points_only: bool = False


class Level(Protocol):
    """A place on a noise schedule."""

    @property
    def sigma(self) -> float: ...
    @property
    def log_snr(self) -> float: ...


class Panel(NamedTuple):
    """One plot: its curves by their labels, what its axes say, and which of the two are logarithmic."""

    title: str
    x: str
    lines: Mapping[str, Line]
    log: str = ""
    """The axes with logarithmic scales: "", "x", "y" or "xy"."""
    whole: bool = True
    """Marks on the horizontal axis at whole numbers only."""


def needs_matplotlib(error: ImportError) -> ImportError:
    """The error that says how to get matplotlib."""
    return ImportError("plots need matplotlib: pip install 'diffusolve[plot]'.").with_traceback(error.__traceback__)


def figure_of(panels: Sequence[Panel], title: str = "", *, width: float = 4.2) -> Figure:
    """`panels` side by side, each `width` inches wide; a curve of one label has one colour in all.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure_class()(figsize=(width * len(panels), 2.9), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=10)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.lines))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel, labels)
    if len(labels) > 1:
        handles = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
        columns = min(len(labels), len(panels) * 3)
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
        )
    return figure


@lru_cache(maxsize=1)
def _figure_class() -> type[Figure]:
    """A figure that notebooks show, whichever backend of matplotlib they have chosen."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise needs_matplotlib(error) from error

    class Drawing(Figure):
        """A figure that is shown as SVG."""

        def _repr_html_(self) -> str:
            return svg(self)

    return Drawing


def _draw(axes: Axes, panel: Panel, labels: Sequence[str]) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    for label, line in panel.lines.items():
        number = labels.index(label)
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
        y = [value if math.isfinite(value) else math.nan for value in line.y]
        style = "" if line.points_only else style
        axes.plot(line.x, y, style, marker="x" if line.points_only else "o", ms=3.5, lw=1.3, color=colour, label=label)
    if "x" in panel.log:
        log_counts(axes, [x for line in panel.lines.values() for x in line.x])
    elif panel.whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "y" in panel.log and any(value > 0 for line in panel.lines.values() for value in line.y):
        axes.set_yscale("log")  # on which 0 is not drawn
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_xlabel(panel.x, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def log_counts(axes: Axes, counts: Iterable[float]) -> None:
    """Let the first axis be logarithmic, with ticks at the `counts` where these are few and not close to each other."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    ticks = sorted(set(counts))
    apart = all(after >= CLOSE * before for before, after in pairwise(ticks))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if 0 < len(ticks) <= MOST_TICKS and apart:
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def level_panels(points: Sequence[tuple[float, Level]], inner: Sequence[tuple[float, Level]] = ()) -> list[Panel]:
    """Sigma and log-SNR at points over the steps, those `inner` to steps as crosses."""

    def lines(value: Callable[[Level], float]) -> dict[str, Line]:
        drawn = {"at the beginning of a step": Line(*_values(points, value))}
        if inner:
            drawn["inside a step"] = Line(*_values(inner, value), points_only=True)
        return drawn

    sigma, log_snr = lines(lambda point: point.sigma), lines(lambda point: point.log_snr)
    return [Panel("sigma", "step", sigma), Panel("log(alpha / sigma)", "step", log_snr)]


def _values(places: Sequence[tuple[float, Level]], value: Callable[[Level], float]) -> tuple[list[float], list[float]]:
    return [step for step, _ in places], [value(point) for _, point in places]


def svg(figure: Figure) -> str:
    """`figure` as an ``<svg>`` element that shrinks with the page, its text as text."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with _SETTINGS, rc_context({"svg.fonttype": "none", "svg.hashsalt": "diffusolve", "font.family": ["DejaVu Sans"]}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    element = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    width = re.search(r'width="([\d.]+)pt"', element)
    sized = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    limit = f"max-width:{float(width[1]) * 4 / 3:.0f}px" if width else ""
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 style="width:100%;{limit};height:auto"', sized, count=1)


def html_table(
    headings: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "", *, text: int = 1, most: int = MOST_ROWS
) -> str:
    """A table of at most `most` rows; its last `text` columns are text, to the left, and the others numbers."""
    sides = ["right"] * (len(headings) - text) + ["left"] * text

    def line(tag: str, cells: Sequence[Any]) -> str:
        shown = zip(sides, cells, strict=True)
        return (
            "<tr>"
            + "".join(f'<{tag} style="{CELL.format(side=s)}">{escape(str(c))}</{tag}>' for s, c in shown)
            + "</tr>"
        )

    listed = list(rows)
    lines = [line("td", row) for row in listed]
    if len(lines) > most:
        half = most // 2
        left_out = f'<tr><td colspan="{len(headings)}" style="text-align:center">{len(lines) - 2 * half} more</td></tr>'
        lines = [*lines[:half], left_out, *lines[-half:]]
    title = (
        f'<caption style="text-align:left;padding:4px 0;white-space:nowrap">{escape(caption)}</caption>'
        if caption
        else ""
    )
    head = f"<thead>{line('th', headings)}</thead>" if any(headings) else ""
    body = f"{head}<tbody>{''.join(lines)}</tbody>"
    return f'<table style="border-collapse:collapse">{title}{body}</table>'


def notebook(table: str, panels: Sequence[Panel] = (), title: str = "") -> str:
    """A table, and below it `panels` where matplotlib is installed, as a notebook shows them."""
    try:
        picture = svg(figure_of(panels, title)) if panels else ""
    except ImportError:
        picture = ""
    return f'<div style="overflow-x:auto">{table}{picture}</div>'
