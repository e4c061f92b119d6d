"""Saving and loading schedulers, and what diffusers takes them for."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffusolve.config import ConfigFileError, ConfigMixin, register_to_config
from diffusolve.errors import UnknownNameError
from diffusolve.schedulers.mixin import SchedulerMixin

FILE = "scheduler_config.json"


class Euler(SchedulerMixin, ConfigMixin):
    """With the keys of EulerDiscreteScheduler that matter here."""

    _compatibles = ["Multistep", "NotWrittenYet"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        sigma_min: float | None = None,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
    ) -> None: ...


class Multistep(SchedulerMixin):
    _compatibles = ["Euler"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        solver_order: int = 2,
        timestep_spacing: str = "linspace",
        lambda_min_clipped: float = -math.inf,
    ) -> None: ...


@pytest.fixture(autouse=True)
def _in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusolve.config.reports._reported", set())
    monkeypatch.setattr("diffusolve.schedulers.mixin.scheduler_class", scheduler_class)


def scheduler_class(name: str) -> type[SchedulerMixin]:
    """The classes of a package that has these two, and a third whose module lacks a package."""
    if name == "NotWrittenYet":
        raise ImportError("no module named 'not_there'")
    classes = {cls.__name__: cls for cls in (Euler, Multistep)}
    if name not in classes:
        raise UnknownNameError(name)
    return classes[name]


# Folders -----------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded_from_a_folder_that_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    Euler(500, timestep_spacing="trailing").save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == [FILE]
    back = Euler.from_pretrained(folder)
    assert (back.config.num_train_timesteps, back.config.timestep_spacing) == (500, "trailing")
    assert Euler.from_pretrained(str(folder)).config == back.config


def test_the_scheduler_of_a_pipeline_is_in_its_subfolder(tmp_path: Path) -> None:
    Euler(500).save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text("{}")
    assert Euler.from_pretrained(tmp_path, subfolder="scheduler").config.num_train_timesteps == 500
    assert Euler.from_pretrained(tmp_path, "scheduler").config.num_train_timesteps == 500
    with pytest.raises(ConfigFileError, match='pass subfolder="scheduler"'):
        Euler.from_pretrained(tmp_path)


def test_arguments_replace_what_the_file_says(tmp_path: Path) -> None:
    Euler(500, beta_start=0.5).save_pretrained(tmp_path)
    made, unused = Euler.from_pretrained(tmp_path, return_unused_kwargs=True, beta_start=0.25, foo=1)
    assert (made.config.num_train_timesteps, made.config.beta_start) == (500, 0.25)
    assert unused == {
        "foo": 1,
        "_class_name": "Euler",
        "_diffusers_version": "0.42.1",
    }


def test_what_has_no_effect_on_a_scheduler_is_accepted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Euler(500).save_pretrained(tmp_path)
    made = Euler.from_pretrained(
        tmp_path, output_loading_info=True, cache_dir=tmp_path, force_download=True, proxies={}, revision="main"
    )
    assert made.config.num_train_timesteps == 500
    assert not caplog.records


def test_nothing_to_load_from_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Euler.from_pretrained needs a folder or the id of a repository"):
        Euler.from_pretrained()  # type: ignore[call-overload]


def test_a_class_loads_what_a_compatible_one_has_saved_and_gives_it_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Multistep(500, solver_order=3).save_pretrained(tmp_path)
    there = Euler.from_pretrained(tmp_path)
    assert there.config.num_train_timesteps == 500
    there.save_pretrained(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["_class_name"] == "Euler"
    back = Multistep.from_pretrained(tmp_path)
    assert (back.config.solver_order, back.config.lambda_min_clipped) == (3, -math.inf)
    assert not caplog.records


REAL = {
    "0.3, Stable Diffusion 1.4": (
        '{"_class_name": "PNDMScheduler", "_diffusers_version": "0.3.0", "beta_end": 0.012, "beta_schedule": '
        '"scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000, "skip_prk_steps": true, '
        '"tensor_format": "pt", "timestep_values": null, "trained_betas": null}'
    ),
    "0.6, Stable Diffusion 1.5": (
        '{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": '
        '"scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, '
        '"skip_prk_steps": true, "steps_offset": 1, "trained_betas": null, "clip_sample": false}'
    ),
    "0.10, for Flax": '{"_class_name": "FlaxDDIMScheduler", "beta_start": 0.00085, "beta_schedule": "scaled_linear"}',
    "0.19, with infinity": (
        '{"_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.19.0.dev0", "beta_start": 0.00085, '
        '"lambda_min_clipped": -Infinity, "variance_type": null, "sigma_min": null, "solver_order": 2}'
    ),
    "no class": '{"beta_start": 0.00085}',
    "only a class": '{"_class_name": "Euler"}',
    "nothing": "{}",
}


@pytest.mark.parametrize("age", REAL)
def test_configurations_of_all_ages_load_and_keep_their_keys(tmp_path: Path, age: str) -> None:
    (tmp_path / FILE).write_text(REAL[age])
    written = json.loads(REAL[age])
    for cls in (Euler, Multistep):
        config = cls.from_pretrained(tmp_path).config
        assert config.beta_start == written.get("beta_start", 0.0001)
        assert all(config[key] == value for key, value in written.items() if key != "_class_name")
        assert config.get("_class_name") == (cls.__name__ if "_class_name" in written else None)
    with pytest.raises(TypeError, match="SchedulerMixin has no constructor"):
        SchedulerMixin.from_pretrained(tmp_path)


# Compatible classes ------------------------------------------------------------------------------------------------


def test_compatibles_are_the_classes_of_the_package_that_there_are() -> None:
    assert Euler().compatibles == [Euler, Multistep]
    assert Multistep().compatibles == [Multistep, Euler]
    assert Euler.has_compatibles


def test_a_class_of_ones_own_needs_no_place_in_the_package(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Mine(SchedulerMixin, ConfigMixin):
        @register_to_config
        def __init__(self, strength: float = 1.0) -> None: ...

    Mine(0.5).save_pretrained(tmp_path)
    back = Mine.from_pretrained(tmp_path)
    assert (back.config.strength, back.compatibles) == (0.5, [])
    with caplog.at_level(logging.WARNING, "diffusolve"):
        Mine.from_pretrained(tmp_path, noise=3)
    assert caplog.messages == ["Mine has no option 'noise': ignored."]


# diffusers ---------------------------------------------------------------------------------------------------------

THEIRS = """
from diffusers import configuration_utils
from diffusers.schedulers import scheduling_utils
from diffusers.pipelines import pipeline_loading_utils
"""
OURS = """
from diffusolve.config import ConfigMixin, register_to_config
from diffusolve.schedulers.mixin import SchedulerMixin
class Mine(SchedulerMixin, ConfigMixin):
    @register_to_config
    def __init__(self, steps: int = 3) -> None: ...
made = Mine()
"""
JOINED = """
libraries = pipeline_loading_utils.LOADABLE_CLASSES
assert libraries["diffusolve"] == {"SchedulerMixin": ["save_pretrained", "from_pretrained"]}
for base in (scheduling_utils.SchedulerMixin, configuration_utils.ConfigMixin):
    assert isinstance(made, base) and issubclass(SchedulerMixin, base)
assert issubclass(scheduling_utils.SchedulerMixin, SchedulerMixin)
assert not issubclass(configuration_utils.ConfigMixin, SchedulerMixin)
whose = [cls.__module__.split(".")[0] for cls in SchedulerMixin.__mro__]
assert whose == sorted(whose, key=["diffusolve", "diffusers", "builtins"].index), whose
assert type(configuration_utils.__loader__).__name__ == "SourceFileLoader"
assert scheduling_utils.__spec__.loader is scheduling_utils.__loader__
made.register_to_config(steps=4)
assert made.config == {"steps": 4} and Mine.from_config(made.config).config.steps == 4
"""
ORDERS = {
    "ours, then theirs": f"{OURS}\nimport sys; assert 'diffusers' not in sys.modules\n{THEIRS}\n{JOINED}",
    "theirs, then ours": f"{THEIRS}\n{OURS}\n{JOINED}",
    "theirs begun, ours, then theirs": f"import diffusers\n{OURS}\n{THEIRS}\n{JOINED}",
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_scheduler_is_one_to_diffusers_whichever_is_imported_first(order: str, tmp_path: Path) -> None:
    stand_in = {
        "__init__": "",
        "configuration_utils": "class ConfigMixin: ...",
        "schedulers/__init__": "",
        "schedulers/scheduling_utils": "class SchedulerMixin: ...",
        "pipelines/__init__": "",
        "pipelines/pipeline_loading_utils": "LOADABLE_CLASSES = {}",
    }
    for name, text in stand_in.items():
        file = tmp_path / "diffusers" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ORDERS[order]], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_version_of_diffusers_that_cannot_be_joined_breaks_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusolve import diffusers_bridge

    class Strange(int): ...

    class Ours(SchedulerMixin): ...

    diffusers_bridge._join_class(Ours, Strange)
    assert "Ours cannot be joined with this version of diffusers" in caplog.text
    assert not issubclass(Ours, Strange)


def test_the_finder_leaves_other_modules_alone() -> None:
    from diffusolve import diffusers_bridge

    finders = [finder for finder in sys.meta_path if type(finder).__module__ == diffusers_bridge.__name__]
    diffusers_bridge.watch()
    assert len(finders) == 1
    assert finders[0].find_spec("json", None) is None
