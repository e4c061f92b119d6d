"""Threads that share everything, NumPy alone; the long one is ``python -m tests.attack.threads``."""

from __future__ import annotations

from tests.attack.threads import attack


def test_threads_that_share_everything_find_the_bits_of_one_thread_and_each_step_is_made_once() -> None:
    assert not attack(400, threads=8, seed=1)
