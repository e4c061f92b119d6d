"""What notebooks show of the library's values, and the notebooks of the documentation."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

import diffusolve
from benchmarks.notebooks import FOLDER, executed
from diffusolve import drawing
from diffusolve.noise.variance_preserving import TabulatedSignal

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def shown() -> dict[str, Any]:
    """A value of each kind that notebooks show."""
    return {
        "plan": diffusolve.sampler("DPM++ 2M Karras").plan("sd15", "epsilon", 20),
        "plan with inner evaluations, from infinite noise": diffusolve.sampler("Heun").plan("sd3", "flow", 5),
        "plan with noise": diffusolve.sampler("Euler a").plan("edm", "edm", 40),
        "grid": diffusolve.sampler("Euler").grid("sd15", 8),
        "sampler": diffusolve.sampler("UniPC"),
        "adaptive sampler": diffusolve.sampler("DPM adaptive"),
        "sampler of its own steps": diffusolve.sampler("Euler", diffusolve.spacing.Sigmas((80.0, 1.0, 0.0))),
        "scheduler": diffusolve.FlowMatchEulerDiscreteScheduler(),
        "scheduler with betas": diffusolve.EulerDiscreteScheduler(),
        "catalog": diffusolve.CATALOG,
        **diffusolve.NOISE_SCHEDULES,
    }


def test_values_are_tables_and_pictures_in_a_notebook() -> None:
    wrong = []
    for name, value in shown().items():
        html = value._repr_html_()
        if "<table" not in html or len(html) > 120_000:
            wrong.append(f"{name}: {len(html)} characters")
        for picture in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
            ET.fromstring(picture)
        if len(repr(value)) > 300 and "scheduler" not in name:
            wrong.append(f"{name}: its repr has {len(repr(value))} characters")
    assert wrong == []


def test_without_matplotlib_there_are_tables_only_and_plots_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing._figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for value in shown().values():
        html = value._repr_html_()
        assert "<table" in html
        assert "<svg" not in html
    with pytest.raises(ImportError, match=r"diffusolve\[plot\]"):
        diffusolve.SD15.plot()


def test_plots_have_what_they_say() -> None:
    plan = diffusolve.sampler("Heun").plan("edm", "edm", 5)
    sigma, log_snr = plan.plot().axes
    assert list(sigma.lines[0].get_ydata()) == list(plan.sigmas)
    assert len(sigma.lines[1].get_ydata()) == plan.nfe - plan.steps
    assert log_snr.get_title(loc="left") == "log(alpha / sigma)"
    grid = diffusolve.sampler("Euler").grid("sd15", 8)
    assert list(grid.plot().axes[0].lines[0].get_ydata()) == [point.sigma for point in grid]
    timesteps = diffusolve.SD15.plot().axes[0].lines[0].get_xdata()
    assert (min(timesteps), max(timesteps)) == (0, 999)
    assert plan.plot()._repr_html_().startswith("<svg")


def test_a_plans_table_has_a_row_for_each_evaluation() -> None:
    plan = diffusolve.sampler("Euler a").plan("sd15", "epsilon", 4)
    html = plan.table_html()
    assert html.count("<tr>") == 1 + plan.nfe + 1
    assert "x1 = " in html
    long = diffusolve.sampler("Euler").plan("sd15", "epsilon", 100).table_html()
    assert "more</td>" in long


def test_a_table_of_alphas_is_short_in_errors() -> None:
    assert repr(TabulatedSignal((0.99, 0.5, 0.0))) == "TabulatedSignal(3 timesteps, alpha^2 0.99 to 0)"


def test_notebooks_run_and_show_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient", reason="notebooks are executed with nbclient")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(diffusolve.__file__).parent.parent)]))
    wrong = []
    for path, run in zip(NOTEBOOKS, executed(NOTEBOOKS), strict=True):
        kept = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert sum(bool(cell.get("outputs")) for cell in kept) >= 3, path.stem
        for before, now in zip(kept, run.cells, strict=True):
            if before["cell_type"] == "code":
                kinds = [[sorted(output.get("data", ["text"])) for output in cell["outputs"]] for cell in (before, now)]
                if kinds[0] != kinds[1]:
                    wrong.append((path.stem, before["source"], *kinds))
    assert wrong == []


def test_a_logarithmic_axis_is_marked_at_its_numbers_where_these_are_few_and_apart() -> None:
    def ticks(counts: list[int]) -> list[float]:
        line = drawing.Line(counts, [1.0] * len(counts))
        return list(drawing.figure_of([drawing.Panel("", "", {"": line}, "x")]).axes[0].get_xticks())

    assert ticks([4, 6, 8]) == [4, 6, 8]
    assert {10, 20} <= set(ticks([9, 10, 19, 20])) - {9, 19}
