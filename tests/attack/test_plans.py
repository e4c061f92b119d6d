"""A bounded run of the attack on plans; the long one: ``python -m tests.attack.plans --count 100000``."""

from __future__ import annotations

import json

from diffusolve.catalog import sampler
from diffusolve.noise import SD15
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


@for_each("way", WAYS)
def test_a_stage_may_forget_what_it_is_told(way: str) -> None:
    """Where the last data prediction is not read, sums of what is remembered get numbers of their own."""
    document = json.loads(sampler("LMS").plan(SD15, "epsilon", 5).to_json())
    for stage in document["stages"][2:]:
        ((_, _), (_, terms)) = stage["writes"]
        del terms[1]
    assert attack(json.dumps(document), [way]) == "runs"
