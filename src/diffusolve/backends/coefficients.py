"""The steps of a mixed batch as one table of numbers, for engines with a loop of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diffusolve.backends.lowered import NEXT, OUTPUT, SAMPLE, UNGUIDED, LoweredStage
from diffusolve.backends.lowering import lower
from diffusolve.plan import Plan, put_in

__all__ = ["Coefficients", "coefficients", "slots_of"]

NAMES = {SAMPLE: "sample", OUTPUT: "output", UNGUIDED: "unguided", NEXT: "sample"}


@dataclass(frozen=True)
class Coefficients:
    """One evaluation and the step after it, for each row of a batch; all numbers in float64.

    A row has a ``sample`` and some slots, ``slot0``, ``slot1``, ..., which start as zeros. Its step is: show the
    network ``scales * sample`` and `timesteps`; draw the row's `noises` into their slots; then replace every register
    that is a target of `terms`, all at once, by its sum of ``table[row, term] * source``.

    Attributes:
        table: shape (rows, terms).
        terms: what each column is for, (target, source): a target is ``sample`` or a slot, a source one of these or
            ``output``, the network's, or ``unguided``, its output without guidance (CFG++).
        scales: shape (rows,), what samples are multiplied by before the network sees them.
        timesteps: shape (rows,), what the network is conditioned on.
        noises: for each row (slot, sigma_from, sigma_to), standard normal noise that belongs to an interval of sigma.
        done: for each row, whether this is its last evaluation.
    """

    table: npt.NDArray[np.float64]
    terms: tuple[tuple[str, str], ...]
    scales: npt.NDArray[np.float64]
    timesteps: npt.NDArray[np.float64]
    noises: tuple[tuple[tuple[str, float, float], ...], ...]
    done: tuple[bool, ...]


def coefficients(rows: Sequence[tuple[Plan, int]]) -> Coefficients:
    """The next step of rows at any positions of any plans, as one table.

    Args:
        rows: for each row its plan and how many of its evaluations are done.

    Raises:
        IndexError: a plan has no such evaluation.
        ValueError: a plan adds noise before it first asks the network and remembers more than its sample then.
    """
    stages = [_stage(plan, position, row) for row, (plan, position) in enumerate(rows)]
    sums = [_sums(stage) for stage in stages]
    targets = sorted({target for of_row in sums for target in of_row}, key=_order)
    for of_row, stage in zip(sums, stages, strict=True):
        held = {slot for _, slot in stage.holds}
        for target in targets:  # what a row does not write while others do stays what it is
            if target not in of_row and target in held:
                of_row[target] = {target: 1.0}
    terms = [
        (target, source)
        for target in targets
        for source in sorted({source for of_row in sums for source in of_row.get(target, ())}, key=_order)
    ]
    table = [[of_row.get(target, {}).get(source, 0.0) for target, source in terms] for of_row in sums]
    return Coefficients(
        np.array(table, np.float64).reshape(len(rows), len(terms)),
        tuple((_name(target), _name(source)) for target, source in terms),
        np.array([stage.scale for stage in stages]),
        np.array([stage.timestep for stage in stages], np.float64),
        tuple(tuple((_name(slot), start, end) for slot, start, end in stage.noises) for stage in stages),
        tuple(position == plan.nfe - 1 for plan, position in rows),
    )


def slots_of(plan: Plan) -> int:
    """The number of slots that a row with `plan` needs beside its sample."""
    return lower(plan).slots


def _stage(plan: Plan, position: int, row: int) -> LoweredStage:
    lowered = lower(plan)
    if lowered.opening is not None and lowered.opening.holds:
        raise ValueError(f"row {row}: {plan.solver} remembers more than its sample from before the first evaluation.")
    if not 0 <= position < plan.nfe:
        raise IndexError(f"row {row}: position {position} of {plan.solver}, which has {plan.nfe} evaluations.")
    return lowered.stages[position]


def _sums(stage: LoweredStage) -> dict[int, dict[int, float]]:
    """The values that the stage leaves, as sums over those before it: ``{target: {source: coefficient}}``."""
    values: dict[int, dict[int, float]] = {} if stage.keeps is None else {stage.keeps: {SAMPLE: 1.0}}
    for total in stage.sums:
        values[total.target] = put_in(total.terms.items(), values)
    following = values.pop(NEXT)
    held = {slot for _, slot in stage.holds}
    return {**{place: terms for place, terms in values.items() if place in held}, SAMPLE: following}


def _order(place: int) -> tuple[bool, int]:
    """The sample, the outputs, then the slots."""
    return place >= 0, abs(place)


def _name(place: int) -> str:
    return NAMES.get(place) or f"slot{place}"
