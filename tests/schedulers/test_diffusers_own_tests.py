"""diffusers' own tests of its schedulers, with ours in their place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.diffusers_own_tests import report, run

CHECKOUT = os.environ.get("DIFFUSERS_CHECKOUT", "")

AT_LEAST = 0.96
"""The share of diffusers' tests that has been reached; it only rises."""


@pytest.mark.skipif(not CHECKOUT, reason="DIFFUSERS_CHECKOUT is not the path of a checkout of diffusers")
def test_diffusers_own_scheduler_tests_pass_with_ours() -> None:
    results = run(Path(CHECKOUT))
    assert results, "the checkout's tests are about some class that diffusolve has"
    assert sum(result.passed for result in results) >= AT_LEAST * len(results), report(results)
