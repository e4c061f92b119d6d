"""ComfyUI's own sampling functions, under their names, against results measured on ComfyUI."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.k_diffusion import comfyui, sampling
from diffusolve.noise import NOISE_SCHEDULES, SD15

FIGURES_FOLDER = Path(__file__).parent / "data"
FIGURES = json.loads((FIGURES_FOLDER / "comfyui_functions.json").read_text())
MEAN, VARIANCE, BIAS = (torch.tensor(FIGURES["denoiser"][key], dtype=torch.float64) for key in ("mean", "v", "bias"))
GUIDANCE = 0.7


class Denoiser:
    """The posterior mean of two Gaussians, guided where a program asks to be told the prediction without guidance."""

    def __init__(self, flow: bool = False) -> None:
        self.evaluations, self.flow = 0, flow
        if flow:
            told = SimpleNamespace(noise_scaling=lambda sigma, noise, data: sigma * noise + (1 - sigma) * data)
            patcher = SimpleNamespace(get_model_object={"model_sampling": told}.__getitem__)
            self.inner_model = SimpleNamespace(model_patcher=patcher)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict[str, Any] | None = None) -> Tensor:
        self.evaluations += 1
        guided = self.predicted(x, sigma, BIAS)
        if not model_options:
            return guided
        unguided = self.predicted(x, sigma, 0 * BIAS)
        guided = unguided + GUIDANCE * (guided - unguided)
        for told in model_options["sampler_post_cfg_function"]:
            guided = told({"denoised": guided, "uncond_denoised": unguided})
        return guided

    def predicted(self, x: Tensor, sigma: Tensor, bias: Tensor) -> Tensor:
        sigma = sigma[:, None]
        alpha = 1 - sigma if self.flow else 1.0
        y, d = x - alpha * bias, alpha**2 * VARIANCE + sigma**2
        return bias + (VARIANCE * alpha * y + sigma**2 * MEAN * torch.tanh(MEAN * alpha * y / d)) / d


def made(name: str, sigmas: Tensor, start: Tensor, flow: bool = False, **options: Any) -> tuple[Tensor, int, int]:
    """The sample, the evaluations and the draws of a sampler."""
    function, model, drawn = getattr(sampling, f"sample_{name}"), Denoiser(flow), 0

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        nonlocal drawn
        drawn += 1
        return torch.tensor(FIGURES["draws"]["numbers"][drawn - 1], dtype=torch.float64)[None]

    takes = {"noise_sampler": noise} if "noise_sampler" in inspect.signature(function).parameters else {}
    return function(model, start, sigmas, disable=True, **takes, **options)[0], model.evaluations, drawn


def test_the_functions_give_comfyuis_samples_after_as_many_evaluations_and_draws() -> None:
    compared, differ = set(), []
    for key, samplers in FIGURES["samples"].items():
        sigmas = torch.tensor(FIGURES["sigmas"][key], dtype=torch.float64)
        start = sigmas[0] * torch.tensor(FIGURES["start"]["numbers"], dtype=torch.float64)[None]
        for name, figure in samplers.items():
            sample, evaluations, draws = made(name, sigmas, start)
            assert torch.isfinite(sample).all()
            error = float((sample - torch.tensor(figure["sample"], dtype=torch.float64)).abs().max())
            same = (evaluations, draws) == (figure["evaluations"], figure["draws"])
            compared.add(name)
            if not same or not error < (1e-6 if name == "er_sde" else 1e-9):
                differ.append((key, name, error, (evaluations, figure["evaluations"]), (draws, figure["draws"])))
    assert not differ
    assert {"er_sde", "ipndm_v", "dpmpp_2m_cfg_pp", "res_multistep_ancestral_cfg_pp"} < compared


def test_deis_sa_solver_and_the_functions_for_flow_matching_give_comfyuis_samples() -> None:
    names, differ = json.loads((FIGURES_FOLDER / "comfyui_names.json").read_text()), []
    alpha_1 = {"deis": {}, "sa_solver": {"tau_func": tau}, "sa_solver_pece": {"tau_func": tau}}
    rectified = ["euler_ancestral_RF", "dpmpp_2s_ancestral_RF", "lcm", "euler_cfg_pp", "euler_ancestral_cfg_pp"]
    for model, functions in {"sd15": alpha_1, "sd3": {name: {} for name in rectified}}.items():
        for schedule in ("normal", "karras", "simple"):
            for steps in ("5", "20"):
                sigmas = torch.tensor(names["levels"][model][schedule][steps], dtype=torch.float64)
                start = sigmas[0] * torch.tensor(FIGURES["start"]["numbers"], dtype=torch.float64)[None]
                for name, options in functions.items():
                    figure = names["samples"][f"{model}/{schedule}/{steps}"][name.removesuffix("_RF")]
                    sample, evaluations, draws = made(name, sigmas, start, flow=model == "sd3", **options)
                    error = float((sample - torch.tensor(figure["sample"], dtype=torch.float64)).abs().max())
                    same = (evaluations, draws) == (figure["evaluations"], figure["draws"])
                    if not same or not error < (5e-5 if name == "deis" else 1e-9):
                        differ.append((model, schedule, steps, name, error, evaluations, draws))
    assert not differ


def tau(sigma: float) -> float:
    """1 between 20 and 80 % of the training time of Stable Diffusion."""
    start, end = SD15.sigma([0.8 * 999, 0.2 * 999])
    return float(start >= sigma >= end)


def test_dpm_2_ancestral_for_flow_matching_is_the_sampler_of_that_name() -> None:
    """ComfyUI leaves out a sigma before it calls the function, so that the figures are of other sigmas."""
    recipe = diffusolve.sampler("dpm_2_ancestral", "karras", world="comfyui")
    plan = recipe.plan(NOISE_SCHEDULES["sd3"], "sample", 5)
    sigmas = torch.tensor(plan.sigmas, dtype=torch.float64)
    start = torch.tensor(FIGURES["start"]["numbers"], dtype=torch.float64)[None]
    sample, evaluations, _ = made("dpm_2_ancestral_RF", sigmas, start, flow=True)
    figure = json.loads((FIGURES_FOLDER / "comfyui_names.json").read_text())["samples"]["sd3/karras/5"]
    torch.testing.assert_close(
        sample, torch.tensor(figure["dpm_2_ancestral"]["sample"], dtype=torch.float64), atol=1e-6, rtol=0.0
    )
    assert evaluations == figure["dpm_2_ancestral"]["evaluations"]


def test_sa_solver_needs_to_know_where_its_noise_is() -> None:
    sigmas = torch.tensor([3.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="tau_func is missing, and the model does not tell its training time"):
        sampling.sample_sa_solver(Denoiser(), torch.ones(1, 6), sigmas, disable=True)
    model = Denoiser()
    told = SimpleNamespace(percent_to_sigma=lambda percent: {0.2: 2.0, 0.8: 0.7}[percent])
    model.inner_model = SimpleNamespace(model_patcher=SimpleNamespace(get_model_object=lambda name: told))
    start = torch.ones(1, 6, dtype=torch.float64)
    drawn: list[tuple[float, float]] = []

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        drawn.append((float(sigma), float(sigma_next)))
        return torch.zeros_like(start)

    sampling.sample_sa_solver(model, start, sigmas, disable=True, noise_sampler=noise)
    assert drawn == [(3.0, 1.0)]
    with pytest.raises(ValueError, match="deis_mode is 'rhoab': expected 'tab'"):
        sampling.sample_deis(Denoiser(), start, sigmas, disable=True, deis_mode="rhoab")


def test_names_with_gpu_or_heun_are_the_same_samplers_on_the_same_noise() -> None:
    sigmas = torch.tensor(FIGURES["sigmas"]["karras/5"], dtype=torch.float64)
    start = sigmas[0] * torch.tensor(FIGURES["start"]["numbers"], dtype=torch.float64)[None]
    for name in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"):
        assert torch.equal(made(name, sigmas, start)[0], made(f"{name}_gpu", sigmas, start)[0])
        assert getattr(sampling, f"sample_{name}_gpu") is getattr(sampling, f"sample_{name}")


def test_every_function_is_found_in_sampling_with_k_diffusions_first_arguments() -> None:
    first = ["model", "x", "sigmas", "extra_args", "callback", "disable"]
    for name in comfyui.__all__:
        function = getattr(comfyui, name)
        assert getattr(sampling, name) is function
        assert list(inspect.signature(function).parameters)[:6] == first, name
        assert function.__doc__


MADE_NOISE = "eta=1.0, s_noise=1.0, noise_sampler=None"
FURTHER = {
    "ddpm": "noise_sampler=None",
    "lcm": "noise_sampler=None",
    "heunpp2": "s_churn=0.0, s_tmin=0.0, s_tmax=inf, s_noise=1.0",
    "ipndm": "max_order=4",
    "ipndm_v": "max_order=4",
    "deis": "max_order=3, deis_mode='tab'",
    "euler_cfg_pp": "",
    "dpmpp_2m_cfg_pp": "",
    "cfgpp_ud10_ab": "",
    **dict.fromkeys(("euler_ancestral_RF", "dpm_2_ancestral_RF", "dpmpp_2s_ancestral_RF"), MADE_NOISE),
    **dict.fromkeys(("euler_ancestral_cfg_pp", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_3m_sde_gpu"), MADE_NOISE),
    **dict.fromkeys(("res_multistep_ancestral", "res_multistep_ancestral_cfg_pp"), MADE_NOISE),
    "dpmpp_sde_gpu": f"{MADE_NOISE}, r=0.5",
    "dpmpp_2m_sde_gpu": f"{MADE_NOISE}, solver_type='midpoint'",
    **dict.fromkeys(("dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"), f"{MADE_NOISE}, solver_type='heun'"),
    **dict.fromkeys(("res_multistep", "res_multistep_cfg_pp"), "s_noise=1.0, noise_sampler=None"),
    "gradient_estimation": "ge_gamma=2.0, cfg_pp=False",
    "gradient_estimation_cfg_pp": "ge_gamma=2.0",
    "er_sde": "s_noise=1.0, noise_sampler=None, noise_scaler=None, max_stage=3",
    "seeds_3": f"{MADE_NOISE}, r_1={1 / 3}, r_2={2 / 3}",
    "sa_solver": "tau_func=None, s_noise=1.0, noise_sampler=None, predictor_order=3, corrector_order=4, "
    "use_pece=False, simple_order_2=False",
    "sa_solver_pece": "tau_func=None, s_noise=1.0, noise_sampler=None, predictor_order=3, corrector_order=4, "
    "simple_order_2=False",
}
"""The arguments after the first six with their defaults, as ComfyUI's functions have them (October 2025 and later)."""


def test_the_arguments_and_their_defaults_are_comfyuis() -> None:
    found = {}
    for name in FURTHER:
        first, further = [], []
        for parameter in inspect.signature(getattr(sampling, f"sample_{name}")).parameters.values():
            told = parameter.replace(annotation=inspect.Parameter.empty)
            (first if len(first) < 6 else further).append(str(told).replace(" = ", "="))
        quiet = "False" if name.startswith("sa_solver") else "None"
        assert first == ["model", "x", "sigmas", "extra_args=None", "callback=None", f"disable={quiet}"], name
        found[name] = ", ".join(further)
    assert found == FURTHER
    untold = {"sample_seeds_2", "sample_exp_heun_2_x0", "sample_exp_heun_2_x0_sde"}  # newer than what was looked at
    assert {f"sample_{name}" for name in FURTHER} | untold == set(comfyui.__all__)


def test_a_model_that_does_not_tell_its_prediction_without_guidance_is_refused() -> None:
    sigmas = torch.tensor([3.0, 1.0, 0.0])
    with pytest.raises(ValueError, match=r"told nothing of its prediction without guidance.*sampler_post_cfg_function"):
        sampling.sample_euler_cfg_pp(lambda x, sigma, model_options: x, torch.ones(1, 6), sigmas, disable=True)
    with pytest.raises(ValueError, match=r"noise_scaler is .*: expected None"):
        sampling.sample_er_sde(Denoiser(), torch.ones(1, 6), sigmas, noise_scaler=abs)


def test_all_functions_are_among_the_names_of_the_module() -> None:
    assert {*comfyui.__all__, *sampling.__all__} <= set(dir(sampling))
