"""The code in the pages: every block is run as it stands, and prints what the page says that it prints.

A block after ``<!-- not run: REASON -->`` is only read; command lines in it must still be ones that the program takes.
"""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import expm1
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
import typer

import diffusolve
from diffusolve.backends import Run
from diffusolve.cli.main import main
from diffusolve.errors import SingularPointError
from diffusolve.noise import Grid
from diffusolve.prediction import Prediction
from diffusolve.sampling import Sampler
from diffusolve.solvers import dpmpp_multistep
from diffusolve.solvers.exponential import data_step, z_phi
from diffusolve.solvers.past import Past
from diffusolve.solvers.requests import Evaluate, SolverRun, Value
from diffusolve.solvers.solver import solver
from diffusolve.spacing import Karras
from diffusolve.spacing.by_timestep import IndexSpacing

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NOT_RUN = r"<!-- not run: (?P<reason>[^\n]+?) -->"
BLOCK = re.compile(
    rf"(?:^ *{NOT_RUN}\n\n?)?^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A block of code: its language, its lines without indentation, the line it begins at, and why it is not run."""

    language: str
    code: str
    line: int
    reason: str | None


def blocks(page: str) -> list[Block]:
    """The blocks of a page. A page that begins with the comment ``not run`` has it for each of them."""
    whole = re.match(rf"# .*\n\n{NOT_RUN}\n\n(?!```)", page)
    return [
        Block(
            found["language"],
            textwrap.dedent(found["code"]),
            page.count("\n", 0, found.start("code")) + 1,
            found["reason"] or (whole and whole["reason"]),
        )
        for found in BLOCK.finditer(page)
    ]


def network(x: Any, timestep: Any, *conditions: Any, **others: Any) -> Any:
    """A network of epsilon that is cheap."""
    return 0.1 * x


class LatentDiffusionModel:
    """What k-diffusion's wrapper for CompVis' models wants."""

    alphas_cumprod = torch.linspace(0.999, 0.005, 1000)

    def apply_model(self, x: torch.Tensor, timestep: torch.Tensor, cond: object) -> torch.Tensor:
        return 0.1 * x


def recipes() -> dict[str, Any]:
    """The names in the recipes of a solver, a spacing and a prediction type."""
    names: dict[str, Any] = {"Grid": Grid, "pairwise": pairwise, "expm1": expm1, "solver": solver}
    names |= {"Evaluate": Evaluate, "SolverRun": SolverRun, "Value": Value}
    names |= {"Past": Past, "data_step": data_step, "z_phi": z_phi}
    names |= {"dataclass": dataclass, "ClassVar": ClassVar, "Array": np.ndarray, "np": np}
    return names | {"IndexSpacing": IndexSpacing, "Prediction": Prediction, "SingularPointError": SingularPointError}


def check_recipes(names: Mapping[str, Any]) -> None:
    """The solver is DPM++ 2M in its form "heun", the spacing and the prediction type what their formulas say."""
    timesteps = names["Quadratic"]().grid(diffusolve.SD15, 3).timesteps
    np.testing.assert_allclose(timesteps, [999.0, 999.0 * 4 / 9, 999.0 / 9])
    alpha, sigma, x0, noise = 0.8, 0.6, 1.25, -0.5
    a, b = names["Score"]().data(alpha, sigma)
    assert a * (alpha * x0 + sigma * noise) + b * (-noise / sigma) == pytest.approx(x0)
    integrated = dpmpp_multistep.with_options(solver_type="heun", lower_order_final=False)
    plans = [
        recipe.plan(diffusolve.SD15, "epsilon", 8)
        for recipe in (Sampler(names["dpmpp_2m"], Karras()), Sampler(integrated, Karras()))
    ]
    results = [run(plan, torch.ones(1, dtype=torch.float64)) for plan in plans]
    assert results[0] == pytest.approx(results[1], rel=1e-12)


def run(plan: diffusolve.Plan, x: Any) -> Any:
    walk = Run(plan)
    x = walk.begin(x)
    while not walk.is_done:
        x = walk.step(network(walk.model_input(x), walk.stage.point.timestep), x)
    return x


def json_plan() -> dict[str, Any]:
    """A plan as JSON, and what a runner of it needs."""
    plan = diffusolve.sampler("DPM++ 2M Karras").plan(diffusolve.SD15, "epsilon", 6)
    return {
        "plan": json.loads(plan.to_json()),
        "x": np.ones(3),
        "normal": np.random.default_rng(0).standard_normal,
        "network": lambda x, timestep: (network(x, timestep), None),
    }


def check_json_plan(names: Mapping[str, Any]) -> None:
    """It runs as here."""
    plan = diffusolve.Plan.from_json(json.dumps(names["plan"]))
    assert names["x"] == pytest.approx(run(plan, np.ones(3)), rel=1e-12)


class Pipeline:
    """Samples small images in two steps with its scheduler."""

    def __init__(self) -> None:
        self.scheduler: Any = diffusolve.DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1)

    def __call__(self, prompt: str, generator: torch.Generator) -> Any:
        scheduler = self.scheduler
        scheduler.set_timesteps(2)
        x = torch.randn(1, 1, 2, 2, generator=generator)
        for timestep in scheduler.timesteps:
            x = scheduler.step(network(x, timestep), timestep, x, generator=generator).prev_sample
        return SimpleNamespace(images=x)


def cheap_pipeline() -> dict[str, Any]:
    """A pipeline with a scheduler, and what a loop of one's own has."""
    pipe, x = Pipeline(), torch.ones(1, 1, 2, 2)
    return {"pipe": pipe, "torch": torch, "scheduler": pipe.scheduler, "x": x, "output": x}


def cheap_networks() -> dict[str, Any]:
    """Networks by the names that the pages give them, without their noise schedules, and with."""
    from diffusolve.denoisers import Denoiser

    sampler = diffusolve.sampler("DPM++ 2M Karras")
    return cheap_pipeline() | {
        "diffusolve": diffusolve,
        "my_unet": network,
        "unet": network,
        "network": Denoiser(network, "epsilon", diffusolve.SD15),
        "sampler": sampler,
        "plan": sampler.plan(diffusolve.SD15, "epsilon", 20),
    }


def small_networks() -> dict[str, Any]:
    """Networks, conditions and latents of the shape that the recipes have."""
    from diffusolve.denoisers import Denoiser

    names = cheap_networks()
    return names | {
        "cond": torch.ones(2, 3),
        "nothing": torch.zeros(2, 3),
        "latents": torch.ones(2, 4, 64, 64),
        "refiner": Denoiser(network, "epsilon", diffusolve.SD15),
        "pipe": SimpleNamespace(scheduler=diffusolve.EulerDiscreteScheduler(beta_schedule="scaled_linear")),
    }


def k_diffusion_model() -> dict[str, Any]:
    return {"torch": torch, "unet": LatentDiffusionModel(), "shape": (1, 1, 2, 2), "cond": None}


def nothing() -> dict[str, Any]:
    return {}


PRELUDES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "README.md": cheap_networks,
    "CONTRIBUTING.md": recipes,
    "docs/k-diffusion.md": k_diffusion_model,
    "docs/names.md": cheap_pipeline,
    "docs/performance.md": cheap_networks,
    "docs/plan-format.md": json_plan,
    "docs/recipes.md": small_networks,
    "docs/schedulers.md": cheap_pipeline,
}
"""Page -> the names that its code takes from the reader's program."""

CHECKS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "CONTRIBUTING.md": check_recipes,
    "docs/plan-format.md": check_json_plan,
}
"""Page -> what is true of the names that its code leaves."""


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def _reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reader's folder with a scheduler's configuration, and their modules; their compiler takes no time."""
    monkeypatch.chdir(tmp_path)
    diffusolve.DDIMScheduler().save_pretrained(tmp_path)
    monkeypatch.setattr(torch, "compile", lambda function=None, **options: function or (lambda inner: inner))
    before = dict(sys.modules)
    yield
    with suppress(RuntimeError):  # unless a page installed it
        diffusolve.k_diffusion.uninstall()
    for name in [name for name in sys.modules if name.split(".")[0] == "k_diffusion" and name not in before]:
        del sys.modules[name]
    sys.modules.update(before)  # what is new stays, since not everything can be imported twice


@pytest.mark.usefixtures("_reader")
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_code_of_a_page_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = page_id(page)
    names = PRELUDES.get(name, nothing)()
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{name}, line {block.line}"
        if block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                shell(line, where, block.reason is None)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "python" and block.reason is None:
            if block.code.startswith(">>> "):
                check_session(block.code, names, where)
            else:
                exec(compile(block.code, where, "exec"), names)
        else:
            assert block.language in ("text", "python"), f"{where}: what is {block.language!r}?"
    CHECKS.get(name, dict)(names)
    capsys.readouterr()


def check_session(code: str, names: dict[str, Any], where: str) -> None:
    """Run what stands after ``>>>`` and compare what it prints with the lines below."""
    test = doctest.DocTestParser().get_doctest(code, names, where, where, 0)
    said: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed
    assert not failed, "".join(said)


# Command lines


@lru_cache(maxsize=1)
def group() -> Any:
    """The program as click has it, caught before it runs."""
    caught = []
    with pytest.MonkeyPatch.context() as context:
        context.setattr(typer.Typer, "__call__", lambda app, arguments: caught.append(app))
        main([])
    return typer.main.get_command(caught[0])


def parse(line: str) -> None:
    """Parse the arguments of ``diffusolve`` in `line` as the program does, without running it."""
    arguments = shlex.split(line, comments=True)
    name, command, rest = group().resolve_command(group().make_context("diffusolve", ["--"]), arguments)
    command.make_context(name, rest)


def shell(line: str, where: str, runs: bool) -> None:
    """Run a command line of the program, or see that there is what it runs."""
    words = shlex.split(line, comments=True)
    match words:
        case []:
            pass
        case ["diffusolve", *arguments]:
            parse(line.removeprefix("diffusolve"))
            if runs:
                with pytest.raises(SystemExit) as stop:
                    main(arguments)
                assert not stop.value.code, where
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module) is not None, f"{where}: there is no {module}"
        case ["npm" | "tar", *_] if not runs:
            pass
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{where}: {target}"
        case _:
            raise AssertionError(f"{where}: who runs {line!r}?")


def test_every_command_in_the_text_parses() -> None:
    found = 0
    for page in PAGES:
        for command in re.findall(r"`diffusolve ([^`]+)`", BLOCK.sub("", page.read_text(encoding="utf-8"))):
            try:
                parse(" ".join(command.split()))
            except Exception as error:
                if type(error).__name__ not in ("MissingParameter", "BadOptionUsage"):  # what only names an option
                    raise AssertionError(f"{page_id(page)}: {command}") from error
            found += 1
    assert found >= 3


@pytest.mark.parametrize(
    "line", ["compar Euler", "compare Euler --stepz 5", "compare Euler --num many", "sample Euler"]
)
def test_a_wrong_command_line_does_not_parse(line: str) -> None:
    with pytest.raises(Exception, match=r"No such command|No such option|a whole number|unexpected extra") as raised:
        parse(line)
    assert type(raised.value).__name__ in ("UsageError", "NoSuchOption", "NoSuchCommand", "BadParameter")


# The test itself


def test_blocks_are_found_with_what_is_said_of_them() -> None:
    page = (
        "A\n\n```sh\nx\n```\n\n<!-- not run: slow -->\n```python\ny\n```\n"
        "1. z\n\n   ```python\n   if 1:\n       z\n   ```\n"
    )
    assert blocks(page) == [
        Block("sh", "x\n", 4, None),
        Block("python", "y\n", 9, "slow"),
        Block("python", "if 1:\n    z\n", 14, None),
    ]
    assert {block.reason for block in blocks("# A\n\n<!-- not run: minutes -->\n\n" + page)} == {"minutes", "slow"}


@pytest.mark.usefixtures("_reader")
def test_what_is_wrong_in_a_page_is_found() -> None:
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        check_session(">>> 1 + 1\n3\n", {}, "here")
    with pytest.raises(AssertionError, match=r"there is no benchmarks\.nothing"):
        shell("python -m benchmarks.nothing --fast", "here", True)
    with pytest.raises(AssertionError, match="who runs 'rm -r'"):
        shell("rm -r", "here", True)
    with pytest.raises(AssertionError, match="here: fly"):
        shell("make fly", "here", True)
    with pytest.raises(AssertionError, match="here"):
        shell('diffusolve plan "Eulr"', "here", True)
