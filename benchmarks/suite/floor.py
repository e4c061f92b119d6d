"""The least that a step can cost: its inputs read once and its outputs written once."""

from __future__ import annotations

import time

import torch

from benchmarks.suite.timing import Loop, threads
from diffusolve.backends.lowered import NEXT, OUTPUT, SAMPLE, UNGUIDED, numbered
from diffusolve.backends.lowering import lower
from diffusolve.plan import Plan

__all__ = ["MANY_ELEMENTS", "bytes_per_element", "copy_loop", "floor_seconds"]

RING = 4
"""How many buffers are copied in a circle: about as many as a step has arrays, so that caches help as much."""

MANY_ELEMENTS = 1 << 20
"""Arrays of more elements are copied once around the circle, others twenty times, as often as a run has steps."""


def bytes_per_element(plan: Plan, *, sample: int, output: int, shown: int, kept: int = 4) -> float:
    """How many bytes an evaluation must read and write for each element of the sample, on average over the plan.

    Read are the sample, the network's output where anything depends on it, and what is remembered or drawn and is in a
    term; written are the next sample and what is remembered on, added up where only one later sum reads it. What is
    computed and used within a step costs nothing. The input of the network is an array of its own, read from the
    sample, where it differs from that.

    Args:
        plan: whose terms say what is read.
        sample: bytes of an element of the samples, and of noise.
        output: of the network's output.
        shown: of the network's input.
        kept: of what is remembered between steps; such sums are kept in float32.
    """
    total = 0
    for stage in lower(plan).stages:
        if stage.scale != 1.0 or shown != sample:
            total += sample + shown
        inputs, _ = numbered(stage.sums)
        for place in (*inputs, *(made.target for made in stage.sums if not made.scratch)):
            as_samples = place in (SAMPLE, NEXT) or place in stage.samples | stage.callers
            total += output if place in (OUTPUT, UNGUIDED) else sample if as_samples else kept
    return total / plan.nfe


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
