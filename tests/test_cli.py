"""The program, as a user runs it."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.digits import classifier
from diffusolve.cli.compare import _made_of
from diffusolve.cli.main import main
from diffusolve.cli.options import options_of
from diffusolve.comparing.picture import GAP, tile
from tests.tables import for_each


def run(*arguments: str | Path) -> int:
    """The exit status of `diffusolve ARGUMENTS`."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def digits_in(path: Path, count: int) -> np.ndarray:
    """The classifier's reading of a picture of `count` digits."""
    pixels = np.asarray(Image.open(path), np.float64)
    columns = int(np.ceil(np.sqrt(count)))
    size = 8 * 8 + GAP
    corners = [(GAP + i // columns * size, GAP + i % columns * size) for i in range(count)]
    images = np.stack([pixels[top : top + 64 : 8, left : left + 64 : 8] for top, left in corners])
    return np.asarray(classifier().predict(images.reshape(count, -1) / 255 * 16))


@pytest.mark.parametrize("model", ["digits", "exact"])
@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a Karras", "dpm adaptive"])
def test_sample_writes_the_class_asked_for(
    model: str, sampler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sevens.png"
    status = run(
        "sample", "--model", model, "--sampler", sampler, "--num", "9", "--class", "7", "--guidance", "2", "--out", out
    )
    assert status == 0
    assert (digits_in(out, 9) == 7).mean() >= 8 / 9
    said = capsys.readouterr().out
    assert "function evaluations" in said
    assert str(out) in said.replace("\n", "")


def test_without_a_class_the_digits_come_in_turn(tmp_path: Path) -> None:
    assert run("sample", "--num", "20", "--out", tmp_path / "all.png", "--guidance", "2") == 0
    assert (digits_in(tmp_path / "all.png", 20) == np.arange(20) % 10).mean() >= 0.9


def test_a_seed_makes_the_same_sample_in_any_number(tmp_path: Path) -> None:
    common = ("sample", "--model", "exact", "--sampler", "Euler a", "--steps", "5", "--class", "3")
    assert run(*common, "--num", "4", "--seed", "10", "--out", tmp_path / "four.png") == 0
    assert run(*common, "--num", "1", "--seed", "12", "--out", tmp_path / "one.png") == 0
    four, one = (np.asarray(Image.open(tmp_path / name)) for name in ("four.png", "one.png"))
    size = 64 + GAP
    np.testing.assert_array_equal(four[size : size + size, :size], one[:size, :size])


def test_samples_of_the_gaussian_have_its_mean(tmp_path: Path) -> None:
    assert run("sample", "--model", "gaussian", "--num", "16", "--out", tmp_path / "noise.png") == 0
    assert Image.open(tmp_path / "noise.png").size == (4 * 66 + 2, 4 * 66 + 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "digit"], ["'digit'", "'digits'"]),
        (["--sampler", "DPM+ 2N Karras"], ["DPM+ 2N Karras", "DPM++ 2M Karras"]),
        (["--steps", "0"], ["steps is 0", "at least 1"]),
        (["--steps", "1001"], ["1001", "at most 1000"]),
        (["--num", "0"], ["num is 0", "at least 1"]),
        (["--seed", "-1"], ["seed is -1", "0 or more"]),
        (["--guidance", "nan"], ["guidance is nan", "expected a finite number"]),
        (["--guidance", "-inf"], ["guidance is -inf", "expected a finite number"]),
        (["--num", "1000000000"], ["num is 1000000000", "at most 10000", "256.0 GB of memory"]),
        (["--num", "20000"], ["num is 20000", "at most 10000", "diffusolve generate"]),
        (["--sampler", "Euler a", "--option", "eta=foo"], ["eta is 'foo'", "expected a number"]),
        (["--sampler", "EulerDiscreteScheduler"], ["the class of a scheduler", "'Euler'", "from_config"]),
        (["--class", "10"], ["class 10", "0 to 9"]),
        (["--model", "gaussian", "--class", "1"], ["gaussian", "no classes"]),
        (["--prompt", "a cat"], ["digits", "no prompt"]),
        (["--out", "samples.pgn"], [".pgn", "'.png'"]),
        (["--out", "samples"], ["samples", ".png"]),
        (["--out", "no/such/folder/samples.png"], ["no/such/folder"]),
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
    assert run("sample", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert all(word in said for word in words), said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_output_path_is_checked_before_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusolve.denoisers.load.load_model", lambda *a, **k: pytest.fail("the model was loaded"))
    assert run("sample", "--out", tmp_path / "missing" / "samples.png") == 2


def test_an_interrupted_run_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "samples.png"
    out.write_bytes(b"old")

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diffusolve.sampling.sample_with_report", interrupt)
    assert run("sample", "--num", "1", "--out", out) == 130
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_paragraphs_of_help_fill_their_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("generate", "--help") == 0
    assert "some rows could not be made, failed.jsonl" in capsys.readouterr().out


def test_help_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "sample" in capsys.readouterr().out


def test_without_its_packages_the_program_says_what_to_install() -> None:
    script = "import sys; sys.modules['typer'] = None; from diffusolve.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "diffusolve[cli]" in done.stderr


def test_pictures_hold_grey_and_colour_images() -> None:
    assert tile(np.zeros((3, 1, 8, 8), np.float32)).mode == "L"
    picture = tile(np.ones((2, 3, 100, 50), np.float32))
    assert picture.mode == "RGB"
    assert picture.size == (2 * 50 + 3 * GAP, 100 + 2 * GAP)
    assert picture.getpixel((GAP, GAP)) == (255, 255, 255)


# Options of samplers, and what is said of a run


def test_any_option_of_a_sampler_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("sample", "--model", "gaussian", "--num", "2", "--steps", "4", "--out")
    pictures = {}
    for name, arguments in {
        "euler": ("--sampler", "Euler Karras"),
        "without noise": ("--sampler", "Euler a", "--spacing", "Karras", "--option", "eta=0"),
        "with noise": ("--sampler", "Euler a", "--spacing", "Karras"),
        "other rho": ("--sampler", "Euler Karras", "--option", "rho=5", "--option", "final-sigma=sigma_min"),
    }.items():
        assert run(*common, tmp_path / f"{name}.png", *arguments) == 0
        pictures[name] = np.asarray(Image.open(tmp_path / f"{name}.png"))
    assert (pictures["euler"] == pictures["without noise"]).all()
    assert (pictures["euler"] != pictures["with noise"]).any()
    assert (pictures["euler"] != pictures["other rho"]).any()
    assert "eval" not in capsys.readouterr().err  # the bar is for terminals


@for_each(
    ("given", "expected"),
    [
        (["eta=0.5", "order=3"], {"eta": 0.5, "order": 3}),
        (["final_sigma=sigma_min", "whole=true"], {"final_sigma": "sigma_min", "whole": True}),
        (["solver-type='heun'", "rho=None"], {"solver_type": "heun", "rho": None}),
        (["a=[1, 2]"], {"a": "[1, 2]"}),
        ([], {}),
    ],
)
def test_values_of_options_are_numbers_where_they_are_written_so(given: list[str], expected: dict[str, object]) -> None:
    assert options_of(given) == expected


@for_each(
    ("arguments", "words"),
    [
        (("--option", "eta"), "expected NAME=VALUE"),
        (("--option", "etta=1"), "did you mean 'eta'"),
        (("--option", "eta=1", "--option", "eta=2"), "eta is there twice"),
        (("--option", "world=comfyui"), "--world"),
        (("--spacing", "Karas"), "'karras'"),
        (("--model", "./no/folder"), "there is no folder ./no/folder"),
        (("--out", "x.svg"), "did you mean '.png', '.jpg'"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(arguments: tuple[str, ...], words: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert run("sample", "--num", "1", *arguments) == 2
    assert words in said.getvalue()


def test_an_interrupted_command_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diffusolve.sampling.sample_with_report", interrupt)
    out = tmp_path / "new.png"
    assert run("sample", "--num", "1", "--out", out) == 130
    assert capsys.readouterr().err == f"interrupted: {out} was not written.\n"
    out.write_bytes(b"old")
    assert run("sample", "--num", "1", "--out", out) == 130
    assert capsys.readouterr().err == f"interrupted: {out} is as it was before.\n"


def test_a_comparison_says_of_what_and_makes_one_class(tmp_path: Path) -> None:
    common = ("compare", "Euler", "--steps", "2", "--num", "1", "--out")
    assert run(*common, tmp_path / "all.png") == 0
    assert run(*common, tmp_path / "seven.png", "--class", "7", "--json", tmp_path / "seven.json") == 0
    every, seven = (np.asarray(Image.open(tmp_path / name)) for name in ("all.png", "seven.png"))
    assert every.shape == seven.shape
    assert (every != seven).any()
    assert json.loads((tmp_path / "seven.json").read_text())["class"] == "7"
    assert _made_of("emoji", "cat-face", 2.0, 4, 3) == "emoji, class cat-face, guidance 2, seeds 3 to 6"
