"""What a run executes: a plan with the data conversion folded into the updates where nobody needs the data."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from diffusolve.plan import OUTPUT, NoiseTerm, Plan, Stage, Update, Write

__all__ = ["OUTPUT", "Instruction", "Program", "ProgramStage", "compile_plan"]

ROUNDING = 1e-15
"""A folded coefficient this small against its parts is their rounding error."""


class Instruction(NamedTuple):
    """``register = sum of coefficient * source``."""

    register: str
    sources: tuple[str, ...]
    coefficients: tuple[float, ...]


class ProgramStage(NamedTuple):
    """A stage of a plan, ready to run. `converts` says that the first instruction computes the data prediction."""

    plan_stage: Stage
    sample: str
    converts: bool
    noises: tuple[NoiseTerm, ...]
    instructions: tuple[Instruction, ...]
    frees: tuple[str, ...]
    next_sample: str


class Program(NamedTuple):
    """The opening, then one stage after the other."""

    opening_noises: tuple[NoiseTerm, ...]
    opening: tuple[Instruction, ...]
    stages: tuple[ProgramStage, ...]


@lru_cache(maxsize=1024)
def compile_plan(plan: Plan, convert_always: bool) -> Program:
    """The program of `plan`.

    A data prediction is computed where a later stage needs it, or everywhere if `convert_always`; elsewhere the updates
    take it apart into sample and output, so that a step is one combination of these.
    """
    stages = []
    for index, stage in enumerate(plan.stages):
        update = stage.update
        converts = convert_always or stage.data not in update.frees
        instructions = [] if not converts else [Instruction(stage.data, (stage.sample, OUTPUT), (stage.a, stage.b))]
        instructions += [_instruction(write) if converts else _folded(write, stage) for write in update.writes]
        frees = tuple(register for register in update.frees if converts or register != stage.data)
        following = plan.next_sample(index)
        stages.append(ProgramStage(stage, stage.sample, converts, update.noises, tuple(instructions), frees, following))
    return Program(plan.opening.noises, _instructions(plan.opening), tuple(stages))


def _instructions(update: Update) -> tuple[Instruction, ...]:
    return tuple(_instruction(write) for write in update.writes)


def _instruction(write: Write) -> Instruction:
    return Instruction(write.register, tuple(s for s, _ in write.terms), tuple(c for _, c in write.terms))


def _folded(write: Write, stage: Stage) -> Instruction:
    """`write` with ``data = a * sample + b * output`` put in."""
    terms = dict(write.terms)
    data = terms.pop(stage.data, 0.0)
    if data:
        direct, through_data = terms.pop(stage.sample, 0.0), data * stage.a
        total = direct + through_data
        if abs(total) > ROUNDING * abs(direct):
            terms = {stage.sample: total, **terms}
        if stage.b:
            terms[OUTPUT] = terms.get(OUTPUT, 0.0) + data * stage.b
    return Instruction(write.register, tuple(terms), tuple(terms.values()))
