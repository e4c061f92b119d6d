"""One object of every scheduler class serves eight threads at once, each of which gets what it would get alone."""

from __future__ import annotations

import copy
import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

import diffusolve
from tests.schedulers.matrix import ROWS, Seen, Setting, cases, in_library, observe, setting_of

THREADS = 8


def requests(name: str) -> list[Setting]:
    """Runs with other numbers of steps and other noise, one for each thread."""
    row, case = ROWS[name], next(cases(name))
    runs = [{"num_inference_steps": steps} for steps in row.steps] + [*row.runs]
    made = [setting_of(name, case, runs[number % len(runs)], {}) for number in range(THREADS)]
    return [dataclasses.replace(each, noise=each.noise * (1 + number / 8)) for number, each in enumerate(made)]


def shown(name: str, setting: Setting, scheduler: Any) -> dict[str, Any]:
    """All that a user's loop shows of a run."""

    def run(scheduler: Any) -> Seen:
        scheduler.set_timesteps(**setting.run)
        yield from ROWS[name].loops[0](scheduler, setting)

    return observe(scheduler, run)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


@contextmanager
def often() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(work: list[Callable[[], Any]]) -> list[Any]:
    """What each makes of its work, in a thread of its own, all of which begin together."""
    results: list[Any] = [None] * len(work)
    start = threading.Barrier(len(work))

    def of_thread(number: int) -> None:
        start.wait()
        results[number] = work[number]()

    threads = [threading.Thread(target=of_thread, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_eight_threads_share_an_object_of_every_class_to_the_bit() -> None:
    wrong = []
    for name in sorted(ROWS):
        settings, config = requests(name), next(cases(name)).config
        make = partial(in_library(diffusolve, name), **copy.deepcopy(dict(config)))
        alone = [shown(name, setting, make()) for setting in settings]
        with often():
            together = at_once([partial(shown, name, setting, shared) for shared in [make()] for setting in settings])
        for setting, found, expected in zip(settings, together, alone, strict=True):
            assert "raised" not in expected, f"{name}, {setting.run}: {expected['raised']}"
            if not same(found, expected):
                wrong.append(f"{name}, {setting.run}: {found.get('raised', 'other values')}")
    assert not wrong, "\n".join(wrong)
