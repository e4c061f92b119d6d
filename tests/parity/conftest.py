"""Fixtures of the comparisons with other implementations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """The samples are small: more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


REFERENCE_WARNINGS = ("ignore:::diffusers", "ignore:__array_wrap__ must accept:DeprecationWarning")


def pytest_itemcollected(item: pytest.Item) -> None:
    """What the references warn about in themselves is not ours to mend."""
    for warning in REFERENCE_WARNINGS:
        item.add_marker(pytest.mark.filterwarnings(warning))
