"""ComfyUI's own sampling functions, under their names, against results measured on ComfyUI."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusolve.k_diffusion import comfyui, sampling

FIGURES = json.loads((Path(__file__).parent / "data" / "comfyui_functions.json").read_text())
MEAN, VARIANCE, BIAS = (torch.tensor(FIGURES["denoiser"][key], dtype=torch.float64) for key in ("mean", "v", "bias"))
GUIDANCE = 0.7

APART = {
    "er_sde": (2e-3, "there its integrals are sums over 200 points"),
    "ipndm_v": (0.3, "there a parenthesis in its weights is misplaced"),
    "dpmpp_2m_cfg_pp": (0.6, "there it extrapolates predictions without guidance"),
    "dpmpp_2s_ancestral_cfg_pp": (0.3, "there the second evaluation is of a sample renoised in another way"),
    "res_multistep_cfg_pp": (0.5, "there it extrapolates predictions without guidance"),
    "res_multistep_ancestral_cfg_pp": (0.3, "there it extrapolates predictions without guidance"),
}
"""Samplers whose results differ from ComfyUI's -> by how much at most, and the reason."""


class Denoiser:
    """The posterior mean of two Gaussians, guided where a program asks to be told the prediction without guidance."""

    def __init__(self) -> None:
        self.evaluations = 0

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

    @staticmethod
    def predicted(x: Tensor, sigma: Tensor, bias: Tensor) -> Tensor:
        sigma = sigma[:, None]
        y, d = x - bias, VARIANCE + sigma**2
        return bias + (VARIANCE * y + sigma**2 * MEAN * torch.tanh(MEAN * y / d)) / d


def made(name: str, sigmas: Tensor, start: Tensor) -> tuple[Tensor, int, int]:
    """The sample, the evaluations and the draws of a sampler."""
    function, model, drawn = getattr(sampling, f"sample_{name}"), Denoiser(), 0

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        nonlocal drawn
        drawn += 1
        return torch.tensor(FIGURES["draws"]["numbers"][drawn - 1], dtype=torch.float64)[None]

    takes = {"noise_sampler": noise} if "noise_sampler" in inspect.signature(function).parameters else {}
    return function(model, start, sigmas, disable=True, **takes)[0], model.evaluations, drawn


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
            if not same or not error < APART.get(name, (1e-9, ""))[0]:
                differ.append((key, name, error, (evaluations, figure["evaluations"]), (draws, figure["draws"])))
    assert not differ
    assert set(APART) < compared


def test_names_with_gpu_or_heun_are_the_same_samplers_on_the_same_noise() -> None:
    sigmas = torch.tensor(FIGURES["sigmas"]["karras/5"], dtype=torch.float64)
    start = sigmas[0] * torch.tensor(FIGURES["start"]["numbers"], dtype=torch.float64)[None]
    for name in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"):
        assert torch.equal(made(name, sigmas, start)[0], made(f"{name}_gpu", sigmas, start)[0])


def test_every_function_is_found_in_sampling_with_k_diffusions_first_arguments() -> None:
    first = ["model", "x", "sigmas", "extra_args", "callback", "disable"]
    for name in comfyui.__all__:
        function = getattr(comfyui, name)
        assert getattr(sampling, name) is function
        assert list(inspect.signature(function).parameters)[:6] == first, name
        assert function.__doc__


def test_a_model_that_does_not_tell_its_prediction_without_guidance_is_refused() -> None:
    sigmas = torch.tensor([3.0, 1.0, 0.0])
    with pytest.raises(ValueError, match=r"told nothing of its prediction without guidance.*sampler_post_cfg_function"):
        sampling.sample_euler_cfg_pp(lambda x, sigma, model_options: x, torch.ones(1, 6), sigmas, disable=True)
    with pytest.raises(ValueError, match=r"noise_scaler is .*: expected None"):
        sampling.sample_er_sde(Denoiser(), torch.ones(1, 6), sigmas, noise_scaler=abs)
