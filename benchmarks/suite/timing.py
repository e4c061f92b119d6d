"""Timing several ways of doing a thing in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch

__all__ = ["FULL", "QUICK", "Effort", "Loop", "Timing", "interleaved", "repeated", "threads"]

Loop = Callable[[], float]
"""Does a thing and returns the seconds that the part of it took that is to be measured."""


@dataclass(frozen=True)
class Effort:
    """How long each case is measured.

    Attributes:
        quick: whether this is for a first look.
        seconds: rounds go on until this has passed.
        least, most: there are no fewer and no more rounds.
    """

    quick: bool
    seconds: float
    least: int
    most: int


FULL = Effort(quick=False, seconds=0.3, least=3, most=60)
QUICK = Effort(quick=True, seconds=0.05, least=2, most=5)


class Timing(NamedTuple):
    """The median of the seconds of each contestant, and over how many rounds."""

    medians: dict[str, float]
    rounds: int


def interleaved(contestants: Mapping[str, Loop], effort: Effort) -> Timing:
    """Run all `contestants`, which have been run before, in turn, round after round.

    The first round does not count, unless it takes as long as all may: having been run before is then warm-up enough.
    Each round begins with another contestant, so that none always comes after the same one.
    """
    names = list(contestants)
    times: dict[str, list[float]] = {name: [] for name in names}
    begun, rounds, counts = time.perf_counter(), 0, False
    while rounds < effort.least or (rounds < effort.most and time.perf_counter() - begun < effort.seconds):
        first = rounds % len(names)
        made = {name: contestants[name]() for name in names[first:] + names[:first]}
        if not counts:
            counts = True
            if time.perf_counter() - begun < effort.seconds:
                continue
        for name, seconds in made.items():
            times[name].append(seconds)
        rounds += 1
    return Timing({name: statistics.median(taken) for name, taken in times.items()}, rounds)


def repeated(call: Callable[[], object], count: int) -> Loop:
    """The seconds of one `call`, from `count` of them: for calls that are short against the clock."""

    def loop() -> float:
        begun = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - begun) / count

    return loop


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within, PyTorch has `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
