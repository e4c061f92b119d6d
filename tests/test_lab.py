"""The lab without its page: what a choice is, what it computes, what it says to nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from diffusolve.catalog import WORLD_NAMES
from diffusolve.comparing.exact import ExactSolution
from diffusolve.denoisers.load import load_model
from diffusolve.errors import PlanFormatError, UnknownNameError
from diffusolve.lab import show
from diffusolve.lab.choice import OWN, Choice, named, names_of, recipes_of, schedules_of
from diffusolve.lab.experiment import Experiment, Stopped, configuration_of, plans_of, read_plan
from tests.tables import for_each

SMALL = Choice(model="gaussian", samplers=("Euler", "comfyui: dpmpp_2m karras"), steps=(3, 5), num=2, guidance=1.0)


def test_every_name_that_a_world_offers_is_a_sampler_with_every_schedule() -> None:
    wrong = []
    for world in (OWN, *WORLD_NAMES):
        for name in names_of(world):
            for schedule in (None, *schedules_of(world)):
                try:
                    recipes_of([named(world, name, schedule)], {})
                except ValueError as error:
                    wrong.append(f"{world}, {name}, {schedule}: {error}")
    assert wrong == []


def test_a_link_restores_the_choice() -> None:
    from urllib.parse import parse_qsl

    choices = [
        Choice(),
        SMALL,
        Choice(samplers=("DPM++ 2M SDE Karras",), steps=(7,), seed=3, label="cat-face", error=False),
        Choice(model="some/folder", prompt="a cat, sleeping", guidance=7.5, num=1),
    ]
    for choice in choices:
        assert Choice.from_query(dict(parse_qsl(choice.query()))) == choice
    assert Choice().query() == ""
    with_plan = Choice(samplers=("Euler", "plan: mine"))
    assert Choice.from_query(dict(parse_qsl(with_plan.query()))).samplers == ("Euler",)


@for_each(
    ("query", "words"),
    [
        ({"steps": "ten"}, "steps is 'ten': expected a whole number"),
        ({"steps": " "}, "steps is empty"),
        ({"num": "2.5"}, "num is '2.5'"),
        ({"seed": "1" * 40}, "expected a whole number"),
        ({"guidance": "much"}, "guidance is 'much': expected a number"),
    ],
)
def test_a_link_with_nonsense_is_an_error_in_words(query: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Choice.from_query(query)


@for_each(
    ("changes", "words"),
    [
        ({"samplers": ()}, "nothing to compare"),
        ({"samplers": ("Eulr",)}, "'Euler'"),
        ({"samplers": ("comfyui: eulr",)}, "unknown sampler of ComfyUI"),
        ({"samplers": ("comfy: euler",)}, "did you mean 'comfyui'"),
        ({"samplers": ("plan: mine",)}, "drop its file in again"),
        ({"steps": (0,)}, "steps is 0: expected 1 to 1,000"),
        ({"num": 65}, "samples is 65: expected 1 to 64"),
        ({"seed": -1}, "seed is -1"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"steps": tuple(range(1, 40))}, "expected at most 64"),
        ({"model": "gausian"}, "'gaussian'"),
        ({"model": "./no/folder"}, "there is no folder ./no/folder"),
        ({"guidance": 2.0}, "knows no classes"),
        ({"samplers": ("Euler CFG++",)}, "two outputs"),
    ],
)
def test_what_cannot_be_run_is_the_librarys_own_error(changes: dict[str, Any], words: str) -> None:
    choice = Choice(**{**vars(SMALL), **changes})
    with pytest.raises((ValueError, OSError)) as error:
        Experiment(choice).run()
    assert words in str(error.value)


def test_an_experiment_makes_the_samples_of_the_library() -> None:
    experiment = Experiment(SMALL)
    seen: list[Any] = []
    experiment.run(lambda: seen.append(experiment.cells))
    # Whoever shows cells while more are made holds what there was: nothing is added to it.
    assert [sum(map(len, cells.values())) for cells in seen] == [1, 2, 3, 4]
    assert experiment.done == 1.0
    network = load_model("gaussian", 2, prompt=None, label=None, guidance=1.0).network
    for name, recipe in experiment.recipes.items():
        assert isinstance(recipe, diffusolve.Sampler)
        for steps, cell in experiment.cells[name].items():
            begun = diffusolve.start(recipe.grid("sd15", steps), (2, 1, 8, 8), [0, 1])
            expected = diffusolve.sample(network, begun, recipe, steps=steps, noise=[0, 1])
            np.testing.assert_array_equal(cell.images, expected.numpy())
            grid = recipe.grid("sd15", steps)
            assert cell.error == ExactSolution(network).distance(expected, begun, grid[0], grid[-1])


def test_a_plan_of_a_file_runs_beside_the_samplers(tmp_path: Path) -> None:
    plan = diffusolve.sampler("Euler").plan("sd15", "sample", 5)
    file = tmp_path / "mine, learned.json"
    file.write_text(plan.to_json(), encoding="utf-8")
    name, read = read_plan(file)
    assert read == plan
    experiment = Experiment(Choice(**{**vars(SMALL), "samplers": ("Euler", name), "steps": (3, 5)}), {name: read})
    experiment.run()
    assert list(experiment.cells[name]) == [5]
    np.testing.assert_array_equal(experiment.cells[name][5].images, experiment.cells["Euler"][5].images)
    assert experiment.cells[name][5].error == pytest.approx(experiment.cells["Euler"][5].error, rel=1e-4)
    assert dict(plans_of(experiment))[f"{name}, 5 steps"] == plan


def test_a_file_that_is_no_plan_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PlanFormatError, match="not a plan"):
        read_plan(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"b\.json is no text"):
        read_plan(tmp_path / "b.json")


def test_an_experiment_stops_at_the_next_step_and_keeps_what_it_has() -> None:
    experiment = Experiment(SMALL)
    with pytest.raises(Stopped):
        experiment.run(experiment.stop)
    assert sum(map(len, experiment.cells.values())) == 1
    assert experiment.is_stopped


def test_what_adds_noise_has_no_error_and_what_chooses_its_steps_no_plan() -> None:
    experiment = Experiment(Choice(**{**vars(SMALL), "samplers": ("Euler a", "DPM adaptive"), "steps": (5,)}))
    experiment.run()
    assert np.isnan(experiment.cells["Euler a"][5].error)
    assert experiment.cells["DPM adaptive"][5].steps is None
    assert experiment.cells["DPM adaptive"][5].error < 0.2
    assert [name for name, _ in plans_of(experiment)] == ["Euler a, 5 steps"]
    page = show.samples(experiment) + show.plots(experiment)
    assert "Euler a" in page
    assert "<svg" in page


def test_the_configuration_of_diffusers_is_that_of_the_name() -> None:
    for name, of_class, key in (
        ("DPM++ 2M Karras", "DPMSolverMultistepScheduler", "use_karras_sigmas"),
        ("comfyui: dpmpp_2m karras", "DPMSolverMultistepScheduler", "use_karras_sigmas"),
        ("diffusers: DPMSolverMultistepScheduler Karras", "DPMSolverMultistepScheduler", "use_karras_sigmas"),
        ("diffusers: EulerDiscreteScheduler", "EulerDiscreteScheduler", None),
    ):
        text, _ = configuration_of(name)
        config = json.loads(text)
        assert config["_class_name"] == of_class
        assert key is None or config[key] is True
    with pytest.raises(ValueError, match="a plan has no configuration"):
        configuration_of("plan: mine")
    with pytest.raises(ValueError, match="diffusers has no scheduler for"):
        configuration_of("Restart")


def test_names_from_a_link_are_text_to_the_page() -> None:
    experiment = Experiment(SMALL)
    experiment.run()
    experiment.cells = {"<script>": experiment.cells["Euler"]}
    assert "<script>" not in show.samples(experiment)
    assert "<b>" not in show.message("<b>", "error")


def test_comparing_from_python_gives_a_table_a_figure_and_a_picture() -> None:
    plan = diffusolve.sampler("UniPC").plan("sd15", "sample", 4)
    comparison = diffusolve.compare(["Euler", "Euler a", plan], (3, 6), model="gaussian", num=2)
    expected = [("Euler", 3), ("Euler", 6), ("Euler a", 3), ("Euler a", 6), ("plan of unipc", 4)]
    assert [(row["sampler"], row["steps"]) for row in comparison.rows] == expected
    assert list(comparison.table.columns) == ["sampler", "steps", "evaluations", "error", "seconds"]
    assert [row["error"] is None for row in comparison.rows] == [False, False, True, True, False]
    assert len(comparison.figure.axes) == 2
    assert comparison.picture.height > 3 * 64
    assert "plan of unipc" in comparison._repr_html_()
    own = load_model("gaussian", 2, prompt=None, label=None, guidance=1.0)
    again = diffusolve.compare("Euler", (3,), model=own, num=2)
    assert again.rows[0]["error"] == comparison.rows[0]["error"]
    with pytest.raises(UnknownNameError, match="'Euler'"):
        diffusolve.compare(["Eulr"])
    with pytest.raises(TypeError, match="samplers holds 5"):
        diffusolve.compare([5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="steps is empty"):
        diffusolve.compare(["Euler"], ())


def test_a_pipeline_folder_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DModel(8, 3, 3, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    opened: list[str] = []
    load = DiffusionPipeline.from_pretrained
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda path: (opened.append(path), load(path))[1])
    for seed in (0, 1):
        experiment = Experiment(Choice(str(tmp_path), ("Euler",), (2,), 1, seed, 1.0, error=False))
        experiment.run()
        assert experiment.cells["Euler"][2].images.shape == (1, 3, 8, 8)
    assert opened == [str(tmp_path)]
