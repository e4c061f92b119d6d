"""What the classes of the DPM-Solver family have in common, against diffusers."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch

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
    walk,
)

MULTISTEP, SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
DEIS, UNIPC = "DEISMultistepScheduler", "UniPCMultistepScheduler"
NAMES = (MULTISTEP, SINGLESTEP, DEIS, UNIPC)

PREDICTIONS = ("epsilon", "v_prediction", "sample")
CURVES = ({"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
SPACINGS: tuple[dict[str, Any], ...] = (
    {},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "trailing"},
)

COUNT: int = SHORT["num_train_timesteps"]

every_class = pytest.mark.parametrize("name", NAMES)


def knows(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the class has all these options, and the noise."""
    if name == DEIS and config.get("algorithm_type", "").startswith("sde"):
        return False
    return set(config) <= set(inspect.signature(getattr(diffusers, name).__init__).parameters)


def compare(name: str, config: Mapping[str, Any], steps: int, **options: Any) -> None:
    mine, reference = both(name, config)
    mine.set_timesteps(steps)
    reference.set_timesteps(steps)
    assert_same(walk(mine, **options), walk(reference, **options))


# The matrix

TOGETHER: list[dict[str, Any]] = [
    {},
    {"solver_order": 4},
    *({"thresholding": True, "prediction_type": kind} for kind in PREDICTIONS),
    {"thresholding": True, "sample_max_value": 2.0, "dynamic_thresholding_ratio": 0.9},
    {"lower_order_final": True},
    {"lower_order_final": False},
    {"lower_order_final": False, **SIGMA_MIN},
    {"use_karras_sigmas": True, **SIGMA_MIN},
    {**FLOW, "flow_shift": 3.0},
    {**FLOW, **SIGMA_MIN},
]
"""The defaults and what belongs together, for many numbers of steps; tests.schedulers.matrix has single options."""


@for_each("config", TOGETHER, ids=name_of)
@every_class
def test_samples_are_those_of_diffusers_in_any_number_of_steps(name: str, config: dict[str, Any]) -> None:
    if not knows(name, config) or (name == SINGLESTEP and config.get("solver_order", 1) > 3):
        return
    if name == UNIPC and config.get("use_dynamic_shifting"):
        return  # needs mu: see below
    if name == UNIPC and config == {"lower_order_final": False}:
        return  # the last step of second order to sigma = 0 makes NaN of the samples of diffusers
    for steps in (1, 2, 3, 5, 14, 15, 20) if not config or "lower_order_final" in config else (1, 3, 14):
        compare(name, {**SHORT, **config}, steps)


@every_class
def test_spacing_prediction_type_curve_and_end_combine(name: str) -> None:
    ends = ({}, SIGMA_MIN) if knows(name, SIGMA_MIN) else ({},)
    levels = (None, *CURVES, {"use_flow_sigmas": True})
    spacings = tuple(spacing for spacing in SPACINGS if knows(name, spacing))
    for config in combinations(spacing=spacings, prediction_type=PREDICTIONS, levels=levels, end=ends):
        compare(name, {**SHORT, **config}, 4)


@for_each("config", [{}, {"use_karras_sigmas": True}, SDE], ids=name_of)
@every_class
def test_stable_diffusion_in_20_steps(name: str, config: dict[str, Any]) -> None:
    if knows(name, config):
        compare(name, {**STABLE_DIFFUSION, **config}, 20)


@every_class
def test_the_signature_is_that_of_diffusers(name: str) -> None:
    assert_signatures_begin_as_in_diffusers(name)


@every_class
def test_the_state_before_set_timesteps_covers_the_training_timesteps(name: str) -> None:
    mine, reference = both(name, SHORT)
    assert difference(mine.timesteps, reference.timesteps) < 1e-6
    for member in ("sigmas", "alpha_t", "sigma_t", "lambda_t", "betas", "alphas", "alphas_cumprod"):
        assert difference(getattr(mine, member), getattr(reference, member)) < 1e-6, member
    assert mine.init_noise_sigma == reference.init_noise_sigma == 1.0
    assert mine.num_inference_steps is None
    assert len(mine) == len(reference)


@every_class
def test_as_many_steps_as_training_timesteps_are_finite(name: str) -> None:
    """One timestep then occurs twice, and the samples of diffusers' multistep classes are NaN from there."""
    mine, reference = both(name, {**SHORT, "solver_order": 3})
    mine.set_timesteps(COUNT)
    reference.set_timesteps(COUNT)
    assert mine.timesteps.tolist() == reference.timesteps.tolist()
    assert len(set(mine.timesteps.tolist())) < COUNT
    assert torch.isfinite(walk(mine).samples[-1]).all()


# Words of other classes

FOREIGN = {
    MULTISTEP: {
        "algorithm_type": ("dpmsolver", "deis", "logrho"),
        "solver_type": ("logrho", "bh1", "bh2", "deis"),
    },
    SINGLESTEP: {
        "algorithm_type": ("dpmsolver", "sde-dpmsolver", "deis", "logrho"),
        "solver_type": ("logrho", "bh1", "bh2", "deis"),
    },
    DEIS: {
        "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "logrho"),
        "solver_type": ("midpoint", "heun", "bh1", "bh2", "deis"),
    },
    UNIPC: {"solver_type": ("midpoint", "heun", "logrho", "deis")},
}
WORDS = [
    (name, {key: value, **end})
    for name, keys in FOREIGN.items()
    for key, values in keys.items()
    for value in values
    for end in ({}, SIGMA_MIN)
    if knows(name, end)
]


@for_each(("name", "config"), WORDS, ids=name_of)
def test_words_of_other_classes_are_translated_or_refused_as_in_diffusers(name: str, config: dict[str, Any]) -> None:
    key, value = next(iter(config.items()))
    if value == "deis" and key == "algorithm_type" and config.get("final_sigmas_type") is None:
        assert ours(name, {**SHORT, **config}).config[key] == "dpmsolver++"  # refused there, but for its translation
        return
    try:
        reference = getattr(diffusers, name)(**SHORT, **config)
    except (ValueError, NotImplementedError):
        with pytest.raises(ValueError, match=f"{key} '{re.escape(value)}'"):
            ours(name, {**SHORT, **config})
        return
    assert ours(name, {**SHORT, **config}).config[key] == reference.config[key]
    compare(name, {**SHORT, **config}, 4)


@every_class
def test_unknown_words_are_refused(name: str) -> None:
    for key in ("prediction_type", "beta_schedule", "solver_type", "final_sigmas_type", "algorithm_type"):
        if knows(name, {key: ""}):
            with pytest.raises(UnknownNameError, match=f"unknown {key} 'nonsense'"):
                ours(name, {key: "nonsense"})
    if knows(name, {"timestep_spacing": ""}):
        with pytest.raises(UnknownNameError, match="timestep_spacing"):
            ours(name, {"timestep_spacing": "nonsense"}).set_timesteps(4)
    with pytest.raises(ValueError, match="use_karras_sigmas and use_beta_sigmas exclude each other"):
        ours(name, {"use_karras_sigmas": True, "use_beta_sigmas": True})


# The shift of flow matching


@every_class
def test_mu_shifts_the_noise_levels(name: str) -> None:
    mine, reference = both(name, {**SHORT, **FLOW, "use_dynamic_shifting": True})
    for mu in (0.7, 0.0, 1.5):
        mine.set_timesteps(5, mu=mu)
        reference.set_timesteps(5, mu=mu)
        assert_same(walk(mine), walk(reference))
    assert mine.config.flow_shift == 1.0


@for_each("name", [MULTISTEP, SINGLESTEP, DEIS])
def test_mu_is_the_shift_itself_where_the_configuration_says_so(name: str) -> None:
    mine, shifted = (
        ours(name, {**FLOW, "use_dynamic_shifting": True, "time_shift_type": "linear"}),
        ours(name, {**FLOW, "flow_shift": 1.7}),
    )
    mine.set_timesteps(5, mu=1.7)
    shifted.set_timesteps(5)
    assert torch.equal(mine.sigmas, shifted.sigmas)


@for_each("name", [MULTISTEP, SINGLESTEP, DEIS])
def test_mu_that_the_configuration_does_not_ask_for_has_no_effect(name: str) -> None:
    """Pipelines offer it to every scheduler that has the argument."""
    mine = ours(name, {**FLOW, "flow_shift": 3.0})
    mine.set_timesteps(5)
    sigmas = mine.sigmas
    mine.set_timesteps(5, mu=0.5)
    assert torch.equal(mine.sigmas, sigmas)


# Timesteps and variances


@pytest.mark.parametrize("name", [MULTISTEP, SINGLESTEP])
def test_timesteps_may_be_given(name: str) -> None:
    mine, reference = both(name, {**STABLE_DIFFUSION, "solver_order": 3})
    for timesteps in ([900, 600, 300, 20], [999, 500, 1]):
        mine.set_timesteps(timesteps=timesteps)
        reference.set_timesteps(timesteps=timesteps)
        assert mine.num_inference_steps == reference.num_inference_steps == len(timesteps)
        assert_same(walk(mine), walk(reference))
    with pytest.raises(ValueError, match="num_inference_steps is 4, but timesteps are given for 3 steps"):
        mine.set_timesteps(4, timesteps=[900, 500, 100])
    with pytest.raises(ValueError, match="num_inference_steps is missing"):
        mine.set_timesteps()
    for curve in CURVES:
        with pytest.raises(ValueError, match=f"{next(iter(curve))} chooses them"):
            ours(name, curve).set_timesteps(timesteps=[900, 500, 100])


@pytest.mark.parametrize("config", [{"lambda_min_clipped": -1.0}, {"lambda_min_clipped": -5.1}], ids=name_of)
@pytest.mark.parametrize("name", [MULTISTEP, SINGLESTEP])
def test_timesteps_with_little_signal_are_left_out(name: str, config: dict[str, Any]) -> None:
    for spacing in SPACINGS:
        if knows(name, spacing):
            compare(name, {**STABLE_DIFFUSION, **config, **spacing}, 6)
    compare(name, {**SHORT, **config, "beta_schedule": "squaredcos_cap_v2"}, 6)


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
@pytest.mark.parametrize("name", [MULTISTEP, SINGLESTEP])
def test_a_predicted_variance_is_left_out(name: str, kind: str) -> None:
    """On three channels, of which diffusers takes the first three."""
    x = standard_noise()[:, :3]
    ends = []
    for scheduler in both(name, {**SHORT, "variance_type": kind}):
        scheduler.set_timesteps(4)
        sample = x
        for timestep in scheduler.timesteps:
            output = torch.cat([torch.tanh(sample), torch.ones_like(x)], dim=1)
            sample = scheduler.step(output, timestep, sample).prev_sample
        ends.append(sample)
    assert difference(*ends) < PROMISED


@pytest.mark.parametrize("name", [MULTISTEP, SINGLESTEP])
def test_unexpected_channels_are_told(name: str) -> None:
    x = standard_noise()
    scheduler = ours(name, {**SHORT, "variance_type": "learned"})
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r"has 7 channels, but 4 or 8 are expected"):
        scheduler.step(torch.ones(2, 7, 8, 8), scheduler.timesteps[0], x)
    once = scheduler.step(torch.cat([x, x], dim=1), scheduler.timesteps[0], x).prev_sample
    scheduler = ours(name, SHORT)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r'has 8 channels, but 4 are expected.*variance_type="learned_range"'):
        scheduler.step(torch.cat([x, x], dim=1), scheduler.timesteps[0], x)
    assert difference(once, scheduler.step(x, scheduler.timesteps[0], x).prev_sample) < 1e-6


# In someone else's loop


@for_each("tell", [False, True], ids=["found", "told"])
@for_each("config", [{}, {"use_karras_sigmas": True}, FLOW, SDE], ids=name_of)
@every_class
def test_a_run_may_begin_in_the_middle(name: str, config: dict[str, Any], tell: bool) -> None:
    if knows(name, config):
        for first in (1, 2, 3, 7):
            mine, reference = both(name, {**SHORT, "solver_order": 3, **config})
            mine.set_timesteps(8)
            reference.set_timesteps(8)
            begin_index = first if tell else None
            assert_same(*(walk(one, first=first, begin_index=begin_index) for one in (mine, reference)))


@every_class
def test_noise_is_added_as_in_diffusers(name: str) -> None:
    for config in ({}, {"use_karras_sigmas": True}, FLOW):
        mine, reference = both(name, {**SHORT, **config})
        x, noise = standard_noise(0), standard_noise(1)
        mine.set_timesteps(6)
        reference.set_timesteps(6)
        timesteps = mine.timesteps[[1, 4]]
        assert difference(mine.add_noise(x, noise, timesteps), reference.add_noise(x, noise, timesteps)) < 1e-6


@every_class
def test_a_trainer_that_has_validated_adds_noise_of_its_training_timesteps(name: str) -> None:
    """In diffusers those that are none of the run's are taken for its last one."""
    scheduler = ours(name, STABLE_DIFFUSION)
    x, noise = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    timesteps = torch.tensor([3, 250, 481, 999])
    power = scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
    expected = power.sqrt() * x + (1 - power).sqrt() * noise
    scheduler.set_timesteps(4)
    walk(scheduler)
    torch.testing.assert_close(scheduler.add_noise(x, noise, timesteps), expected, rtol=1e-5, atol=1e-5)


@for_each(
    ("name", "config"),
    [("FlowMatchEulerDiscreteScheduler", {}), ("EDMEulerScheduler", {}), *((n, FLOW) for n in NAMES)],
)
def test_without_a_training_table_noise_is_added_at_timesteps_of_the_run_only(
    name: str, config: dict[str, Any]
) -> None:
    scheduler = ours(name, config)
    scheduler.set_timesteps(5)
    add_noise = getattr(scheduler, "add_noise", None) or (lambda x, noise, t: scheduler.scale_noise(x, t, noise))
    x, last = torch.ones(2, 1, 1, 1), scheduler.timesteps[-1]
    timesteps = torch.stack([last, torch.zeros_like(last) + 3.5])
    with pytest.raises(ValueError, match=r"timestep 3\.5 is not one of the run's timesteps; the nearest is"):
        add_noise(x, x, timesteps.float())
    unread = torch.vmap(add_noise, (0, 0, 0))(x[:, None], x[:, None], timesteps.float()[:, None])
    assert unread.isnan().flatten().tolist() == [False, True]


@every_class
@for_each(("dtype", "within"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2), (torch.float64, 1e-5)], ids=str)
def test_samples_have_the_precision_of_the_networks_output(name: str, dtype: torch.dtype, within: float) -> None:
    for config in ({}, SDE):
        if knows(name, config):
            mine, reference = both(name, {**SHORT, **config})
            mine.set_timesteps(6)
            reference.set_timesteps(6)
            assert_same(walk(mine, dtype=dtype), walk(reference, dtype=dtype), within=within)


@for_each("first", [2, 3, 4])
@every_class
def test_copies_made_in_the_middle_go_on_alike(name: str, first: int) -> None:
    scheduler = ours(name, {**SHORT, "solver_order": 3, **(SDE if knows(name, SDE) else {})})
    scheduler.set_timesteps(6)
    copies: list[Any] = []
    samples, states = [standard_noise()], [torch.Generator().manual_seed(1)]
    for index, timestep in enumerate(scheduler.timesteps):
        if index == first:
            copies = [copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))]
            samples = [samples[0].clone() for _ in range(3)]
            states = [states[0].clone_state() for _ in range(3)]
        for i, one in enumerate([scheduler, *copies]):
            options = {"generator": states[i]} if "generator" in inspect.signature(one.step).parameters else {}
            samples[i] = one.step(torch.tanh(samples[i]), timestep, samples[i], **options, return_dict=False)[0]
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples[2])


@for_each("config", [SDE, {**SDE, "use_karras_sigmas": True, **SIGMA_MIN}, {}], ids=name_of)
@for_each("name", [MULTISTEP, SINGLESTEP])
def test_the_generator_is_left_where_diffusers_leaves_it(name: str, config: dict[str, Any]) -> None:
    """A second image from the same generator is then the same too."""
    left = []
    for scheduler in both(name, {**SHORT, **config}):
        scheduler.set_timesteps(4)
        generator = torch.Generator().manual_seed(3)
        walk(scheduler, seed=None, generator=generator)
        left.append(torch.randn(3, generator=generator))
    assert torch.equal(*left)


@pytest.mark.parametrize("name", [MULTISTEP, SINGLESTEP])
def test_there_may_be_a_generator_for_each_sample(name: str) -> None:
    walks = []
    for scheduler in both(name, {**SHORT, **SDE}):
        scheduler.set_timesteps(4)
        several = [torch.Generator().manual_seed(i) for i in range(SHAPE[0])]
        walks.append(walk(scheduler, seed=None, generator=several))
    assert_same(*walks)


@every_class
@for_each("kind", [int, float, torch.tensor], ids=["int", "float", "0-d tensor"])
def test_timesteps_may_be_numbers_or_tensors(name: str, kind: Any) -> None:
    x = standard_noise()
    made = []
    for timestep in (None, kind(COUNT - 1)):
        scheduler = ours(name, SHORT)
        scheduler.set_timesteps(4)
        timestep = scheduler.timesteps[0] if timestep is None else timestep
        made.append((scheduler.scale_model_input(x, timestep), *scheduler.step(x, timestep, x, return_dict=False)))
    assert len(made[0]) == 2
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


@every_class
def test_a_run_begins_with_its_last_step_at_a_timestep_of_no_run_and_says_so(name: str) -> None:
    x, (mine, reference) = standard_noise(), both(name, SHORT)
    ends = []
    for scheduler in (mine, reference):
        scheduler.set_timesteps(3)
        with pytest.warns(UserWarning, match=f"the nearest is {COUNT - 1}") if scheduler is mine else nullcontext():
            ends.append(scheduler.step(0.1 * x, COUNT - 2, x, return_dict=False)[0])
        assert scheduler.step_index == 3
    assert difference(*ends) <= PROMISED


@every_class
def test_what_cannot_be_is_refused(name: str) -> None:
    x = standard_noise()
    scheduler = ours(name, SHORT)
    with pytest.raises(ValueError, match="call set_timesteps"):
        scheduler.step(x, COUNT - 1, x)
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        scheduler.set_timesteps(0)
    with pytest.raises(ValueError, match=f"num_inference_steps is {COUNT + 1}"):
        scheduler.set_timesteps(COUNT + 1)
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match="shape"):
        scheduler.step(x[:, :, :4], COUNT - 1, x)
    walk(scheduler)
    with pytest.raises(IndexError, match="3 evaluations"):
        scheduler.step(x, scheduler.timesteps[-1].item(), x)
    with pytest.raises(ValueError, match=r"order is 0"):
        ours(name, {"solver_order": 0}).set_timesteps(3)


@pytest.mark.parametrize("name", [MULTISTEP, SINGLESTEP, UNIPC])
def test_flow_predictions_are_for_data_predictions_only_as_in_diffusers(name: str) -> None:
    noise = {"predict_x0": False} if name == UNIPC else {"algorithm_type": "dpmsolver", **SIGMA_MIN}
    reference = getattr(diffusers, name)(**SHORT, **FLOW, **noise)
    reference.set_timesteps(3)
    with pytest.raises(ValueError, match="flow_prediction"):
        walk(reference)
    with pytest.raises(ValueError, match='"flow_prediction" is for data predictions only: set '):
        ours(name, {**FLOW, **noise})
