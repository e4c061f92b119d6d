"""ComfyUI's own sampling functions, under their names, against results measured on ComfyUI."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.catalog import WORLDS
from diffusolve.k_diffusion import comfyui, loop, sampling
from diffusolve.noise import NOISE_SCHEDULES, SD3, SD15, shifted

FIGURES_FOLDER = Path(__file__).parent / "data"
FIGURES = json.loads((FIGURES_FOLDER / "comfyui_functions.json").read_text())
MEAN, VARIANCE, BIAS = (torch.tensor(FIGURES["denoiser"][key], dtype=torch.float64) for key in ("mean", "v", "bias"))
GUIDANCE = 0.7


class Denoiser:
    """The posterior mean of two Gaussians, guided where a program asks to be told the prediction without guidance."""

    def __init__(self, flow: bool = False, guided: bool = False) -> None:
        self.evaluations, self.flow, self.guided = 0, flow, guided
        self.asked: list[float] = []
        if flow:
            told = SimpleNamespace(
                noise_scaling=lambda sigma, noise, data: sigma * noise + (1 - sigma) * data,
                percent_to_sigma=lambda percent: float(shifted(1 - percent, SD3.shift)),
            )
            patcher = SimpleNamespace(get_model_object={"model_sampling": told}.__getitem__)
            self.inner_model = SimpleNamespace(model_patcher=patcher)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict[str, Any] | None = None) -> Tensor:
        self.evaluations += 1
        self.asked.append(float(sigma[0]))
        guided = self.predicted(x, sigma, BIAS)
        if not model_options and not self.guided:
            return guided
        unguided = self.predicted(x, sigma, 0 * BIAS)
        guided = unguided + GUIDANCE * (guided - unguided)
        for told in (model_options or {}).get("sampler_post_cfg_function", ()):
            guided = told({"denoised": guided, "uncond_denoised": unguided})
        return guided

    def predicted(self, x: Tensor, sigma: Tensor, bias: Tensor) -> Tensor:
        sigma = sigma[:, None]
        alpha = 1 - sigma if self.flow else 1.0
        y, d = x - alpha * bias, alpha**2 * VARIANCE + sigma**2
        return bias + (VARIANCE * alpha * y + sigma**2 * MEAN * torch.tanh(MEAN * alpha * y / d)) / d


def made(name: str, sigmas: Tensor, start: Tensor, flow: bool = False, **options: Any) -> tuple[Tensor, int, int]:
    """The sample, the evaluations and the draws of a sampler."""
    function, model, drawn = getattr(sampling, f"sample_{name}"), Denoiser(flow, name.endswith("cfg_pp")), 0

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


NAMES = [json.loads((FIGURES_FOLDER / f"comfyui_names{later}.json").read_text()) for later in ("", "_0_31")]
WITHOUT_FUNCTION = {"ddim", "uni_pc", "uni_pc_bh2"}
"""Names of ComfyUI that are no function of its k_diffusion.sampling; "ddim" is Euler's."""

FLOW_APART = {"deis": 5e-5}  # there its integrals are sums over 10,000 points
"""Functions that are further than 1e-6 from ComfyUI's samples on flow matching -> by how much at most."""


def flow_figures() -> Iterator[tuple[str, str, dict[str, Any], Tensor]]:
    """Each figure on SD3: where it is of, the function, the figure and the sigmas there."""
    for names in NAMES:
        for key, samplers in names["samples"].items():
            model, schedule, steps = key.split("/")
            for name, figure in samplers.items() if model == "sd3" else ():
                if name in WITHOUT_FUNCTION:
                    continue
                sigmas = names["levels"]["sd3"][schedule][steps]
                if WORLDS["comfyui"].samplers[name].discards:  # of one more step, which is no list among the figures
                    recipe = diffusolve.sampler(name, schedule, world="comfyui")
                    sigmas = [point.sigma for point in recipe.grid(SD3, int(steps))]
                yield key, name, figure, torch.tensor(sigmas, dtype=torch.float64)


def made_on_flow(name: str, sigmas: Tensor, start: Tensor) -> tuple[Tensor, int, int]:
    """The sample of a function on SD3, the evaluations and the draws."""
    if not WORLDS["comfyui"].samplers[name].two_ends:
        return made(name, sigmas, start, flow=True)
    model, above = Denoiser(flow=True), sigmas[sigmas > 0]
    ends = float(above[-1]), float(above[0])
    if name == "dpm_fast":
        return sampling.sample_dpm_fast(model, start, *ends, len(sigmas) - 1, disable=True)[0], model.evaluations, 0
    return sampling.sample_dpm_adaptive(model, start, *ends, disable=True)[0], model.evaluations, 0


def test_every_function_gives_comfyuis_samples_on_a_model_of_flow_matching() -> None:
    compared, differ = set(), []
    for key, name, figure, sigmas in flow_figures():
        start = sigmas[0] * torch.tensor(FIGURES["start"]["numbers"], dtype=torch.float64)[None]
        sample, *counts = made_on_flow(name, sigmas, start)
        error = float((sample - torch.tensor(figure["sample"], dtype=torch.float64)).abs().max())
        compared.add((key, name))
        if counts != [figure["evaluations"], figure["draws"]] or not error < FLOW_APART.get(name, 1e-6):
            differ.append((key, name, error, counts, figure["evaluations"], figure["draws"]))
    assert not differ, "\n".join(map(str, differ))
    assert len(compared) == 6 * 35 + 4 * 37 + 35
    names = {name for _, name in compared} | WITHOUT_FUNCTION | {"cfgpp_ud10_ab"}  # which has figures of its own
    assert {name.removesuffix("_gpu") for name in WORLDS["comfyui"].samplers} == names


AFTER_NOISE = (
    "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "er_sde", "seeds_2", "seeds_3", "exp_heun_2_x0",
    "exp_heun_2_x0_sde", "sa_solver", "sa_solver_pece",
)  # fmt: skip
"""Functions whose first step begins after pure noise on flow matching."""


def test_noise_is_drawn_between_the_sigmas_of_a_flow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a step are those in log-SNR; the step from pure noise is from where it begins, and a path from 1."""
    sigmas = torch.tensor([1.0, 0.8, 0.3, 0.0], dtype=torch.float64)
    first, start = float(shifted(0.9999, SD3.shift)), torch.ones(1, 6, dtype=torch.float64)
    drawn: list[tuple[float, float]] = []
    paths: list[tuple[float, float]] = []

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        drawn.append((float(sigma), float(sigma_next)))
        return torch.zeros_like(start)

    def path(x: Tensor, low: float, high: float) -> Any:
        paths.append((low, high))
        return noise

    monkeypatch.setattr(loop, "BrownianTreeNoiseSampler", path)

    def between(s: float, t: float, r: float) -> float:
        log_odds = (1 - r) * math.log(s / (1 - s)) + r * math.log(t / (1 - t))
        return 1 / (1 + math.exp(-log_odds))

    steps = [(first, 0.8), (0.8, 0.3)]
    halves = [(s, between(s, t, 0.5), t) for s, t in steps]
    thirds = [(s, between(s, t, 1 / 3), between(s, t, 2 / 3), t) for s, t in steps]
    expected = {
        "dpmpp_sde": [ends for s, middle, t in halves for ends in ((s, middle), (s, t))],
        "seeds_2": [ends for each in halves for ends in pairwise(each)],
        "seeds_3": [ends for each in thirds for ends in pairwise(each)],
        "exp_heun_2_x0_sde": [ends for s, t in steps for ends in ((s, t), (t, t))],
        "exp_heun_2_x0": [],
        "er_sde": steps,
        "sa_solver": steps[:1],
        "sa_solver_pece": steps[:1],
    }
    assert Denoiser(flow=True).inner_model.model_patcher.get_model_object("model_sampling").percent_to_sigma(0.8) > 0.3
    for name in AFTER_NOISE:
        function = getattr(sampling, f"sample_{name}")
        takes = {"noise_sampler": noise} if "noise_sampler" in inspect.signature(function).parameters else {}
        by_path = takes if name.startswith("dpmpp") else {}
        for given in (takes, {}) if by_path else (takes,):
            drawn.clear()
            model, told = Denoiser(flow=True), list[dict[str, Any]]()
            function(model, start, sigmas, None, told.append, True, **given)
            assert model.asked[0] == told[0]["sigma_hat"] == told[0]["sigma"]
            np.testing.assert_allclose(drawn, expected.get(name, steps) or np.empty((0,)), rtol=1e-12, err_msg=name)
            np.testing.assert_allclose([info["sigma"] for info in told], (first, 0.8, 0.3), rtol=1e-12, err_msg=name)
    assert paths == [(0.3, 1.0)] * 4


def test_what_a_flow_model_cannot_be_sampled_at_is_said() -> None:
    start = torch.ones(1, 6, dtype=torch.float64)
    for name in (*AFTER_NOISE, "lcm", "euler_ancestral"):
        with pytest.raises(ValueError, match=r"sigmas\[0\] is 14.6: expected at most 1, since the model is on flow"):
            made(name, torch.tensor([14.6, 0.5, 0.0], dtype=torch.float64), start, flow=True)
    silent = Denoiser(flow=True)
    del silent.inner_model.model_patcher.get_model_object("model_sampling").percent_to_sigma
    for sigmas, works in (([1.0, 0.5, 0.0], False), ([0.99, 0.5, 0.0], True)):
        with nullcontext() if works else pytest.raises(ValueError, match=r"its sigma at the part 0.0001 .* er_sde beg"):
            sampling.sample_er_sde(silent, start, torch.tensor(sigmas, dtype=torch.float64), disable=True)


def test_lms_ends_as_in_comfyui_on_its_models_and_as_in_k_diffusion_on_others() -> None:
    names, model = NAMES[0], Denoiser()
    patcher = SimpleNamespace(get_model_object={"model_sampling": SimpleNamespace()}.__getitem__)
    for schedule in ("normal", "karras", "simple"):
        sigmas = torch.tensor(names["levels"]["sd15"][schedule]["5"], dtype=torch.float64)
        start = sigmas[0] * torch.tensor(FIGURES["start"]["numbers"], dtype=torch.float64)[None]
        figure = torch.tensor(names["samples"][f"sd15/{schedule}/5"]["lms"]["sample"], dtype=torch.float64)
        others = sampling.sample_lms(model, start, sigmas, disable=True)[0]
        model.inner_model = SimpleNamespace(model_patcher=patcher)
        theirs = sampling.sample_lms(model, start, sigmas, disable=True)[0]
        del model.inner_model
        torch.testing.assert_close(theirs, figure, atol=1e-9, rtol=0.0)
        assert (others - figure).abs().max() > 1e-4


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
