"""Constructor arguments as a configuration: frozen, saved, loaded, carried to another class and back."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import math
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diffusolve.config import (
    ConfigFileError,
    ConfigMixin,
    FrozenConfig,
    FrozenConfigError,
    config_keys,
    register_to_config,
)
from diffusolve.schedulers.mixin import SchedulerMixin
from tests.tables import for_each

FILE = "scheduler_config.json"


class Euler(SchedulerMixin, ConfigMixin):
    _compatibles = ["Ddim"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        trained_betas: Any = None,
        timestep_spacing: str = "linspace",
        use_karras_sigmas: bool = False,
        _seed: int = 0,
    ) -> None:
        self.seen = dict(self.config)


class Ddim(SchedulerMixin, ConfigMixin):
    _compatibles = ["Euler"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        trained_betas: Any = None,
        timestep_spacing: str = "leading",
        clip_sample: bool = True,
        lambda_min_clipped: float = -math.inf,
    ) -> None: ...


class Anything(ConfigMixin):
    """A configuration of any keys."""

    config_name = "anything.json"

    @register_to_config
    def __init__(self, **values: Any) -> None: ...


@pytest.fixture(autouse=True)
def _nothing_reported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusolve.config.reports._reported", set())


@pytest.fixture(autouse=True)
def _classes_in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_classes(monkeypatch, {cls.__name__: cls for cls in (Euler, Ddim)})


def patch_classes(monkeypatch: pytest.MonkeyPatch, classes: Mapping[str, type[Any]]) -> None:
    """Let the package have these scheduler classes and no others."""
    monkeypatch.setattr("diffusolve.schedulers.mixin.class_named", classes.get)


def chosen(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


# What is in it --------------------------------------------------------------------------------------------------------


def test_all_arguments_are_stored_however_they_were_given() -> None:
    assert chosen(Euler(500, timestep_spacing="trailing").config) == {
        "num_train_timesteps": 500,
        "trained_betas": None,
        "timestep_spacing": "trailing",
        "use_karras_sigmas": False,
    }


def test_the_configuration_is_there_while_the_constructor_runs() -> None:
    assert Euler(7).seen["num_train_timesteps"] == 7


def test_arguments_with_an_underscore_and_ignored_ones_are_not_stored() -> None:
    class Partly(ConfigMixin):
        ignore_for_config = ["device"]  # noqa: RUF012

        @register_to_config
        def __init__(self, steps: int = 3, device: str = "cpu", _cache: Any = None) -> None:
            self.device = device

    partly = Partly(4, device="meta", _cache={})
    assert (chosen(partly.config), partly.device) == ({"steps": 4}, "meta")
    assert "_cache" not in partly.config
    assert config_keys(Partly) == ["steps"]
    assert Partly.from_config(partly.config, device="cuda").device == "cuda"


def test_it_is_a_mapping_with_attributes() -> None:
    config = Euler(500).config
    assert config.num_train_timesteps == config["num_train_timesteps"] == config.get("num_train_timesteps") == 500
    assert isinstance(config, dict)
    assert {**config} == dict(config) == config
    assert list(config)[:2] == ["num_train_timesteps", "trained_betas"]
    assert hasattr(config, "use_karras_sigmas")
    assert not hasattr(config, "clip_sample")
    assert config.get("clip_sample", 3) == 3
    assert "timestep_spacing" in dir(config)
    with pytest.raises(AttributeError, match="the configuration has no key 'clip_sample'"):
        config.clip_sample  # noqa: B018


CHANGES: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda config: setattr(config, "num_train_timesteps", 1),
    "deleted attribute": lambda config: delattr(config, "num_train_timesteps"),
    "item": lambda config: config.__setitem__("num_train_timesteps", 1),
    "deleted item": lambda config: config.__delitem__("num_train_timesteps"),
    "pop": lambda config: config.pop("num_train_timesteps"),
    "setdefault": lambda config: config.setdefault("num_train_timesteps", 1),
    "update": lambda config: config.update(num_train_timesteps=1),
    "update in place": lambda config: config.__ior__({"num_train_timesteps": 1}),
    "popitem": lambda config: config.popitem(),
    "clear": lambda config: config.clear(),
    "new attribute": lambda config: setattr(config, "new", 1),
}


@for_each("change", CHANGES)
def test_a_change_is_refused_and_the_way_to_make_a_changed_copy_is_said(change: str) -> None:
    config = Euler().config
    before = dict(config)
    with pytest.raises(FrozenConfigError, match=r"cannot be changed: .* from_config\(config, \w+=value\)") as caught:
        CHANGES[change](config)
    if change not in ("popitem", "clear", "update in place", "new attribute"):
        assert "num_train_timesteps=value" in str(caught.value)
    assert config == before


def test_copies_stay_frozen_except_plain_ones() -> None:
    config = Euler(trained_betas=[0.1, 0.2]).config
    for twin in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert type(twin) is FrozenConfig
        assert twin == config
    assert copy.deepcopy(config).trained_betas is not config.trained_betas
    assert type(config.copy()) is type(config | {}) is dict


def test_an_object_can_be_copied_and_pickled_with_its_configuration() -> None:
    scheduler = Euler(5)
    for twin in (copy.copy(scheduler), copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert twin.config == scheduler.config


def test_an_argument_that_does_not_exist_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        TypeError, match="unknown argument of Euler 'timesteps_spacing': did you mean 'timestep_spacing'"
    ):
        Euler(timesteps_spacing="leading")  # type: ignore[call-arg]


def test_a_missing_argument_is_refused() -> None:
    class Needy(ConfigMixin):
        @register_to_config
        def __init__(self, steps: int) -> None: ...

    with pytest.raises(TypeError, match="steps"):
        Needy()  # type: ignore[call-arg]


def test_nameless_arguments_cannot_be_registered() -> None:
    with pytest.raises(TypeError, match=r"takes \*args: every value in a configuration needs a name"):

        @register_to_config
        def __init__(self: Any, *args: int) -> None: ...


def test_only_a_config_mixin_can_register() -> None:
    class Plain:
        @register_to_config
        def __init__(self, steps: int = 1) -> None: ...

    with pytest.raises(TypeError, match="Plain must derive from ConfigMixin"):
        Plain()


def test_a_subclass_has_its_own_options_and_those_that_it_sets_for_its_parent() -> None:
    class Trailing(Euler):
        @register_to_config
        def __init__(self, strength: float = 0.5, num_train_timesteps: int = 100) -> None:
            super().__init__(num_train_timesteps=num_train_timesteps * 2, timestep_spacing="trailing")

    scheduler = Trailing(0.7)
    assert chosen(scheduler.config) == {
        "strength": 0.7,
        "num_train_timesteps": 100,
        "trained_betas": None,
        "timestep_spacing": "trailing",
        "use_karras_sigmas": False,
    }
    assert scheduler.config["_use_default_values"] == ["num_train_timesteps", "trained_betas", "use_karras_sigmas"]
    assert Trailing.from_config(scheduler.config).config == scheduler.config


def test_a_network_can_have_a_configuration() -> None:
    class Network(nn.Module, ConfigMixin):
        @register_to_config
        def __init__(self, width: int = 2) -> None:
            super().__init__()
            self.layer = nn.Linear(self.config.width, 1)

    class Other(ConfigMixin, nn.Module):
        @register_to_config
        def __init__(self, width: int = 2) -> None:
            nn.Module.__init__(self)
            self.layer = nn.Linear(width, 1)

    for cls in (Network, Other):
        network = cls.from_config({"width": 5})
        assert network.layer.in_features == copy.deepcopy(network).config.width == 5
        assert cls(3).layer.weight.shape == (1, 3)


def test_constructing_again_begins_anew() -> None:
    scheduler = Euler(5, timestep_spacing="trailing")
    Euler.__init__(scheduler, 6)
    assert scheduler.config == Euler(6).config


def test_keys_are_readable_on_the_object_with_the_warning_that_users_know() -> None:
    with pytest.warns(FutureWarning, match=r"Euler.timestep_spacing is deprecated: .* \.config\.timestep_spacing"):
        assert Euler().timestep_spacing == "linspace"
    with pytest.raises(AttributeError, match="'Euler' object has no attribute 'spacing'"):
        Euler().spacing  # noqa: B018
    assert not hasattr(Euler.__new__(Euler), "timestep_spacing")


def test_values_can_be_registered_later() -> None:
    scheduler = Euler()
    scheduler.register_to_config(timestep_spacing="trailing", note="mine")
    assert (scheduler.config.timestep_spacing, scheduler.config.note) == ("trailing", "mine")
    assert "timestep_spacing" not in scheduler.config["_use_default_values"]
    assert Ddim.from_config(scheduler.config).config.timestep_spacing == "trailing"


# Another class and back -----------------------------------------------------------------------------------------------


def test_what_nobody_chose_becomes_the_default_of_the_other_class() -> None:
    assert Ddim.from_config(Euler().config).config.timestep_spacing == "leading"
    assert Ddim.from_config(Euler(timestep_spacing="linspace").config).config.timestep_spacing == "linspace"


def test_what_is_given_by_position_counts_as_chosen() -> None:
    assert Euler.from_config(Euler(500).config).config.num_train_timesteps == 500


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "num_train_timesteps": st.integers(1, 5000),
        "trained_betas": st.lists(st.floats(0, 1), max_size=3),
        "timestep_spacing": st.sampled_from(["linspace", "leading", "trailing"]),
        "use_karras_sigmas": st.booleans(),
        "sigma_max": st.floats(0, 100),
    },
)


@given(OPTIONS)
def test_another_class_and_back_restores_everything(options: dict[str, Any]) -> None:
    first = Euler.from_config(options)
    there = Ddim.from_config(first.config)
    back = Euler.from_config(there.config)
    assert back.config == first.config
    assert {key: there.config[key] for key in options} == options


def test_arguments_replace_what_the_configuration_says() -> None:
    first = Euler(500, timestep_spacing="trailing")
    copied = Euler.from_config(first.config, timestep_spacing="leading")
    assert (copied.config.num_train_timesteps, copied.config.timestep_spacing) == (500, "leading")
    assert first.config.timestep_spacing == "trailing"


def test_what_nobody_used_can_be_asked_for() -> None:
    config = Euler(use_karras_sigmas=True).config
    made, unused = Ddim.from_config(config, return_unused_kwargs=True, clip_sample=False, foo=1)
    assert unused == {"foo": 1, "use_karras_sigmas": True}
    assert not made.config.clip_sample
    assert made.config.use_karras_sigmas
    assert "foo" not in made.config


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "diffusolve"]


def test_unknown_keys_are_kept_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    config = {"timesteps_spacing": "x", "foo": 1, "clip_sample": False}
    for _ in range(3):
        assert chosen(Euler.from_config(config).config).items() >= config.items()
    assert reports(caplog) == [
        "Euler does not know 'foo', 'timesteps_spacing' in its configuration: kept, without effect. "
        "Did you mean 'timestep_spacing'?"
    ]
    Ddim.from_config(config)
    Euler.from_config({"bar": 1})
    assert len(reports(caplog)) == 3
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_arguments_without_meaning_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        Euler.from_config({}, use_karras=True)
    assert reports(caplog) == ["Euler has no option 'use_karras': ignored. Did you mean 'use_karras_sigmas'?"]


def test_the_configuration_of_a_stranger_is_taken_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    made = Euler.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 50})
    assert (made.config.num_train_timesteps, made.config["_class_name"]) == (50, "Euler")
    assert reports(caplog) == [
        "Euler was given the configuration of FlowMatchEulerDiscreteScheduler, which is not known to be compatible: "
        "only keys that both have take effect."
    ]
    caplog.clear()
    for name in ("Euler", "Ddim", "FlaxDdim"):
        assert Euler.from_config({"_class_name": name}).config["_class_name"] == "Euler"
    assert not reports(caplog)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([1], "must be a mapping, not list"),
        (None, "must be a mapping, not NoneType"),
        (3, "must be a mapping, not int"),
        (Euler(), r"Euler is not a configuration: pass its \.config"),
    ],
)
def test_what_is_no_configuration_is_refused(config: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Euler.from_config(config)


def test_a_class_without_constructor_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="SchedulerMixin has no constructor with a configuration"):
        SchedulerMixin.from_config({})


# Not a number ---------------------------------------------------------------------------------------------------------


@for_each(
    "value",
    [math.nan, np.float32("nan"), [0.1, math.nan], (math.nan,), np.array([0.1, np.nan]), torch.tensor([math.nan])],
    ids=repr,
)
def test_nan_is_refused_with_the_name_of_the_key(value: Any) -> None:
    message = r"trained_betas of Euler is not a number \(NaN\)"
    with pytest.raises(ValueError, match=message):
        Euler(trained_betas=value)
    with pytest.raises(ValueError, match=message):
        Euler.from_config({"trained_betas": value})
    scheduler = Euler()
    with pytest.raises(ValueError, match=message):
        scheduler.register_to_config(trained_betas=value)
    assert scheduler.config == Euler().config
    with pytest.raises(ValueError, match=r"strange of Euler is not a number"):
        Euler.from_config({"strange": {"deep": [value]}})


def test_nan_in_a_file_is_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"beta_start": NaN}')
    with pytest.raises(ValueError, match=rf"beta_start of \S+{FILE} is not a number"):
        Euler.from_pretrained(tmp_path)


def test_infinity_is_a_number(tmp_path: Path) -> None:
    Ddim().save_config(tmp_path)
    assert '"lambda_min_clipped": -Infinity' in (tmp_path / FILE).read_text()
    assert Ddim.from_config(Ddim.load_config(tmp_path)).config.lambda_min_clipped == -math.inf


# Files ----------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(), value, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.from_regex(r"[a-z]\w{0,8}", fullmatch=True).filter(lambda key: key != "self"), JSON))
def test_what_is_saved_is_loaded(values: dict[str, Any]) -> None:
    loaded = json.loads(Anything(**values).to_json_string())
    assert {key: loaded[key] for key in values} == values
    assert set(loaded) - set(values) == {"_class_name", "_diffusers_version"}
    assert Anything.from_config(loaded).to_json_string() == Anything(**values).to_json_string()


def test_a_file_names_its_class_and_the_versions_and_not_what_was_left_to_defaults(tmp_path: Path) -> None:
    Euler().save_config(tmp_path / "deep" / "folder")
    assert json.loads((tmp_path / "deep" / "folder" / FILE).read_text()) == {
        "_class_name": "Euler",
        "_diffusers_version": "0.42.1",
        "num_train_timesteps": 1000,
        "timestep_spacing": "linspace",
        "trained_betas": None,
        "use_karras_sigmas": False,
    }
    assert repr(Euler()) == f"Euler {Euler().to_json_string()}"
    Euler().to_json_file(tmp_path / "elsewhere.json")
    assert (tmp_path / "elsewhere.json").read_text() == Euler().to_json_string()


@for_each(
    ("value", "saved"),
    [
        (np.array([0.25, 0.5]), [0.25, 0.5]),
        (torch.tensor([0.25, 0.5], requires_grad=True), [0.25, 0.5]),
        (torch.tensor([0.25], dtype=torch.bfloat16), [0.25]),
        (np.float32(0.25), 0.25),
        (np.int64(3), 3),
        (Path("some") / "where", "some/where"),
        ((1, (2, 3)), [1, [2, 3]]),
        ({3, 1, 2}, [1, 2, 3]),
        ({"a": np.arange(2), 4: None}, {"a": [0, 1], "4": None}),
        (range(3), [0, 1, 2]),
    ],
    ids=repr,
)
def test_values_of_other_types_are_saved_as_plain_ones(value: Any, saved: Any) -> None:
    assert json.loads(Euler(trained_betas=value).to_json_string())["trained_betas"] == saved


def test_a_key_that_a_file_does_not_have_gets_its_default(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"num_train_timesteps": 50}')
    config = Euler.from_config(Euler.load_config(tmp_path)).config
    assert (config.num_train_timesteps, config.timestep_spacing) == (50, "linspace")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b": }', r"scheduler_config.json is not JSON: Expecting value, line 2, column 7"),
        ("beta_start: 1", r"is not JSON: Expecting value, line 1, column 1"),
        ('{\n<<<<<<< HEAD\n"a": 1\n=======\n"a": 2\n>>>>>>> b\n}', r"merge conflict: '<<<<<<<' in line 2\. Choose"),
        ('{\n"a": 1\n=======\n"a": 2\n}', r"merge conflict: '=======' in line 3\."),
        ("", r"scheduler_config.json is empty: a JSON object was expected"),
        (" \n", r"is empty"),
        ("[1, 2]", r"holds a list: a JSON object was expected"),
        ("42", r"holds the single value 42: a JSON object was expected"),
        ('"text"', r'holds the single value "text": a JSON object'),
        ("null", r"holds the single value null"),
    ],
)
def test_a_file_that_is_no_configuration_says_where_and_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigFileError, match=message) as caught:
        Euler.load_config(tmp_path)
    assert str(tmp_path / FILE) in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_a_conflict_marker_inside_a_value_is_no_conflict(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"note": "<<<<<<< HEAD"}')
    assert Euler.load_config(tmp_path) == {"note": "<<<<<<< HEAD"}


def test_bytes_that_are_no_text_are_no_configuration(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ConfigFileError, match=r"is not text in UTF-8 \(byte 7\)"):
        Euler.load_config(tmp_path)
    (tmp_path / FILE).write_bytes('\ufeff{"a": "ä"}'.encode())
    assert Euler.load_config(tmp_path) == {"a": "ä"}


def test_a_folder_without_the_file_names_the_file_and_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=rf"no file {FILE} in {tmp_path}, only nothing"):
        Euler.load_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    with pytest.raises(ConfigFileError, match=rf"no file {FILE} in {tmp_path}, only config.json, unet/\.$"):
        Euler.load_config(tmp_path)
    Euler().save_config(tmp_path / "scheduler")
    with pytest.raises(ConfigFileError, match=r'One is in scheduler: pass subfolder="scheduler"'):
        Euler.load_config(tmp_path)
    with pytest.raises(ConfigFileError, match=rf"{tmp_path} has no folder schedulers: its folders are scheduler, unet"):
        Euler.load_config(tmp_path, subfolder="schedulers")
    Euler().save_config(tmp_path)
    with pytest.raises(ConfigFileError, match="leave out subfolder"):
        Euler.load_config(tmp_path, subfolder="unet")
    for number in range(20):
        (tmp_path / "unet" / f"{number:02}").write_text("")
    with pytest.raises(ConfigFileError, match="only 00, 01, 02, 03, 04, 05, 06, 07 and 12 more"):
        Euler.load_config(tmp_path / "unet")


@for_each("place", ["/nowhere", "./nowhere", "../nowhere", "~/nowhere", "a/b/c", Path("nowhere/else")])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(place: Any) -> None:
    with pytest.raises(ConfigFileError, match=r"there is no folder .*nowhere|there is no folder a/b/c"):
        Euler.load_config(place)


def test_the_file_itself_can_be_named(tmp_path: Path) -> None:
    Euler(5).to_json_file(tmp_path / "my.json")
    assert Euler.load_config(tmp_path / "my.json")["num_train_timesteps"] == 5
    assert Euler.load_config(str(tmp_path / "my.json"), return_unused_kwargs=True, foo=1)[1] == {"foo": 1}


def test_a_path_as_configuration_works_with_the_warning_that_users_know(tmp_path: Path) -> None:
    Euler(5).save_config(tmp_path)
    with pytest.warns(
        FutureWarning, match=r"deprecated: use Euler.from_pretrained\(\.\.\.\), or pass Euler.load_config"
    ):
        made = Euler.from_config(str(tmp_path), timestep_spacing="trailing")
    assert (made.config.num_train_timesteps, made.config.timestep_spacing) == (5, "trailing")


def test_the_flax_prefix_is_taken_off(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"_class_name": "FlaxEuler"}')
    assert Euler.load_config(tmp_path)["_class_name"] == "Euler"


def test_resume_download_is_accepted_and_said_once_to_have_no_effect(tmp_path: Path) -> None:
    Euler().save_config(tmp_path)
    with pytest.warns(FutureWarning, match="resume_download has no effect"):
        Euler.load_config(tmp_path, resume_download=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Euler.load_config(tmp_path, resume_download=True)


def test_a_class_without_a_file_name_has_no_file(tmp_path: Path) -> None:
    class Nameless(ConfigMixin):
        @register_to_config
        def __init__(self) -> None: ...

    for act in (lambda: Nameless.load_config(tmp_path), lambda: Nameless().save_config(tmp_path)):
        with pytest.raises(ConfigFileError, match="Nameless says no config_name"):
            act()


def broken_disk(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("broken", ["replace", "write"])
def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Euler(5).save_config(tmp_path)
    old = (tmp_path / FILE).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "replace") if broken == "replace" else (Path, "write_bytes")), broken_disk)
        for save in (
            Euler(6).save_config,
            Euler(6).save_pretrained,
            lambda folder: Euler(6).to_json_file(folder / FILE),
        ):
            with pytest.raises(OSError, match="No space left"):
                save(tmp_path)
    with pytest.raises(
        TypeError, match=r"the value of trained_betas\['a'\] cannot be saved: object <object .* no JSON"
    ):
        Euler(trained_betas={"a": object()}).save_config(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_bytes() == old


def test_a_file_is_no_folder_to_save_in(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match=r"cannot save in .*file: it is a file, not a folder"):
        Euler().save_config(tmp_path / "file")


# The same in diffusers ------------------------------------------------------------------------------------------------


def twin_of(theirs: type) -> type[SchedulerMixin]:
    """A class of ours with the constructor of one of theirs, which does nothing."""

    def init(self: Any, *args: Any, **kwargs: Any) -> None: ...

    init.__signature__ = inspect.signature(theirs.__init__)  # type: ignore[attr-defined, misc]
    members = {"__init__": register_to_config(init), "_compatibles": theirs._compatibles}  # type: ignore[attr-defined]
    return type(theirs.__name__, (SchedulerMixin, ConfigMixin), members)


NAMES = ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler", "DDPMScheduler"]


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers")


@pytest.fixture
def twins(diffusers: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, type[SchedulerMixin]]]:
    twins = {name: twin_of(getattr(diffusers, name)) for name in NAMES}
    patch_classes(monkeypatch, twins)
    return twins  # type: ignore[return-value]


@for_each("first", NAMES)
@for_each("second", NAMES)
def test_configurations_go_from_class_to_class_as_in_diffusers(
    diffusers: Any, twins: dict[str, type[SchedulerMixin]], first: str, second: str
) -> None:
    options = {"beta_start": 0.001, "timestep_spacing": "trailing", "steps_offset": 1, "of_nobody": [1, 2]}
    config = {"_class_name": first, "_diffusers_version": "0.6.0", **options}
    ways = []
    for classes in (vars(diffusers) | {name: getattr(diffusers, name) for name in NAMES}, twins):
        start = classes[first].from_config(config)
        there, unused = classes[second].from_config(start.config, prediction_type="sample", return_unused_kwargs=True)
        back = classes[first].from_config(there.config)
        ways.append([comparable(values) for values in (start.config, there.config, unused, back.config)])
    assert ways[0] == ways[1]


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    return {key: sorted(value) if key == "_use_default_values" else value for key, value in config.items()}


@pytest.mark.parametrize("name", NAMES)
def test_files_and_configurations_are_the_same_to_diffusers_and_to_us(
    diffusers: Any, twins: dict[str, type[SchedulerMixin]], name: str, tmp_path: Path
) -> None:
    theirs, ours = getattr(diffusers, name)(beta_end=0.03), twins[name](beta_end=0.03)  # type: ignore[call-arg]
    assert comparable(theirs.config) == comparable(ours.config)
    assert comparable(twins[name].from_config(theirs.config).config) == comparable(theirs.config)
    assert comparable(type(theirs).from_config(ours.config).config) == comparable(ours.config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    files = [json.loads((tmp_path / whose / FILE).read_text()) for whose in ("theirs", "ours")]
    for file in files:
        file.pop("_diffusers_version")
    assert files[0] == files[1]
    assert twins[name].from_pretrained(tmp_path / "theirs").config.beta_end == 0.03
    assert type(theirs).from_pretrained(tmp_path / "ours").config.beta_end == 0.03


def test_pipelines_of_diffusers_may_replace_an_outdated_configuration(diffusers: Any) -> None:
    scheduler = Euler(5)
    newer = {**scheduler.config, "timestep_spacing": "leading"}
    scheduler._internal_dict = diffusers.configuration_utils.FrozenDict(newer)
    assert type(scheduler.config) is FrozenConfig
    assert scheduler.config.timestep_spacing == "leading"
    assert scheduler.config["_use_default_values"] == ["trained_betas", "use_karras_sigmas"]


# Start-up -------------------------------------------------------------------------------------------------------------


def test_importing_configurations_and_the_hub_imports_nothing_heavy() -> None:
    script = "import diffusolve.config, diffusolve.hub, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"torch", "numpy", "huggingface_hub", "diffusers", "safetensors", "httpx", "requests"}
    assert not heavy & set(done.stdout.split())
