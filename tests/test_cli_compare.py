"""`diffusolve compare`: samplers side by side."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusolve.catalog import CATALOG, sampler
from diffusolve.cli.compare import spread
from diffusolve.comparing.cells import Cell, steps_of_column
from diffusolve.comparing.exact import ExactSolution
from diffusolve.comparing.figures import error_figure
from diffusolve.comparing.picture import labelled_grid, tile
from diffusolve.denoisers import GaussianDenoiser, Predicting
from diffusolve.denoisers.load import load_model
from diffusolve.errors import SingularPointError
from diffusolve.noise import SD15, FlowMatching, Scaling, VarianceExploding
from diffusolve.sampling import sample, start
from diffusolve.spacing import Karras
from tests.tables import for_each
from tests.test_cli import run


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For networks this small several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


GREY = (64, 64, 64)
"""The frame around each cell's images."""


# The picture


def test_each_cell_holds_the_samples_of_its_sampler_and_steps(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    names = ["DPM++ 2M Karras", "Euler a"]
    assert run("compare", *names, "--steps", "3", "6", "--num", "3", "--seed", "5", "--out", out) == 0
    picture = np.asarray(Image.open(out))
    network, seeds = load_model("digits", 3, prompt=None, label=None, guidance=1.0).network, [5, 6, 7]
    tops, lefts = corners(picture)
    assert (len(tops), len(lefts)) == (2, 2)
    for top, name in zip(tops, names, strict=True):
        for left, steps in zip(lefts, (3, 6), strict=True):
            recipe = sampler(name)
            x = start(recipe.grid(SD15, steps), torch.empty(3, 1, 8, 8), seeds)
            expected = np.asarray(tile(sample(network, x, recipe, steps=steps, noise=seeds).numpy(), 3))
            cell = picture[top : top + expected.shape[0], left : left + expected.shape[1]]
            np.testing.assert_array_equal(cell, expected[..., None].repeat(3, -1))


def corners(picture: np.ndarray) -> tuple[list[int], list[int]]:
    """Where the cells' frames begin, from the top and from the left."""
    frame = (picture == GREY).all(-1)
    wide = frame.sum(1) > 150  # rows of pixels along a frame
    high = frame.sum(0) > 100
    tops = [i for i in range(len(wide)) if wide[i] and not wide[i - 1 : i].any() and frame[i].sum() > 150]
    tops = [top for i, top in enumerate(tops) if i % 2 == 0]
    row = frame[tops[0]]
    lefts = [i for i in range(1, len(row)) if row[i] and not row[i - 1]]
    assert all(high[left] for left in lefts)
    return tops, lefts


def test_a_labelled_grid_has_its_pictures_in_order_and_its_names_beside_them() -> None:
    colours = [["red", "green"], ["blue", "yellow"]]
    rows = [
        (f"row {i}", [(Image.new("RGB", (30 + 10 * j, 20), colour), "caption") for j, colour in enumerate(line)])
        for i, line in enumerate(colours)
    ]
    picture = labelled_grid(["first", "second"], rows)
    pixels = np.asarray(picture)
    centres = {}
    for line in colours:
        for colour in line:
            there = np.argwhere((pixels == Image.new("RGB", (1, 1), colour).getpixel((0, 0))).all(-1))
            assert len(there) == (800 if colour in ("green", "yellow") else 600)  # nothing covers it
            centres[colour] = there.mean(0)
    assert centres["red"][0] == centres["green"][0] < centres["blue"][0] == centres["yellow"][0]
    assert centres["red"][1] < centres["green"][1]
    dark = (pixels.max(-1) < 128) & (pixels.max(-1) == pixels.min(-1))
    top, left = (int(np.argwhere((pixels == (255, 0, 0)).all(-1)).min(0)[i]) for i in (0, 1))
    assert dark[:top, left:].any()  # the columns' names
    assert dark[top:, :left].any()  # the rows' names
    assert not dark[:, -1].any()


def test_a_longer_name_moves_the_pictures_to_the_right() -> None:
    cell = [(Image.new("RGB", (10, 10), "red"), "")]
    widths = [labelled_grid(["x"], [(name, cell)]).width for name in ("a", "a much longer name than that")]
    assert widths[1] - widths[0] > 100


# The arguments


@for_each(
    ("arguments", "expected"),
    [
        ("A B --steps 5 10 --out x", "A B --steps 5 --steps 10 --out x"),
        ("--steps 5 10 20 A", "--steps 5 --steps 10 --steps 20 A"),
        ("--steps=5 10", "--steps=5 --steps 10"),
        ("--steps 5 --steps 10 20", "--steps 5 --steps 10 --steps 20"),
        ("--steps five 5", "--steps five --steps 5"),
        ("--num 4 5", "--num 4 5"),
        ("--steps 5 -1", "--steps 5 --steps -1"),
        ("--steps 5 -- 7", "--steps 5 -- 7"),
        ("A --steps", "A --steps"),
        ("", ""),
    ],
)
def test_one_option_takes_several_numbers(arguments: str, expected: str) -> None:
    assert spread(arguments.split(), "--steps") == expected.split()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing to compare", "--all"]),
        (["Euler", "--all"], ["--all", "'Euler'"]),
        (["Eulr"], ["'Eulr'", "'Euler'"]),
        (["Euler", "Karras"], ["unknown sampler 'Karras'"]),
        (["Euler", "--steps", "5", "0"], ["steps is 0", "at least 1"]),
        (["Euler", "--steps", "5", "1001"], ["1001", "at most 1000"]),
        (["Euler", "--num", "0"], ["num is 0", "at least 1"]),
        (["Euler", "--evaluations", "5", "0"], ["evaluations is 0", "at least 1"]),
        (["Euler", "--evaluations", "5", "--steps", "5"], ["--steps and --evaluations", "leave one of them out"]),
        (["Euler", "--spacing", "Karas"], ["'Karas'", "'karras'"]),
        (["Euler Karras", "--spacing", "Karras"], ["names the schedule type 'Karras' already"]),
        (["Euler", "--json", "no/folder/x.json"], ["no/folder"]),
        (["Euler", "--seed", "-1"], ["seed is -1", "0 or more"]),
        (["Euler", "--guidance", "nan"], ["guidance is nan", "expected a finite number"]),
        (["Euler", "--num", "1000000000"], ["num is 1000000000", "GB of memory"]),
        (["Euler", "--model", "digit"], ["'digit'", "'digits'"]),
        (["Euler", "--model", "gaussian", "--guidance", "2"], ["gaussian", "no classes"]),
        (["Euler", "--prompt", "a cat"], ["digits", "no prompt"]),
        (["Euler", "--out", "x.pgn"], [".pgn", "'.png'"]),
        (["Euler", "--out", "no/folder/x.png"], ["no/folder"]),
        (["Euler", "--error", "x.pgn"], [".pgn", "'.png'"]),
        (["Euler", "--error", "no/folder/x.png"], ["no/folder"]),
        (["Euler a", "DPM++ SDE", "--error", "x.png"], ["add noise", "leave --error out"]),
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
    monkeypatch.setattr("diffusolve.sampling.sample_with_report", lambda *a, **k: pytest.fail("it sampled"))
    assert run("compare", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert all(word in said for word in words), said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_comparison_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out.png"
    out.write_bytes(b"old")
    monkeypatch.setattr("diffusolve.comparing.cells.sample_with_report", interrupt)
    assert run("compare", "Euler", "--out", out) == 130
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


# What it compares


def test_all_compares_the_whole_catalog(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, error = tmp_path / "all.png", tmp_path / "error.png"
    common = ("--model", "gaussian", "--num", "1", "--steps", "6", "12")
    assert run("compare", "--all", *common, "--out", out, "--error", error) == 0
    said = capsys.readouterr().out
    shown = len(CATALOG) - said.count("left out: ")
    assert f"{shown} samplers, 6, 12 steps, 1 samples of gaussian each" in said
    assert shown >= 15
    assert Image.open(out).height > 60 * shown
    assert Image.open(error).width > 500
    stochastic = next(line for line in said.splitlines() if line.startswith("Without those that add noise"))
    assert "Euler a" in stochastic
    assert " Heun " in said


def test_the_errors_are_distances_to_the_exact_solution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the closed form, written down again here in float64."""
    out, error = tmp_path / "out.png", tmp_path / "error.png"
    common = ("--model", "gaussian", "--num", "4", "--steps", "5", "20", "--out", out, "--error", error)
    assert run("compare", "Euler Karras", "DPM++ 2M Karras", "Heun Karras", *common) == 0
    said = capsys.readouterr().out
    network = load_model("gaussian", 4, prompt=None, label=None, guidance=1.0).network
    mean, variance = network.mean, network.std**2
    for name in ("Euler Karras", "DPM++ 2M Karras", "Heun Karras"):
        line = next(line for line in said.splitlines() if line.strip().startswith(name))
        found = re.findall(r"(\d\.\de[-+]\d\d) \((\d+)\)", line)
        for (distance, nfe), steps in zip(found, (5, 20), strict=True):
            recipe = sampler(name)
            grid = recipe.grid(SD15, steps).in_scaling(Scaling.VARIANCE_EXPLODING)
            seeds = [0, 1, 2, 3]
            x = start(recipe.grid(SD15, steps), torch.empty(4, 1, 8, 8), seeds)
            made = sample(network, x, recipe, steps=steps).double().numpy()
            high, low = grid[0].sigma, SD15.sigma_min
            noisy = high * (x / recipe.grid(SD15, steps)[0].sigma).double().numpy()
            at_low = mean + np.sqrt((variance + low**2) / (variance + high**2)) * (noisy - mean)
            exact = mean + variance / (variance + low**2) * (at_low - mean)
            expected = math.sqrt(np.mean((made - exact) ** 2))
            assert float(distance) == pytest.approx(expected, rel=0.06)  # two digits are printed
            assert int(nfe) == recipe.plan(SD15, "sample", steps).nfe


def test_more_evaluations_bring_samplers_nearer_to_the_solution(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["DPM++ 2M Karras", "Heun Karras", "DPM adaptive"]
    common = ("--steps", "8", "32", "--num", "2", "--seed", "2")
    paths = ("--out", tmp_path / "out.png", "--error", tmp_path / "error.png")
    assert run("compare", *names, *common, *paths) == 0
    said = capsys.readouterr().out
    for name in names:
        line = next(line for line in said.splitlines() if line.strip().startswith(name))
        (coarse, few), (fine, many) = re.findall(r"(\d\.\de[-+]\d\d) \((\d+)\)", line)
        assert float(fine) < float(coarse) / 2, line
        assert int(many) > int(few)


def test_samplers_that_come_to_the_same_images_have_no_distance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exact denoiser of a finite data set leads to one of the data."""
    paths = ("--out", tmp_path / "out.png", "--error", tmp_path / "error.png")
    assert run("compare", "DPM++ 2M Karras", "--model", "exact", "--steps", "30", "--num", "2", *paths) == 0
    said = capsys.readouterr().out
    assert "0.0e+00 (30)" in said
    assert "A distance of 0" in said


def test_the_errors_of_repeated_names_and_steps_stand_there_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ("--out", tmp_path / "out.png", "--error", tmp_path / "error.png")
    assert run("compare", "Euler", "k_euler", "--steps", "4", "4", "--model", "gaussian", *paths) == 0
    assert "1 samplers, 4 steps" in capsys.readouterr().out


def test_a_pipeline_folder_can_be_compared_on(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        8, 3, 3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "model")
    out = tmp_path / "out.png"
    assert run("compare", "Euler", "DDIM Trailing", "--model", tmp_path / "model", "--steps", "2", "--out", out) == 0
    assert Image.open(out).mode == "RGB"


# The exact solution


@for_each("prediction_type", ["epsilon", "v_prediction"])
@for_each("scaling", [Scaling.VARIANCE_PRESERVING, Scaling.VARIANCE_EXPLODING])
@for_each("final_sigma", ["zero", "sigma_min"])
def test_the_numerical_solution_is_the_closed_form(prediction_type: str, scaling: Scaling, final_sigma: str) -> None:
    gaussian = GaussianDenoiser(SD15, mean=np.linspace(-0.5, 0.5, 6), std=np.geomspace(0.1, 1.0, 6))
    grid = Karras(final_sigma=final_sigma).grid(SD15, 5).in_scaling(scaling)
    begun = grid[0].sigma * np.random.default_rng(0).standard_normal((3, 6))
    closed, numerical = ExactSolution(gaussian), ExactSolution(Predicting(gaussian, prediction_type))
    expected = closed.at_end(grid[0].scale * begun, grid[0], grid[-1])
    np.testing.assert_allclose(
        numerical.at_end(grid[0].scale * begun, grid[0], grid[-1]), expected, rtol=1e-6, atol=1e-6
    )
    assert numerical.distance(expected / grid[-1].scale, begun, grid[0], grid[-1]) < 1e-6
    assert numerical.distance(expected / grid[-1].scale + 0.25, begun, grid[0], grid[-1]) == pytest.approx(
        0.25 * grid[-1].scale, rel=1e-4
    )


def test_a_solution_is_computed_once_for_each_start() -> None:
    calls = []

    class Counting(Predicting):
        def __call__(self, x: np.ndarray, timestep: np.ndarray, *args: object) -> np.ndarray:
            calls.append(timestep)
            return np.asarray(super().__call__(x, timestep))

    exact = ExactSolution(Counting(GaussianDenoiser(VarianceExploding()), "edm"))
    grid = Karras().grid(VarianceExploding(), 5)
    begun = np.ones((1, 4))
    first = exact.at_end(begun, grid[0], grid[-1])
    count = len(calls)
    assert exact.at_end(begun.copy(), grid[0], grid[-1]) is first
    assert len(calls) == count
    assert exact.at_end(2 * begun, grid[0], grid[-1]) is not first
    assert exact.at_end(begun, grid[1], grid[-1]) is not first


def test_where_nothing_is_left_of_the_data_the_closed_form_is_needed() -> None:
    gaussian = GaussianDenoiser(FlowMatching(), mean=0.2, std=0.5)
    grid = sampler("Euler").grid(FlowMatching(), 5)
    x = np.ones((1, 2))
    low = FlowMatching().sigma_min
    at_low = (1 - low) * 0.2 + math.sqrt((1 - low) ** 2 * 0.25 + low**2) * x
    data = 0.2 + (1 - low) * 0.25 / ((1 - low) ** 2 * 0.25 + low**2) * (at_low - (1 - low) * 0.2)
    np.testing.assert_allclose(ExactSolution(gaussian).at_end(x, grid[0], grid[-1]), data, rtol=1e-9)
    with pytest.raises(SingularPointError, match="starts where nothing of the data is left"):
        ExactSolution(Predicting(gaussian, "flow")).at_end(x, grid[0], grid[-1])


def test_the_plot_of_errors_has_a_line_for_each_sampler() -> None:
    cells = {f"sampler {i}": {5: Cell(None, 5, 5 + i, 0.1), 10: Cell(None, 10, 10 + i, 0.01)} for i in range(25)}
    (axes,) = error_figure(cells, "digits").axes
    assert [line.get_label() for line in axes.lines] == list(cells)
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 25
    np.testing.assert_allclose(axes.lines[3].get_xdata(), [8, 13])
    np.testing.assert_allclose(axes.lines[3].get_ydata(), [0.1, 0.01])


# Columns of evaluations, schedule types, JSON


def test_columns_of_evaluations_hold_as_many_steps_as_they_pay_for(tmp_path: Path) -> None:
    names = ["Euler", "Heun", "Heun++ 2", "Restart", "DPM adaptive"]
    paths = ("--out", tmp_path / "out.png", "--json", tmp_path / "out.json")
    assert run("compare", *names, "--model", "gaussian", "--evaluations", "7", "50", *paths) == 0
    made = json.loads((tmp_path / "out.json").read_text())
    assert made["unit"] == "evaluations"
    assert [one["name"] for one in made["samplers"]] == names
    for one in made["samplers"]:
        for cell, allowed in zip(one["columns"], (7, 50), strict=True):
            assert cell["column"] == allowed
            assert cell["error"] is None
            if one["name"] == "DPM adaptive":
                assert cell["steps"] is None
                continue
            plans = {steps: sampler(one["name"]).plan(SD15, "sample", steps).nfe for steps in range(1, allowed + 1)}
            assert cell["steps"] == max(steps for steps, taken in plans.items() if taken <= allowed)
            assert cell["evaluations"] == plans[cell["steps"]]


def test_a_sampler_that_cannot_take_a_step_in_so_few_evaluations_says_so() -> None:
    recipe = sampler("Heun", Karras(final_sigma="sigma_min"))
    network = GaussianDenoiser(SD15)
    assert steps_of_column(recipe, network, 5, "evaluations") == 2
    with pytest.raises(ValueError, match="Heun takes 2 evaluations for a single step, more than 1"):
        steps_of_column(recipe, network, 1, "evaluations")


def test_the_json_has_the_distances_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        ("--" + what, tmp_path / f"made.{ending}")
        for what, ending in (("out", "png"), ("error", "svg"), ("json", "json"))
    ]
    settings = ("--model", "gaussian", "--steps", "5", "10", "--num", "2", "--seed", "3", "--spacing", "Karras")
    assert (
        run("compare", "Euler", "Euler a", "Heun", *settings, *(argument for pair in paths for argument in pair)) == 0
    )
    said = capsys.readouterr().out
    made = json.loads((tmp_path / "made.json").read_text())
    assert {key: made[key] for key in ("model", "guidance", "num", "seed", "unit", "left_out")} == {
        "model": "gaussian", "guidance": 1.0, "num": 2, "seed": 3, "unit": "steps", "left_out": [],
    }  # fmt: skip
    assert [(one["name"], one["stochastic"]) for one in made["samplers"]] == [
        ("Euler Karras", False),
        ("Euler a Karras", True),
        ("Heun Karras", False),
    ]
    for one in made["samplers"]:
        if one["stochastic"]:
            assert all(cell["error"] is None for cell in one["columns"])
            continue
        line = next(line for line in said.splitlines() if line.strip().startswith(one["name"]))
        assert re.findall(r"(\d\.\de[-+]\d\d) \((\d+)\)", line) == [
            (f"{cell['error']:.1e}", str(cell["evaluations"])) for cell in one["columns"]
        ]


def test_a_schedule_type_for_all_is_the_one_in_each_name(tmp_path: Path) -> None:
    common = ("--model", "gaussian", "--steps", "4")
    assert run("compare", "Euler", "Heun", *common, "--spacing", "Karras", "--out", tmp_path / "all.png") == 0
    assert run("compare", "Euler Karras", "Heun Karras", *common, "--out", tmp_path / "each.png") == 0
    assert (tmp_path / "all.png").read_bytes() == (tmp_path / "each.png").read_bytes()


@pytest.fixture
def cfg_pp_in_the_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sampler of the catalog takes two outputs of the network."""
    recipe = sampler("Euler Karras", cfg_pp=True)
    monkeypatch.setattr(
        "diffusolve.cli.compare.sampler_asked",
        lambda name, spacing, world, option: recipe if name == "CFG++" else sampler(name, spacing, world=world),
    )
    monkeypatch.setattr("diffusolve.cli.compare.CATALOG", {"CFG++": None, "Heun": None})


@pytest.mark.usefixtures("cfg_pp_in_the_catalog")
def test_samplers_that_take_two_outputs_are_run_where_there_is_guidance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ("--out", tmp_path / "out.png", "--error", tmp_path / "error.png", "--json", tmp_path / "out.json")
    assert run("compare", "--all", "--steps", "4", "--guidance", "0.6", *paths) == 0
    assert "Without those that follow another ODE, CFG++: Euler Karras." in capsys.readouterr().out
    made = json.loads((tmp_path / "out.json").read_text())
    assert [(one["name"], one["columns"][0]["error"] is None) for one in made["samplers"]] == [
        ("Euler Karras", True),
        ("Heun", False),
    ]


@pytest.mark.usefixtures("cfg_pp_in_the_catalog")
def test_samplers_that_take_two_outputs_are_left_out_where_there_is_no_guidance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", "gaussian", "--steps", "4", "--out", tmp_path / "out.png", "--json", tmp_path / "out.json")
    assert run("compare", "--all", *common) == 0
    assert "left out: Euler Karras: it takes guidance as two outputs" in capsys.readouterr().out
    (left_out,) = json.loads((tmp_path / "out.json").read_text())["left_out"]
    assert left_out["name"] == "Euler Karras"
    assert run("compare", "CFG++", *common) == 2
    assert "this model has no guidance" in capsys.readouterr().err
