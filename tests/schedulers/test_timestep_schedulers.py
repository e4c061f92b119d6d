"""The classes that step from timestep to timestep (DDIM, DDPM, PNDM), against diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.errors import SingularPointError, UnknownNameError
from tests.parity.network import SHAPE, standard_noise
from tests.tables import for_each

from .parity import (
    PROMISED,
    SHORT,
    STABLE_DIFFUSION,
    assert_same,
    assert_signatures_begin_as_in_diffusers,
    both,
    combinations,
    difference,
    diffusers,
    name_of,
    ours,
    theirs,
    walk,
)

DDIM, DDPM, PNDM = NAMES = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
ONE_STEP = (DDIM, DDPM)

COUNT: int = SHORT["num_train_timesteps"]
SPACINGS = ("linspace", "leading", "trailing")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
LEARNED = ("learned", "learned_range")
UNCLIPPED = {"clip_sample": False}
PLMS = {"skip_prk_steps": True}
ZERO_SNR = {"rescale_betas_zero_snr": True}

every_class = pytest.mark.parametrize("name", NAMES)
one_step_classes = pytest.mark.parametrize("name", ONE_STEP)


def knows(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the class has all these options, and these values of them."""
    if name == PNDM and config.get("prediction_type") == "sample":
        return False
    return set(config) <= set(inspect.signature(getattr(diffusers, name).__init__).parameters)


def compare(name: str, config: Mapping[str, Any], steps: int, **options: Any) -> None:
    mine, reference = both(name, {**SHORT, **config})
    mine.set_timesteps(steps)
    reference.set_timesteps(steps)
    assert_same(walk(mine, **options), walk(reference, **options), timesteps_within=0)


def with_variance(made: Tensor) -> Tensor:
    """The output of a network that also predicts a variance, one that is positive and small."""
    return torch.cat([made, 0.2 * torch.sigmoid(made)], dim=1)


# The matrix

TOGETHER: list[dict[str, Any]] = [
    {},
    {"trained_betas": [0.01 + 0.001 * i for i in range(100)]},
    *({"thresholding": True, "prediction_type": kind} for kind in PREDICTIONS),
    {"thresholding": True, "sample_max_value": 2.0, "dynamic_thresholding_ratio": 0.9, **UNCLIPPED},
    PLMS,
    {"variance_type": "fixed_large", "timestep_spacing": "trailing"},
]
"""The defaults and what belongs together, for many numbers of steps; tests.schedulers.matrix has single options."""


@for_each("config", TOGETHER, ids=name_of)
@every_class
def test_samples_are_those_of_diffusers_in_any_number_of_steps(name: str, config: dict[str, Any]) -> None:
    if knows(name, config):
        for steps in (1, 2, 3, 5, 14, 15, 20):
            if name == PNDM and steps < 4 and not config.get("skip_prk_steps"):
                continue  # refused: see below
            compare(name, config, steps)


@pytest.mark.parametrize("kind", ["sigmoid", "laplace"])
def test_ddpm_knows_more_schedules_of_betas(kind: str) -> None:
    compare(DDPM, {"beta_schedule": kind}, 5)


@every_class
def test_spacing_prediction_type_and_the_rest_combine(name: str) -> None:
    rest: dict[str, tuple[Any, ...]] = {
        DDIM: ({}, UNCLIPPED, {"set_alpha_to_one": False}, {"thresholding": True}),
        DDPM: ({}, UNCLIPPED, {"variance_type": "fixed_large"}, {"thresholding": True}),
        PNDM: ({}, PLMS, {"set_alpha_to_one": True}, {"steps_offset": 1}),
    }
    for config in combinations(timestep_spacing=SPACINGS, prediction_type=PREDICTIONS, rest=rest[name]):
        if knows(name, config):
            for steps in (4, 7):
                compare(name, config, steps)


@for_each("config", [{}, UNCLIPPED, PLMS, {"steps_offset": 1}], ids=name_of)
@every_class
def test_stable_diffusion_in_20_steps(name: str, config: dict[str, Any]) -> None:
    if knows(name, config):
        compare(name, {**STABLE_DIFFUSION, "num_train_timesteps": 1000, **config}, 20)


@for_each("spacing", SPACINGS)
@every_class
def test_timesteps_are_those_of_diffusers_for_any_number_of_steps(name: str, spacing: str) -> None:
    options = {"timestep_spacing": spacing, **(PLMS if name == PNDM else {})}
    mine, reference = both(name, {**STABLE_DIFFUSION, **options})
    for steps in (*range(1, 64), 96, 112, 250, 499, 500, 501, 999, 1000):
        mine.set_timesteps(steps)
        reference.set_timesteps(steps)
        expected = reference.timesteps.tolist()
        if expected[-1] == -1:  # one too many, by rounding; nothing stands at timestep -1
            expected.pop()
        assert mine.timesteps.tolist() == expected
        assert mine.num_inference_steps == steps


@every_class
def test_the_signature_is_that_of_diffusers(name: str) -> None:
    assert_signatures_begin_as_in_diffusers(name)


@every_class
def test_members_are_those_of_diffusers(name: str) -> None:
    mine, reference = both(name, SHORT)
    for member in ("betas", "alphas", "alphas_cumprod"):
        assert difference(getattr(mine, member), getattr(reference, member)) < 1e-6, member
    for member in ("init_noise_sigma", "order", "num_inference_steps", "custom_timesteps", "variance_type"):
        if hasattr(reference, member):
            assert getattr(mine, member) == getattr(reference, member), member
    for member in ("final_alpha_cumprod", "one"):
        if hasattr(reference, member):
            assert float(getattr(mine, member)) == pytest.approx(float(getattr(reference, member)))
    if name != PNDM:  # None there
        assert torch.equal(mine.timesteps, reference.timesteps)
    assert len(mine) == len(reference)


@every_class
def test_noise_is_added_as_in_diffusers(name: str) -> None:
    mine, reference = both(name, {**SHORT, **(ZERO_SNR if knows(name, ZERO_SNR) else {})})
    x, noise, timesteps = standard_noise(0), standard_noise(1), torch.tensor([3, COUNT - 1])
    for method in ("add_noise", "get_velocity"):
        if hasattr(reference, method):
            made, expected = (getattr(scheduler, method)(x, noise, timesteps) for scheduler in (mine, reference))
            assert difference(made, expected) < 1e-6


# Steps in any order


def in_any_order(scheduler: Any, convert: Callable[[Tensor], Any], options: Mapping[str, Any]) -> Tensor:
    """The sample after steps here and there, as some pipelines make them."""
    x, generator = standard_noise(), torch.Generator().manual_seed(1)
    for index in (6, 6, 3, 0, 5, 1, 1, 6, 2):
        timestep = scheduler.timesteps[index]
        x = scheduler.step(torch.tanh(x), convert(timestep), x, generator=generator, **options).prev_sample
    return torch.cat([x, torch.randn(SHAPE, generator=generator)])


@for_each(
    "convert", [lambda t: t, int, lambda t: t.clone(), lambda t: t[None]], ids=["view", "int", "tensor", "shape (1,)"]
)
@one_step_classes
def test_a_step_depends_on_its_timestep_alone(name: str, convert: Callable[[Tensor], Any]) -> None:
    """And the generator is left where diffusers leaves it, even by steps that need no noise."""
    for spacing in SPACINGS:
        mine, reference = both(name, {**SHORT, "timestep_spacing": spacing})
        mine.set_timesteps(7)
        reference.set_timesteps(7)
        for options in ({"eta": 0.7}, {}) if name == DDIM else ({},):
            made, expected = (in_any_order(scheduler, convert, options) for scheduler in (mine, reference))
            assert difference(made, expected) <= PROMISED


@one_step_classes
def test_another_run_over_the_same_timesteps_has_its_own_steps(name: str) -> None:
    for steps in (10, 5):
        scheduler, fresh = ours(name, SHORT), ours(name, SHORT)
        scheduler.set_timesteps(15 - steps)
        walk(scheduler)
        scheduler.set_timesteps(steps)
        fresh.set_timesteps(steps)
        assert torch.equal(walk(scheduler).samples[-1], walk(fresh).samples[-1])


def test_ddim_steps_from_any_timestep() -> None:
    x = standard_noise()
    mine, reference = both(DDIM, SHORT)
    mine.set_timesteps(7)
    reference.set_timesteps(7)
    for timestep in (COUNT - 1, 98, 41, 13, 1, 0):
        made, expected = (scheduler.step(torch.tanh(x), timestep, x) for scheduler in (mine, reference))
        assert difference(made.prev_sample, expected.prev_sample) <= PROMISED
        assert difference(made.pred_original_sample, expected.pred_original_sample) <= PROMISED


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_ddpm_needs_no_run(variance_type: str) -> None:
    mine, reference = both(DDPM, {**SHORT, "variance_type": variance_type})
    ends = []
    for scheduler in (mine, reference):
        x, generator = standard_noise(), torch.Generator().manual_seed(0)
        for timestep in (COUNT - 1, 98, 41, *scheduler.timesteps[-3:]):
            x = scheduler.step(torch.tanh(x), timestep, x, generator=generator).prev_sample
        ends.append(x)
    assert difference(*ends) <= PROMISED
    assert [mine.previous_timestep(t) for t in (5, torch.tensor(3), 0)] == [4, 2, -1]


def test_ddpm_knows_the_previous_timestep_of_a_run() -> None:
    mine, reference = both(DDPM, SHORT)
    mine.set_timesteps(6)
    reference.set_timesteps(6)
    for timestep in mine.timesteps:
        assert mine.previous_timestep(timestep) == int(reference.previous_timestep(timestep))
        assert mine.previous_timestep(int(timestep)) == int(reference.previous_timestep(int(timestep)))


@pytest.mark.parametrize("timesteps", [[99, 50, 10], [70, 69, 1, 0], [3]], ids=str)
def test_ddpm_takes_timesteps(timesteps: list[int]) -> None:
    for config in ({}, {"variance_type": "fixed_large"}):
        mine, reference = both(DDPM, {**SHORT, **config})
        mine.set_timesteps(timesteps=timesteps)
        reference.set_timesteps(timesteps=timesteps)
        assert mine.custom_timesteps
        assert_same(walk(mine), walk(reference), timesteps_within=0)
    mine.set_timesteps(4)
    assert not mine.custom_timesteps


# Noise and variances


@for_each("use_clipped_model_output", [False, True], ids=["network's noise", "noise of clipped data"])
@for_each("eta", [0.0, 0.3, 1.0])
def test_ddim_with_noise_and_clipping(eta: float, use_clipped_model_output: bool) -> None:
    options = {"eta": eta, "use_clipped_model_output": use_clipped_model_output}
    kinds = ({}, UNCLIPPED, {"thresholding": True}, {"set_alpha_to_one": False})
    for config in combinations(prediction_type=PREDICTIONS, kind=kinds):
        for steps in (2, 6):
            compare(DDIM, config, steps, **options)


def test_ddim_takes_the_noise_itself() -> None:
    compare(DDIM, {}, 5, seed=None, eta=0.8, variance_noise=standard_noise(5))
    scheduler = ours(DDIM, SHORT)
    scheduler.set_timesteps(5)
    x = standard_noise()
    with pytest.raises(ValueError, match="both generator and variance_noise"):
        scheduler.step(x, 60, x, eta=0.5, generator=torch.Generator(), variance_noise=x)
    with pytest.raises(ValueError, match="eta is -1"):
        scheduler.step(x, 60, x, eta=-1.0)


@for_each("spacing", SPACINGS)
@for_each("variance_type", LEARNED)
def test_a_learned_variance_scales_the_noise_element_by_element(variance_type: str, spacing: str) -> None:
    for config in combinations(prediction_type=PREDICTIONS, clip_sample=(True, False)):
        for steps in (1, 6):
            config |= {"variance_type": variance_type, "timestep_spacing": spacing}
            compare(DDPM, config, steps, output=with_variance)


def test_a_variance_below_zero_is_none() -> None:
    """Where diffusers has NaN."""
    scheduler, x = ours(DDPM, {**SHORT, "variance_type": "learned"}), standard_noise()
    quiet = scheduler.step(torch.cat([x, torch.zeros_like(x)], dim=1), 50, x).prev_sample
    assert torch.equal(scheduler.step(torch.cat([x, -torch.ones_like(x)], dim=1), 50, x).prev_sample, quiet)


def test_fixed_large_log_is_fixed_large() -> None:
    """Where diffusers takes the root of a logarithm, which is NaN."""
    ends = []
    for variance_type in ("fixed_large", "fixed_large_log"):
        scheduler = ours(DDPM, {**SHORT, "variance_type": variance_type})
        scheduler.set_timesteps(5)
        ends.append(walk(scheduler).samples[-1])
    assert torch.equal(*ends)


def test_a_variance_type_of_null_is_fixed_small() -> None:
    """As in configurations that other classes have saved."""
    mine = diffusolve.DDPMScheduler.from_config({**SHORT, "variance_type": None})
    reference = diffusers.DDPMScheduler.from_config({**SHORT, "variance_type": None})
    mine.set_timesteps(5)
    reference.set_timesteps(5)
    assert_same(walk(mine), walk(reference))


@pytest.mark.parametrize(
    ("variance_type", "channels", "words"),
    [
        ("learned", 4, r"'learned', .* outputs 2 \* 4 channels, .* has 4\..*'fixed_small'"),
        ("learned_range", 6, r"'learned_range', .* outputs 2 \* 4 channels, .* has 6"),
        ("fixed_small", 8, r"'fixed_small', .* outputs 4 channels; here it has 8\..*'learned_range'"),
    ],
)
def test_unexpected_channels_are_told(variance_type: str, channels: int, words: str) -> None:
    scheduler = ours(DDPM, {**SHORT, "variance_type": variance_type})
    with pytest.raises(ValueError, match=words):
        scheduler.step(torch.zeros(2, channels, 8, 8), 50, standard_noise())


@one_step_classes
def test_there_may_be_a_generator_for_each_sample(name: str) -> None:
    walks = []
    for scheduler in both(name, SHORT):
        scheduler.set_timesteps(4)
        several = [torch.Generator().manual_seed(i) for i in range(SHAPE[0])]
        walks.append(walk(scheduler, seed=None, generator=several, **({"eta": 1.0} if name == DDIM else {})))
    assert_same(*walks)


@one_step_classes
def test_noise_has_the_precision_of_the_networks_output(name: str) -> None:
    """From the same generator, numbers in half precision are other numbers."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        ends = []
        for scheduler in both(name, SHORT):
            scheduler.set_timesteps(5)
            x, generator = standard_noise(), torch.Generator().manual_seed(0)
            options = {"eta": 1.0} if name == DDIM else {}
            output = torch.tanh(x).to(dtype)
            ends.append(scheduler.step(output, scheduler.timesteps[0], x, generator=generator, **options).prev_sample)
        assert difference(*ends) < 1e-2


@every_class
@for_each(("dtype", "within"), [(torch.float16, 1e-2), (torch.bfloat16, 8e-2), (torch.float64, 1e-5)], ids=str)
def test_samples_have_the_precision_of_the_networks_output(name: str, dtype: torch.dtype, within: float) -> None:
    for config in ({}, UNCLIPPED, PLMS):
        if knows(name, config):
            mine, reference = both(name, {**SHORT, **config})
            mine.set_timesteps(6)
            reference.set_timesteps(6)
            assert_same(walk(mine, dtype=dtype), walk(reference, dtype=dtype), within=within)


# No signal at the last timestep


@pytest.mark.parametrize("schedule", ["scaled_linear", "squaredcos_cap_v2"])
@one_step_classes
def test_sampling_starts_without_signal(name: str, schedule: str) -> None:
    for config in combinations(
        prediction_type=PREDICTIONS, timestep_spacing=("linspace", "trailing"), clip_sample=(True, False)
    ):
        if config["prediction_type"] != "epsilon" or config["clip_sample"]:
            compare(name, {**config, **ZERO_SNR, "beta_schedule": schedule}, 5)


def test_epsilon_says_nothing_where_there_is_no_signal() -> None:
    """There diffusers has NaN; a run that starts below works in both."""
    mine, reference = both(DDIM, {**SHORT, **ZERO_SNR, **UNCLIPPED, "timestep_spacing": "trailing"})
    mine.set_timesteps(5)
    reference.set_timesteps(5)
    with pytest.raises(SingularPointError, match=r"epsilon prediction says nothing .* or start at a smaller timestep"):
        walk(mine)
    assert_same(walk(mine, first=1), walk(reference, first=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_clipping_makes_an_infinite_prediction_finite(dtype: torch.dtype) -> None:
    scheduler, x = ours(DDIM, {**SHORT, **ZERO_SNR}), standard_noise(dtype=dtype)
    scheduler.set_timesteps(5)
    made = scheduler.step(standard_noise(1, dtype), COUNT - 1, x)
    assert torch.equal(made.pred_original_sample.abs(), torch.ones_like(x))
    assert torch.isfinite(made.prev_sample).all()


# PNDM's start


@pytest.mark.parametrize("tell", [False, True], ids=["found", "told"])
@pytest.mark.parametrize("config", [{}, PLMS], ids=name_of)
def test_pndm_counts_its_calls_from_where_it_begins(config: dict[str, Any], tell: bool) -> None:
    """As in diffusers, where what a call does depends on how many there were, not on the timestep."""
    for first in range(1, 10):
        for kind in ("epsilon", "v_prediction"):
            mine, reference = both(PNDM, {**SHORT, **config, "prediction_type": kind})
            mine.set_timesteps(9)
            reference.set_timesteps(9)
            begin_index = first if tell else None
            reference.set_begin_index = lambda index: None  # has none
            assert_same(*(walk(one, first=first, begin_index=begin_index) for one in (mine, reference)))


@pytest.mark.parametrize("tell", [False, True], ids=["found", "told"])
@one_step_classes
def test_a_run_may_begin_in_the_middle(name: str, tell: bool) -> None:
    for first in (1, 2, 5):
        mine, reference = both(name, SHORT)
        mine.set_timesteps(6)
        reference.set_timesteps(6)
        reference.set_begin_index = lambda index: None  # has none
        assert_same(*(walk(one, first=first, begin_index=first if tell else None) for one in (mine, reference)))


def test_pndm_has_names_for_its_two_kinds_of_steps() -> None:
    for method in ("step_prk", "step_plms"):
        ends = []
        for scheduler in both(PNDM, {**SHORT, "skip_prk_steps": method == "step_plms"}):
            scheduler.set_timesteps(5)
            x = standard_noise()
            for timestep in scheduler.timesteps[:6]:
                x = getattr(scheduler, method)(torch.tanh(x), timestep, x).prev_sample
            ends.append(x)
        assert difference(*ends) <= PROMISED


def test_pndm_needs_four_steps_for_its_start() -> None:
    for steps in (1, 2, 3):
        with pytest.raises(ValueError):  # noqa: PT011  (shapes of arrays)
            theirs(PNDM, SHORT).set_timesteps(steps)
        with pytest.raises(ValueError, match=rf"num_inference_steps is {steps}: .* at least 4; .*skip_prk_steps=True"):
            ours(PNDM, SHORT).set_timesteps(steps)


def test_a_run_of_pndm_that_is_over_says_so() -> None:
    scheduler = ours(PNDM, {**SHORT, **PLMS})
    scheduler.set_timesteps(5)
    walk(scheduler)
    x = standard_noise()
    with pytest.raises(IndexError, match="6 evaluations"):
        scheduler.step(x, scheduler.timesteps[-1], x)


# What cannot be


@every_class
def test_unknown_words_are_refused(name: str) -> None:
    for key in ("prediction_type", "beta_schedule", "variance_type"):
        if knows(name, {key: ""}):
            with pytest.raises(UnknownNameError, match=f"unknown {key} 'nonsense'"):
                ours(name, {key: "nonsense"})
    with pytest.raises(UnknownNameError, match="timestep_spacing"):
        ours(name, {"timestep_spacing": "nonsense"}).set_timesteps(4)


def test_ddpm_takes_timesteps_or_their_number() -> None:
    """As in diffusers."""
    for name in (DDPM, "DDPMParallelScheduler"):
        with pytest.raises(ValueError, match="num_inference_steps is 2, and timesteps are given too"):
            ours(name, SHORT).set_timesteps(2, timesteps=[50, 0])


def test_pndm_averages_noise_or_v_only() -> None:
    reference = theirs(PNDM, {**SHORT, "prediction_type": "sample"})
    reference.set_timesteps(5)
    with pytest.raises(ValueError, match="prediction_type given as sample"):
        walk(reference)
    with pytest.raises(UnknownNameError, match="unknown prediction_type 'sample'"):
        ours(PNDM, {"prediction_type": "sample"})


@one_step_classes
@for_each("timestep", [-1, COUNT, 5.5])
def test_a_timestep_outside_of_training_is_refused(name: str, timestep: float) -> None:
    scheduler, x = ours(name, SHORT), standard_noise()
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match=rf"timestep is {timestep:g}: expected a whole number from 0 to {COUNT - 1}"):
        scheduler.step(x, timestep, x)


def test_a_timestep_outside_of_a_run_of_ddpm_is_refused() -> None:
    scheduler, x = ours(DDPM, SHORT), standard_noise()
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match=r"timestep 79 is not one of the run's timesteps; the nearest is 80"):
        scheduler.step(x, 79, x)


@for_each(
    ("timesteps", "words"),
    [
        ([], "there are no timesteps"),
        ([3, 9], "must strictly decrease, but 3 is followed by 9"),
        ([9, 9, 3], "must strictly decrease"),
        ([3.5, 1], "timesteps has 3.5: expected whole numbers from 99 down to 0"),
        ([100, 3], "timesteps has 100"),
        ([3, -1], "timesteps has -1"),
    ],
)
def test_timesteps_that_are_no_run_are_refused(timesteps: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ours(DDPM, SHORT).set_timesteps(timesteps=timesteps)


@every_class
def test_what_another_class_is_configured_with_has_no_effect(name: str) -> None:
    """Keys that a class does not have are kept for the way back, and do nothing."""
    others = {
        "clip_sample": True,
        "clip_sample_range": 0.1,
        "thresholding": True,
        "set_alpha_to_one": name == PNDM,
        "rescale_betas_zero_snr": True,
        "variance_type": "fixed_large",
        "skip_prk_steps": True,
    }
    others = {key: value for key, value in others.items() if not knows(name, {key: value})}
    walks = []
    for config in ({}, others):
        scheduler = getattr(diffusolve, name).from_config({**SHORT, **config})
        scheduler.set_timesteps(5)
        walks.append(walk(scheduler).samples[-1])
    assert torch.equal(*walks)
