"""What all scheduler classes share: runs, members, outputs, errors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import diffusolve
from diffusolve.config import config_keys
from diffusolve.schedulers.compatible import COMPATIBLE
from tests.tables import for_each

CLASSES = list(COMPATIBLE)
SHAPE = (2, 4, 8, 8)


def network(x: torch.Tensor, timestep: Any) -> torch.Tensor:
    return torch.tanh(x + x.roll(1, -1) / 2 + float(timestep) / 1000)


def made(name: str, steps: int | None = 6, **options: Any) -> Any:
    if name == "DPMSolverSDEScheduler":
        options.setdefault("noise_sampler_seed", 0)
    scheduler = getattr(diffusolve, name)(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **options)
    if steps is not None:
        scheduler.set_timesteps(steps)
    return scheduler


def noise(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def advance(scheduler: Any, x: torch.Tensor, timestep: Any, generator: torch.Generator | None = None) -> torch.Tensor:
    drawing = {} if generator is None or not takes_generator(scheduler) else {"generator": generator}
    output = network(scheduler.scale_model_input(x, timestep), timestep)
    return scheduler.step(output, timestep, x, **drawing).prev_sample


def takes_generator(scheduler: Any) -> bool:
    return "generator" in scheduler.step.__code__.co_varnames


def walked(scheduler: Any, x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    for timestep in scheduler.timesteps:
        x = advance(scheduler, x, timestep, generator)
    return x


@for_each("name", CLASSES)
def test_a_class_can_be_imported_from_the_top_and_tells_its_length(name: str) -> None:
    scheduler = made(name, None)
    assert len(scheduler) == 1000
    assert type(scheduler).__name__ == name
    assert {kind.__name__ for kind in scheduler.compatibles} == {*CLASSES, "EDMEulerScheduler"}


@for_each("name", CLASSES)
@for_each("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_sample_keeps_its_precision(name: str, dtype: torch.dtype) -> None:
    scheduler = made(name)
    x = noise(dtype) * float(scheduler.init_noise_sigma)
    result = walked(scheduler, x)
    assert result.dtype == dtype
    assert bool(result.isfinite().all())


@for_each("name", CLASSES)
def test_timesteps_may_be_tensors_ints_or_floats(name: str) -> None:
    results = []
    for convert in (lambda t: t, float, lambda t: int(t) if t == int(t) else float(t), lambda t: t.clone()):
        scheduler = made(name)
        generator = torch.Generator().manual_seed(1)
        x = noise() * float(scheduler.init_noise_sigma)
        for timestep in scheduler.timesteps:
            x = advance(scheduler, x, convert(timestep), generator)
        results.append(x)
    assert all(torch.equal(results[0], other) for other in results[1:])


@for_each("name", CLASSES)
@for_each("copied", [copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
def test_a_copy_made_in_mid_run_goes_on_by_itself(name: str, copied: Any) -> None:
    original = made(name)
    generator = torch.Generator().manual_seed(3)
    x = noise() * float(original.init_noise_sigma)
    for timestep in original.timesteps[:3]:
        x = advance(original, x, timestep, generator)
    other = copied(original)
    state = generator.get_state()
    results = []
    for scheduler in (original, other):
        generator.set_state(state)
        y = x
        for timestep in original.timesteps[3:].tolist():
            y = advance(scheduler, y, timestep, generator)
        results.append(y)
    assert torch.equal(*results)


@for_each("name", CLASSES)
def test_set_timesteps_begins_anew(name: str) -> None:
    scheduler = made(name)
    x = noise() * float(scheduler.init_noise_sigma)
    first = walked(scheduler, x)
    scheduler.set_timesteps(4)
    walked(scheduler, x)
    scheduler.set_timesteps(6)
    assert torch.equal(walked(scheduler, x), first)


@for_each("name", CLASSES)
def test_nothing_that_the_caller_owns_is_written_to(name: str) -> None:
    scheduler = made(name)
    x = noise() * float(scheduler.init_noise_sigma)
    generator = torch.Generator().manual_seed(1)
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, timestep), timestep)
        before = x.clone(), output.clone()
        drawing = {"generator": generator} if takes_generator(scheduler) else {}
        following = scheduler.step(output, timestep, x, **drawing)[0]
        assert torch.equal(x, before[0])
        assert torch.equal(output, before[1])
        assert following.data_ptr() not in (x.data_ptr(), output.data_ptr())
        x = following


@for_each("name", CLASSES)
def test_the_result_is_read_as_attribute_key_index_and_tuple(name: str) -> None:
    scheduler, x = made(name), noise()
    timestep = scheduler.timesteps[0]
    twin = copy.deepcopy(scheduler)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    drawings = [{"generator": g} if takes_generator(scheduler) else {} for g in generators]
    result = scheduler.step(network(x, timestep), timestep, x, **drawings[0])
    plain = twin.step(network(x, timestep), timestep, x, return_dict=False, **drawings[1])
    assert isinstance(plain, tuple)
    assert torch.equal(result.prev_sample, plain[0])
    assert result["prev_sample"] is result[0] is result.prev_sample is result.to_tuple()[0]
    assert len(plain) == len(result) == len(tuple(plain))
    if "pred_original_sample" in result:
        assert torch.equal(result.pred_original_sample, plain[1])
        assert torch.equal(result["pred_original_sample"], tuple(plain)[1])
        assert result.pred_original_sample is result[1]
    with pytest.raises(KeyError):
        result["sample"]
    with pytest.raises(IndexError):
        result[2]


HISTORY = [name for name in CLASSES if name not in ("DDIMScheduler", "DDPMScheduler")]


@for_each("name", HISTORY)
def test_one_step_too_many_says_how_many_there_were(name: str) -> None:
    scheduler = made(name)
    x = walked(scheduler, noise())
    with pytest.raises(IndexError, match=str(len(scheduler.timesteps))):
        scheduler.step(x, scheduler.timesteps[-1].item(), x)


@for_each("name", [name for name in CLASSES if name != "DDPMScheduler"])
def test_a_step_before_set_timesteps_is_one_of_all_training_timesteps_or_says_to_call_it(name: str) -> None:
    scheduler, x = made(name, None), noise()
    if hasattr(scheduler, "sigmas") and scheduler.init_noise_sigma != 1.0:
        assert scheduler.step(x, scheduler.timesteps[0], x).prev_sample.shape == x.shape
        assert scheduler.num_inference_steps in (None, 1000)  # as many where diffusers' constructor sets timesteps
        return
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(x, 999, x)


@for_each("name", HISTORY)
def test_a_timestep_that_is_none_of_the_runs_is_named_with_the_nearest(name: str) -> None:
    scheduler, x = made(name), noise()
    message = r"timestep 123\.25 .* nearest"
    if scheduler.begins_with_last:  # as in diffusers
        with pytest.warns(UserWarning, match=message):
            scheduler.step(x, 123.25, x)
        assert scheduler.step_index == len(scheduler.timesteps)
        return
    with pytest.raises(ValueError, match=message):
        scheduler.step(x, 123.25, x)


@for_each("name", CLASSES)
def test_an_output_of_another_shape_is_refused(name: str) -> None:
    scheduler, x = made(name), noise()
    with pytest.raises(ValueError, match=r"shape|channels"):
        scheduler.step(x[:, :3], scheduler.timesteps[0], x)


@for_each("name", CLASSES)
@for_each("steps", [0, -3, 1001])
def test_a_number_of_steps_that_the_table_does_not_hold_is_refused(name: str, steps: int) -> None:
    with pytest.raises(ValueError, match=str(steps)):
        made(name, steps)


@for_each("name", CLASSES)
@for_each(
    ("options", "words"),
    [
        ({"beta_schedule": "scaled_linaer"}, "scaled_linear"),
        ({"prediction_type": "epsilom"}, "epsilon"),
    ],
)
def test_an_unknown_choice_is_answered_with_the_nearest(name: str, options: dict[str, Any], words: str) -> None:
    config = {"beta_schedule": "linear", **options}
    with pytest.raises(ValueError, match=words):
        getattr(diffusolve, name)(**config)


WITH_CURVES = [name for name in HISTORY if "use_karras_sigmas" in config_keys(getattr(diffusolve, name))]


@for_each("name", WITH_CURVES)
def test_curves_that_exclude_each_other_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="use_karras_sigmas and use_exponential_sigmas"):
        made(name, None, use_karras_sigmas=True, use_exponential_sigmas=True)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler"])
def test_timesteps_and_sigmas_at_once_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="both timesteps and sigmas"):
        made(name, None).set_timesteps(timesteps=[10, 5], sigmas=[2.0, 1.0, 0.0])


@for_each("name", CLASSES)
def test_noise_is_added_by_the_training_table_before_set_timesteps(name: str) -> None:
    scheduler = made(name, None)
    x0, eps, timesteps = noise(), noise().flip(0), torch.tensor([0, 700])
    power = scheduler.alphas_cumprod[timesteps].reshape(2, 1, 1, 1)
    alpha, sigma = power.sqrt(), (1 - power).sqrt()
    noisy = scheduler.add_noise(x0, eps, timesteps)
    straight = float(scheduler.init_noise_sigma) > 2  # samples are scaled to alpha = 1
    torch.testing.assert_close(noisy, x0 + sigma / alpha * eps if straight else alpha * x0 + sigma * eps)


@for_each("name", CLASSES)
def test_the_loop_reads_no_tensor_back_from_a_device(name: str) -> None:
    """Fake tensors have no data: any read of a value raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    if name == "DPMSolverSDEScheduler":
        pytest.skip("a Brownian tree is read on the host")
    scheduler = made(name)
    timesteps = list(scheduler.timesteps)
    with FakeTensorMode():
        x = torch.randn(SHAPE)
        for timestep in timesteps:
            x = scheduler.step(torch.tanh(scheduler.scale_model_input(x, timestep)), timestep, x, return_dict=False)[0]
    assert x.shape == SHAPE


def test_a_configuration_replaced_by_a_pipeline_takes_effect() -> None:
    """Stable Diffusion pipelines replace what outdated files say of steps_offset and clip_sample."""
    scheduler = made("DDIMScheduler", None, clip_sample=True, steps_offset=0)
    scheduler._internal_dict = {**scheduler.config, "clip_sample": False, "steps_offset": 1}
    expected = made("DDIMScheduler", clip_sample=False, steps_offset=1)
    scheduler.set_timesteps(6)
    assert torch.equal(scheduler.timesteps, expected.timesteps)
    x = 3 * noise()
    assert torch.equal(walked(scheduler, x), walked(expected, x))
