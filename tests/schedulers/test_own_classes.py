"""The classes that diffusers has none for, DPM++ 2S a and DPM fast, against k-diffusion and in diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.errors import UnknownNameError
from tests.parity.k_diffusion_reference import denoiser, external, sampling
from tests.parity.network import SHAPE, StandInNetwork, standard_noise
from tests.tables import for_each

from . import test_pipelines as pipelines
from .parity import PROMISED, STABLE_DIFFUSION, difference, diffusers, name_of, ours, walk

TWO_S, FAST = "DPMSolverSinglestepAncestralScheduler", "DPMSolverFastScheduler"
both_classes = pytest.mark.parametrize("name", [TWO_S, FAST])

SPACINGS: list[dict[str, Any]] = [
    {},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "leading", "steps_offset": 1},
]
CONFIGS: list[dict[str, Any]] = [
    *SPACINGS,
    {"prediction_type": "v_prediction"},
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    {"eta": 0.0},
    {"eta": 0.6, "s_noise": 1.1},
    {"eta": 1.0},
]
CURVES = [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]


def of_k_diffusion(function: str, scheduler: Any, *sigmas: Any, first: int = 0, **options: Any) -> tuple[Tensor, Any]:
    """The sample that k-diffusion's function makes with the schedule of `scheduler`, and the network that it asked.

    Noise as :func:`~tests.schedulers.parity.walk` draws it. In double precision: in single precision a step from the
    highest to the lowest noise level leaves k-diffusion few digits of what remains of the old noise.
    """
    network, generator = StandInNetwork(), torch.Generator().manual_seed(1)
    model = denoiser(network, scheduler.noise_schedule, scheduler.config.prediction_type, torch.float64)
    x = standard_noise(dtype=torch.float64) * float(scheduler.init_noise_sigma)
    if first:
        x = 0.3 * standard_noise(1, torch.float64) + standard_noise(dtype=torch.float64) * float(sigmas[0][0])
    options["noise_sampler"] = lambda *_: torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    eta, s_noise = scheduler.config.eta, scheduler.config.s_noise
    with torch.no_grad():
        made = getattr(sampling, function)(model, x, *sigmas, disable=True, eta=eta, s_noise=s_noise, **options)
    return made, network


def sigmas_of(scheduler: Any) -> Tensor:
    """The sigmas where the steps of the two-stage class begin, and the end."""
    return torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]]).double()


@for_each("config", [*CONFIGS, *CURVES, {**CURVES[0], "prediction_type": "v_prediction"}], ids=name_of)
@for_each("steps", [1, 2, 7])
def test_dpmpp_2s_a_is_the_function_of_k_diffusion(config: dict[str, Any], steps: int) -> None:
    scheduler = ours(TWO_S, {**STABLE_DIFFUSION, **config})
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == 2 * steps - 1
    sigmas = sigmas_of(scheduler)
    assert len(sigmas) == steps + 1
    reference, network = of_k_diffusion("sample_dpmpp_2s_ancestral", scheduler, sigmas)
    assert difference(walk(scheduler, dtype=torch.float64).samples[-1], reference) <= PROMISED
    # Between whole timesteps sigma is linear in the class, as in its siblings, and log sigma in k-diffusion.
    assert float((scheduler.timesteps.double() - torch.tensor(network.timesteps)).abs().max()) <= 1e-2


@for_each("config", CONFIGS, ids=name_of)
@for_each("steps", [1, 2, 3, 7, 8])
def test_dpm_fast_is_the_function_of_k_diffusion(config: dict[str, Any], steps: int) -> None:
    scheduler = ours(FAST, {**STABLE_DIFFUSION, **config})
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    sigmas = scheduler.sigmas
    assert float(sigmas[-1]) == pytest.approx(scheduler.noise_schedule.sigma_min)
    if config.get("timestep_spacing") != "leading":
        assert float(sigmas[0]) == pytest.approx(scheduler.noise_schedule.sigma_max)
    reference, network = of_k_diffusion("sample_dpm_fast", scheduler, float(sigmas[-1]), float(sigmas[0]), steps)
    assert difference(walk(scheduler, dtype=torch.float64).samples[-1], reference) <= PROMISED
    assert float((scheduler.timesteps.double() - torch.tensor(network.timesteps)).abs().max()) <= 1e-2
    at = scheduler.noise_schedule.sigma(scheduler.timesteps.double().numpy())
    torch.testing.assert_close(sigmas[:-1].double(), torch.from_numpy(at), rtol=1e-4, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_dpm_fast_may_go_on_to_zero_by_a_step_of_first_order(steps: int) -> None:
    shorter = ours(FAST, STABLE_DIFFUSION)
    scheduler = ours(FAST, {**STABLE_DIFFUSION, "final_sigmas_type": "zero"})
    scheduler.set_timesteps(steps)
    made = walk(scheduler)
    assert float(scheduler.sigmas[-1]) == 0
    assert len(scheduler.timesteps) == steps
    if steps > 1:
        shorter.set_timesteps(steps - 1)
        assert torch.equal(walk(shorter).samples[-1], made.samples[-2])
    assert made.data is not None
    torch.testing.assert_close(made.samples[-1], made.data)


@for_each("config", [*SPACINGS, CURVES[0], {"eta": 0.6}], ids=name_of)
def test_a_run_of_2s_a_may_begin_in_the_middle(config: dict[str, Any]) -> None:
    for first in (1, 3):
        scheduler = ours(TWO_S, {**STABLE_DIFFUSION, **config})
        scheduler.set_timesteps(6)
        reference, _ = of_k_diffusion("sample_dpmpp_2s_ancestral", scheduler, sigmas_of(scheduler)[first:], first=first)
        made = walk(scheduler, first=first * scheduler.order, dtype=torch.float64)
        assert difference(made.samples[-1], reference) <= PROMISED


@for_each("config", [{}, {"eta": 0.7}, {"final_sigmas_type": "zero"}], ids=name_of)
@for_each("first", [1, 2, 3, 4, 7])
def test_a_run_of_dpm_fast_may_begin_at_any_evaluation(config: dict[str, Any], first: int) -> None:
    """The rest of a step is done with a lower order, which is exact where the data prediction never changes."""
    scheduler = ours(FAST, {**STABLE_DIFFUSION, **config})
    scheduler.set_timesteps(8)
    data, noise = 0.25 * standard_noise(1), standard_noise()
    timesteps = scheduler.timesteps[first:]
    x = scheduler.add_noise(data, noise, timesteps[:1])
    for index, timestep in enumerate(timesteps):
        sigma = scheduler.sigmas[first + index]
        seen = scheduler.scale_model_input(x, timestep)
        torch.testing.assert_close(seen, x / (sigma**2 + 1).sqrt())
        x = scheduler.step((x - data) / sigma, timestep, x, generator=torch.Generator().manual_seed(1)).prev_sample
    end = float(scheduler.sigmas[-1])
    if config.get("eta"):
        assert float((x - data).std()) < 2 * end
    else:
        torch.testing.assert_close(x, data + end * noise, rtol=0, atol=2e-5)


def test_a_run_of_dpm_fast_that_begins_with_a_step_goes_on_as_the_whole_run() -> None:
    whole, part = (ours(FAST, {**STABLE_DIFFUSION, "eta": 0.7}) for _ in range(2))
    whole.set_timesteps(8)
    part.set_timesteps(8)
    network = StandInNetwork()
    x, generator, results = standard_noise() * float(whole.init_noise_sigma), torch.Generator().manual_seed(1), []
    for index, timestep in enumerate(whole.timesteps):
        if index == 6:  # steps of order 3, 3 and 2
            kept, state = x, generator.get_state()
        x = whole.step(network(whole.scale_model_input(x, timestep), timestep), timestep, x, generator).prev_sample
    results.append(x)
    x, generator = kept, torch.Generator()
    generator.set_state(state)
    part.set_begin_index(6)
    for timestep in part.timesteps[6:]:
        x = part.step(network(part.scale_model_input(x, timestep), timestep), timestep, x, generator).prev_sample
    results.append(x)
    torch.testing.assert_close(*results)


@both_classes
def test_the_documentation_says_which_row_of_the_table_it_is(name: str) -> None:
    row = {TWO_S: "DPM++ 2S a", FAST: "DPM fast"}[name]
    assert f'A1111: "{row}"' in getattr(diffusolve, name).__doc__


@for_each(
    ("name", "config", "message"),
    [
        (TWO_S, {"eta": 1.5}, r"eta is 1.5: expected a number from 0 to 1"),
        (TWO_S, {"eta": -0.5}, "eta is -0.5"),
        (TWO_S, {"eta": float("nan")}, r"eta .* is not a number"),
        (TWO_S, {"use_karras_sigmas": True, "use_beta_sigmas": True}, "exclude each other"),
        (FAST, {"prediction_type": "flow"}, "prediction_type"),
        (FAST, {"final_sigmas_type": "sigma_mn"}, "did you mean 'sigma_min'"),
    ],
    ids=name_of,
)
def test_configurations_that_make_no_sense_are_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours(name, config)


def test_runs_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="starts where it ends, at the first training timestep"):
        ours(FAST, {"timestep_spacing": "leading"}).set_timesteps(1)
    with pytest.raises(UnknownNameError, match="did you mean 'linspace'"):
        ours(FAST, {"timestep_spacing": "linspce"}).set_timesteps(5)
    with pytest.raises(ValueError, match="eta is -1"):
        ours(FAST, {"eta": -1.0}).set_timesteps(5)
    scheduler = ours(TWO_S, STABLE_DIFFUSION)
    scheduler.set_timesteps(3)
    x = standard_noise()
    with pytest.raises(ValueError, match="in the middle of a step"):
        scheduler.step(x, scheduler.timesteps[1], x)


# With diffusers


@both_classes
def test_configurations_of_other_classes_are_taken_and_given(name: str, tmp_path: Path) -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(**STABLE_DIFFUSION, use_karras_sigmas=True, final_sigmas_type="zero")
    scheduler = getattr(diffusolve, name).from_config(theirs.config)
    assert scheduler.config.beta_end == STABLE_DIFFUSION["beta_end"]
    assert scheduler.config.use_karras_sigmas is True
    assert {kind.__name__ for kind in diffusolve.EulerDiscreteScheduler().compatibles} >= {TWO_S, FAST}
    scheduler.save_pretrained(tmp_path)
    back = getattr(diffusolve, name).from_pretrained(tmp_path)
    for one in (scheduler, back):
        one.set_timesteps(4)
    assert torch.equal(walk(scheduler).samples[-1], walk(back).samples[-1])
    for library in (diffusolve, diffusers):
        euler = library.EulerDiscreteScheduler.from_config(scheduler.config)
        assert euler.config.beta_end == STABLE_DIFFUSION["beta_end"]


@both_classes
@for_each("make", [pipelines.text_to_image, pipelines.image_to_image, pipelines.inpainting, pipelines.controlled])
def test_pipelines_of_stable_diffusion_take_them(name: str, make: Any) -> None:
    config = {**STABLE_DIFFUSION, "timestep_spacing": "leading", "steps_offset": 1}
    images = [make(ours(name, {**config, **more})) for more in ({}, {}, {"eta": 0.5})]
    assert all(torch.isfinite(image).all() and float(image.std()) > 0.01 for image in images)
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


@both_classes
def test_stable_diffusion_makes_the_image_of_k_diffusion(name: str) -> None:
    """Guided, with the noise from the pipeline's generator."""
    scheduler = getattr(diffusolve, name)(**STABLE_DIFFUSION, eta=0.8)
    image = pipelines.text_to_image(scheduler)
    given, parts = pipelines.prompt(), pipelines.components()
    generator, embeddings = given["generator"], torch.cat([given["negative_prompt_embeds"], given["prompt_embeds"]])
    shape = (1, 4, pipelines.SIZE // 2, pipelines.SIZE // 2)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        both = parts["unet"](torch.cat([x, x]), torch.cat([t, t]), encoder_hidden_states=embeddings).sample
        return both[:1] + given["guidance_scale"] * (both[1:] - both[:1])

    model = external.DiscreteEpsDDPMDenoiser(predict, scheduler.alphas_cumprod, quantize=False)
    x = torch.randn(shape, generator=generator) * float(scheduler.init_noise_sigma)
    noise = {"noise_sampler": lambda *_: torch.randn(shape, generator=generator), "eta": 0.8, "disable": True}
    with torch.no_grad():
        if name == FAST:
            ends = float(scheduler.sigmas[-1]), float(scheduler.sigmas[0])
            x = sampling.sample_dpm_fast(model, x, *ends, 6, **noise)
        else:
            x = sampling.sample_dpmpp_2s_ancestral(model, x, sigmas_of(scheduler).float(), **noise)
        expected = parts["vae"].decode(x / parts["vae"].config.scaling_factor).sample
    assert float((image - (expected / 2 + 0.5).clamp(0, 1)).abs().max()) <= 1 / 255


@both_classes
def test_a_pipeline_saved_with_one_comes_back_with_it(name: str, tmp_path: Path) -> None:
    made = pipelines.pipeline("StableDiffusionPipeline", getattr(diffusolve, name)(**STABLE_DIFFUSION, eta=0.8))
    made.save_pretrained(tmp_path)
    back = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, text_encoder=None, tokenizer=None)
    assert type(back.scheduler) is getattr(diffusolve, name)
    assert back.scheduler.config.eta == 0.8
