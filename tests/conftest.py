"""What all tests share: the same examples in every run, and one thread for each process that runs beside others."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from math import inf

import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, here and in the processes of tests

os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # read by Ray: tests have actors, and no tasks

gc.set_threshold(50_000, 20, 20)
"""Plans are made by the thousand and are kept: at the usual threshold a third of the time of tests that walk them goes
into looking through them for cycles."""


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later collection: tests that look for leaks ask for many."""
    gc.collect()
    gc.freeze()


settings.register_profile(
    "diffusolve",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("diffusolve")


@pytest.fixture(scope="module")
def likely_samplers() -> Iterator[None]:
    """Learning looks at the likely ones of the catalog only, as it does where there is no time for the whole of it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("diffusolve.learning.whole.WHOLE_CATALOG", inf)
        yield
