"""A bounded run of the attack on plans; the long one: ``python -m tests.attack.plans --count 100000``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from diffusolve.catalog import sampler
from diffusolve.errors import PlanFormatError
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from tests.attack.plans import WAYS, attack, documents, storm
from tests.tables import for_each


def test_a_damaged_plan_runs_everywhere_to_what_the_page_says_or_loading_says_why_not() -> None:
    ended, faults = storm(1500, seed=20)
    assert not faults, faults
    assert ended["runs"] > 300
    assert ended["refused"] > 300


@for_each("way", WAYS)
def test_whole_plans_run_to_what_the_page_says(way: str) -> None:
    for document in documents():
        assert attack(json.dumps(document), [way]) == "runs"


@for_each(
    ("change", "reason"),
    [
        (
            lambda d: d["stages"][2].update(sample="kept1"),
            r"stages\[2\].sample is 'kept1', expected what stages\[1\] wri",
        ),
        (lambda d: d["stages"][0].update(sample="data0"), r"stages\[0\] uses register 'data0'"),
        (lambda d: d.update(result="x4"), "result uses register 'x4', which holds nothing"),
        (lambda d: d["stages"][4].update(writes=[]), "uses register 'kept4', which holds nothing"),
        (lambda d: d["stages"][3].update(data="data1"), "writes register 'data1' a second time"),
    ],
)
def test_a_plan_says_where_it_does_not_lead_on(change: Callable[[Any], object], reason: str) -> None:
    document = json.loads(sampler("LMS").plan(SD15, "epsilon", 5).to_json())
    change(document)
    with pytest.raises(PlanFormatError, match=reason):
        Plan.from_json(json.dumps(document))


@for_each("way", WAYS)
def test_a_stage_may_forget_what_it_is_told(way: str) -> None:
    """Where the last data prediction is not read, sums of what is remembered get numbers of their own."""
    document = json.loads(sampler("LMS").plan(SD15, "epsilon", 5).to_json())
    for stage in document["stages"][2:]:
        ((_, _), (_, terms)) = stage["writes"]
        del terms[1]
    assert attack(json.dumps(document), [way]) == "runs"
