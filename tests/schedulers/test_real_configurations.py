"""Configuration files as they stand in model repositories, written by versions from 0.2 to now."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import diffusolve
from diffusolve.schedulers.compatible import KarrasDiffusionSchedulers
from tests.tables import for_each

diffusers = pytest.importorskip("diffusers")

CLASSES = [kind.name for kind in KarrasDiffusionSchedulers]
BETAS = '"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000'

FILES = {
    "Stable Diffusion 1.4, version 0.2, with a key that is gone": f"""{{
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.2.2", {BETAS},
        "skip_prk_steps": true, "tensor_format": "pt"}}""",
    "Stable Diffusion 1.5, version 0.6": f"""{{
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", {BETAS}, "set_alpha_to_one": false,
        "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null, "clip_sample": false}}""",
    "DDIM, version 0.3, without prediction_type": f"""{{
        "_class_name": "DDIMScheduler", "_diffusers_version": "0.3.0", {BETAS}, "clip_sample": false,
        "set_alpha_to_one": false, "timestep_values": null, "trained_betas": null}}""",
    "Stable Diffusion 2.1, v_prediction": f"""{{
        "_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", {BETAS}, "clip_sample": false,
        "prediction_type": "v_prediction", "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "trained_betas": null}}""",
    "Stable Diffusion XL, sigmas null": f"""{{
        "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", {BETAS}, "clip_sample": false,
        "interpolation_type": "linear", "prediction_type": "epsilon", "sample_max_value": 1.0,
        "set_alpha_to_one": false, "sigma_max": null, "sigma_min": null, "skip_prk_steps": true, "steps_offset": 1,
        "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false}}""",
    "minus infinity, as Python writes it": f"""{{
        "_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.20.2", {BETAS},
        "algorithm_type": "dpmsolver++", "dynamic_thresholding_ratio": 0.995, "lambda_min_clipped": -Infinity,
        "lower_order_final": true, "prediction_type": "epsilon", "sample_max_value": 1.0, "solver_order": 2,
        "solver_type": "midpoint", "steps_offset": 1, "thresholding": false, "timestep_spacing": "leading",
        "trained_betas": null, "use_karras_sigmas": true, "variance_type": null}}""",
    "a class of the Flax library": f"""{{
        "_class_name": "FlaxDDIMScheduler", "_diffusers_version": "0.4.0", {BETAS}, "set_alpha_to_one": false}}""",
    "without the name of a class": f"{{{BETAS}}}",
    "almost empty": '{"_class_name": "DDPMScheduler"}',
}


def network(x: torch.Tensor, timestep: Any) -> torch.Tensor:
    return torch.tanh(x + float(timestep) / 1000)


def walked(scheduler: Any) -> torch.Tensor:
    scheduler.set_timesteps(8)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 8, 8, generator=generator) * float(scheduler.init_noise_sigma)
    drawing = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(output, timestep, x, **drawing)[0]
    return x


@for_each("text", FILES.values(), ids=FILES.keys())
@for_each("name", [name for name in CLASSES if name != "DPMSolverSDEScheduler"])
def test_every_class_loads_the_file_and_samples_as_the_reference_does(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "scheduler_config.json").write_text(text)
    ours = getattr(diffusolve, name).from_pretrained(tmp_path)
    theirs = getattr(diffusers, name).from_pretrained(tmp_path)
    result, reference = walked(ours), walked(theirs)
    torch.testing.assert_close(ours.timesteps.double(), theirs.timesteps.double(), rtol=1e-6, atol=1e-4)
    assert float((result - reference).abs().max() / reference.abs().max()) < 1e-4


def test_keys_that_a_class_does_not_know_are_kept_and_come_back(tmp_path: Path) -> None:
    (tmp_path / "scheduler_config.json").write_text(FILES["minus infinity, as Python writes it"])
    first = diffusolve.DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    between = diffusolve.EulerDiscreteScheduler.from_config(first.config)
    back = diffusolve.DPMSolverMultistepScheduler.from_config(between.config)
    assert back.config.lambda_min_clipped == first.config.lambda_min_clipped == -float("inf")
    assert back.config.solver_order == 2
    assert between.config.use_karras_sigmas is True


def test_an_unknown_key_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    config = {"beta_schedule": "linear", "beta_shedule_of_old": 3}
    with caplog.at_level(logging.WARNING, logger="diffusolve"):
        for _ in range(3):
            diffusolve.EulerDiscreteScheduler.from_config(config)
    assert sum("beta_shedule_of_old" in record.getMessage() for record in caplog.records) == 1


def test_a_saved_file_loads_in_the_reference_and_back(tmp_path: Path) -> None:
    made = diffusolve.DPMSolverMultistepScheduler(beta_schedule="scaled_linear", use_karras_sigmas=True, solver_order=3)
    made.save_pretrained(tmp_path)
    theirs = diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    assert theirs.config.solver_order == 3
    theirs.save_pretrained(tmp_path / "again")
    back = diffusolve.DPMSolverMultistepScheduler.from_pretrained(tmp_path / "again")
    assert all(back.config[key] == value for key, value in made.config.items() if not key.startswith("_"))
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == "DPMSolverMultistepScheduler"
