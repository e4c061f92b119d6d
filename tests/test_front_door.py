"""A sampler's name in place of a scheduler."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import diffusolve
from diffusolve.catalog import CATALOG, find
from diffusolve.errors import UnknownNameError
from diffusolve.schedulers import CLASSES, scheduler_class

diffusers = pytest.importorskip("diffusers", reason="these tests compare with diffusers, which is not installed")

FLUX = {"use_dynamic_shifting": True, "shift": 3.0}


def sources() -> list[Any]:
    """Schedulers of flow-matching models, of both libraries."""
    return [library.FlowMatchEulerDiscreteScheduler(**FLUX) for library in (diffusers, diffusolve)]


def test_a_name_on_flow_matching_keeps_the_shift_of_the_model() -> None:
    for source in sources():
        for name, made in {
            "DPM++ 2M Karras": "DPMSolverMultistepScheduler",
            "Euler": "FlowMatchEulerDiscreteScheduler",
            "Euler a": "EulerAncestralDiscreteScheduler",
            "Heun": "HeunDiscreteScheduler",
            "UniPC": "UniPCMultistepScheduler",
            "LCM": "FlowMatchLCMScheduler",
        }.items():
            scheduler = diffusolve.scheduler(name, like=source)
            assert type(scheduler).__name__ == made
            assert scheduler.config["use_dynamic_shifting"]
            scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=1.0)
            assert float(scheduler.sigmas[-2]) == pytest.approx(0.5 * 2.718282 / (0.5 * 2.718282 + 0.5), rel=1e-5)


def test_a_schedule_type_is_the_curve_on_flow_matching_too() -> None:
    for name in ("DPM++ 2M Karras", "Euler a Karras", "Euler Karras"):
        scheduler = diffusolve.scheduler(name, like=sources()[0])
        expected = diffusolve.FlowMatchEulerDiscreteScheduler(**FLUX, use_karras_sigmas=True)
        for each in (scheduler, expected):
            each.set_timesteps(sigmas=[1.0, 0.7, 0.4, 0.1], mu=0.8)
        assert torch.allclose(scheduler.sigmas, expected.sigmas)


def test_a_shifted_signal_to_noise_ratio_is_not_lost_silently() -> None:
    with pytest.raises(ValueError, match=r"snr_shift_scale is 3.0: only CogVideoXDDIMScheduler"):
        diffusolve.scheduler("DPM++ 2M", like=diffusolve.CogVideoXDDIMScheduler(snr_shift_scale=3.0))
    assert diffusolve.scheduler("DPM++ 2M", like=diffusolve.CogVideoXDDIMScheduler(snr_shift_scale=1.0))


def test_a_flow_configuration_is_not_given_betas() -> None:
    with pytest.raises(ValueError, match=r"use diffusolve.scheduler\('Euler', like=config\)"):
        diffusolve.to_diffusers("Euler").scheduler(sources()[0].config)


def test_a_name_keeps_the_betas_of_the_model() -> None:
    source = diffusers.PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)
    scheduler = diffusolve.scheduler("DPM++ 2M Karras", like=source)
    assert type(scheduler) is diffusolve.DPMSolverMultistepScheduler
    assert scheduler.config.beta_schedule == "scaled_linear"
    assert scheduler.config.use_karras_sigmas
    karras = diffusolve.DPMSolverMultistepScheduler(use_karras_sigmas=True, beta_schedule="scaled_linear")
    assert not diffusolve.scheduler("DPM++ 2M", like=karras).config.use_karras_sigmas


def test_every_name_with_a_class_is_made_or_says_why_not() -> None:
    flow = sources()[0]
    for name, entry in CATALOG.items():
        there = entry.diffusers
        for like in (diffusers.EulerDiscreteScheduler(), flow):
            cls = None if there is None or there.name not in CLASSES else scheduler_class(there.name)
            of_its_own = name == "LCM" and like is flow
            has_betas = cls is not None and "beta_schedule" in inspect.signature(cls.__init__).parameters
            if of_its_own or (cls is not None and (cls.samples_flow if like is flow else has_betas)):
                assert type(diffusolve.scheduler(name, like=like)).__name__ in CLASSES, name
                continue
            with pytest.raises(
                ValueError, match=r"cannot sample a flow-matching model|no scheduler class is|none with betas"
            ):
                diffusolve.scheduler(name, like=like)


def test_the_nearest_that_is_offered_for_a_name_without_a_class_has_one() -> None:
    like = diffusers.EulerDiscreteScheduler()
    for name in [name for name, entry in CATALOG.items() if entry.diffusers is None]:
        with pytest.raises(ValueError, match=r"the nearest that has one, '.*'\.") as refused:
            diffusolve.scheduler(name, like=like)
        diffusolve.scheduler(str(refused.value).split("'")[-2], like=like)


def test_patching_says_in_a_line_what_it_did() -> None:
    pipe = SimpleNamespace(scheduler=sources()[0])
    line = diffusolve.patch(pipe, "DPM++ 2M Karras")
    assert line.startswith("DPM++ 2M Karras: FlowMatchEulerDiscreteScheduler -> DPMSolverMultistepScheduler(")
    assert "use_karras_sigmas=True" in line
    assert "\n" not in line
    assert type(pipe.scheduler) is diffusolve.DPMSolverMultistepScheduler
    back = diffusolve.patch(pipe, "Euler")
    assert back.startswith("Euler: DPMSolverMultistepScheduler -> FlowMatchEulerDiscreteScheduler(")
    assert not pipe.scheduler.config["use_karras_sigmas"]
    assert pipe.scheduler.config["shift"] == 3.0


def test_bad_input_is_named_and_leaves_the_pipeline_as_it_was() -> None:
    source = sources()[1]
    pipe = SimpleNamespace(scheduler=source)
    with pytest.raises(UnknownNameError, match=r"DPM\+\+ 2M"):
        diffusolve.patch(pipe, "DPM++ 2N")
    with pytest.raises(ValueError, match=r"DDIMScheduler, which cannot sample a flow-matching model: use .*DPM\+\+ 2M"):
        diffusolve.patch(pipe, "DDIM")
    assert pipe.scheduler is source
    with pytest.raises(ValueError, match="neither betas nor the shift of flow matching"):
        diffusolve.scheduler("DPM++ 2M", like=diffusers.EDMEulerScheduler())
    with pytest.raises(TypeError, match="has no scheduler"):
        diffusolve.patch(SimpleNamespace(), "DPM++ 2M")


def test_flow_classes_have_names() -> None:
    assert diffusolve.from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler()).name == "Euler Uniform"
    assert diffusolve.from_diffusers(diffusolve.FlowMatchHeunDiscreteScheduler(shift=3.0)).name == "Heun Uniform"
    karras = diffusolve.from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True, shift=3.0))
    assert karras.name == "Euler Karras"
    assert any("shift is 3.0" in difference for difference in karras.differences)
    assert find(karras.name)[0].name == "Euler"
