"""What DPMSolverSinglestepScheduler has beyond its family, against diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffusolve.errors import UnknownNameError
from tests.tables import for_each

from .parity import SHORT, assert_same, both, combinations, name_of, ours, theirs, walk

SINGLESTEP = "DPMSolverSinglestepScheduler"
ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver")
ENDS = ({"final_sigmas_type": "zero"}, {"final_sigmas_type": "sigma_min"})
CURVES = (None, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})


def compare(config: dict[str, Any], steps: int, **options: Any) -> None:
    mine, reference = both(SINGLESTEP, config)
    mine.set_timesteps(steps)
    reference.set_timesteps(steps)
    assert mine.order_list == reference.order_list
    assert mine.config.lower_order_final == reference.config.lower_order_final
    assert_same(walk(mine, **options), walk(reference, **options))


@pytest.mark.parametrize("algorithm_type", ALGORITHMS)
def test_algorithm_order_and_solver_type_combine(algorithm_type: str) -> None:
    for config in combinations(
        solver_order=(1, 2, 3),
        solver_type=("midpoint", "heun"),
        lower_order_final=(True, False),
        end=ENDS if algorithm_type != "dpmsolver" else ENDS[1:],
    ):
        for steps in (1, 2, 3, 4, 5, 6, 15):
            compare({**SHORT, "algorithm_type": algorithm_type, **config}, steps)


@pytest.mark.parametrize("algorithm_type", ALGORITHMS)
def test_order_prediction_type_and_curve_combine(algorithm_type: str) -> None:
    for config in combinations(
        solver_order=(2, 3),
        prediction_type=("epsilon", "v_prediction", "sample"),
        curve=CURVES,
        end=ENDS if algorithm_type != "dpmsolver" else ENDS[1:],
    ):
        compare({**SHORT, "algorithm_type": algorithm_type, **config}, 6)


@for_each("algorithm_type", ALGORITHMS)
@for_each("order", [2, 3])
def test_a_run_may_begin_in_the_middle_of_a_group(algorithm_type: str, order: int) -> None:
    config = {"algorithm_type": algorithm_type, "solver_order": order, **ENDS[1]}
    for first in range(7):
        compare({**SHORT, **config}, 7, first=first)
        compare({**SHORT, **config}, 7, first=first, begin_index=first)


def test_the_list_of_orders_is_that_of_diffusers() -> None:
    for config in combinations(solver_order=(1, 2, 3), lower_order_final=(True, False), end=ENDS):
        for steps in range(1, 13):
            mine, reference = both(SINGLESTEP, {**SHORT, **config})
            mine.set_timesteps(steps)
            reference.set_timesteps(steps)
            assert mine.order_list == reference.order_list == mine.get_order_list(steps)
    assert mine.get_order_list(12) == reference.get_order_list(12)


def test_lower_orders_at_the_end_stay_once_they_were_needed() -> None:
    mine, reference = both(SINGLESTEP, {**SHORT, "solver_order": 3, **ENDS[1]})
    for steps, stays in ((6, False), (7, True), (6, True)):
        mine.set_timesteps(steps)
        reference.set_timesteps(steps)
        assert mine.config.lower_order_final == reference.config.lower_order_final == stays
        assert_same(walk(mine), walk(reference))


def test_thresholding_works_with_noise_predictions_too() -> None:
    """That of diffusers compares the sample with the training timesteps, and fails."""
    config = {"thresholding": True, "algorithm_type": "dpmsolver", **ENDS[1]}
    mine = ours(SINGLESTEP, {**SHORT, **config})
    mine.set_timesteps(6)
    assert torch.isfinite(walk(mine).samples[-1]).all()


@pytest.mark.parametrize(
    "config", [{"algorithm_type": "dpmsolver"}, {"algorithm_type": "sde-dpmsolver", **ENDS[1]}], ids=name_of
)
def test_what_diffusers_refuses_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises((ValueError, NotImplementedError)):
        theirs(SINGLESTEP, config)
    with pytest.raises(ValueError, match=f"algorithm_type '{config['algorithm_type']}'"):
        ours(SINGLESTEP, config)


@pytest.mark.parametrize("order", [0, 4])
def test_there_are_three_orders(order: int) -> None:
    with pytest.raises(ValueError, match=f"solver_order is {order}: expected a whole number from 1 to 3"):
        ours(SINGLESTEP, {"solver_order": order})


def test_unknown_solver_types_are_told() -> None:
    with pytest.raises(UnknownNameError, match=r"solver_type 'hun': did you mean 'heun'"):
        ours(SINGLESTEP, {"solver_type": "hun"})
