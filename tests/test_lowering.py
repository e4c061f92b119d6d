"""Lowering, pass by pass: sums in, sums out."""

from __future__ import annotations

import sys
from math import inf
from typing import Any

import pytest

from diffusolve.backends import Clip
from diffusolve.backends.lowered import NEXT, OUTPUT, SAMPLE, UNGUIDED, Sum, Trait, numbered
from diffusolve.backends.lowering import (
    Slots,
    add_up_early,
    in_slots,
    live_after,
    lower,
    put_in_short_sums,
    with_reusable,
    without_dead,
)
from diffusolve.noise import SD15
from diffusolve.plan import NoiseTerm, Plan, PlanPoint, Stage, Update, Write
from diffusolve.sampling import Sampler
from diffusolve.solvers import SOLVERS, unipc
from diffusolve.spacing import Karras

Terms = dict[int, float]


def total(target: int, terms: Terms, limit: float = inf) -> Sum:
    return Sum(target, tuple(terms), tuple(terms.values()), limit)


def tables(stages: list[list[Sum]]) -> list[dict[int, Terms]]:
    return [{made.target: dict(zip(made.sources, made.coefficients, strict=True)) for made in sums} for sums in stages]


# Passes


def test_sums_that_nothing_reads_are_dropped() -> None:
    stages = [
        [total(0, {SAMPLE: 2.0}), total(1, {OUTPUT: 3.0}), total(2, {1: 1.0}), total(NEXT, {OUTPUT: 1.0})],
        [total(3, {0: 1.0}), total(NEXT, {1: 0.5, SAMPLE: 1.0})],
    ]
    assert tables(without_dead(stages)) == [
        {1: {OUTPUT: 3.0}, NEXT: {OUTPUT: 1.0}},  # 0 was for 3, which leads nowhere
        {NEXT: {1: 0.5, SAMPLE: 1.0}},
    ]


def test_registers_that_wait_for_one_later_sum_are_added_up_where_the_last_of_them_comes() -> None:
    stages = [
        [total(0, {OUTPUT: 1.0}), total(NEXT, {SAMPLE: 1.0, OUTPUT: 0.1})],
        [total(1, {OUTPUT: 2.0}), total(NEXT, {SAMPLE: 1.0, 1: 0.2})],
        [total(NEXT, {SAMPLE: 1.0, 0: 0.3, 1: 0.4})],
    ]
    assert tables(add_up_early(stages, [set(), set(), set()], 2)) == [
        {0: {OUTPUT: 1.0}, NEXT: {SAMPLE: 1.0, OUTPUT: 0.1}},
        {1: {OUTPUT: 2.0}, 2: {0: 0.3, 1: 0.4}, NEXT: {SAMPLE: 1.0, 1: 0.2}},
        {NEXT: {2: 1.0, SAMPLE: 1.0}},
    ]
    assert [made.target for made in add_up_early(stages, [set(), set(), set()], 2)[1]] == [1, 2, NEXT]


WAITS_AS_IT_IS = {
    "two sums read it": [
        [total(0, {OUTPUT: 1.0}), total(1, {OUTPUT: 2.0}), total(NEXT, {OUTPUT: 1.0})],
        [total(NEXT, {0: 1.0, 1: 1.0})],
        [total(NEXT, {0: 1.0, 1: 1.0})],
    ],
    "it waits alone": [[total(0, {OUTPUT: 1.0}), total(NEXT, {OUTPUT: 1.0})], [total(NEXT, {0: 1.0, SAMPLE: 2.0})]],
    "the sum is clipped": [
        [total(0, {OUTPUT: 1.0}), total(1, {OUTPUT: 2.0}), total(NEXT, {OUTPUT: 1.0})],
        [total(2, {0: 1.0, 1: 1.0}, 1.0), total(NEXT, {2: 1.0})],
    ],
}


@pytest.mark.parametrize("stages", WAITS_AS_IT_IS.values(), ids=WAITS_AS_IT_IS)
def test_what_cannot_be_added_up_early_waits(stages: list[list[Sum]]) -> None:
    assert add_up_early(stages, [set() for _ in stages], 3) == stages


def test_noise_waits_with_what_is_written_beside_it() -> None:
    stages = [
        [total(0, {OUTPUT: 1.0}), total(NEXT, {SAMPLE: 1.0})],
        [total(NEXT, {0: 0.5, 1: 2.0, SAMPLE: 1.0})],
    ]
    assert tables(add_up_early(stages, [{1}, set()], 2)) == [
        {0: {OUTPUT: 1.0}, 2: {0: 0.5, 1: 2.0}, NEXT: {SAMPLE: 1.0}},
        {NEXT: {2: 1.0, SAMPLE: 1.0}},
    ]


def test_sums_of_what_waits_are_no_samples_of_the_plan() -> None:
    """Their numbers lie above those of samples and data predictions, which no sum may be left to read or write."""
    waiting = Write("x1", (("x0", 1.0), ("n", 1.0), ("output", 0.5))), Write("k", (("output", 2.0),))
    plan = plan_of(
        stage("x0", *reversed(waiting), noises=(NoiseTerm("n", 1.0, 0.5),)),
        stage("x1", Write("x2", (("x0", 1.0), ("n", 1.0), ("k", 1.0), ("output", 1.0)))),
        stage("x2", Write("x9", (("x2", 1.0), ("output", 1.0)))),
    )
    first, second, _ = lower(plan).stages
    (waits,) = (made for made in first.sums if made.target != NEXT)
    assert waits.target in second.sums[-1].sources
    assert waits.target in {slot for _, slot in first.holds}


def test_registers_live_from_their_sum_to_the_last_that_reads_them() -> None:
    stages = [
        [total(0, {OUTPUT: 1.0}), total(1, {0: 1.0}), total(NEXT, {1: 1.0})],
        [total(NEXT, {0: 1.0, 5: 1.0, 6: 1.0})],
        [total(NEXT, {0: 1.0, 6: 1.0, 7: 1.0})],
    ]
    given = [{7}, {5, 6}, set()]  # a sample that is kept, noise, and noise that is kept
    assert live_after(stages, given) == [{0, 7}, {0, 6, 7}, set()]


def test_short_sums_that_do_not_outlive_their_stage_are_put_in() -> None:
    sums = [
        total(0, {SAMPLE: 2.0, OUTPUT: 1.0}),
        total(1, {0: 3.0}),
        total(2, {SAMPLE: 1.0, 0: 1.0, 5: 1.0}),
        total(3, {0: 1.0}),
        total(NEXT, {1: 1.0, 2: 1.0, SAMPLE: -6.0}),
    ]
    made = put_in_short_sums(sums, {3})
    assert tables([made]) == [
        {
            2: {SAMPLE: 3.0, OUTPUT: 1.0, 5: 1.0},  # three terms: it stays, but in its stage only
            3: {SAMPLE: 2.0, OUTPUT: 1.0},  # remembered
            NEXT: {OUTPUT: 3.0, 2: 1.0},  # 3 (2 sample + output) - 6 sample
        }
    ]
    assert [each.scratch for each in made] == [True, False, False]


def test_clipped_sums_are_not_taken_apart() -> None:
    sums = [total(0, {SAMPLE: 2.0}, 1.0), total(NEXT, {0: 3.0})]
    assert tables([put_in_short_sums(sums, ())]) == tables([sums])


def test_arrays_are_reusable_by_the_last_sum_that_reads_them() -> None:
    sums = [total(3, {0: 1.0, 1: 1.0}), total(NEXT, {0: 1.0, 3: 1.0, SAMPLE: 1.0})]
    assert [made.reusable for made in with_reusable(sums, {0, 1, 3})] == [(1,), (0, 3)]
    assert [made.reusable for made in with_reusable(sums, {0, SAMPLE})] == [(), (0, SAMPLE)]


def test_results_take_the_slots_of_reusable_arrays_and_else_the_lowest_that_is_free() -> None:
    slots, held = Slots(), {}
    for register in (10, 11, 12):
        held[register] = slots.take()
    slots.give_back(held.pop(10))
    sums = with_reusable([total(13, {11: 1.0, 12: 1.0}), total(14, {13: 1.0}), total(NEXT, {13: 1.0, 14: 1.0})], {11})
    placed = in_slots(sums, held, slots)
    assert [(made.target, made.sources, made.reusable) for made in placed] == [
        (1, (1, 2), (1,)),  # 11 is not needed any more
        (0, (1,), ()),
        (NEXT, (1, 0), ()),
    ]
    assert (held, slots.count) == ({12: 2, 13: 1, 14: 0}, 3)


def test_sources_are_numbered_as_inputs_and_results_whatever_becomes_of_their_slots() -> None:
    sums = [total(1, {1: 1.0, 4: 1.0}), total(4, {SAMPLE: 1.0, 1: 1.0}), total(NEXT, {4: 1.0, 2: 1.0})]
    assert numbered(sums) == ([1, 4, SAMPLE, 2], [(0, 1), (2, 4), (5, 3)])
    assert numbered(sums, frozenset({1})) == ([4, SAMPLE, 2, 1], [(3, 0), (1, 4), (5, 2)])


# Whole plans

HERE = PlanPoint(1.0, 1.0, 1.0)


def plan_of(*stages: Stage, opening: Update | None = None, result: str = "x9") -> Plan:
    return Plan("hand-made", "none", HERE, HERE, opening or Update(), stages, result)


def stage(sample: str, *writes: Write, a: float = 2.0, b: float = 3.0, noises: tuple[NoiseTerm, ...] = ()) -> Stage:
    return Stage(0, 0, HERE, 1.0, a, b, sample, f"data of {sample}", Update(noises, writes))


def test_data_are_folded_into_sample_and_output_where_nobody_reads_them_later() -> None:
    plan = plan_of(stage("x0", Write("x9", (("x0", 1.0), ("data of x0", 0.5)))))
    (lowered,) = lower(plan).stages
    assert tables([[*lowered.sums]]) == [{NEXT: {SAMPLE: 2.0, OUTPUT: 1.5}}]
    assert (lower(plan).slots, lowered.traits, lowered.is_simple) == (0, Trait.ENDS, False)
    (clipped,) = lower(plan, Clip(0.7)).stages
    assert [made.limit for made in clipped.sums] == [0.7, inf]
    (own,) = lower(plan, lambda data, stage: data).stages
    assert own.data == Sum(0, (SAMPLE, OUTPUT), (2.0, 3.0))
    assert own.callers == {0}
    assert tables([[*own.sums]]) == [{NEXT: {SAMPLE: 1.0, 0: 0.5}}]


def test_earlier_samples_are_kept_in_slots_and_freed_after_their_last_use() -> None:
    plan = plan_of(
        stage("x0", Write("x1", (("x0", 1.0), ("output", 1.0)))),
        stage("x1", Write("x2", (("x1", 1.0), ("output", 1.0)))),
        stage("x2", Write("x9", (("x0", 1.0), ("x2", 1.0)))),
    )
    lowered = lower(plan)
    assert [made.keeps for made in lowered.stages] == [0, None, None]
    assert [made.holds for made in lowered.stages] == [(("x0", 0),), (("x0", 0),), ()]
    assert [made.frees for made in lowered.stages] == [(), (), (0,)]
    assert lowered.stages[2].samples == {0}
    assert tables([[*lowered.stages[2].sums]]) == [{NEXT: {0: 1.0, SAMPLE: 1.0}}]


def test_what_a_plan_frees_later_than_needed_or_writes_in_vain_is_gone_all_the_same() -> None:
    lazy = Stage(
        0, 0, HERE, 1.0, 2.0, 3.0, "x0", "d", Update((), (Write("x1", (("d", 1.0),)), Write("v", (("d", 1.0),))))
    )
    freeing = Stage(
        0, 1, HERE, 1.0, 2.0, 3.0, "x1", "e", Update((), (Write("x9", (("e", 1.0),)),), ("d", "v", "x0", "x1"))
    )
    lowered = lower(plan_of(lazy, freeing))
    assert lowered.slots == 0
    assert tables([[*made.sums] for made in lowered.stages]) == [{NEXT: {SAMPLE: 2.0, OUTPUT: 3.0}}] * 2


def test_a_next_sample_that_is_not_the_last_write_is_led_to_last() -> None:
    writes = Write("x1", (("x0", 1.0),)), Write("k", (("output", 1.0),))
    first = lower(plan_of(stage("x0", *writes), stage("x1", Write("x9", (("k", 1.0),))))).stages[0]
    assert [made.target for made in first.sums] == [0, NEXT]
    read = Write("x1", (("output", 2.0),)), Write("k", (("x1", 1.0), ("x0", 1.0), ("unguided", 1.0)))
    second = lower(plan_of(stage("x0", *read), stage("x1", Write("x9", (("k", 1.0), ("x1", 1.0)))))).stages[0]
    assert tables([[*second.sums]])[0][NEXT] == {OUTPUT: 2.0}
    assert tables([[*second.sums]])[0][0] == {OUTPUT: 2.0, SAMPLE: 1.0, UNGUIDED: 1.0}


def test_data_predictions_of_nothing_are_zeros() -> None:
    (lowered,) = lower(plan_of(stage("x0", Write("x9", (("data of x0", 1.0),)), a=0.0, b=0.0)), Clip(1.0)).stages
    assert lowered.sums[-1].target == NEXT
    assert not lowered.sums[0].sources


def test_samples_and_outputs_are_reusable_only_where_they_are_donated() -> None:
    plan = Sampler(unipc, Karras()).plan(SD15, "epsilon", 6)
    for donated in (False, True):
        reused = {place for made in lower(plan, None, donated).stages for each in made.sums for place in each.reusable}
        assert (OUTPUT in reused) == donated


@pytest.mark.parametrize("donated", [False, True])
def test_every_plan_reads_what_is_there_and_holds_what_is_read(donated: bool) -> None:
    """Executed on names instead of arrays: no slot is read empty, and at the end all are."""
    faults = []
    for made in SOLVERS.values():
        if made.adaptive:
            continue
        for transform in (None, Clip(1.0), lambda data, stage: data):
            plan = Sampler(made, Karras()).plan(SD15, "epsilon", 5)
            lowered = lower(plan, transform, donated)
            full: set[int] = {slot for _, slot in lowered.opening.holds} if lowered.opening else set()
            for index, each in enumerate(lowered.stages):
                filled = {slot for slot, _, _ in each.noises} | {each.keeps} | {each.data.target if each.data else None}
                if (filled - {None}) & full:
                    faults.append(f"{plan.solver}, stage {index}: {filled & full} are overwritten")
                full |= {slot for slot in filled if slot is not None}
                for each_sum in each.sums:
                    if {source for source in each_sum.sources if source >= 0} - full:
                        faults.append(f"{plan.solver}, stage {index}: {each_sum} reads an empty slot")
                    full.add(each_sum.target)
                full -= {NEXT, *each.frees}
                if full != {slot for _, slot in each.holds}:
                    faults.append(f"{plan.solver}, stage {index}: holds {each.holds}, but {full} are full")
            if full:
                faults.append(f"{plan.solver} ends with {full}")
    assert not faults, "\n".join(faults)


def test_lowering_takes_as_long_per_step_in_plans_of_many_steps() -> None:
    """Counted in lines of Python, so that nothing depends on the machine."""
    faults = []
    for made in (SOLVERS["euler"], SOLVERS["heun"], unipc):
        few, many = (lines_run_to_lower(Sampler(made, Karras(rho=3.3)), steps) / steps for steps in (40, 160))
        if many > 1.1 * few:
            faults.append(f"{made.name}: {few:.0f} lines per step of 40, {many:.0f} of 160")
    assert not faults, "\n".join(faults)


def lines_run_to_lower(sampler: Sampler, steps: int) -> int:
    plan, lines, before = sampler.plan(SD15, "epsilon", steps), 0, sys.gettrace()

    def count(frame: object, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    sys.settrace(count)
    try:
        lower(plan)
    finally:
        sys.settrace(before)
    return lines
