"""What DEISMultistepScheduler has beyond its family, against diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .parity import SHORT, STABLE_DIFFUSION, assert_same, both, combinations, walk

DEIS = "DEISMultistepScheduler"
CURVES = (None, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})


def compare(config: dict[str, Any], steps: int, double: bool = False, **options: Any) -> None:
    """In double precision where rounding errors of diffusers, which integrates in terms of logarithms, would show."""
    mine, reference = both(DEIS, config)
    mine.set_timesteps(steps)
    reference.set_timesteps(steps)
    if double:
        reference.sigmas = reference.sigmas.double()
        options["dtype"] = torch.float64
    assert_same(walk(mine, **options), walk(reference, **options))


def test_order_prediction_type_curve_and_steps_combine() -> None:
    for config in combinations(
        solver_order=(1, 2, 3),
        lower_order_final=(True, False),
        prediction_type=("epsilon", "v_prediction", "sample"),
        curve=CURVES,
        steps=(1, 2, 5, 14, 15),
    ):
        steps = config.pop("steps")
        compare({**SHORT, **config}, steps, double=config["solver_order"] == 3)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_the_exact_integrals_are_those_of_diffusers(spacing: str) -> None:
    for order in (1, 2, 3):
        compare({**STABLE_DIFFUSION, "timestep_spacing": spacing, "solver_order": order}, 20, double=True)


def test_a_last_step_of_no_length_changes_nothing() -> None:
    for config in ({"use_karras_sigmas": True}, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}):
        for one in both(DEIS, {**SHORT, **config, "solver_order": 3}):
            one.set_timesteps(6)
            assert one.sigmas[-1] == one.sigmas[-2] > 0
            *_, before, after = walk(one).samples
            torch.testing.assert_close(before, after)
