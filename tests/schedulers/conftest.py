"""As for the other comparisons: one thread, and no warnings about what diffusers does inside itself."""

from __future__ import annotations

from tests.parity.conftest import _one_thread, pytest_itemcollected

__all__ = ["_one_thread", "pytest_itemcollected"]
