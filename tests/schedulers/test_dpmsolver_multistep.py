"""What DPMSolverMultistepScheduler has beyond its family, against diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.parity.network import standard_noise
from tests.tables import for_each

from .parity import PROMISED, SHORT, assert_same, both, combinations, difference, name_of, ours, theirs, walk

MULTISTEP = "DPMSolverMultistepScheduler"
ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
ENDS = ({"final_sigmas_type": "zero"}, {"final_sigmas_type": "sigma_min"})


def compare(config: dict[str, Any], steps: int, **options: Any) -> None:
    mine, reference = both(MULTISTEP, config)
    mine.set_timesteps(steps)
    reference.set_timesteps(steps)
    assert_same(walk(mine, **options), walk(reference, **options))


@pytest.mark.parametrize("algorithm_type", ALGORITHMS)
def test_algorithm_order_and_solver_type_combine(algorithm_type: str) -> None:
    orders = (1, 2) if algorithm_type == "sde-dpmsolver" else (1, 2, 3)  # its third order fails in diffusers
    for config in combinations(
        solver_order=orders,
        solver_type=("midpoint", "heun"),
        prediction_type=("epsilon", "v_prediction", "sample"),
        euler_at_final=(False, True),
        lower_order_final=(True, False),
        end=ENDS if algorithm_type.endswith("++") else ENDS[1:],
    ):
        if config["final_sigmas_type"] == "zero" and not (config["lower_order_final"] or config["solver_order"] == 1):
            continue  # the last step of higher order to sigma = 0 is made of first order here and there
        for steps in (5, 15):
            compare({**SHORT, "algorithm_type": algorithm_type, **config}, steps)


@for_each("algorithm_type", ["dpmsolver++", "sde-dpmsolver++"])
@for_each("order", [1, 2, 3])
def test_the_last_step_to_the_data_is_of_first_order(algorithm_type: str, order: int) -> None:
    config = {"algorithm_type": algorithm_type, "solver_order": order, "lower_order_final": False}
    for steps in (1, 2, 5, 15):
        compare({**SHORT, **config}, steps)


@pytest.mark.parametrize("algorithm_type", ["dpmsolver", "sde-dpmsolver"])
def test_extrapolated_noise_cannot_lead_to_sigma_0(algorithm_type: str) -> None:
    with pytest.raises(ValueError, match="final_sigmas_type"):
        theirs(MULTISTEP, {"algorithm_type": algorithm_type})
    with pytest.raises(ValueError, match=f"algorithm_type '{algorithm_type}' .*final_sigmas_type=\"sigma_min\""):
        ours(MULTISTEP, {"algorithm_type": algorithm_type})


def test_the_third_order_of_the_sde_in_noise_predictions_runs() -> None:
    """That of diffusers fails at the third step."""
    mine = ours(MULTISTEP, {**SHORT, "algorithm_type": "sde-dpmsolver", "solver_order": 3, **ENDS[1]})
    mine.set_timesteps(15)
    assert torch.isfinite(walk(mine).samples[-1]).all()


@for_each("end", ENDS, ids=name_of)
@for_each("order", [1, 2, 3])
def test_steps_may_be_equal_in_log_snr(order: int, end: dict[str, Any]) -> None:
    if order == 3 and end == ENDS[1]:
        return  # a last step of no length and third order makes NaN of the samples of diffusers
    for steps in (1, 2, 5, 20):
        compare({**SHORT, "use_lu_lambdas": True, "solver_order": order, **end}, steps)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_zero_terminal_snr(spacing: str) -> None:
    for kind in ("v_prediction", "sample"):
        config = {"rescale_betas_zero_snr": True, "timestep_spacing": spacing, "prediction_type": kind}
        compare({**SHORT, **config}, 8)


def test_the_noise_may_be_given() -> None:
    walks = []
    for scheduler in both(MULTISTEP, {**SHORT, "algorithm_type": "sde-dpmsolver++"}):
        scheduler.set_timesteps(5)
        walks.append(walk(scheduler, seed=None, variance_noise=standard_noise(5)))
    assert_same(*walks)


def test_a_single_output_of_a_run_does_not_change_its_arguments() -> None:
    scheduler, reference = both(MULTISTEP, SHORT)
    x, output = standard_noise(0), standard_noise(1)
    made = []
    for one in (scheduler, reference):
        one.set_timesteps(5)
        made.append(one.step(output, one.timesteps[0], x).prev_sample)
    assert difference(*made) < PROMISED
    assert torch.equal(x, standard_noise(0))
    assert torch.equal(output, standard_noise(1))
