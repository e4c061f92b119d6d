"""The memory traffic that a plan cannot do without."""

from __future__ import annotations

from diffusolve.backends.lowered import NEXT, OUTPUT, SAMPLE, UNGUIDED, numbered
from diffusolve.backends.lowering import lower
from diffusolve.plan import Plan

__all__ = ["bytes_per_element"]


def bytes_per_element(plan: Plan, *, sample: int, output: int, shown: int, kept: int = 4) -> float:
    """The bytes that an evaluation must read and write for each element of the sample, on average over the plan.

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
        for place in (*inputs, *(each.target for each in stage.sums if not each.scratch)):
            as_samples = place in (SAMPLE, NEXT) or place in stage.samples | stage.callers
            total += output if place in (OUTPUT, UNGUIDED) else sample if as_samples else kept
    return total / plan.nfe
