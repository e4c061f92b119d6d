"""EulerDiscreteScheduler against diffusers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from diffusolve.errors import UnknownNameError
from tests.parity.network import SHAPE, standard_noise
from tests.tables import for_each

from .parity import (
    SHORT,
    STABLE_DIFFUSION,
    assert_same,
    assert_signatures_begin_as_in_diffusers,
    both,
    combinations,
    difference,
    name_of,
    ours,
    walk,
)

EULER = "EulerDiscreteScheduler"
COUNT: int = SHORT["num_train_timesteps"]

PREDICTIONS = ("epsilon", "v_prediction", "sample")
CURVES = ({"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})
SPACINGS: tuple[dict[str, Any], ...] = (
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "trailing"},
)
CONTINUOUS = {"timestep_type": "continuous", "prediction_type": "v_prediction"}


def compare(config: dict[str, Any], steps: int, **options: Any) -> None:
    mine, reference = both(EULER, config)
    mine.set_timesteps(steps)
    reference.set_timesteps(steps)
    assert_same(walk(mine, **options), walk(reference, **options))


SINGLE: list[dict[str, Any]] = [
    {},
    {"trained_betas": [0.01 + 0.001 * i for i in range(40)], "num_train_timesteps": 40},
    {"beta_schedule": "linear"},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_start": 0.01, "beta_end": 0.1},
    *({"prediction_type": kind} for kind in (*PREDICTIONS[1:], "original_sample")),
    {"interpolation_type": "log_linear"},
    *CURVES,
    {"use_karras_sigmas": True, "sigma_min": 0.1},
    {"use_exponential_sigmas": True, "sigma_max": 9.0},
    {"sigma_min": 0.1, "sigma_max": 9.0},
    {"timestep_type": "continuous"},
    CONTINUOUS,
    {**CONTINUOUS, "use_karras_sigmas": True},
    *SPACINGS[1:],
    {"steps_offset": 1},
    {"rescale_betas_zero_snr": True},
    {"final_sigmas_type": "sigma_min"},
]


@for_each("config", SINGLE, ids=name_of)
def test_every_option_gives_the_samples_of_diffusers(config: dict[str, Any]) -> None:
    for steps in (1, 2, 3, 5, 14, 15, 20):
        compare({**SHORT, **config}, steps)


@pytest.mark.parametrize("spacing", SPACINGS, ids=name_of)
def test_spacing_prediction_type_curve_and_end_combine(spacing: dict[str, Any]) -> None:
    ends = (None, {"final_sigmas_type": "sigma_min"})
    for config in combinations(prediction_type=PREDICTIONS, curve=(None, *CURVES), end=ends):
        for steps in (2, 5):
            compare({**SHORT, **spacing, **config}, steps)


@pytest.mark.parametrize("spacing", SPACINGS, ids=name_of)
def test_zero_terminal_snr(spacing: dict[str, Any]) -> None:
    """From sigma = 4096, where float32 knows samples to 2e-4 only."""
    for config in combinations(prediction_type=PREDICTIONS, curve=(None, CURVES[0])):
        mine, reference = both(EULER, {**SHORT, **spacing, **config, "rescale_betas_zero_snr": True})
        for steps in (2, 8):
            mine.set_timesteps(steps)
            reference.set_timesteps(steps)
            assert_same(walk(mine), walk(reference), within=1e-3, timesteps_within=1e-5)


@pytest.mark.parametrize("curve", [{}, *CURVES], ids=name_of)
def test_stable_diffusion_in_20_steps(curve: dict[str, Any]) -> None:
    compare({**STABLE_DIFFUSION, **curve}, 20)


@for_each("churn", [{"s_churn": 4.0}, {"s_churn": 40.0, "s_tmin": 0.1, "s_tmax": 8.0}], ids=name_of)
@for_each("kind", PREDICTIONS)
def test_noise_may_be_added_before_each_step(kind: str, churn: dict[str, float]) -> None:
    for s_noise in (1.0, 1.05):
        compare({**SHORT, "prediction_type": kind}, 8, **churn, s_noise=s_noise)
        compare({**SHORT, "prediction_type": kind}, 8, first=3, **churn, s_noise=s_noise)


def test_the_signature_is_that_of_diffusers() -> None:
    assert_signatures_begin_as_in_diffusers(EULER)


def test_the_state_before_set_timesteps_covers_the_training_timesteps() -> None:
    mine, reference = both(EULER, SHORT)
    assert difference(mine.timesteps, reference.timesteps) < 1e-6
    assert difference(mine.sigmas, reference.sigmas) < 1e-6
    assert float(mine.init_noise_sigma) == pytest.approx(float(reference.init_noise_sigma))
    assert mine.num_inference_steps is None


def test_the_velocity_is_that_of_the_place_among_the_timesteps_as_in_diffusers() -> None:
    mine, reference = both(EULER, SHORT)
    x, noise = standard_noise(0), standard_noise(1)
    for steps in (None, 10):
        for scheduler in (mine, reference) if steps else ():
            scheduler.set_timesteps(steps)
        timesteps = reference.timesteps[[2, 7]]
        expected = reference.get_velocity(x, noise, timesteps)
        assert difference(mine.get_velocity(x, noise, timesteps), expected) < 1e-6
        assert difference(mine.get_velocity(x, noise, torch.tensor([2, 7])), expected) < 1e-6


# Timesteps and sigmas given


@for_each(
    "config",
    [{}, {"final_sigmas_type": "sigma_min"}, {"interpolation_type": "log_linear"}, CONTINUOUS, *CURVES],
    ids=name_of,
)
def test_sigmas_may_be_given(config: dict[str, Any]) -> None:
    """The last is where the run ends, whatever the configuration says of curves and ends."""
    mine, reference = both(EULER, {**STABLE_DIFFUSION, **config})
    for sigmas in ([10.0, 5.0, 1.0, 0.0], [10.0, 5.0, 1.0], [3.0, 0.0]):
        mine.set_timesteps(sigmas=sigmas)
        reference.set_timesteps(sigmas=sigmas)
        assert mine.num_inference_steps == reference.num_inference_steps == len(sigmas) - 1
        assert_same(walk(mine), walk(reference), timesteps_within=1e-5)


@pytest.mark.parametrize("config", [{}, {"final_sigmas_type": "sigma_min"}, *SPACINGS[1:]], ids=name_of)
def test_timesteps_may_be_given(config: dict[str, Any]) -> None:
    mine, reference = both(EULER, {**STABLE_DIFFUSION, **config})
    for timesteps in ([900, 500, 100], [999, 1], [400.0, 20.0]):
        mine.set_timesteps(timesteps=timesteps)
        reference.set_timesteps(timesteps=timesteps)
        assert_same(walk(mine), walk(reference))


def test_what_excludes_each_other_is_refused() -> None:
    scheduler = ours(EULER, STABLE_DIFFUSION)
    with pytest.raises(ValueError, match="both timesteps and sigmas are given"):
        scheduler.set_timesteps(timesteps=[900, 500], sigmas=[5.0, 1.0, 0.0])
    for given in ({"timesteps": [900, 500]}, {"sigmas": [5.0, 1.0, 0.0]}):
        with pytest.raises(
            ValueError, match=f"num_inference_steps is 3, but {next(iter(given))} are given for 2 steps"
        ):
            scheduler.set_timesteps(3, **given)
        scheduler.set_timesteps(2, **given)
        assert len(scheduler.timesteps) == 2
    with pytest.raises(ValueError, match="num_inference_steps is missing"):
        scheduler.set_timesteps()
    for config in (*CURVES, CONTINUOUS):
        with pytest.raises(ValueError, match="timesteps are given, but"):
            ours(EULER, config).set_timesteps(timesteps=[900, 500])
    with pytest.raises(ValueError, match="exclude each other"):
        ours(EULER, {**CURVES[0], **CURVES[1]})
    for sigmas in ([5.0], [1.0, 5.0], [5.0, -1.0], [5.0, float("nan")]):
        with pytest.raises(ValueError, match="strictly decreasing"):
            scheduler.set_timesteps(sigmas=sigmas)


# In someone else's loop


@for_each("tell", [False, True], ids=["found", "told"])
@for_each("config", [{}, *CURVES, SPACINGS[1], CONTINUOUS], ids=name_of)
def test_a_run_may_begin_in_the_middle(config: dict[str, Any], tell: bool) -> None:
    for first in (1, 4, 7):
        compare({**SHORT, **config}, 8, first=first, begin_index=first if tell else None)


@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2), (torch.float64, 1e-5)], ids=str
)
def test_samples_have_the_precision_of_the_networks_output(dtype: torch.dtype, within: float) -> None:
    mine, reference = both(EULER, SHORT)
    mine.set_timesteps(6)
    reference.set_timesteps(6)
    assert_same(walk(mine, dtype=dtype), walk(reference, dtype=dtype), within=within)


@pytest.mark.parametrize("s_churn", [0.0, 3.0])
def test_copies_made_in_the_middle_go_on_alike(s_churn: float) -> None:
    scheduler = ours(EULER, SHORT)
    scheduler.set_timesteps(5)
    copies: list[Any] = []
    samples, states = [standard_noise()], [torch.Generator().manual_seed(1)]
    for index, timestep in enumerate(scheduler.timesteps):
        if index == 2:
            copies = [copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))]
            samples = [samples[0].clone() for _ in range(3)]
            states = [states[0].clone_state() for _ in range(3)]
        for i, one in enumerate([scheduler, *copies]):
            output = torch.tanh(one.scale_model_input(samples[i], timestep))
            made = one.step(output, timestep, samples[i], s_churn=s_churn, generator=states[i], return_dict=False)
            samples[i] = made[0]
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples[2])


def test_there_may_be_a_generator_for_each_sample() -> None:
    walks = []
    for scheduler in both(EULER, SHORT):
        scheduler.set_timesteps(4)
        several = [torch.Generator().manual_seed(i) for i in range(SHAPE[0])]
        walks.append(walk(scheduler, seed=None, generator=several, s_churn=3.0))
    assert_same(*walks)


@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["float", "0-d tensor"])
def test_timesteps_may_be_numbers_or_tensors(kind: Any) -> None:
    x = standard_noise()
    made = []
    for timestep in (None, kind(COUNT - 1.0)):
        scheduler = ours(EULER, SHORT)
        scheduler.set_timesteps(4)
        timestep = scheduler.timesteps[0] if timestep is None else timestep
        made.append((scheduler.scale_model_input(x, timestep), *scheduler.step(x, timestep, x, return_dict=False)))
    assert len(made[0]) == 3
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_what_cannot_be_is_refused() -> None:
    x = standard_noise()
    scheduler = ours(EULER, SHORT)
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match=f"the nearest is {COUNT - 1}"):
        scheduler.step(x, COUNT - 2, x)
    walk(scheduler)
    with pytest.raises(IndexError, match="3 evaluations"):
        scheduler.step(x, scheduler.timesteps[-1].item(), x)
    for key in ("prediction_type", "beta_schedule", "interpolation_type", "final_sigmas_type", "timestep_type"):
        with pytest.raises(UnknownNameError, match=f"unknown {key} 'nonsense'"):
            ours(EULER, {key: "nonsense"})
    with pytest.raises(UnknownNameError, match="timestep_spacing"):
        ours(EULER, {"timestep_spacing": "nonsense"}).set_timesteps(4)
