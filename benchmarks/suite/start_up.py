"""Area `import`: what importing costs, in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import diffusolve
from benchmarks.suite.machine import machine
from benchmarks.suite.peers import diffusers, missing
from benchmarks.suite.result import Figure, Goal, Result, Table
from benchmarks.suite.settings import Settings
from benchmarks.suite.timing import Effort, Loop, interleaved

__all__ = ["IMPORTS", "fresh_import", "measure", "names"]

MILLI = 1e3
COLUMN = "import"


class Import(NamedTuple):
    """An import here and its like there, after another that does not count, and the goal in milliseconds."""

    before: str
    here: str
    there: str
    goal: float


IMPORTS = {
    "diffusolve": Import("pass", "import diffusolve", "import diffusers", 150.0),
    "a scheduler class": Import(
        "import torch",
        "from diffusolve import EulerDiscreteScheduler",
        "from diffusers import EulerDiscreteScheduler",
        100.0,
    ),
}
"""What can be measured."""


def names() -> tuple[str, ...]:
    """What can be measured."""
    return tuple(IMPORTS)


def measure(settings: Settings) -> Result:
    """Measure it."""
    library = diffusers()
    rounds = 2 if settings.effort.quick else 5
    effort = Effort(settings.effort.quick, 60.0, rounds, rounds)
    figures, goals = [], []
    for name, case in IMPORTS.items():
        if not settings.wants(name):
            continue
        settings.tell(f"import: {name}")
        contestants: dict[str, Loop] = {"here": fresh_import(case.before, case.here)}
        if library is not None:
            contestants["there"] = fresh_import(case.before, case.there)
        medians, rounds = interleaved(contestants, effort)
        theirs = medians["there"] * MILLI if "there" in medians else None
        row = case.here if case.before == "pass" else f"{case.here}, after {case.before}"
        figure = Figure(row, COLUMN, medians["here"] * MILLI, theirs, rounds=rounds, details={"there": case.there})
        figures.append(figure)
        milliseconds = figure.here or 0.0
        goals.append(Goal(row, f"at most {case.goal:g} ms", f"{milliseconds:.0f} ms", milliseconds <= case.goal))
    tables = (Table("import", "Milliseconds of an import", "ms", library and "diffusers", tuple(figures)),)
    notes = () if library else (missing("diffusers"),)
    return Result("import", settings.effort.quick, machine(), tables if figures else (), tuple(goals), notes)


def fresh_import(before: str, statement: str) -> Loop:
    """The seconds of an import `statement` in a new interpreter, after the statement `before`."""
    timed = ("begun = time.perf_counter()", statement, "print('seconds', time.perf_counter() - begun)")
    script = "\n".join(("import time", before, *timed))
    folder = str(Path(diffusolve.__file__).parent.parent)  # so that it imports this package and no other
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # byte code is there, as it is for installed packages

    def loop() -> float:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300, env=environment
        )
        if done.returncode:
            raise ImportError(f"{statement!r} fails in a new interpreter: {done.stderr.strip().splitlines()[-1]}")
        return float(done.stdout.rpartition("seconds ")[2])

    return loop
