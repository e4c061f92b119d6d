"""The import paths of diffusers under our name, and what is found there."""

from __future__ import annotations

import importlib

import pytest

import diffusolve
from diffusolve.schedulers.import_paths import MEMBERS

NAMES = [name for name in diffusolve.__all__ if name.endswith("Scheduler")]


def test_every_class_and_its_output_is_where_diffusers_has_it() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers says where its classes are")
    wrong = []
    for name in NAMES:
        theirs = getattr(diffusers, name, None)
        if theirs is None:
            continue
        path = theirs.__module__.replace("diffusers", "diffusolve", 1)
        try:
            module = importlib.import_module(path)
        except ImportError as error:
            wrong.append(f"{name}: {error}")
            continue
        members = [name, *(key for key in vars(importlib.import_module(theirs.__module__)) if key == f"{name}Output")]
        wrong += [f"{path} has no {key}" for key in members if not hasattr(module, key)]
        if getattr(module, name, None) is not getattr(diffusolve, name):
            wrong.append(f"{path}.{name} is another class")
    assert not wrong, "\n".join(wrong)


def test_deprecated_classes_are_under_their_path_too() -> None:
    deprecated = importlib.import_module("diffusolve.schedulers.deprecated")
    assert deprecated.KarrasVeScheduler is diffusolve.KarrasVeScheduler
    assert deprecated.ScoreSdeVpScheduler is diffusolve.ScoreSdeVpScheduler
    module = importlib.import_module("diffusolve.schedulers.deprecated.scheduling_karras_ve")
    assert module.KarrasVeOutput.fields == ("prev_sample", "derivative", "pred_original_sample")


def test_all_members_of_the_table_are_found() -> None:
    for path, members in MEMBERS.items():
        module = importlib.import_module(f"diffusolve.{path}")
        assert all(hasattr(module, name) for name in members)


def test_a_star_import_brings_the_class_and_what_goes_with_it() -> None:
    found: dict[str, object] = {}
    exec("from diffusolve.schedulers.scheduling_euler_discrete import *", found)
    assert found["EulerDiscreteScheduler"] is diffusolve.EulerDiscreteScheduler
    assert found["EulerDiscreteSchedulerOutput"] is diffusolve.EulerDiscreteScheduler.output


def test_what_is_not_there_is_an_import_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="scheduling_nothing"):
        importlib.import_module("diffusolve.schedulers.scheduling_nothing")
    with pytest.raises(ImportError, match="NoScheduler"):
        exec("from diffusolve.schedulers import NoScheduler")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = importlib.import_module("diffusolve.schedulers.scheduling_ddim").Nothing
