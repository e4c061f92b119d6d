"""`diffusolve list` and `diffusolve convert`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffusolve
from diffusolve.catalog import CATALOG, SCHEDULE_TYPES, sampler
from diffusolve.cli.list import record
from diffusolve.noise import SD15
from diffusolve.schedulers import scheduler_class
from tests.tables import for_each
from tests.test_cli import run

CONFIG = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def test_the_table_has_a_row_for_every_sampler(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert run("list") == 0
    said = capsys.readouterr().out
    for entry in CATALOG.values():
        assert any(line.strip().startswith(entry.name) for line in said.splitlines()), entry.name
        for name in entry.comfyui:
            assert name in said
    for schedule_type in SCHEDULE_TYPES:
        assert schedule_type.split()[0] in said


def test_a_word_filters(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert run("list", "zhao") == 0
    said = capsys.readouterr().out
    assert "UniPC bh2" in said
    assert "Euler" not in said
    assert run("list", "sa_solver", "--json") == 0
    assert {made["name"] for made in json.loads(capsys.readouterr().out)["samplers"]} == {"SA-Solver", "SA-Solver PECE"}


def test_a_word_that_nothing_has_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "xyzzy") == 2
    assert "no sampler has 'xyzzy' in its names" in capsys.readouterr().err


def test_json_is_the_whole_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in made["samplers"]] == list(CATALOG)
    assert [entry["name"] for entry in made["schedule_types"]] == list(SCHEDULE_TYPES)


@for_each("name", CATALOG)
def test_what_is_said_of_a_sampler_is_true(name: str) -> None:
    said = record(CATALOG[name])
    made = sampler(name, discard_next_to_last_sigma=False)
    if said["adaptive"]:
        assert said["evaluations_per_step"] is None
        return
    plan = made.plan(SD15, "epsilon", 12)
    assert said["stochastic"] == plan.is_stochastic
    assert abs(said["evaluations_per_step"] - plan.nfe / 12) <= 0.25, "the last step may have fewer"
    assert said["paper"] == CATALOG[name].paper


def test_list_needs_no_torch() -> None:
    script = "import sys; sys.modules['torch'] = None\nfrom diffusolve.cli.main import main; main(['list', '--json'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["samplers"]) == len(CATALOG)


@pytest.mark.parametrize("place", ["file", "scheduler", "pipeline"])
def test_convert_writes_the_configuration_of_another_sampler(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ("model/scheduler" if place == "pipeline" else "model")
    folder.mkdir(parents=True)
    (folder / "scheduler_config.json").write_text(json.dumps(CONFIG))
    given = folder / "scheduler_config.json" if place == "file" else tmp_path / "model"
    assert run("convert", str(given), "--sampler", "DPM++ 2M Karras", "--out", str(tmp_path / "new")) == 0
    made = json.loads((tmp_path / "new" / "scheduler_config.json").read_text())
    assert made == {**CONFIG, "_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    said = capsys.readouterr().out
    assert "it is PLMS" in said
    assert "DPMSolverMultistepScheduler" in said


def test_convert_tells_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps(CONFIG))
    assert run("convert", str(tmp_path), "--sampler", "DPM++ 3M SDE Karras", "--out", str(tmp_path / "new")) == 0
    assert "third-order terms are weighted otherwise" in capsys.readouterr().out


@for_each(
    ("arguments", "expected"),
    [
        (["DPM++ 2M SDE Karras"], "DPMSolverMultistepScheduler"),
        (["euler karras", "--world", "ComfyUI"], "FlowMatchEulerDiscreteScheduler"),
        (["Heun"], "HeunDiscreteScheduler"),
    ],
)
def test_convert_keeps_the_flow_matching_of_a_model(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    assert run("convert", str(tmp_path), "--sampler", *arguments, "--out", str(tmp_path / "new")) == 0
    said = capsys.readouterr().out
    assert expected in said
    assert (expected == "HeunDiscreteScheduler") == ("reads this file as that of a model with betas" in said)
    made = scheduler_class(expected).from_pretrained(str(tmp_path / "new"))
    made.set_timesteps(8)
    at_once = diffusolve.scheduler(arguments[0], like=config)
    at_once.set_timesteps(8)
    assert made.sigmas[0] == 1
    assert made.sigmas.tolist() == at_once.sigmas.tolist()


def test_without_a_sampler_convert_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps({**CONFIG, "_class_name": "EulerDiscreteScheduler"}))
    assert run("convert", str(tmp_path)) == 0
    assert "it is Euler" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (json.dumps(CONFIG), ["--sampler", "DPM++ 2N", "--out", "new"], "unknown sampler 'DPM++ 2N'"),
        (json.dumps(CONFIG), ["--sampler", "Restart", "--out", "new"], "the nearest that it has is 'Heun'"),
        (json.dumps(CONFIG), ["--sampler", "Euler"], "out is missing"),
        (json.dumps(CONFIG), ["--out", "new"], "say which --sampler"),
        ("{", ["--sampler", "Euler", "--out", "new"], "is not JSON"),
        ("[]", ["--sampler", "Euler", "--out", "new"], "holds a list"),
    ],
)
def test_convert_says_what_is_wrong(
    text: str, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(text)
    assert run("convert", str(tmp_path), *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_convert_without_a_file_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", str(tmp_path), "--sampler", "Euler", "--out", str(tmp_path)) == 2
    assert "expected a scheduler_config.json" in capsys.readouterr().err


def test_no_name_is_cut_or_broken_whatever_the_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    for width in ("60", "80", "120", "300"):
        monkeypatch.setenv("COLUMNS", width)
        assert run("list") == 0
        lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
        for entry in CATALOG.values():
            assert any(line.startswith((f"{entry.name} ", f"{entry.name}*")) for line in lines), (width, entry.name)
        assert all("…" not in line for line in lines)
        assert ("wider terminal shows" in " ".join(lines)) == (width != "300")


def test_a_word_finds_schedule_types_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "SGM uniform") == 0
    said = capsys.readouterr().out
    assert any(line.startswith("SGM Uniform ") for line in said.splitlines())
