"""The classes that came from k-diffusion, whose samples are scaled to alpha = 1, against diffusers."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import diffusolve
from diffusolve.errors import UnknownNameError
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

pytest.importorskip("torchsde", reason="the SDE scheduler needs torchsde, which is not installed")

LMS, HEUN, EULER_A = "LMSDiscreteScheduler", "HeunDiscreteScheduler", "EulerAncestralDiscreteScheduler"
KDPM2, KDPM2_A, SDE = "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"
NAMES = (LMS, EULER_A, HEUN, KDPM2, KDPM2_A, SDE)
TWO_STAGE = (HEUN, KDPM2, KDPM2_A, SDE)

SEED = {SDE: {"noise_sampler_seed": 5}}
"""What a class needs to reproduce."""

PREDICTIONS = {
    name: ("epsilon", "v_prediction", "sample") if name in (LMS, HEUN) else ("epsilon", "v_prediction")
    for name in NAMES
}
CURVES = ({"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})
SPACINGS: tuple[dict[str, Any], ...] = (
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "trailing"},
)
TRAINED = [0.002 + 0.0005 * i for i in range(SHORT["num_train_timesteps"])]
TIMESTEPS_WITHIN = {KDPM2_A: 1e-4}
"""Half the timesteps of diffusers' class come from a difference of nearly equal float32 numbers. Ours do not."""

every_class = for_each("name", NAMES)
every_two_stage_class = pytest.mark.parametrize("name", TWO_STAGE)


def compare(name: str, config: Mapping[str, Any], steps: int, **options: Any) -> None:
    mine, reference = both(name, {**SEED.get(name, {}), **config})
    mine.set_timesteps(steps)
    reference.set_timesteps(steps)
    walks = walk(mine, **options), walk(reference, **options)
    assert_same(*walks, timesteps_within=TIMESTEPS_WITHIN.get(name, 1e-6))


# The matrix


def beyond_the_matrix(name: str) -> list[dict[str, Any]]:
    """The defaults, for many numbers of steps, and what belongs together; the matrix has single options."""
    extra: dict[str, list[dict[str, Any]]] = {
        HEUN: [
            {"beta_schedule": "exp"},
            *(
                {"clip_sample": True, "clip_sample_range": r, "prediction_type": kind}
                for r in (1.0, 2.0)
                for kind in PREDICTIONS[HEUN]
            ),
        ],
        SDE: [{"noise_sampler_seed": [5, 6]}, {"noise_sampler_seed": 0}],
    }
    return [{}, *extra.get(name, [])]


@for_each(("name", "config"), [(name, config) for name in NAMES for config in beyond_the_matrix(name)], ids=name_of)
def test_samples_are_those_of_diffusers_in_any_number_of_steps(name: str, config: dict[str, Any]) -> None:
    for steps in (1, 2, 3, 5, 14, 15, 20) if not config else (1, 3) if name == SDE else (1, 3, 14):
        compare(name, {**SHORT, **config}, steps)


@every_class
def test_spacing_prediction_type_and_curve_combine(name: str) -> None:
    curves = (None,) if name == EULER_A else (None, *CURVES)
    for config in combinations(prediction_type=PREDICTIONS[name], spacing=tuple(SPACINGS), curve=curves):
        compare(name, {**SHORT, **config}, 4)


@every_class
def test_options_that_a_class_does_not_have_are_kept_without_effect(name: str) -> None:
    others = {
        "use_lu_lambdas": True,
        "use_flow_sigmas": True,
        "final_sigmas_type": "sigma_min",
        "interpolation_type": "log_linear",
        "timestep_type": "continuous",
        "thresholding": True,
        "sigma_min": 0.5,
        **({"use_karras_sigmas": True} if name == EULER_A else {"use_karras_sigmas": False}),
        **({} if name == HEUN else {"clip_sample": True}),
    }
    config = {**SHORT, **SEED.get(name, {}), "prediction_type": "v_prediction", **others}
    mine = getattr(diffusolve, name).from_config(config)
    reference = getattr(diffusers, name).from_config(config)
    mine.set_timesteps(4)
    reference.set_timesteps(4)
    assert_same(walk(mine), walk(reference), timesteps_within=TIMESTEPS_WITHIN.get(name, 1e-6))
    assert mine.config.final_sigmas_type == "sigma_min"


@every_class
def test_stable_diffusion_in_20_steps(name: str) -> None:
    compare(name, STABLE_DIFFUSION, 20)
    if name != EULER_A:
        compare(name, {**STABLE_DIFFUSION, "use_karras_sigmas": True}, 20)


@every_class
def test_squaredcos_cap_v2_from_sigma_20000(name: str) -> None:
    # In float64: in float32 diffusers loses the digits that are compared here, and with ancestral DPM2 all of them.
    if name != KDPM2_A:
        compare(name, {"beta_schedule": "squaredcos_cap_v2"}, 6, dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_euler_ancestral_from_zero_terminal_snr(prediction_type: str) -> None:
    for spacing in SPACINGS:
        config = {**SHORT, **spacing, "rescale_betas_zero_snr": True, "prediction_type": prediction_type}
        compare(EULER_A, config, 5, dtype=torch.float64)


@every_class
def test_the_signature_is_that_of_diffusers(name: str) -> None:
    assert_signatures_begin_as_in_diffusers(name)
    assert getattr(diffusolve, name).order == getattr(diffusers, name).order


@every_class
def test_the_state_before_set_timesteps_covers_the_training_timesteps(name: str) -> None:
    mine, reference = both(name, SHORT)
    assert difference(mine.timesteps, reference.timesteps) <= TIMESTEPS_WITHIN.get(name, 1e-6)
    assert difference(mine.sigmas, reference.sigmas) < 1e-6
    assert float(mine.init_noise_sigma) == pytest.approx(float(reference.init_noise_sigma))
    assert mine.num_inference_steps == reference.num_inference_steps
    x, noise, timesteps = standard_noise(0), standard_noise(1), torch.tensor([3, 70])
    assert difference(mine.add_noise(x, noise, timesteps), reference.add_noise(x, noise, timesteps)) < 1e-6


# In someone else's loop


@for_each("tell", [False, True], ids=["found", "told"])
@for_each("config", [{}, {"use_karras_sigmas": True}, SPACINGS[1]], ids=name_of)
@every_class
def test_a_run_may_begin_in_the_middle(name: str, config: dict[str, Any], tell: bool) -> None:
    if name == EULER_A and "use_karras_sigmas" in config:
        return
    first = 3 * getattr(diffusolve, name).order
    compare(name, {**SHORT, **config}, 8, first=first, begin_index=first if tell else None)


@every_class
@for_each(("dtype", "within"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2), (torch.float64, 1e-5)], ids=str)
def test_samples_have_the_precision_of_the_networks_output(name: str, dtype: torch.dtype, within: float) -> None:
    mine, reference = both(name, {**SHORT, **SEED.get(name, {})})
    mine.set_timesteps(6)
    reference.set_timesteps(6)
    walks = walk(mine, dtype=dtype), walk(reference, dtype=dtype)
    assert_same(*walks, within=within, timesteps_within=TIMESTEPS_WITHIN.get(name, 1e-6))


@for_each("first", [2, 3])
@every_class
def test_copies_made_in_the_middle_go_on_alike(name: str, first: int) -> None:
    scheduler = ours(name, {**SHORT, **SEED.get(name, {})})
    scheduler.set_timesteps(5)
    copies: list[Any] = []
    samples, states = [standard_noise()], [torch.Generator().manual_seed(1)]
    for index, timestep in enumerate(scheduler.timesteps):
        if index == first:
            copies = [copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))]
            samples = [samples[0].clone() for _ in range(3)]
            states = [states[0].clone_state() for _ in range(3)]
        for i, one in enumerate([scheduler, *copies]):
            options = {"generator": states[i]} if "generator" in inspect.signature(one.step).parameters else {}
            output = torch.tanh(one.scale_model_input(samples[i], timestep))
            samples[i] = one.step(output, timestep, samples[i], **options).prev_sample
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples[2])


@pytest.mark.parametrize("name", [EULER_A, KDPM2_A])
def test_the_generator_is_left_where_diffusers_leaves_it(name: str) -> None:
    """A second image from the same generator is then the same too."""
    left = []
    for scheduler in both(name, SHORT):
        scheduler.set_timesteps(4)
        generator = torch.Generator().manual_seed(3)
        walk(scheduler, seed=None, generator=generator)
        left.append(torch.randn(3, generator=generator))
    assert torch.equal(*left)


@pytest.mark.parametrize("name", [EULER_A, KDPM2_A])
def test_there_may_be_a_generator_for_each_sample(name: str) -> None:
    walks = []
    for scheduler in both(name, SHORT):
        scheduler.set_timesteps(4)
        several = [torch.Generator().manual_seed(i) for i in range(SHAPE[0])]
        walks.append(walk(scheduler, seed=None, generator=several))
    assert_same(*walks, timesteps_within=TIMESTEPS_WITHIN.get(name, 1e-6))


@every_class
@for_each("kind", [int, float, torch.tensor], ids=["int", "float", "0-d tensor"])
def test_timesteps_may_be_numbers_or_tensors(name: str, kind: Any) -> None:
    x = standard_noise()
    made = []
    for timestep in (None, kind(99)):
        scheduler = ours(name, {**SHORT, **SEED.get(name, {})})
        scheduler.set_timesteps(4)
        timestep = scheduler.timesteps[0] if timestep is None else timestep
        torch.manual_seed(0)
        made.append((scheduler.scale_model_input(x, timestep), *scheduler.step(x, timestep, x, return_dict=False)))
    assert len(made[0]) == 3
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


@every_class
def test_what_cannot_be_is_refused(name: str) -> None:
    x = standard_noise()
    scheduler = ours(name, {**SHORT, **SEED.get(name, {})})
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match="the nearest is 99"):
        scheduler.step(x, 98, x)
    walk(scheduler)
    with pytest.raises(IndexError, match=f"{5 if name in TWO_STAGE else 3} evaluations"):
        scheduler.step(x, scheduler.timesteps[-1].item(), x)
    with pytest.raises(UnknownNameError, match="prediction_type"):
        ours(name, {"prediction_type": "flow"})
    with pytest.raises(UnknownNameError, match="beta_schedule"):
        ours(name, {"beta_schedule": "sigmoid"})
    if name != EULER_A:
        with pytest.raises(ValueError, match="use_karras_sigmas and use_beta_sigmas exclude each other"):
            ours(name, {"use_karras_sigmas": True, "use_beta_sigmas": True})


@every_class
def test_networks_that_predict_the_data_are_sampled_too_where_diffusers_refuses_them(name: str) -> None:
    scheduler = ours(name, {**SHORT, **SEED.get(name, {}), "prediction_type": "sample"})
    scheduler.set_timesteps(4)
    data, x = standard_noise(1), standard_noise() * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        x = scheduler.step(data, timestep, x).prev_sample
    assert difference(x, data) < 1e-5


# LMS


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_lms_takes_the_order_with_each_step(order: int) -> None:
    compare(LMS, SHORT, 8, order=order)


def test_the_order_of_lms_stays_the_same_through_a_run() -> None:
    scheduler, x = ours(LMS, SHORT), standard_noise()
    scheduler.set_timesteps(4)
    scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match=r"'order': 2.* differs"):
        scheduler.step(x, scheduler.timesteps[1], x, order=2)


def test_lms_coefficients_are_those_of_diffusers() -> None:
    mine, reference = both(LMS, SHORT)
    mine.set_timesteps(8)
    reference.set_timesteps(8)
    for order in (1, 2, 3, 4):
        for step in range(order - 1, 8):
            for back in range(order):
                expected = reference.get_lms_coefficient(order, step, back)
                assert mine.get_lms_coefficient(order, step, back) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(IndexError, match="step 1 of 8 has no slope 2 back in order 3"):
        mine.get_lms_coefficient(3, 1, 2)


# Two evaluations a step


@every_two_stage_class
def test_the_state_says_where_in_a_step_it_is(name: str) -> None:
    schedulers = both(name, {**SHORT, **SEED.get(name, {})})
    said = []
    for scheduler in schedulers:
        scheduler.set_timesteps(4)
        x, states = standard_noise(), []
        for timestep in scheduler.timesteps:
            states.append(scheduler.state_in_first_order)
            x = scheduler.step(x, timestep, x).prev_sample
        said.append(states)
    assert said[0] == said[1] == [True, False, True, False, True, False, True]


@every_two_stage_class
def test_steps_may_be_spaced_over_other_timesteps_than_the_training_ones(name: str) -> None:
    for config in ({}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}):
        mine, reference = both(name, {**SHORT, **config, **SEED.get(name, {})})
        mine.set_timesteps(5, "cpu", 70)
        reference.set_timesteps(5, "cpu", 70)
        assert_same(walk(mine), walk(reference), timesteps_within=TIMESTEPS_WITHIN.get(name, 1e-6))


@every_two_stage_class
def test_a_run_cannot_begin_in_the_middle_of_a_step(name: str) -> None:
    scheduler, x = ours(name, {**SHORT, **SEED.get(name, {})}), standard_noise()
    scheduler.set_timesteps(4)
    if name != HEUN:
        with pytest.raises(ValueError, match=r"evaluation 3 is in the middle of a step.* begin at 2 or 4"):
            scheduler.step(x, scheduler.timesteps[3], x)
    scheduler.step(x, scheduler.timesteps[2], x)
    assert scheduler.step_index == 3


def test_a_run_of_heun_begins_a_step_at_a_timestep_where_one_ends_too() -> None:
    results = []
    for scheduler in both(HEUN, SHORT):
        scheduler.set_timesteps(4)
        x = standard_noise()
        for t in scheduler.timesteps[3:5]:
            x = scheduler.step(standard_noise(int(t)), t, scheduler.scale_model_input(x, t)).prev_sample
        results.append((x, scheduler.step_index))
    assert results[0][1] == results[1][1] == 6
    torch.testing.assert_close(results[0][0], results[1][0])


def test_heun_takes_timesteps() -> None:
    mine, reference = both(HEUN, STABLE_DIFFUSION)
    mine.set_timesteps(timesteps=[900, 500, 100])
    reference.set_timesteps(timesteps=[900, 500, 100])
    assert_same(walk(mine), walk(reference))
    with pytest.raises(ValueError, match="timesteps"):
        mine.set_timesteps(4, timesteps=[900, 500, 100])
    with pytest.raises(ValueError, match="use_karras_sigmas chooses them"):
        ours(HEUN, {"use_karras_sigmas": True}).set_timesteps(timesteps=[900, 500, 100])


# Noise along a Brownian path


@pytest.mark.parametrize("s_noise", [0.0, 0.5, 1.1])
def test_the_sde_scheduler_takes_s_noise(s_noise: float) -> None:
    compare(SDE, SHORT, 5, s_noise=s_noise)


def test_without_a_seed_the_path_comes_from_the_global_generator_anew_in_each_run() -> None:
    ends: list[list[torch.Tensor]] = [[], []]
    for scheduler, made in zip(both(SDE, SHORT), ends, strict=True):
        torch.manual_seed(3)
        for _ in range(2):
            scheduler.set_timesteps(3)
            made.append(walk(scheduler).samples[-1])
    for mine, reference in zip(*ends, strict=True):
        assert difference(mine, reference) < PROMISED
    assert difference(ends[0][0], ends[0][1]) > 0.01


def test_as_many_seeds_as_samples_are_needed() -> None:
    scheduler, x = ours(SDE, {**SHORT, "noise_sampler_seed": [1, 2, 3]}), standard_noise()
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match="3 seeds for a batch of 2 samples"):
        scheduler.step(x, scheduler.timesteps[0], x)


def test_diffusers_makes_schedulers_once() -> None:
    """What the comparisons above rely on: copies do not share a run."""
    one, other = theirs(LMS, SHORT), theirs(LMS, SHORT)
    one.set_timesteps(3)
    other.set_timesteps(5)
    assert len(one.timesteps) == 3
