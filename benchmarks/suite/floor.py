"""The least that a step can cost: its inputs read once and its outputs written once."""

from __future__ import annotations

import time

import torch

from benchmarks.suite.timing import Loop, threads

__all__ = ["MANY_ELEMENTS", "copy_loop", "floor_seconds"]

RING = 4
"""How many buffers are copied in a circle: about as many as a step has arrays, so that caches help as much."""

MANY_ELEMENTS = 1 << 20
"""Arrays of more elements are copied once around the circle, others twenty times, as often as a run has steps."""


def copy_loop(like: torch.Tensor, count: int) -> Loop:
    """The seconds that copying an array like this into another takes with `count` threads."""
    buffers = [torch.ones_like(like) for _ in range(RING)]
    pairs = list(zip(buffers, buffers[1:] + buffers[:1], strict=True))
    pairs *= 1 if like.numel() > MANY_ELEMENTS else 20

    def loop() -> float:
        with threads(count):
            begun = time.perf_counter()
            for source, target in pairs:
                target.copy_(source)
            return (time.perf_counter() - begun) / len(pairs)

    return loop


def floor_seconds(bytes_an_element: float, copy_seconds: float, itemsize: int) -> float:
    """The floor of an evaluation, from the time of a copy, which reads and writes `itemsize` bytes an element."""
    return bytes_an_element / (2 * itemsize) * copy_seconds
