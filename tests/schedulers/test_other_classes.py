"""Classes for one family of models each: errors, and what the comparison with diffusers does not say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import diffusolve
from tests.schedulers.parity import both

ONE_STAGE = {"stages": 1, "stage_range": [0, 1]}
X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


# EDM


def test_a_data_prediction_of_the_callers_takes_the_place_of_the_output() -> None:
    for churn in ({}, {"s_churn": 3.0}):
        scheduler, other = diffusolve.EDMEulerScheduler(), diffusolve.EDMEulerScheduler()
        for each in (scheduler, other):
            each.set_timesteps(3)
        x = y = X * scheduler.init_noise_sigma
        generators = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
        for t, u, sigma in zip(scheduler.timesteps, other.timesteps, scheduler.sigmas, strict=False):
            torch.testing.assert_close(scheduler.scale_model_input(x, t), other.scale_model_input(y, u))
            output = torch.sin(x)
            before = other.step(output, u, y, generator=generators[1], **churn)
            data = before.pred_original_sample
            if not churn:
                torch.testing.assert_close(data, other.precondition_outputs(y, output, sigma))
            step = scheduler.step(output, t, x, generator=generators[0], pred_original_sample=data, **churn)
            torch.testing.assert_close(step.pred_original_sample, data)
            x, y = step.prev_sample, before.prev_sample
            torch.testing.assert_close(x, y)


def test_a_network_that_outputs_the_data_samples_as_one_with_preconditioning_does() -> None:
    edm, data = diffusolve.EDMDPMSolverMultistepScheduler(), diffusolve.EDMDPMSolverMultistepScheduler()
    data.register_to_config(prediction_type="sample")
    runs = []
    for scheduler in (edm, data):
        scheduler.set_timesteps(5)
        x = X * scheduler.init_noise_sigma
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            output = torch.tanh(scheduler.scale_model_input(x, t))
            if scheduler is data:
                output = edm.precondition_outputs(x, output, sigma)
            x = scheduler.step(output, t, x).prev_sample
        runs.append(x)
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-4)


# Consistency models


def test_one_step_of_a_consistency_model_is_its_clipped_data_prediction() -> None:
    scheduler = diffusolve.CMStochasticIterativeScheduler(clip_denoised=False)
    scheduler.set_timesteps(1)
    x = X * scheduler.init_noise_sigma
    skip, out = scheduler.get_scalings_for_boundary_condition(scheduler.sigmas[0])
    made = scheduler.step(torch.cos(x), scheduler.timesteps[0], x).prev_sample
    torch.testing.assert_close(made, skip * x + out * torch.cos(x))
    assert scheduler.get_scalings_for_boundary_condition(0.002) == (1.0, 0.0)


def test_the_angles_of_trigflow_make_noised_data_of_the_datas_deviation() -> None:
    scheduler = diffusolve.SCMScheduler(sigma_data=0.7)
    noised = scheduler.add_noise(0.7 * X, X.flip(-1), torch.tensor([0.9]))
    expected = 0.7 * (torch.cos(torch.tensor(0.9)) * X + torch.sin(torch.tensor(0.9)) * X.flip(-1))
    torch.testing.assert_close(noised, expected)


# Flow maps


def test_a_flow_map_takes_each_sample_to_a_time_of_its_own() -> None:
    scheduler = diffusolve.FlowMapEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    x = torch.cat([X, 2 * X])
    made = scheduler.step(x.sin(), torch.tensor([900.0, 600.0]), x, torch.tensor([100.0, 0.0])).prev_sample
    torch.testing.assert_close(made, x - torch.tensor([0.8, 0.6]).reshape(2, 1, 1, 1) * x.sin())
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="nearest is 500"):
        scheduler.step(x, 510.0, x)


# Pyramids


def test_an_enlarged_stage_begins_where_the_papers_renoising_puts_it() -> None:
    """With gamma = 1/3 a stage that the whole leaves at s begins at 2 s / (1 + s): Jin et al. 2024, equation 15."""
    scheduler = diffusolve.HeliosScheduler()
    for stage in (1, 2):
        s = scheduler.ori_start_sigmas[stage]
        assert scheduler.start_sigmas[stage] == pytest.approx(2 * s / (1 + s))


def test_helios_of_one_stage_takes_the_call_of_its_pipeline_and_shifts_as_in_diffusers() -> None:
    sigmas = np.linspace(0.999, 0.0, 6)[:-1]
    for config, given in (
        ({}, {"sigmas": sigmas, "mu": 1.2}),
        ({"use_dynamic_shifting": True}, {"sigmas": sigmas, "mu": 1.2}),
        ({"shift": 3.0}, {"sigmas": sigmas}),
        ({"shift": 3.0, "scheduler_type": "euler"}, {}),
        ({"shift": 3.0, "scheduler_type": "euler", "time_shift_type": "linear"}, {}),
    ):
        ends = []
        for scheduler in both("HeliosScheduler", {**ONE_STAGE, **config}):
            scheduler.set_timesteps(5, **given)
            x = X[:, :, None]
            for t in scheduler.timesteps:
                x = scheduler.step(torch.tanh(x - t / 1000), t, x).prev_sample
            ends.append((x, scheduler.timesteps.float(), scheduler.sigmas.float()))
        for mine, reference in zip(*ends, strict=True):
            torch.testing.assert_close(mine, reference, check_dtype=False)


def test_the_steps_of_distilled_helios_are_those_of_multistep_consistency_sampling() -> None:
    scheduler = diffusolve.HeliosDMDScheduler()
    scheduler.set_timesteps(3, stage_index=1)
    x, noise = X, X.flip(-1)
    for place, (t, s, following) in enumerate(
        zip(scheduler.timesteps, scheduler.sigmas, scheduler.sigmas[1:], strict=False)
    ):
        made = scheduler.step(x.cos(), t, x, cur_sampling_step=place, dmd_noisy_tensor=noise).prev_sample
        expected = (1 - following) * (x - s * x.cos()) + following * noise
        torch.testing.assert_close(made, expected.float())
        x = made
    with pytest.raises(ValueError, match="dmd_noisy_tensor is missing"):
        scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match="sample is missing"):
        scheduler.step(x)


# Proteins

PROTEINA: dict[str, Any] = {"schedule_mode": "log", "noise_mode": "tan"}


def test_at_its_own_temperature_and_without_noise_proteina_is_eulers_method() -> None:
    scheduler = diffusolve.RFD4ProteinaScheduler(**PROTEINA, tsr_k=1.0, tsr_sigma=1.0, t_lim_ode=0.0)
    scheduler.set_timesteps(20)
    mask = torch.tensor([[True, False, True, True]])
    x = X.reshape(1, 4, 64)
    for t, following in zip(scheduler.timesteps, [*scheduler.timesteps[1:], torch.ones(())], strict=True):
        made = scheduler.step(x.cos(), t, x, mask).prev_sample
        torch.testing.assert_close(made, (x + (following - t) * x.cos()) * mask[..., None], rtol=1e-4, atol=1e-4)
        x = made
    with pytest.raises(ValueError, match=r"one entry per token, \(1, 4\)"):
        scheduler.step(x, scheduler.timesteps[0], x, mask[:, :2])


# Policies


def test_a_policy_of_one_prediction_is_euler_and_alike_ones_make_no_difference() -> None:
    runs = []
    for count in (1, 5):
        scheduler = diffusolve.PiflowScheduler(n_grid=count)
        scheduler.set_timesteps(3)
        x = X
        for t in scheduler.timesteps:
            sigma = t / 1000
            data = X.cos()  # the same for all times
            x = scheduler.step(((x - data) / sigma).repeat(1, 1, 1, count), t, x).prev_sample
        runs.append(x)
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(runs[0], X.cos(), rtol=1e-4, atol=1e-4)  # where constant data lead
    scheduler = diffusolve.PiflowScheduler()
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match=r"10 velocities .*\(1, 4, 8, 80\)"):
        scheduler.step(X, scheduler.timesteps[0], X)


# Score SDEs and the deprecated ones


def test_a_correction_has_the_ratio_of_signal_to_noise_that_is_configured() -> None:
    """Song et al. 2021, algorithm 4: the step times the score's norm is 2 (snr * the noise's norm)^2 over that norm."""
    scheduler = diffusolve.ScoreSdeVeScheduler(snr=0.2)
    score = X.sin()
    made = scheduler.step_correct(score, X, generator=torch.Generator().manual_seed(4)).prev_sample
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(4))
    length = 2 * (0.2 * noise.norm() / score.norm()) ** 2
    torch.testing.assert_close(made, X + length * score + (2 * length).sqrt() * noise)


def test_a_step_and_its_correction_in_karras_ve_are_heun() -> None:
    """On normally distributed data, whose exact denoiser is linear, against the closed form of Heun's step."""
    scheduler, hat, end = diffusolve.KarrasVeScheduler(), 3.0, 2.0

    def output(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return -sigma * x / (1 + sigma**2)

    first = scheduler.step(output(X, hat), hat, end, X)
    made = scheduler.step_correct(output(first.prev_sample, end), hat, end, X, first.prev_sample, first.derivative)
    d = hat / (1 + hat**2) * X
    expected = X + (end - hat) * 0.5 * (d + end / (1 + end**2) * (X + (end - hat) * d))
    torch.testing.assert_close(made.prev_sample, expected)
    with pytest.raises(ValueError, match="no timesteps"):
        scheduler.add_noise_to_input(X, 1.0)
    with pytest.raises(ValueError, match="no timesteps"):
        diffusolve.ScoreSdeVpScheduler().step_pred(X, X, torch.ones(1))


# Configurations


def test_classes_for_one_family_of_flow_models_take_their_own_configuration() -> None:
    for name in ("FlowMapEulerDiscrete", "Helios", "HeliosDMD", "MiniMaxH3", "Piflow"):
        cls = getattr(diffusolve, f"{name}Scheduler")
        assert cls.from_config(cls(shift=2.0).config).config["shift"] == 2.0


# Errors

WRONG: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("EDMEulerScheduler", {"sigma_schedule": "karas"}, {}, "karras"),
    ("EDMEulerScheduler", {"final_sigmas_type": "none"}, {}, "zero"),
    ("EDMEulerScheduler", {}, {"num_inference_steps": 0}, "at least 1"),
    ("EDMEulerScheduler", {}, {"sigmas": [80.0, 1.0]}, "places along the curve"),
    ("EDMEulerScheduler", {}, {}, "num_inference_steps is missing"),
    ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, {}, r"dpmsolver\+\+"),
    ("EDMDPMSolverMultistepScheduler", {"solver_order": 0}, {"num_inference_steps": 3}, "order is 0"),
    ("CosineDPMSolverMultistepScheduler", {"solver_type": "bh2"}, {}, "midpoint"),
    ("CosineDPMSolverMultistepScheduler", {"solver_order": 0}, {"num_inference_steps": 3}, "order is 0"),
    ("CMStochasticIterativeScheduler", {}, {}, "exactly one"),
    ("CMStochasticIterativeScheduler", {}, {"num_inference_steps": 50}, "expected 1 to 40"),
    ("CMStochasticIterativeScheduler", {}, {"timesteps": [0, 22]}, "from 39 down to 0"),
    ("CMStochasticIterativeScheduler", {}, {"timesteps": [40, 22]}, "from 39 down to 0"),
    ("SCMScheduler", {}, {"num_inference_steps": 3}, "intermediate_timesteps=None"),
    ("SCMScheduler", {}, {"num_inference_steps": 2, "timesteps": [1.0, 0.5, 0.0]}, "max_timesteps"),
    ("SCMScheduler", {}, {"num_inference_steps": 2, "max_timesteps": 1.6}, "pi / 2"),
    ("SCMScheduler", {}, {"num_inference_steps": 2, "max_timesteps": None, "timesteps": [1.0, 0.0]}, "2 angles"),
    ("SCMScheduler", {"prediction_type": "epsilon"}, {"num_inference_steps": 2}, "trigflow"),
    ("FlowMapEulerDiscreteScheduler", {"shift": 0.0}, {}, "shift is 0"),
    ("FlowMapEulerDiscreteScheduler", {}, {}, "num_inference_steps is missing"),
    ("FlowMapEulerDiscreteScheduler", {}, {"sigmas": [1.2, 0.4]}, "from 1 down"),
    ("FlowMapEulerDiscreteScheduler", {}, {"timesteps": [0.9, 0.0]}, "above 0"),
    ("HeliosScheduler", {}, {"num_inference_steps": 2}, "stage_index is None: expected 0 to 2"),
    ("HeliosScheduler", {}, {"num_inference_steps": 2, "stage_index": 3}, "stage_index is 3"),
    ("HeliosScheduler", {}, {"num_inference_steps": 2, "stage_index": 0, "sigmas": [1.0, 0.5]}, "leave them out"),
    ("HeliosScheduler", ONE_STAGE, {"num_inference_steps": 2, "sigmas": [1.5, 0.5]}, "from 1 down"),
    ("HeliosScheduler", ONE_STAGE, {"num_inference_steps": 3, "sigmas": [1.0, 0.5]}, "num_inference_steps is 3"),
    ("HeliosDMDScheduler", ONE_STAGE, {"num_inference_steps": 2, "sigmas": [1.0, 0.5]}, "leave them out"),
    ("HeliosScheduler", {"use_dynamic_shifting": True}, {"num_inference_steps": 2, "stage_index": 0}, "mu is missing"),
    ("HeliosScheduler", {"stages": 2}, {}, "stage_range"),
    ("HeliosScheduler", {"solver_p": diffusolve.DDIMScheduler()}, {}, "solver_p"),
    ("HeliosDMDScheduler", {"stage_range": [0, 0.7, 0.2, 1]}, {}, "strictly rising"),
    ("HeliosDMDScheduler", {"time_shift_type": "cubic"}, {}, "exponential"),
    ("ScoreSdeVeScheduler", {"sigma_min": 0.0}, {}, "sigma_min is 0.0"),
    ("ScoreSdeVeScheduler", {}, {"num_inference_steps": 0}, "at least 1"),
    ("ScoreSdeVpScheduler", {}, {"num_inference_steps": 0}, "at least 1"),
    ("KarrasVeScheduler", {"sigma_min": 200.0}, {}, "got 200 and 100"),
    ("KarrasVeScheduler", {}, {"num_inference_steps": 0}, "at least 1"),
    ("ConsistencyDecoderScheduler", {}, {"num_inference_steps": 3}, "expected 2"),
    ("ConsistencyDecoderScheduler", {"num_train_timesteps": 1000}, {"num_inference_steps": 2}, "more than 1008"),
    ("PiflowScheduler", {"n_grid": 0}, {"num_inference_steps": 2}, "n_grid is 0"),
    ("PiflowScheduler", {"eps": 0.0}, {}, "eps is 0"),
    ("PiflowScheduler", {"final_step_size_scale": 0.0}, {}, "from 1e-09"),
    ("PiflowScheduler", {}, {"num_inference_steps": 2, "mu": 1.0}, "mu is given"),
    ("RFD4ProteinaScheduler", {**PROTEINA, "tsr_k": 1.0, "tsr_sigma": 1.0, "noise_mode": "1/x"}, {}, "1/t"),
    ("RFD4ProteinaScheduler", {**PROTEINA, "tsr_k": 1.0, "tsr_sigma": 1.0}, {"num_inference_steps": 9}, "at least 20"),
    (
        "RFD4ProteinaScheduler",
        {**PROTEINA, "tsr_k": 1.0, "tsr_sigma": 1.0},
        {"num_inference_steps": 20, "start_time": 1.0},
        "below 1",
    ),
    ("MiniMaxH3Scheduler", {"shift": -1.0}, {}, "shift is -1"),
    ("MiniMaxH3Scheduler", {}, {"num_inference_steps": 1}, "at least 2"),
    ("MiniMaxH3Scheduler", {}, {"sigmas": [1.0, 0.5]}, "down to 0"),
    ("MiniMaxH3Scheduler", {}, {"sigmas": [0.5, 0.8, 0.0]}, "strictly decreasing"),
]
"""Class, configuration, arguments of `set_timesteps`, what is said."""


def test_what_is_wrong_is_said() -> None:
    for name, config, run, message in WRONG:
        with pytest.raises(ValueError, match=message):
            getattr(diffusolve, name)(**config).set_timesteps(**run)


def test_a_step_from_where_trigflow_ends_is_an_error() -> None:
    scheduler = diffusolve.SCMScheduler()
    scheduler.set_timesteps(2)
    with pytest.raises(IndexError, match="2 evaluations"):
        scheduler.step(X, scheduler.timesteps[-1], X)
