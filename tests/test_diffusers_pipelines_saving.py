"""Pipelines of diffusers take our schedulers, save them under the name of our library, and give them back."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import diffusolve
from diffusolve.config import ConfigMixin, register_to_config
from diffusolve.hub import push_folder
from diffusolve.schedulers.mixin import SchedulerMixin
from tests.hub_server import Hub, connected_hub

diffusers = pytest.importorskip("diffusers")

FILE = "scheduler_config.json"


class ExampleScheduler(SchedulerMixin, ConfigMixin):
    @register_to_config
    def __init__(
        self, num_train_timesteps: int = 1000, beta_end: float = 0.02, timestep_spacing: str = "leading"
    ) -> None: ...


class OwnScheduler(ExampleScheduler):
    """Of somebody's own module."""


@pytest.fixture(autouse=True)
def _a_class_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExampleScheduler, "__module__", "diffusolve.schedulers.example")
    monkeypatch.setattr(diffusolve, "ExampleScheduler", ExampleScheduler, raising=False)
    monkeypatch.setattr(diffusolve, "SchedulerMixin", SchedulerMixin, raising=False)


@pytest.fixture
def pipeline() -> Any:
    network = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    return diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(beta_end=0.05))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with connected_hub(monkeypatch, tmp_path / "home") as hub:
        yield hub


def test_a_scheduler_can_be_set_from_the_configuration_of_the_one_there(pipeline: Any) -> None:
    pipeline.scheduler = ExampleScheduler.from_config(pipeline.scheduler.config)
    assert pipeline.scheduler.config.beta_end == 0.05
    assert "ExampleScheduler" in repr(pipeline)
    assert pipeline.components["scheduler"] is pipeline.scheduler
    back = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    assert back.config.beta_end == 0.05


def test_a_pipeline_names_our_library_and_gives_our_class_back(pipeline: Any, tmp_path: Path) -> None:
    pipeline.scheduler = ExampleScheduler(500, timestep_spacing="trailing")
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusolve", "ExampleScheduler"]
    assert json.loads((tmp_path / "scheduler" / FILE).read_text())["num_train_timesteps"] == 500
    for kind in (diffusers.DiffusionPipeline, diffusers.DDPMPipeline):
        loaded = kind.from_pretrained(tmp_path)
        assert type(loaded.scheduler) is ExampleScheduler
        assert loaded.scheduler.config.timestep_spacing == "trailing"
    assert ExampleScheduler.from_pretrained(tmp_path, subfolder="scheduler").config.num_train_timesteps == 500


@pytest.mark.parametrize("saved", ["theirs", "ours"])
def test_a_pipeline_is_loaded_with_the_scheduler_that_is_passed(pipeline: Any, tmp_path: Path, saved: str) -> None:
    if saved == "ours":
        pipeline.scheduler = ExampleScheduler()
    pipeline.save_pretrained(tmp_path)
    ours, theirs = ExampleScheduler(7), diffusers.DDIMScheduler()
    for kind in (diffusers.DiffusionPipeline, diffusers.DDPMPipeline):
        assert kind.from_pretrained(tmp_path, scheduler=ours).scheduler is ours
        assert kind.from_pretrained(tmp_path, scheduler=theirs).scheduler is theirs


def test_a_class_of_somebodys_own_module_comes_back_too(pipeline: Any, tmp_path: Path) -> None:
    pipeline.scheduler = OwnScheduler(7)
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == [OwnScheduler.__module__, "OwnScheduler"]
    assert OwnScheduler.__module__ in sys.modules
    assert type(diffusers.DiffusionPipeline.from_pretrained(tmp_path).scheduler) is OwnScheduler


def test_a_pipeline_can_be_copied_and_made_from_another_with_our_scheduler(pipeline: Any) -> None:
    pipeline.scheduler = ExampleScheduler(7)
    other = diffusers.DDPMPipeline(**pipeline.components)
    assert other.scheduler is pipeline.scheduler
    assert copy.deepcopy(other.scheduler).config == pipeline.scheduler.config
    assert isinstance(pipeline.scheduler, diffusers.SchedulerMixin)
    assert isinstance(pipeline.scheduler, diffusers.ConfigMixin)


def test_a_pipeline_with_our_scheduler_goes_to_the_hub_and_comes_back(
    pipeline: Any, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "anns-token")
    pipeline.scheduler = ExampleScheduler(7)
    pipeline.save_pretrained(tmp_path / "pipeline")
    push_folder(tmp_path / "pipeline", "lab/pipeline")
    assert len(hub.repositories["lab/pipeline"].messages) == 2
    loaded = diffusers.DiffusionPipeline.from_pretrained("lab/pipeline")
    assert type(loaded.scheduler) is ExampleScheduler
    assert loaded.scheduler.config.num_train_timesteps == 7
    assert ExampleScheduler.from_pretrained("lab/pipeline", subfolder="scheduler").config.num_train_timesteps == 7
    assert (
        diffusers.DDIMScheduler.from_pretrained("lab/pipeline", subfolder="scheduler").config.num_train_timesteps == 7
    )


def test_a_pipeline_pushes_itself_with_our_scheduler(pipeline: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "anns-token")
    pipeline.scheduler = ExampleScheduler(7)
    pipeline.push_to_hub("lab/pipeline")
    index = json.loads(hub.repositories["lab/pipeline"].files["model_index.json"])
    assert index["scheduler"] == ["diffusolve", "ExampleScheduler"]


def test_diffusers_is_imported_after_the_library_was_imported_anew() -> None:
    script = """
import sys, diffusolve
for name in [name for name in sys.modules if name.split(".")[0] == "diffusolve"]:
    del sys.modules[name]
import diffusolve, diffusers
print(isinstance(diffusolve.DDIMScheduler(), diffusers.DDIMScheduler))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "True", done.stderr[-2000:]
