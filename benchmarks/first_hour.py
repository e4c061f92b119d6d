"""The first hour of a user, in new virtual environments: ``python -m benchmarks.first_hour``.

Builds the wheel, and for each interpreter that is there installs it without extras, beside the oldest NumPy that it
takes, and with each extra; then it does what a user does first, and makes the commonest mistakes. Prints a row for
each, and exits with status 1 if any failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent

ALONE = """
import diffusolve
plan = diffusolve.sampler("DPM++ 2M Karras").plan("sdxl", "epsilon", 5)
assert diffusolve.Plan.from_json(plan.to_json()) == plan and len(repr(plan)) < 200
import numpy as np
x = diffusolve.start(plan, np.empty((2, 3), np.float32), [0, 1])
assert np.isfinite(diffusolve.sample(lambda x, t: 0.1 * x, x, plan)).all()

def says(call, *words):
    try:
        call()
    except Exception as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(f"nothing was wrong with {words}")

says(lambda: diffusolve.sampler("DPM+ 2M Karas"), "DPM++ 2M Karras")
says(lambda: diffusolve.sampler("Euler").plan("sd51", "epsilon", 5), "sd15")
says(lambda: diffusolve.sampler("Euler").plan("sd15", "eps", 5), "epsilon")
says(lambda: diffusolve.sampler("Euler a", etta=1), "eta")
says(lambda: diffusolve.EulerScheduler, "Euler")
"""

WITHOUT_TORCH = """
says(lambda: diffusolve.EulerDiscreteScheduler, "diffusolve[torch]")
"""

TORCH = """
import torch
scheduler = diffusolve.EulerDiscreteScheduler()
scheduler.set_timesteps(3)
x = torch.randn(1, 4, 8, 8) * scheduler.init_noise_sigma
for t in scheduler.timesteps:
    x = scheduler.step(0.1 * scheduler.scale_model_input(x, t), t, x).prev_sample
assert x.isfinite().all()
says(lambda: scheduler.set_timesteps(-1), "-1")
says(lambda: diffusolve.EulerDiscreteScheduler(beta_schedule="scaled"), "scaled_linear")
from diffusolve import k_diffusion
sigmas = k_diffusion.sampling.get_sigmas_karras(4, 0.03, 14.6)
k_diffusion.sampling.sample_heun(lambda x, s, **kw: 0.5 * x, torch.randn(1, 4), sigmas, disable=True)
"""

SCIPY = 'diffusolve.sampler("Euler", "Beta").plan("sd15", "epsilon", 5)\n'

LAB = """
from urllib.request import urlopen
from diffusolve.lab.serve import launch
page, address = launch("gaussian", port=0)
assert urlopen(address).status == 200
page.close()
says(lambda: launch("gausian"), "gaussian")
comparison = diffusolve.compare(["Euler", "UniPC"], (3,), model="gaussian", num=1)
assert len(comparison.rows) == 2 and "<svg" in comparison._repr_html_()
"""

WITHOUT_LAB = """
from diffusolve.lab.serve import launch
says(lambda: launch("gaussian"), "diffusolve[lab]")
"""

PROGRAMS = {
    "": ALONE + WITHOUT_TORCH,
    "torch": ALONE + TORCH,
    "scipy": ALONE + SCIPY,
    "cli": ALONE + TORCH + WITHOUT_LAB,
    "lab": ALONE + TORCH + LAB,
}
"""Extra -> what is tried with it."""

COMMANDS = {
    "cli": (
        ("--version",),
        ("list", "karras"),
        ("plan", "DPM++ 2M Karras", "--steps", "4"),
        ("sample", "--num", "1", "--steps", "2", "--option", "lower_order_final=True"),
    )
}
"""Extra -> command lines of the program."""


class Setting(NamedTuple):
    """An interpreter, an extra, and what else is installed."""

    python: str
    extra: str
    beside: str = ""


def alone() -> dict[str, str]:
    """The environment without what lets an interpreter find packages that are not installed in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def tried(setting: Setting, wheel: Path, constraints: Path | None) -> str:
    """What went wrong in a new virtual environment; nothing where it all went well."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        programs = home / "venv" / "bin"
        what = f"{wheel}[{setting.extra}]" if setting.extra else str(wheel)
        pinned: list[str | Path] = ["-c", constraints] if constraints else []
        install = [programs / "python", "-m", "pip", "install", "-q", *pinned]
        (home / "first.py").write_text(PROGRAMS[setting.extra], encoding="utf-8")
        commands: list[Sequence[str | Path]] = [
            [setting.python, "-m", "venv", home / "venv"],
            [*install, what, *([setting.beside] if setting.beside else [])],
            [programs / "python", home / "first.py"],
            *([programs / "diffusolve", *line] for line in COMMANDS.get(setting.extra, ())),
        ]
        for command in commands:
            run = subprocess.run([str(word) for word in command], cwd=home, env=alone(), capture_output=True, text=True)
            if run.returncode != 0:
                return (run.stderr or run.stdout).strip().splitlines()[-1]
    return ""


def main(
    python: Annotated[list[str] | None, typer.Option(help="Interpreters; without it 3.10 to 3.13, if there.")] = None,
    extras: Annotated[str, typer.Option(help="For the first of them, with commas between.")] = "torch,scipy,cli,lab",
    constraints: Annotated[Path | None, typer.Option(help="A file for pip.")] = None,
) -> None:
    """Install the wheel in new environments, and do there what a user does first."""
    found = python or [name for minor in (10, 11, 12, 13) if (name := shutil.which(f"python3.{minor}"))]
    settings = [Setting(name, "") for name in found]
    settings += [Setting(found[0], extra) for extra in extras.split(",") if extra]
    settings += [Setting(found[0], "", "numpy==1.26.4")]
    table = Table("interpreter", "extra", "beside", "seconds", "")
    constraints = constraints and constraints.resolve()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        # A copy, since a folder build/ that is there would bring files along that are there no more.
        source = shutil.copytree(ROOT, Path(folder) / "source", ignore=shutil.ignore_patterns(".*", "build", "*.so"))
        build = [found[0], "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(source)]
        subprocess.run(build, env=alone(), check=True)
        wheel = next(Path(folder).glob("*.whl"))
        size = wheel.stat().st_size / 1e6
        for setting in settings:
            begun = time.perf_counter()
            wrong = tried(setting, wheel, constraints)
            failed |= bool(wrong)
            seconds = f"{time.perf_counter() - begun:.0f}"
            table.add_row(Path(setting.python).name, setting.extra, setting.beside, seconds, wrong or "passed")
    console = Console()
    console.print(table)
    console.print(f"{wheel.name}: {size:.1f} MB", highlight=False)
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(main)
