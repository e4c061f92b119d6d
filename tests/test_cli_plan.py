"""`diffusolve plan`: a sampler's steps as a table, a plot and a file."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusolve.catalog import sampler
from diffusolve.cli.plan import PREDICTIONS, figure, sigma_of
from diffusolve.noise import NOISE_SCHEDULES, SD15, FlowMatching, Scaling, VarianceExploding, noise_schedule
from diffusolve.plan import Plan
from diffusolve.spacing import Karras
from tests.test_cli import run

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
RATIOS = np.sqrt((1 - np.cumprod(1 - BETAS)) / np.cumprod(1 - BETAS))
"""sigma / alpha of Stable Diffusion at each timestep."""


def rows(said: str) -> list[tuple[str, str, str, str]]:
    """Step, timestep, sigma and log-SNR of each row that was printed."""
    return re.findall(r"^ +([\d.]+|end) +([-\d.]*) +([\d.]+|inf) +(-?[\d.]+|-?inf) +\S", said, flags=re.M)


def test_the_table_has_timestep_sigma_and_log_snr_of_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "Euler", "--steps", "4") == 0
    timesteps = [999, 666, 333, 0]
    expected = [(str(i), str(t), f"{RATIOS[t]:.6g}", f"{-math.log(RATIOS[t]):.4g}") for i, t in enumerate(timesteps)]
    assert rows(capsys.readouterr().out) == [*expected, ("end", "", "0", "inf")]


def test_the_sigmas_of_karras_are_those_of_karras(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "DPM++ 2M Karras", "--steps", "6", "--schedule", "edm") == 0
    ramp = (80 ** (1 / 7) + np.arange(6) / 5 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    found = [float(sigma) for _, _, sigma, _ in rows(capsys.readouterr().out)]
    np.testing.assert_allclose(found, [*ramp, 0], rtol=1e-5)


def test_the_formulas_are_those_of_ddim(capsys: pytest.CaptureFixture[str]) -> None:
    """Song et al. 2021, equation 12, with the noise expressed by sample and data."""
    assert run("plan", "DDIM", "--steps", "2", "--schedule", "sd3") == 0
    said = capsys.readouterr().out
    low = 3 / 1000 / (3 / 1000 + 0.999)  # the last level, shifted by 3
    assert "data0 = x0 - network(x0)" in said
    assert f"x1 = {low:.6g} x0 + {1 - low:.6g} data0" in said
    assert f"data1 = x1 - {low:.6g} network(x1)" in said
    assert "x2 = data1" in said


def test_each_evaluation_inside_a_step_has_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "DPM2", "--steps", "3") == 0
    said = capsys.readouterr().out
    assert [step for step, *_ in rows(said)] == ["0", "0.1", "1", "1.1", "2", "end"]
    assert "3 steps, 5 evaluations" in said
    sigmas = [float(sigma) for _, _, sigma, _ in rows(said)]
    assert sigmas[1] == pytest.approx(math.sqrt(sigmas[0] * sigmas[2]), rel=1e-4)  # halfway in log sigma
    assert "x0 begins as 14.6146 * noise" in said  # samples are scaled to alpha = 1


def test_the_noise_of_a_stochastic_sampler_is_in_its_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "Euler a", "--steps", "3", "--schedule", "flux") == 0
    said = capsys.readouterr().out
    assert "stochastic" in said.splitlines()[0]
    assert re.search(r"x1 = .* [\d.]+ noise0", said)


def test_no_line_is_wider_than_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "UniPC", "--steps", "20") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
def test_every_schedule_has_the_prediction_of_its_models(schedule: str, tmp_path: Path) -> None:
    assert run("plan", "DDIM Trailing", "--steps", "4", "--schedule", schedule, "--json", tmp_path / "plan.json") == 0
    plan = Plan.from_json((tmp_path / "plan.json").read_text())
    predicts = PREDICTIONS.get(schedule, "epsilon")
    assert plan == sampler("DDIM Trailing").plan(NOISE_SCHEDULES[schedule], predicts, 4)


def test_the_file_is_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    assert run("plan", "dpmpp_2m_sde_karras", "--steps", "7", "--prediction", "v_prediction", "--json", out) == 0
    plan = Plan.from_json(out.read_text())
    assert plan == sampler("DPM++ 2M SDE Karras").plan(SD15, "v_prediction", 7)
    assert json.loads(out.read_text())["format"] == "diffusolve plan"
    assert f"plan in {out}" in capsys.readouterr().out


def test_the_plot_shows_sigma_and_log_snr() -> None:
    plan = sampler("Heun").plan(FlowMatching(3.0), "flow", 5)
    sigmas, log_snrs = figure(plan, Scaling.FLOW, "Heun").axes
    levels = 3 * np.linspace(1, 0.001, 5) / (1 + 2 * np.linspace(1, 0.001, 5))
    np.testing.assert_allclose(sigmas.lines[0].get_xdata(), range(6))
    np.testing.assert_allclose(sigmas.lines[0].get_ydata(), [*levels, 0], rtol=1e-9)
    drawn = np.array(log_snrs.lines[0].get_ydata())
    assert np.isnan(drawn[[0, -1]]).all()  # infinite at both ends
    np.testing.assert_allclose(drawn[1:-1], np.log((1 - levels[1:]) / levels[1:]), rtol=1e-9)
    np.testing.assert_allclose(sigmas.lines[1].get_xdata(), np.arange(4) + 0.5)
    np.testing.assert_allclose(sigmas.lines[1].get_ydata(), levels[1:], rtol=1e-9)  # Heun's second evaluations


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_plot_is_written_in_the_format_that_its_name_says(ending: str, tmp_path: Path) -> None:
    out = tmp_path / f"plot.{ending}"
    assert run("plan", "Euler Karras", "--steps", "5", "--plot", out) == 0
    content = out.read_bytes()
    assert content[:8].lstrip()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")
    if ending == "png":
        assert Image.open(out).width > 500


def test_sigma_is_the_number_that_the_schedule_calls_so() -> None:
    for schedule, scaling in (
        (SD15, Scaling.VARIANCE_EXPLODING),
        (FlowMatching(), Scaling.FLOW),
        (VarianceExploding(), None),
    ):
        grid = Karras(sigma_max=None if schedule != FlowMatching() else 0.9).grid(schedule, 4)
        plan = sampler("Euler", spacing=Karras(sigma_max=0.9 if schedule == FlowMatching() else None)).plan(
            schedule, "sample", 4
        )
        expected = [p.sigma if scaling is Scaling.FLOW else p.sigma / p.alpha for p in grid[:-1]]
        found = [sigma_of(stage.point, schedule.scaling) for stage in plan.stages]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def modules_after(*arguments: str | Path, without: tuple[str, ...] = ()) -> tuple[int, set[str], str]:
    """Exit status, top-level modules and errors of a fresh `diffusolve ARGUMENTS`, where some cannot be imported."""
    script = f"""
import sys
for name in {without!r}:
    sys.modules[name] = None
from diffusolve.cli.main import main
try:
    main({list(map(str, arguments))!r})
finally:
    print("modules:", *(name for name, module in sys.modules.items() if module), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    said, _, modules = done.stderr.partition("modules:")
    return done.returncode, {name.split(".")[0] for name in modules.split()}, said


def test_the_table_and_the_file_need_neither_torch_nor_matplotlib(tmp_path: Path) -> None:
    wanted = ("plan", "DPM++ 2M Karras", "--json", tmp_path / "plan.json")
    status, modules, said = modules_after(*wanted, without=("torch", "matplotlib", "scipy", "PIL"))
    assert (status, said) == (0, "")
    assert Plan.from_json((tmp_path / "plan.json").read_text()).nfe == 20
    status, modules, _ = modules_after(*wanted)
    assert status == 0
    assert not modules & {"torch", "matplotlib", "scipy", "PIL", "diffusers"}


def test_without_matplotlib_the_plot_says_what_to_install(tmp_path: Path) -> None:
    out = tmp_path / "plot.png"
    status, _, said = modules_after("plan", "Euler", "--plot", out, without=("matplotlib",))
    assert status == 2
    assert said == "error: plots need matplotlib: pip install 'diffusolve[plot]'.\n"
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["DPM+ 2N Karras"], ["DPM+ 2N Karras", "DPM++ 2M Karras"]),
        (["DPM adaptive"], ["DPM adaptive chooses its steps", 'diffusolve sample --sampler "DPM adaptive"']),
        (
            ["dpm_adaptive karras", "--world", "comfyui"],
            ['diffusolve sample --sampler "dpm_adaptive karras" --world comfyui'],
        ),
        (["Euler", "--steps", "0"], ["steps is 0", "at least 1"]),
        (["Euler", "--steps", "1001"], ["1001", "at most 1000"]),
        (["Euler", "--schedule", "sd1.5"], ["noise schedule 'sd1.5'", "'sd15'"]),
        (["Euler", "--prediction", "epsilom"], ["'epsilom'", "'epsilon'"]),
        (["Euler", "--schedule", "flux", "--prediction", "epsilon"], ["epsilon prediction says nothing", "flow"]),
        (["Euler Karras", "--schedule", "cosine"], ["infinite", "sigma_max"]),
        (["Euler", "--plot", "plot.pgn"], [".pgn", "'.png'"]),
        (["Euler", "--plot", "plot"], ["plot", ".png"]),
        (["Euler", "--plot", "no/folder/plot.png"], ["no/folder"]),
        (["Euler", "--json", "no/folder/plan.json"], ["no/folder"]),
    ],
)
def test_bad_input_gets_one_line_that_says_what_would_work(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("plan", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert all(word in said for word in words), said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_schedules_that_the_help_names_exist() -> None:
    for name in ("sd15", "sdxl", "sd3", "flux", "edm"):
        assert noise_schedule(name) is NOISE_SCHEDULES[name]
