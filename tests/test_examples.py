"""The example programs that run a plan without this package: NumPy's and JavaScript's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusolve.backends import Run
from diffusolve.catalog import sampler
from diffusolve.denoisers import GaussianDenoiser, Predicting
from diffusolve.noise import NoiseSchedule, noise_schedule
from diffusolve.plan import Plan
from diffusolve.sampling import Sampler
from diffusolve.solvers import SOLVERS
from diffusolve.spacing import Karras
from examples import run_plan
from tests.tables import for_each

EXAMPLES = Path(run_plan.__file__).parent
NODE = shutil.which("node")
PROGRAMS = {"NumPy": [sys.executable, str(EXAMPLES / "run_plan.py")]}
if NODE is not None:
    PROGRAMS["JavaScript"] = [NODE, str(EXAMPLES / "run_plan.mjs")]
every_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)

SAMPLES = 7
MOST_NOISES = 200


def noises() -> np.ndarray:
    """The starting noise, and more than any plan here draws."""
    return np.random.default_rng(0).standard_normal((MOST_NOISES, SAMPLES))


def our_result(plan: Plan, schedule: NoiseSchedule, predicts: str) -> np.ndarray:
    """What our own run makes of the plan, with the denoiser of the examples and the same noise."""
    guided, unguided = (
        Predicting(GaussianDenoiser(schedule, mean, std), predicts) for mean, std in ((0.5, 0.3), (0.2, 0.6))
    )
    drawn = iter(noises())
    x = plan.start.sigma * next(drawn)
    run = Run(plan, lambda like, sigma_from, sigma_to: next(drawn))
    x = run.begin(x)
    while not run.is_done:
        timestep = np.full(SAMPLES, run.stage.point.timestep)
        shown = run.model_input(x)
        second = unguided(shown, timestep) if run.stage.reads_unguided else None
        x = run.step(guided(shown, timestep), x, second)
    return np.asarray(x)


def run_program(program: list[str], *files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *map(str, files)], capture_output=True, text=True, check=False, timeout=60)


@every_program
@for_each(
    ("name", "schedule", "predicts"),
    [
        ("DPM++ 2M Karras", "sd15", "epsilon"),  # multistep
        ("UniPC", "sd15", "v_prediction"),  # corrected samples that the network never sees
        ("Heun Karras", "sd15", "epsilon"),  # two stages, samples scaled to alpha = 1
        ("Euler a", "flux", "flow"),  # stochastic, starts where nothing of the data is left
        ("DPM++ SDE Karras", "edm", "edm"),  # two stages with noise in each, scaled input
        ("LMS", "sd3", "flow"),  # a long memory
        ("DPM++ 2S a CFG++", "sd15", "epsilon"),  # two outputs of the network in some stages
    ],
)
def test_both_programs_do_what_our_own_run_does(
    program: list[str], name: str, schedule: str, predicts: str, tmp_path: Path
) -> None:
    made = noise_schedule(schedule)
    plan = sampler(name).plan(made, predicts, 8)
    (tmp_path / "plan.json").write_text(plan.to_json())
    (tmp_path / "noise.json").write_text(json.dumps(noises().tolist()))
    done = run_program(program, tmp_path / "plan.json", tmp_path / "noise.json")
    assert (done.returncode, done.stderr) == (0, "")
    expected = our_result(plan, made, predicts)
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-10, atol=1e-11)


@for_each("name", [name for name, made in SOLVERS.items() if not made.adaptive])
@for_each(("schedule", "predicts"), [("sd15", "epsilon"), ("edm", "edm"), ("sd3", "flow")])
def test_the_numpy_program_runs_every_solver(name: str, schedule: str, predicts: str) -> None:
    made = noise_schedule(schedule)
    plan = Sampler(SOLVERS[name], Karras(sigma_max=None if schedule != "sd3" else 0.99)).plan(made, predicts, 6)
    document = json.loads(plan.to_json())
    run_plan.check(document)
    drawn = iter(noises())
    x = run_plan.run(document, run_plan.network, plan.start.sigma * next(drawn), lambda: next(drawn))
    np.testing.assert_allclose(x, our_result(plan, made, predicts), rtol=1e-9, atol=1e-9)


@every_program
def test_without_noise_the_samples_have_the_datas_mean_and_standard_deviation(
    program: list[str], tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text(
        sampler("DPM++ 2M Karras").plan(noise_schedule("sd15"), "epsilon", 40).to_json(2)
    )
    done = run_program(program, tmp_path / "plan.json")
    found = re.fullmatch(r"mean (\S+), standard deviation (\S+)\n", done.stdout)
    assert found is not None, done
    assert float(found[1]) == pytest.approx(0.5, abs=0.03)
    assert float(found[2]) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    ("name", "start", "end"), [("run_plan.py", "def run(", "\n\n\n"), ("run_plan.mjs", "function run(", "\n\n")]
)
def test_running_a_plan_takes_fifteen_lines(name: str, start: str, end: str) -> None:
    text = (EXAMPLES / name).read_text()
    body = text[text.index(start) :]
    assert len(body[: body.index(end)].splitlines()) <= 15


def test_the_programs_import_nothing_of_ours() -> None:
    python, javascript = ((EXAMPLES / name).read_text() for name in ("run_plan.py", "run_plan.mjs"))
    assert re.findall(r"^\s*(?:import|from) (\w+)", python, flags=re.M) == ["json", "sys", "numpy"]
    assert re.findall(r'(?:from|import|require\() ?"(.*?)"', javascript) == ["node:fs"]


# Files that are not plans


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    plan = json.loads(sampler("Euler a").plan(noise_schedule("sd15"), "epsilon", 3).to_json())
    change(plan)
    return json.dumps(plan)


MALFORMED: dict[str, tuple[Callable[[], str], str]] = {
    "cut short": (lambda: changed(lambda plan: None)[:200], "is not JSON"),
    "empty": (lambda: "", "is not JSON"),
    "a list": (lambda: "[]", '"format": "diffusolve plan"'),
    "something else": (lambda: '{"version": 1}', '"format": "diffusolve plan"'),
    "another version": (lambda: changed(lambda plan: plan.update(version=2)), '"version": 1'),
    "no stages": (lambda: changed(lambda plan: plan.pop("stages")), "plan: expected an entry 'stages'"),
    "stages missing": (lambda: changed(lambda plan: plan["stages"].clear()), "stages: expected at least one stage"),
    "a stage that is none": (lambda: changed(lambda plan: plan["stages"].append(3)), "stages[3]: expected an object"),
    "no scale": (lambda: changed(lambda plan: plan["stages"][1].pop("scale")), "stages[1]: expected an entry 'scale'"),
    "text for a number": (
        lambda: changed(lambda plan: plan["stages"][0].update(a="1")),
        "stages[0].a: expected a finite number",
    ),
    "true for a number": (
        lambda: changed(lambda plan: plan["stages"][0].update(b=True)),
        "stages[0].b: expected a finite number",
    ),
    "too large": (
        lambda: changed(lambda plan: plan["stages"][0].update(b=10**400)),
        "stages[0].b: expected a finite number",
    ),
    "a number for a register": (
        lambda: changed(lambda plan: plan["stages"][0].update(sample=0)),
        "stages[0].sample: expected text",
    ),
    "a term that is none": (
        lambda: changed(lambda plan: plan["stages"][2]["writes"][0][1].append(["x0"])),
        "stages[2].writes: expected [register, coefficient]",
    ),
    "a write that is none": (
        lambda: changed(lambda plan: plan["opening"]["writes"].append("x0")),
        "opening.writes: expected [register, terms]",
    ),
    "a noise that is none": (
        lambda: changed(lambda plan: plan["stages"][0]["noises"].append(["noise9"])),
        "stages[0].noises: expected [register, sigma, sigma]",
    ),
    "an opening that evaluates": (
        lambda: changed(lambda plan: plan["opening"].update(sample="x0")),
        "opening: expected no sample",
    ),
    "no start": (lambda: changed(lambda plan: plan.pop("start")), "plan: expected an entry 'start'"),
    "no level to start from": (
        lambda: changed(lambda plan: plan["start"].pop("sigma")),
        "start: expected an entry 'sigma'",
    ),
    "an unknown register": (
        lambda: changed(lambda plan: plan.update(result="x99")),
        "register 'x99' is read but holds nothing",
    ),
    "a register freed too early": (
        lambda: changed(lambda plan: plan["opening"]["frees"].append("x0")),
        "register 'x0' is read but holds nothing",
    ),
}


@every_program
@for_each(("text", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_plan_gets_one_line_that_says_why(
    program: list[str], text: Callable[[], str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text(text())
    done = run_program(program, tmp_path / "plan.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@every_program
@for_each(
    ("noise", "message"),
    [
        ("{}", "expected lists of numbers, all of one length"),
        ("[]", "expected lists of numbers, all of one length"),
        ("[[1, 2], [3]]", "expected lists of numbers, all of one length"),
        ('[["1"]]', "expected lists of numbers, all of one length"),
        ("[[1, 2]]", "the plan draws more than 1 arrays"),
        ("[[1, 2", "is not JSON"),
    ],
)
def test_malformed_noise_gets_one_line_that_says_why(
    program: list[str], noise: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text(changed(lambda plan: None))
    (tmp_path / "noise.json").write_text(noise)
    done = run_program(program, tmp_path / "plan.json", tmp_path / "noise.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@every_program
@pytest.mark.parametrize("files", [[], ["a", "b", "c"]])
def test_a_wrong_number_of_files_shows_the_usage(program: list[str], files: list[str]) -> None:
    done = run_program(program, *map(Path, files))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: run_plan.")


@every_program
def test_a_missing_file_is_named(program: list[str], tmp_path: Path) -> None:
    done = run_program(program, tmp_path / "nothing.json")
    assert done.returncode == 2
    assert f"cannot read {tmp_path / 'nothing.json'}" in done.stderr
    assert done.stderr.count("\n") == 1
