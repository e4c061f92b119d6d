"""From the catalog's names to diffusers' classes and configurations, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffusolve
from diffusolve.catalog import CATALOG, SCHEDULE_TYPES, from_diffusers, sampler, to_diffusers
from diffusolve.errors import UnknownNameError
from diffusolve.noise import SD15, Grid
from tests.tables import for_each

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
WITH_CLASS = [entry.name for entry in CATALOG.values() if entry.diffusers is not None and entry.diffusers.here]
CURVES = ("Karras", "Exponential", "Beta sigmas", "Uniform log-SNR")


def ratios(grid: Grid) -> list[float]:
    return list(dict.fromkeys(float(point.sigma / point.alpha) for point in grid))


@for_each("schedule_type", SCHEDULE_TYPES)
@for_each("name", WITH_CLASS)
def test_what_is_called_exact_has_the_same_noise_levels(name: str, schedule_type: str) -> None:
    translated = to_diffusers(f"{name} {schedule_type}")
    scheduler = translated.scheduler(STABLE_DIFFUSION)
    assert type(scheduler).__name__ == translated.class_name
    if translated.is_exact and not CATALOG[name].spaces_itself:
        for steps in (15, 20, 30):
            scheduler.set_timesteps(steps)
            ours = sampler(f"{name} {schedule_type}").grid(SD15, steps)
            np.testing.assert_allclose(ratios(scheduler.grid), ratios(ours), rtol=2e-2, atol=1e-3)


@for_each("schedule_type", ["Karras", "Exponential", "Trailing", "Beta sigmas"])
@for_each("name", WITH_CLASS)
def test_there_and_back_is_the_same_name(name: str, schedule_type: str) -> None:
    translated = to_diffusers(f"{name} {schedule_type}")
    if not any("noise levels" in difference or "has no" in difference for difference in translated.differences):
        assert from_diffusers(translated.scheduler(STABLE_DIFFUSION)).name in (
            f"{name} {schedule_type}",
            f"{name} Uniform",  # where the steps are spaced by the solver
        )


@for_each(
    ("name", "class_name", "config"),
    [
        ("DPM++ 2M Karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("dpmpp_2m_sde karras", "DPMSolverMultistepScheduler",
         {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
        ("sample_dpmpp_2m_sde exponential", "DPMSolverMultistepScheduler",
         {"algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": True}),
        ("Euler a Trailing", "EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
        ("DPM2 a Karras", "KDPM2AncestralDiscreteScheduler", {"use_karras_sigmas": True}),
        ("PLMS DDIM", "PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "leading", "steps_offset": 1}),
        ("DPM++ 2S a Karras", "DPMSolverSinglestepAncestralScheduler", {"use_karras_sigmas": True}),
        ("DPM++ SDE Automatic", "DPMSolverSDEScheduler", {"use_karras_sigmas": True}),
        ("LCM", "LCMScheduler", {"timestep_spacing": "linspace"}),
    ],
)  # fmt: skip
def test_names_lead_to_classes_and_keys(name: str, class_name: str, config: dict[str, Any]) -> None:
    made = to_diffusers(name)
    assert (made.class_name, made.config) == (class_name, config)


@for_each(
    ("config", "name"),
    [
        ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}, "DPM++ 2M Karras"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
         "DPM++ 2M SDE Karras"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "use_lu_lambdas": True},
         "DPM++ 3M Uniform log-SNR"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, "Euler Trailing"),
        ({"_class_name": "FlaxDDIMScheduler", "steps_offset": 1}, "DDIM DDIM"),
        ({"_class_name": "HeunDiscreteScheduler", "use_exponential_sigmas": True}, "Heun Exponential"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_order": 3, "solver_type": "bh1", "use_karras_sigmas": True},
         "UniPC Karras"),
        ({"_class_name": "LCMScheduler"}, "LCM"),
    ],
)  # fmt: skip
def test_configurations_lead_to_names(config: dict[str, Any], name: str) -> None:
    assert from_diffusers(config).name == name
    assert sampler(name).name == name


def test_live_schedulers_lead_to_names() -> None:
    diffusers = pytest.importorskip("diffusers", reason="a scheduler of diffusers is needed")
    for library in (diffusers, diffusolve):
        assert from_diffusers(library.EulerAncestralDiscreteScheduler()).name == "Euler a Uniform"
        made = library.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", use_karras_sigmas=True)
        assert from_diffusers(made).name == "DPM++ 2M SDE Karras"


def test_a_saved_configuration_is_loaded_by_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="what is saved here is loaded there")
    path = to_diffusers("DPM++ 2M SDE Karras").save(tmp_path / "scheduler", STABLE_DIFFUSION)
    assert path == tmp_path / "scheduler" / "scheduler_config.json"
    loaded = diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path / "scheduler")
    assert loaded.config.use_karras_sigmas
    assert loaded.config.algorithm_type == "sde-dpmsolver++"
    assert loaded.config.beta_end == 0.012
    assert from_diffusers(tmp_path / "scheduler").name == "DPM++ 2M SDE Karras"
    assert from_diffusers(path).name == "DPM++ 2M SDE Karras"


def test_another_sampler_turns_the_old_curve_off_and_keeps_the_other_keys() -> None:
    before = {
        **STABLE_DIFFUSION,
        "_class_name": "EulerDiscreteScheduler",
        "use_karras_sigmas": True,
        "interpolation_type": "linear",
    }
    after = to_diffusers("DPM++ 2M Exponential").joined(before)
    assert after["use_karras_sigmas"] is False
    assert after["use_exponential_sigmas"] is True
    assert after["interpolation_type"] == "linear"
    assert after["_class_name"] == "DPMSolverMultistepScheduler"
    assert before["use_karras_sigmas"] is True, "what was given is left alone"


@for_each("name", [entry.name for entry in CATALOG.values() if entry.diffusers is None])
def test_what_diffusers_does_not_have_names_the_nearest_that_it_has(name: str) -> None:
    with pytest.raises(ValueError, match="the nearest that it has is '") as caught:
        to_diffusers(name)
    nearest = str(caught.value).split("'")[-2]
    assert to_diffusers(nearest).class_name


def test_differences_are_told() -> None:
    assert not to_diffusers("DPM++ 2M Align Your Steps").is_exact
    assert "no configuration says 'KL Optimal'" in to_diffusers("Euler KL Optimal").differences[0]
    assert "has no use_karras_sigmas" in to_diffusers("Euler a Karras").differences[0]
    assert "noise levels differ by up to" in to_diffusers("DPM++ 2M Uniform").differences[0]
    assert "weighted otherwise" in to_diffusers("DPM++ 3M SDE Karras").differences[0]
    found = from_diffusers({"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": True})
    assert found.name == "UniPC bh2 Karras"
    assert found.differences == ("solver_order is 2 there, and 3 in 'UniPC bh2'",)
    flow = from_diffusers(
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    )
    assert any("FlowMatching" in difference for difference in flow.differences)


def test_what_cannot_be_translated_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown scheduler class .* 'VQDiffusionScheduler'"):
        from_diffusers({"_class_name": "VQDiffusionScheduler"})
    with pytest.raises(ValueError, match="has no _class_name"):
        from_diffusers({"beta_start": 0.1})
    with pytest.raises(UnknownNameError, match="unknown sampler 'Eulerr'"):
        to_diffusers("Eulerr")
    with pytest.raises(ValueError, match="LCMScheduler is a class of diffusers that this library does not have"):
        to_diffusers("LCM").scheduler()
    with pytest.raises(FileNotFoundError, match=r"scheduler_config\.json"):
        from_diffusers(tmp_path)
    (tmp_path / "scheduler_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list"):
        from_diffusers(tmp_path)
    (tmp_path / "scheduler_config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        from_diffusers(tmp_path)
    with pytest.raises(TypeError, match="expected a scheduler"):
        from_diffusers(3)


def test_the_saved_text_is_json_with_sorted_keys(tmp_path: Path) -> None:
    text = to_diffusers("Heun").save(tmp_path).read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
