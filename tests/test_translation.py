"""From the catalog's names to diffusers' classes and configurations, and back."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.backends import Run
from diffusolve.catalog import CATALOG, SCHEDULE_TYPES, Entry, from_diffusers, sampler, to_diffusers
from diffusolve.catalog.class_steps import (
    CLASS_STEPS,
    SCHEDULE_TYPES_OF_TIMESTEPS,
    TIMESTEP_SPACINGS,
)
from diffusolve.errors import UnknownNameError
from diffusolve.noise import SD15
from tests.tables import for_each

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
WITH_CLASS = [entry.name for entry in CATALOG.values() if entry.diffusers is not None and not entry.diffusers.own_steps]
CURVES = ("Karras", "Exponential", "Beta sigmas", "Uniform log-SNR")


STEPS = 20
"""More than 15, below which some classes take lower orders at the end."""


def with_class() -> Iterator[Entry]:
    """The samplers whose scheduler class is here, but those that choose their steps themselves."""
    return (CATALOG[name] for name in WITH_CLASS if not CATALOG[name].spaces_itself)


def class_keys(class_name: str) -> set[str]:
    return set(inspect.signature(getattr(diffusolve, class_name).__init__).parameters)


def asked_at(scheduler: Any, steps: int) -> np.ndarray[Any, Any]:
    """sigma / alpha wherever the network is asked in a run, each once."""
    scheduler.set_timesteps(steps)
    return SD15.sigma(list(dict.fromkeys(scheduler.timesteps.double().tolist())))


def test_what_is_no_scheduler_has_no_name_and_is_named() -> None:
    with pytest.raises(ValueError, match="StableDiffusionPipeline is no scheduler: expected that of a pipeline"):
        from_diffusers({"_class_name": "StableDiffusionPipeline"})


def test_the_tables_of_ratios_are_what_the_classes_have() -> None:
    wrong = []
    one_evaluation = {name for name in CLASS_STEPS if not name.startswith(("KDPM2", "DPMSolverSDE", "DPMSolverFast"))}
    for class_name in sorted(one_evaluation - {"DPMSolverSinglestepAncestralScheduler"}):
        for row, config in TIMESTEP_SPACINGS.items():
            if "timestep_spacing" not in class_keys(class_name) and row != "linspace":
                continue
            skip = {"skip_prk_steps": True} if class_name == "PNDMScheduler" else {}
            scheduler = getattr(diffusolve, class_name).from_config({**STABLE_DIFFUSION, **skip, **config})
            for name, ratio in zip(SCHEDULE_TYPES_OF_TIMESTEPS, CLASS_STEPS[class_name].ratios[row], strict=True):
                measured = 1.0
                for steps in (15, 20, 30):
                    ours = SD15.sigma(SCHEDULE_TYPES[name].spacing.grid(SD15, steps).timesteps.astype(float))
                    apart = np.exp(np.abs(np.log(asked_at(scheduler, steps) / ours)))
                    measured = max(measured, float(apart.max()))
                if abs(measured - ratio) > 6e-4:
                    wrong.append((class_name, row, name, ratio, measured))
    assert not wrong


def test_every_class_of_the_catalog_has_a_row() -> None:
    assert CLASS_STEPS.keys() == {
        entry.diffusers.name for entry in CATALOG.values() if entry.diffusers and not entry.diffusers.own_steps
    }


def normal() -> Tensor:
    return torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def denoised(x: Tensor, ratio: float) -> Tensor:
    """A stand-in for the data prediction, for samples data + ratio * noise. It does not depend on the timestep."""
    return 0.8 * torch.tanh(x + 0.3 * x.roll(1, -1)) / (1 + 0.01 * ratio)


def end_of_scheduler(scheduler: Any, entry: Entry, steps: int) -> Tensor:
    """The data at the end of a run of a scheduler, from a sample with its first sigma / alpha."""
    scheduler.set_timesteps(steps)
    options: dict[str, Any] = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(5)
    if entry.name == "DPM++ SDE":
        options["s_noise"] = 0.0  # its noise is along a Brownian path
    if entry.name == "SA-Solver":
        scheduler.tau_func = lambda timestep: 0.0  # it draws noise in steps that add none too
    first = scheduler.grid[0]
    x = normal() * first.sigma
    by_table = ((1 - scheduler.alphas_cumprod.double()) / scheduler.alphas_cumprod.double()).sqrt()
    for index, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, timestep)
        if entry.name in ("DDIM", "DDPM", "PLMS"):
            ratio = float(by_table[int(timestep)])
        else:
            point = scheduler.plan.stages[index].point
            ratio = point.sigma / point.alpha
        at = scaled * (1 + ratio**2) ** 0.5
        x = scheduler.step((at - denoised(at, ratio)) / ratio, timestep, x, **options).prev_sample
    return x / scheduler.grid[-1].alpha


WITHOUT_DIFFERENCES: dict[str, dict[str, Any]] = {
    "DPM++ 3M": {"third_order": "authors"},
    "DPM++ 3M SDE": {"third_order": "diffusers_sde"},
    "DPM++ SDE": {"s_noise": 0.0},
    "SA-Solver": {"eta": 0.0, "simple_order_2": True, "lower_order_final": True, "longest_step": inf},
}
"""Options that make a sampler what its class is where the catalog tells a difference of the formula."""


def end_of_name(found: Any, entry: Entry, steps: int, noise_dtype: torch.dtype) -> Tensor:
    options = {**found.options, **WITHOUT_DIFFERENCES.get(entry.name, {})}
    plan = sampler(found.name, **options).plan(SD15, "sample", steps)
    generator = torch.Generator().manual_seed(5)
    run = Run(plan, lambda like, s, t: torch.randn(like.shape, generator=generator, dtype=noise_dtype).double())
    x = run.begin(normal() * plan.start.sigma)
    while not run.is_done:
        point = run.stage.point
        x = run.step(denoised(x / point.alpha, point.sigma / point.alpha), x)
    return x / plan.end.alpha


def distance(found: Any, entry: Entry, scheduler: Any, theirs: Tensor, steps: int) -> float:
    """How far the sample of the sampler found is from the scheduler's, relative to that."""
    ours = end_of_name(found, entry, steps, scheduler.noise_dtype or torch.float64)
    return float((ours - theirs).norm() / theirs.norm())


def configurations(class_name: str) -> Iterator[dict[str, Any]]:
    """Every spacing with every end, and every curve on every spacing, that a class has keys for."""
    keys = class_keys(class_name)
    spacings = list(TIMESTEP_SPACINGS.values()) if "timestep_spacing" in keys else [{}]
    spacings += [{"timestep_spacing": "leading", "steps_offset": 3}] * ("timestep_spacing" in keys)
    ends: list[dict[str, Any]] = [{}]
    for key, values in {"set_alpha_to_one": (True, False), "final_sigmas_type": ("zero", "sigma_min")}.items():
        if key in keys:
            ends = [{key: value} for value in values]
    for spacing in spacings:
        for end in ends:
            yield {**spacing, **end}
    for curve in sorted(keys & {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"}):
        for config in (*ends, *({**spacing, **ends[0]} for spacing in spacings[1:4])):
            yield {**config, curve: True}


def test_every_class_with_every_spacing_and_end_runs_as_its_name_says() -> None:
    """By trajectory: the sampler of the name, with the options, makes the class's sample, or a difference is told."""
    wrong = []
    for entry in with_class():
        there = entry.diffusers
        assert there is not None
        for config in configurations(there.name):
            scheduler = getattr(diffusolve, there.name).from_config({**STABLE_DIFFUSION, **there.config, **config})
            found = from_diffusers(scheduler)
            theirs = end_of_scheduler(scheduler, entry, STEPS)
            told = [text for text in found.differences if text != there.difference]
            apart = distance(found, entry, scheduler, theirs, STEPS)
            strides = any("wherever the next one is" in text for text in told) and "trailing" in config.values()
            # 20 divides 1000 timesteps: the next test has a number of steps that does not
            true = apart < 1e-4 if strides else (apart < 1e-4) == (not told)
            if not true or not found.name.startswith(entry.name):
                wrong.append((entry.name, config, found.name, dict(found.options), told, apart))
    assert not wrong, "\n".join(map(str, wrong))


def test_strides_that_do_not_divide_the_timesteps_are_told() -> None:
    entry, config = CATALOG["DDIM"], {"clip_sample": False, "timestep_spacing": "trailing"}
    scheduler = diffusolve.DDIMScheduler.from_config({**STABLE_DIFFUSION, **config})
    found = from_diffusers(scheduler)
    assert distance(found, entry, scheduler, end_of_scheduler(scheduler, entry, 30), 30) > 1e-4
    assert "wherever the next one is" in found.differences[0]


def test_stable_diffusions_own_configuration_is_named() -> None:
    config = {
        **STABLE_DIFFUSION,
        "_class_name": "PNDMScheduler",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    }
    found = from_diffusers(config)
    assert (found.name, found.options, found.differences) == ("PLMS DDIM", {"final_sigma": "sigma_min"}, ())
    linspace = from_diffusers({**config, "timestep_spacing": "linspace"})
    assert linspace.name == "PLMS Uniform"
    assert "wherever the next one is" in linspace.differences[0]


def test_a_name_joined_to_any_configuration_is_that_name() -> None:
    """Keys of the model's old scheduler do not change the sampler that was asked for."""
    before = {
        **STABLE_DIFFUSION,
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "sde-dpmsolver++",
        "final_sigmas_type": "sigma_min",
        "set_alpha_to_one": False,
        "solver_order": 3,
        "solver_type": "heun",
        "steps_offset": 7,
        "timestep_spacing": "trailing",
        "use_exponential_sigmas": True,
        "sigma_min": 0.1,
        "euler_at_final": True,
    }
    wrong = []
    for entry in with_class():
        for schedule_type in ("Karras", "Exponential", "SGM Uniform", "Trailing", "Leading", "DDIM", "Uniform"):
            translated = to_diffusers(f"{entry.name} {schedule_type}")
            if any("no use_" in text or "factor" in text for text in translated.differences):
                continue
            found = from_diffusers(translated.joined(before))
            extra = [text for text in found.differences if text not in translated.differences]
            expected = ("whole", "discard_next_to_last_sigma", *entry.diffusers.options)
            left = {key for key in found.options if key not in expected}
            ends_before = entry.name in ("DEIS", "SA-Solver")
            if found.name != f"{entry.name} {schedule_type}" or ((extra or left) and not ends_before):
                wrong.append((entry.name, schedule_type, found))
    assert not wrong, "\n".join(map(str, wrong))


def test_a_value_that_the_class_does_not_know_is_told() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown timestep_spacing 'linspce'.*'linspace'"):
        from_diffusers({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "linspce"})
    with pytest.raises(UnknownNameError, match="unknown final_sigmas_type 'sigma_mn'"):
        from_diffusers({"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "sigma_mn"})


@for_each("schedule_type", ["Karras", "Exponential", "Trailing", "Beta sigmas"])
@for_each("name", WITH_CLASS)
def test_there_and_back_is_the_same_name(name: str, schedule_type: str) -> None:
    translated = to_diffusers(f"{name} {schedule_type}")
    if not any("factor of" in difference or "has no" in difference for difference in translated.differences):
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
        ("DPM2 a Karras", "KDPM2AncestralDiscreteScheduler",
         {"use_karras_sigmas": True, "timestep_spacing": "linspace"}),
        ("PLMS DDIM", "PNDMScheduler",
         {"skip_prk_steps": True, "set_alpha_to_one": True, "timestep_spacing": "leading", "steps_offset": 1}),
        ("DPM++ 2S a Karras", "DPMSolverSinglestepAncestralScheduler",
         {"use_karras_sigmas": True, "timestep_spacing": "linspace"}),
        ("DPM++ SDE Automatic", "DPMSolverSDEScheduler",
         {"use_karras_sigmas": True, "timestep_spacing": "linspace"}),
        ("LCM", "LCMScheduler", {}),
        ("iPNDM", "IPNDMScheduler", {}),
        ("SA-Solver Karras", "SASolverScheduler",
         {"predictor_order": 3, "corrector_order": 4, "use_karras_sigmas": True}),
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
        ({"_class_name": "IPNDMScheduler"}, "iPNDM"),
        ({"_class_name": "SASolverScheduler", "predictor_order": 3, "use_karras_sigmas": True}, "SA-Solver Karras"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "Euler Uniform"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True}, "Euler Karras"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True}, "LCM Uniform"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "Heun Uniform"),
        ({"_class_name": "FlowMatchLCMScheduler"}, "LCM Uniform"),
        ({"_class_name": "LTXEulerAncestralRFScheduler"}, "Euler a Uniform"),
        ({"_class_name": "LTXEulerAncestralRFScheduler", "eta": 0.0}, "Euler Uniform"),
        ({"_class_name": "DDIMParallelScheduler", "timestep_spacing": "trailing"}, "DDIM Trailing"),
        ({"_class_name": "CogVideoXDPMScheduler"}, "DPM++ 2M SDE"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler"}, "DPM++ 2M"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE"),
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
    assert "sigmas differ by a factor of up to 8.762" in to_diffusers("DPM++ 2M Uniform").differences[0]
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
    assert type(to_diffusers("LCM").scheduler()) is diffusolve.LCMScheduler
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
