"""What a run executes: a plan with the data conversion folded into the updates where nobody needs the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import NamedTuple

from diffusolve.plan import OUTPUT, UNGUIDED, NoiseTerm, Plan, Stage, Write

__all__ = ["OUTPUT", "Instruction", "Program", "ProgramStage", "compile_plan", "inputs_of", "is_simple"]

ROUNDING = 1e-15
"""A folded coefficient this small against its parts is their rounding error."""


class Instruction(NamedTuple):
    """``register = sum of coefficient * source``, clipped to plus and minus `limit`.

    The arrays of the sources `spent` are not needed any more. What is `passing` is read in its stage only.
    """

    register: str
    sources: tuple[str, ...]
    coefficients: tuple[float, ...]
    spent: tuple[str, ...] = ()
    limit: float = inf
    passing: bool = False


class ProgramStage(NamedTuple):
    """A stage of a plan, ready to run. `converts` says that the first instruction computes the data prediction."""

    plan_stage: Stage
    converts: bool
    noises: tuple[NoiseTerm, ...]
    instructions: tuple[Instruction, ...]
    frees: tuple[str, ...]
    next_sample: str


class Program(NamedTuple):
    """The opening, then one stage after the other. A `simple` one has only stages that add a multiple to a register."""

    opening_noises: tuple[NoiseTerm, ...]
    opening: tuple[Instruction, ...]
    stages: tuple[ProgramStage, ...]
    simple: bool


@lru_cache(maxsize=1024)
def compile_plan(plan: Plan, convert_always: bool, limit: float = inf, donated: bool = False) -> Program:
    """The program of `plan`, with data predictions clipped to plus and minus `limit`.

    A data prediction is computed where a later stage needs it, or everywhere if `convert_always` or clipped; elsewhere
    the updates take it apart into sample and output, so that a step is one combination of these. What is only
    remembered (it is neither a sample nor transformed or clipped) is kept up to a factor that saves its first term the
    multiplication, and spent where it is read last. So are samples and outputs that are `donated`. What waits for one
    sum alone is added up at once (:func:`_add_up_early`).
    """
    samples = {plan.result, *(stage.sample for stage in plan.stages)}
    written = {write.register for stage in plan.stages for write in stage.update.writes}
    own = written - samples if convert_always else (written - samples) | {stage.data for stage in plan.stages}
    noises = {noise.register for stage in plan.stages for noise in stage.update.noises}
    factors: dict[str, float] = {}
    drafts = []
    opening = tuple(_instruction(write, {}) for write in plan.opening.writes)
    for index, stage in enumerate(plan.stages):
        update = stage.update
        converts = convert_always or limit < inf or stage.data not in update.frees
        instructions = []
        if converts:
            terms = [(source, c) for source, c in ((stage.sample, stage.a), (OUTPUT, stage.b)) if c]
            sources, coefficients = zip(*terms, strict=True)
            data = Instruction(stage.data, sources, coefficients, limit=limit)
            instructions.append(data if convert_always or limit < inf else _up_to_factor(data, factors))
        copies: dict[str, float] = {}
        for write in update.writes:
            made = _instruction(write, factors) if converts else _with_copies(_folded(write, stage, factors), copies)
            made = made if write.register in samples else _up_to_factor(made, factors)
            if made.sources == (OUTPUT,) and not converts:
                copies[write.register] = made.coefficients[0]
            instructions.append(made)
        frees = {register for register in update.frees if converts or register != stage.data}
        drafts.append(_Draft(stage, converts, instructions, frees, plan.next_sample(index)))
    if not donated:  # what is donated has room for the parts
        own |= _add_up_early(drafts, samples)
    stages = []
    for draft in drafts:
        needed = {draft.stage.data} if convert_always else set()
        _put_in(draft, needed)
        dead = {OUTPUT, UNGUIDED, *draft.frees} - noises if donated else own & draft.frees
        stages.append(_finished(draft, dead, draft.frees - needed))
    simple = all(is_simple(made.instructions) for made in stages)
    return Program(plan.opening.noises, opening, tuple(stages), simple)


@dataclass
class _Draft:
    """A stage being compiled."""

    stage: Stage
    converts: bool
    instructions: list[Instruction]
    frees: set[str]
    next_sample: str


def _add_up_early(drafts: Sequence[_Draft], samples: Set[str]) -> set[str]:
    """Add up what only one later sum reads, once a part of it would be written to wait for that; the sums' names.

    UniPC then remembers for its corrector one array instead of the corrected sample and a data prediction. `samples`
    wait as they are: they are large against the rest, and rounding a sum with one costs as much precision as a step.
    """
    uses: dict[str, list[tuple[int, int]]] = {}
    for at, draft in enumerate(drafts):
        for place, made in enumerate(draft.instructions):
            for source in made.sources:
                uses.setdefault(source, []).append((at, place))
    sums: set[str] = set()
    there: set[str] = set()
    for at, draft in enumerate(drafts):
        written = {made.register for made in draft.instructions}
        noises = {noise.register for noise in draft.stage.update.noises}
        there |= {*written, *noises} - samples
        waiting: dict[tuple[int, int], list[str]] = {}
        for register in sorted(there):
            later = [use for use in uses.get(register, ()) if use[0] > at]
            if len(later) == 1:
                waiting.setdefault(later[0], []).append(register)
        for (then, place), parts in waiting.items():
            target = drafts[then].instructions[place]
            if len(parts) < 2 or not written & {*parts} or target.limit < inf:
                continue
            name = f"sum{len(sums)}"
            sums.add(name)
            terms = dict(zip(target.sources, target.coefficients, strict=True))
            early = Instruction(name, tuple(parts), tuple(terms.pop(part) for part in parts))
            draft.instructions.insert(-1, early)
            drafts[then].instructions[place] = target._replace(
                sources=(name, *terms), coefficients=(1.0, *terms.values())
            )
            drafts[then].frees -= {*parts}
            drafts[then].frees.add(name)
            draft.frees |= {*parts}
            uses[name] = [(then, place)]
            there = (there | {name}) - {*parts}
    return sums


def _put_in(draft: _Draft, needed: Set[str]) -> None:
    """Read short sums that are not `needed` and do not outlive the stage from their own terms."""
    short: dict[str, dict[str, float]] = {}
    instructions = []
    for made in draft.instructions:
        terms: dict[str, float] = {}
        for source, c in zip(made.sources, made.coefficients, strict=True):
            for original, factor in short.get(source, {source: 1.0}).items():
                before = terms.get(original, 0.0)
                terms[original] = _without_rounding(before + c * factor, before)
        terms = {source: c for source, c in terms.items() if c} or terms
        passing = made.register in draft.frees and made.register not in needed
        if passing and len(terms) <= 2 and made.limit == inf:
            short[made.register] = terms
        else:
            instructions.append(made._replace(sources=tuple(terms), coefficients=tuple(terms.values())))
    draft.instructions = instructions
    draft.frees -= short.keys()


def _finished(draft: _Draft, dead: Set[str], passing: Set[str]) -> ProgramStage:
    """The stage; what it makes of `passing` is read in it only, and the arrays of `dead` may be written to."""
    spending = _spending(draft.instructions, dead)
    instructions = tuple(made._replace(passing=made.register in passing) for made in spending)
    noises, frees = draft.stage.update.noises, tuple(sorted(draft.frees))
    return ProgramStage(draft.stage, draft.converts, noises, instructions, frees, draft.next_sample)


def _without_rounding(total: float, part: float) -> float:
    return total if abs(total) > ROUNDING * abs(part) else 0.0


def is_simple(instructions: Sequence[Instruction]) -> bool:
    """Whether this is one sum of two terms, one of them a register as it is."""
    if len(instructions) != 1:
        return False
    (only,) = instructions
    return len(only.sources) == 2 and 1.0 in only.coefficients and only.limit == inf


def _instruction(write: Write, factors: Mapping[str, float]) -> Instruction:
    """`write`, of registers that hold their value divided by one of `factors`."""
    sources = tuple(source for source, _ in write.terms)
    return Instruction(write.register, sources, tuple(c * factors.get(source, 1.0) for source, c in write.terms))


def _up_to_factor(instruction: Instruction, factors: dict[str, float]) -> Instruction:
    """`instruction` divided by its first coefficient, which is put into `factors`."""
    register, sources, coefficients, *_ = instruction
    if not sources or not 1e-3 < abs(coefficients[0]) < 1e3:
        return instruction
    factors[register] = coefficients[0]
    return Instruction(register, sources, tuple(c / coefficients[0] for c in coefficients))


def _folded(write: Write, stage: Stage, factors: Mapping[str, float]) -> Instruction:
    """`write` with ``data = a * sample + b * output`` put in."""
    register, sources, coefficients, *_ = _instruction(write, factors)
    terms = dict(zip(sources, coefficients, strict=True))
    data = terms.pop(stage.data, 0.0)
    if data:
        direct, through_data = terms.pop(stage.sample, 0.0), data * stage.a
        total = _without_rounding(direct + through_data, direct)
        if total:
            terms = {stage.sample: total, **terms}
        if stage.b:
            terms[OUTPUT] = terms.get(OUTPUT, 0.0) + data * stage.b
    return Instruction(register, tuple(terms), tuple(terms.values()))


def _with_copies(instruction: Instruction, copies: Mapping[str, float]) -> Instruction:
    """`instruction` with the output read from one of its `copies` (register -> multiple) that it reads anyway."""
    terms = dict(zip(instruction.sources, instruction.coefficients, strict=True))
    for register in terms.keys() & copies.keys():
        terms[register] += terms.pop(OUTPUT, 0.0) / copies[register]
    return instruction._replace(sources=tuple(terms), coefficients=tuple(terms.values()))


def _spending(instructions: Sequence[Instruction], registers: Set[str]) -> Iterator[Instruction]:
    """`instructions`, each with those `registers` spent that no later one reads."""
    for index, instruction in enumerate(instructions):
        later = {source for other in instructions[index + 1 :] for source in other.sources}
        yield instruction._replace(spent=tuple(s for s in instruction.sources if s in registers and s not in later))


def inputs_of(instructions: Sequence[Instruction]) -> list[str]:
    """The registers that the instructions read and do not write before."""
    inputs: dict[str, None] = {}
    written: set[str] = set()
    for made in instructions:
        inputs |= dict.fromkeys(source for source in made.sources if source not in written)
        written.add(made.register)
    return list(inputs)
