"""A bounded soak of runs, and of arrays; that of requests stands in test_serving.py. The long one: ``make attack``."""

from __future__ import annotations

from tests.attack.arrays import digest
from tests.attack.soak import runs


def test_runs_leave_nothing_behind_however_they_end() -> None:
    runs(4000)  # fills the caches
    ended, blocks = runs(4000)
    assert sum(ended.values()) == 4000
    assert {"done", "given up", "raises", "copied"} == set(ended)
    assert max(blocks[2:]) - min(blocks[1:]) < 2000  # 3,200 runs lie between these points


def test_arrays_of_any_kind_give_what_pytorch_makes_of_them_each_time() -> None:
    assert digest(60, seed=5) == digest(60, seed=5)
