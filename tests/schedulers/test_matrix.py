"""Every scheduler class beside diffusers' of the same name, in everything that its row of the matrix tries."""

from __future__ import annotations

import pytest

import diffusolve
from tests.schedulers.matrix import ROWS, check_class, in_library, summary

diffusers = pytest.importorskip("diffusers", reason="these tests compare with diffusers, which is not installed")

TOKENS = ("Amused", "BlockRefinement", "DiscreteDDIM", "EntropyBound", "VQDiffusion")
"""Classes that sample tokens; the matrix walks continuous samples."""


def test_every_class_of_diffusers_has_a_row() -> None:
    public = {name for name in diffusers._class_to_module if name.endswith("Scheduler")}
    assert public - ROWS.keys() == {f"{name}Scheduler" for name in TOKENS}
    assert all(in_library(diffusolve, name) for name in ROWS)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_class_agrees_with_diffusers(name: str) -> None:
    failures = check_class(name)
    assert not failures, summary(failures)
