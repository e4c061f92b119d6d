"""What UniPCMultistepScheduler has beyond its family, against diffusers."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from diffusolve.errors import UnknownNameError
from tests.parity.network import StandInNetwork, standard_noise
from tests.tables import for_each

from .parity import (
    PROMISED,
    SHORT,
    STABLE_DIFFUSION,
    assert_same,
    both,
    combinations,
    difference,
    diffusers,
    name_of,
    ours,
    walk,
)

UNIPC = "UniPCMultistepScheduler"
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
ENDS = ({}, SIGMA_MIN)
CURVES = ({"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})
PREDICTIONS = ("epsilon", "v_prediction", "sample")
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def compare(config: dict[str, Any], steps: int, double: bool = False, **options: Any) -> None:
    mine, reference = both(UNIPC, config)
    mine.set_timesteps(steps)
    reference.set_timesteps(steps)
    if double:  # where rounding errors of diffusers would show
        reference.sigmas = reference.sigmas.double()
        options["dtype"] = torch.float64
    assert_same(walk(mine, **options), walk(reference, **options))


@pytest.mark.parametrize("solver_type", ["bh1", "bh2"])
@pytest.mark.parametrize("predict_x0", [True, False])
def test_form_variant_order_and_prediction_type_combine(predict_x0: bool, solver_type: str) -> None:
    for config in combinations(solver_order=(1, 2, 3, 4), prediction_type=PREDICTIONS, lower_order_final=(True, False)):
        for steps in (1, 2, 5, 15):
            chosen = {"predict_x0": predict_x0, "solver_type": solver_type, **SIGMA_MIN}
            compare({**SHORT, **chosen, **config}, steps, double=not predict_x0)


@pytest.mark.parametrize("predict_x0", [True, False])
def test_the_curves_end_where_the_configuration_says(predict_x0: bool) -> None:
    for config in combinations(
        curve=CURVES, sigma_min=(None, 0.1), sigma_max=(None, 5.0), end=ENDS if predict_x0 else ENDS[1:]
    ):
        for steps in (1, 2, 6):
            compare({**SHORT, "predict_x0": predict_x0, **config}, steps)


@for_each("config", [{"solver_type": "bh1"}, {"predict_x0": False}], ids=name_of)
@for_each("order", [1, 2, 3])
def test_the_step_to_sigma_0_is_of_first_order(order: int, config: dict[str, Any]) -> None:
    """In these forms diffusers multiplies infinity by 0 there, and its result is NaN."""
    mine, reference = both(UNIPC, {**SHORT, **config, "solver_order": order})
    for steps in (1, 2, 5):
        mine.set_timesteps(steps)
        reference.set_timesteps(steps)
        a, b = walk(mine).samples, walk(reference).samples
        assert torch.isnan(b[-1]).any()
        assert torch.isfinite(a[-1]).all()
        assert all(difference(x, y) < PROMISED for x, y in zip(a[:-1], b[:-1], strict=True))


@for_each("disable_corrector", [[0], [0, 1], [3], [7, 2], list(range(8))], ids=str)
@for_each("predict_x0", [True, False])
def test_steps_may_be_left_uncorrected(predict_x0: bool, disable_corrector: list[int]) -> None:
    for order in (1, 2, 3):
        config = {"solver_order": order, "predict_x0": predict_x0, "disable_corrector": disable_corrector}
        compare({**SHORT, **SIGMA_MIN, **config}, 8)
        for first in (1, 2, 3, 4):
            compare({**SHORT, **SIGMA_MIN, **config}, 8, first=first)


@for_each("spacing", ["linspace", "leading", "trailing"])
@for_each("predict_x0", [True, False])
def test_zero_terminal_snr(predict_x0: bool, spacing: str) -> None:
    for kind in ("v_prediction", "sample"):
        config = {"rescale_betas_zero_snr": True, "timestep_spacing": spacing, "prediction_type": kind}
        config |= {"predict_x0": predict_x0, **SIGMA_MIN}
        compare({**SHORT, **config}, 8, double=not predict_x0)  # in single precision diffusers loses the digits


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_thresholding_is_for_data_predictions_only_as_in_diffusers(kind: str) -> None:
    for config in combinations(predict_x0=(True, False), sample_max_value=(1.0, 2.0)):
        compare({**SHORT, **SIGMA_MIN, "thresholding": True, "prediction_type": kind, **config}, 6)


# Flow matching


@pytest.mark.parametrize("end", ENDS, ids=name_of)
@pytest.mark.parametrize("flow_shift", [1.0, 3.0])
def test_noise_levels_of_flow_matching(flow_shift: float, end: dict[str, Any]) -> None:
    for config in combinations(solver_order=(1, 2, 3), shift_terminal=(None, 0.1), sigma_max=(None, 5.0)):
        for steps in (2, 5, 20):
            compare({**SHORT, **FLOW, **end, "flow_shift": flow_shift, **config}, steps)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_other_predictions_on_the_noise_levels_of_flow_matching(kind: str) -> None:
    for predict_x0 in (True, False):
        config = {"use_flow_sigmas": True, "prediction_type": kind, "predict_x0": predict_x0, **SIGMA_MIN}
        compare({**SHORT, **config, "lower_order_final": True}, 5, double=not predict_x0)


def test_flow_matching_along_the_karras_curve() -> None:
    for config in combinations(end=ENDS, sigma_max=(None, 5.0), sigma_min=(None, 0.1), shift_terminal=(None, 0.1)):
        for steps in (1, 2, 5, 20):
            compare({**SHORT, **FLOW, "use_karras_sigmas": True, **config}, steps)


@pytest.mark.parametrize("time_shift_type", ["exponential", "linear"])
@pytest.mark.parametrize("shift_terminal", [None, 0.1])
def test_mu_shifts_the_noise_levels(time_shift_type: str, shift_terminal: float | None) -> None:
    config = {"use_dynamic_shifting": True, "time_shift_type": time_shift_type, "shift_terminal": shift_terminal}
    mine, reference = both(UNIPC, {**SHORT, **FLOW, **config})
    for mu in (0.3, 1.0, 1.7):
        for given in ({"num_inference_steps": 6}, {"sigmas": np.array([1.0, 0.8, 0.5, 0.2])}):
            mine.set_timesteps(**given, mu=mu)
            reference.set_timesteps(**given, mu=mu)
            assert_same(walk(mine), walk(reference))


def test_mu_that_nobody_asked_for_has_no_effect() -> None:
    for config in ({}, FLOW):
        mine, reference = both(UNIPC, {**SHORT, **config})
        mine.set_timesteps(5, mu=0.5)
        reference.set_timesteps(5, mu=0.5)
        assert_same(walk(mine), walk(reference))


@pytest.mark.parametrize("config", [{}, {"flow_shift": 3.0}, {"shift_terminal": 0.05}, SIGMA_MIN], ids=name_of)
def test_sigmas_may_be_given(config: dict[str, Any]) -> None:
    mine, reference = both(UNIPC, {**SHORT, **FLOW, **config})
    for sigmas in ([1.0, 0.8, 0.5, 0.2], [0.9, 0.1], list(np.linspace(1.0, 0.05, 12))):
        mine.set_timesteps(sigmas=sigmas)
        reference.set_timesteps(sigmas=np.array(sigmas))
        assert mine.num_inference_steps == reference.num_inference_steps == len(sigmas)
        assert_same(walk(mine), walk(reference))
        mine.set_timesteps(len(sigmas), sigmas=sigmas)
        assert len(mine.timesteps) == len(sigmas)
        mine.set_timesteps(sigmas=[*sigmas, 0.0])
        assert len(mine.timesteps) == len(sigmas)


def test_whole_timesteps_of_given_sigmas_are_those_of_diffusers_to_the_last_one() -> None:
    dynamic = {**FLOW, "use_dynamic_shifting": True}
    for config, given in (
        *((({**FLOW, "flow_shift": shift}), {}) for shift in (3.0, 5.0)),
        *(({**dynamic, "time_shift_type": kind}, {"mu": 1.25}) for kind in ("exponential", "linear")),
    ):
        mine, reference = both(UNIPC, config)
        for steps in range(2, 41):
            for scheduler in (mine, reference):
                scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps), **given)
            assert torch.equal(mine.timesteps, reference.timesteps)


def test_a_single_noise_level_is_not_stretched() -> None:
    """In diffusers it is divided by 0."""
    mine = ours(UNIPC, {**SHORT, **FLOW, "shift_terminal": 0.1})
    mine.set_timesteps(1)
    assert mine.timesteps.tolist() == [SHORT["num_train_timesteps"] - 1]
    assert torch.isfinite(walk(mine).samples[-1]).all()


def test_what_excludes_each_other_is_refused() -> None:
    with pytest.raises(ValueError, match="shift_terminal is given"):
        ours(UNIPC, {"shift_terminal": 0.1})
    for curve in CURVES[1:]:  # the noise levels of these curves would go beyond 1
        with pytest.raises(ValueError, match="exclude each other"):
            ours(UNIPC, {**FLOW, **curve})
    for config in (CURVES[0], {**FLOW, **CURVES[0]}):
        with pytest.raises(ValueError, match="sigmas are given, but use_karras_sigmas chooses them"):
            ours(UNIPC, config).set_timesteps(sigmas=[0.9, 0.5])
    for sigmas in ([], [0.0], [0.5, 0.9], [1.5, 0.5], [0.5, -0.5], [0.5, float("nan")]):
        with pytest.raises(ValueError, match="strictly decreasing"):
            ours(UNIPC, FLOW).set_timesteps(sigmas=sigmas)
    dynamic = {**FLOW, "use_dynamic_shifting": True}
    with pytest.raises(ValueError, match="mu is missing"):
        ours(UNIPC, dynamic).set_timesteps(5)
    with pytest.raises(ValueError, match=r"mu is 0: .*above 0"):
        ours(UNIPC, {**dynamic, "time_shift_type": "linear"}).set_timesteps(5, mu=0.0)
    with pytest.raises(UnknownNameError, match="time_shift_type 'lineal': did you mean 'linear'"):
        ours(UNIPC, {**dynamic, "time_shift_type": "lineal"}).set_timesteps(5, mu=0.5)


# Another scheduler as predictor

PREDICTORS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {}),
    ("PNDMScheduler", {"timestep_spacing": "linspace"}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing", "solver_order": 3}),
    ("DPMSolverSinglestepScheduler", {}),
    ("DEISMultistepScheduler", {}),
    (UNIPC, {}),
]
OF_BOTH_LIBRARIES = [predictor for predictor in PREDICTORS if predictor[0] != "PNDMScheduler"]


def walk_with_predictor(library: Any, predictor: Any, **config: Any) -> torch.Tensor:
    scheduler = library.UniPCMultistepScheduler(**SHORT, solver_p=predictor, **config)
    scheduler.set_timesteps(6)
    x, network = standard_noise(), StandInNetwork(SHORT["num_train_timesteps"])
    for timestep in scheduler.timesteps:
        x = scheduler.step(network(x, timestep), timestep, x).prev_sample
    return x


@for_each(("name", "options"), PREDICTORS, ids=name_of)
def test_a_scheduler_of_diffusers_may_be_the_predictor(name: str, options: dict[str, Any]) -> None:
    for config in combinations(solver_order=(1, 2, 3), predict_x0=(True, False), disable_corrector=([], [1])):
        mine, reference = (
            walk_with_predictor(library, getattr(diffusers, name)(**SHORT, **options), **config)
            for library in (diffusolve, diffusers)
        )
        assert difference(mine, reference) < PROMISED


@for_each(("name", "options"), OF_BOTH_LIBRARIES, ids=name_of)
def test_a_scheduler_of_ours_may_be_the_predictor(name: str, options: dict[str, Any]) -> None:
    for config in combinations(solver_order=(1, 2), predict_x0=(True, False)):
        mine, reference = (
            walk_with_predictor(library, getattr(library, name)(**SHORT, **options), **config)
            for library in (diffusolve, diffusers)
        )
        assert difference(mine, reference) < PROMISED


def test_a_copy_has_a_predictor_of_its_own() -> None:
    scheduler = ours(UNIPC, {**SHORT, "solver_p": ours("DEISMultistepScheduler", SHORT)})
    scheduler.set_timesteps(5)
    x = standard_noise()
    ends = []
    for index, timestep in enumerate(scheduler.timesteps):
        if index == 2:
            other, y = copy.deepcopy(scheduler), x
            for rest in other.timesteps[2:]:
                y = other.step(torch.tanh(y), rest, y).prev_sample
            assert other.solver_p is other.config.solver_p
            assert other.solver_p is not scheduler.solver_p
            ends.append(y)
        x = scheduler.step(torch.tanh(x), timestep, x).prev_sample
    assert torch.equal(ends[0], x)


# The rest


def test_the_members_that_users_read_are_there() -> None:
    mine, reference = both(UNIPC, {**SHORT, "disable_corrector": [1], "predict_x0": False})
    assert mine.predict_x0 is reference.predict_x0 is False
    assert mine.disable_corrector == reference.disable_corrector == [1]
    assert mine.solver_p is reference.solver_p is None
    assert json.loads(mine.to_json_string())["disable_corrector"] == [1]


@pytest.mark.parametrize("curve", [{}, CURVES[0]], ids=name_of)
@pytest.mark.parametrize("predict_x0", [True, False])
def test_stable_diffusion_in_20_steps(predict_x0: bool, curve: dict[str, Any]) -> None:
    for order in (1, 2, 3):
        compare({**STABLE_DIFFUSION, **SIGMA_MIN, **curve, "predict_x0": predict_x0, "solver_order": order}, 20)
