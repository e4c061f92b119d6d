"""Whole trajectories agree with those of independent implementations."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.trajectory")
