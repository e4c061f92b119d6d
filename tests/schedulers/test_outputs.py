"""What `step` returns: a dictionary with attributes, one field of which may follow from what the step was given."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusolve import AmusedScheduler, DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusolve.schedulers.outputs import SchedulerOutput, SchedulerOutputWithData


def step(scheduler: Any, **options: Any) -> tuple[Any, Tensor, Tensor]:
    scheduler.set_timesteps(5)
    sample, output = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3, 4, 4)
    return scheduler.step(output, scheduler.timesteps[0], sample, **options), output, sample


def test_an_output_is_a_dictionary_in_all_its_ways() -> None:
    out, _, _ = step(DDIMScheduler())
    data = out.pred_original_sample
    assert isinstance(out, dict)
    assert list(out) == list(out.keys()) == list(reversed([*reversed(out)])) == ["prev_sample", "pred_original_sample"]
    for plain in (dict(out), {**out}, dict(**out), out.copy(), out | {}, {} | out, dict(out.items())):
        assert type(plain) is dict
        assert plain["pred_original_sample"] is data
    assert out[0] is out["prev_sample"] is out.get("prev_sample") is out.prev_sample
    assert out[:2][1] is data
    assert len(out) == 2
    assert "prev_sample" in out
    assert "nothing" not in out
    assert out == dict(out)
    assert bool(out)


def test_fields_are_set_as_attributes_and_by_key() -> None:
    out, _, _ = step(EulerDiscreteScheduler())
    first, second = torch.zeros(1), torch.ones(1)
    out.pred_original_sample = first
    out["prev_sample"] = second
    assert out["pred_original_sample"] is first
    assert out.to_tuple() == (second, first)
    out.update(prev_sample=first)
    out |= {"pred_original_sample": second}
    assert out.to_tuple() == (first, second)
    out.note = "mine"
    assert copy.copy(out).note == "mine"
    with pytest.raises(KeyError, match="its fields are prev_sample, pred_original_sample"):
        out["nothing"] = first
    for remove in (out.clear, out.popitem, lambda: out.pop("prev_sample"), lambda: out.__delitem__("prev_sample")):
        with pytest.raises(TypeError, match="no field can be removed"):
            remove()


def test_outputs_are_rebuilt_from_mappings_and_pickles() -> None:
    out, _, _ = step(DDIMScheduler())
    rebuilt = type(out)({key: 2 * value for key, value in out.items()})
    named = SchedulerOutputWithData(prev_sample=out[0], pred_original_sample=out[1])
    assert torch.equal(rebuilt.prev_sample, 2 * out.prev_sample)
    assert torch.equal(rebuilt.pred_original_sample, 2 * out.pred_original_sample)
    assert named.to_tuple() == out.to_tuple()
    for again in (pickle.loads(pickle.dumps(out)), copy.deepcopy(out)):
        assert type(again) is type(out)
        assert torch.equal(again.pred_original_sample, out.pred_original_sample)
    assert SchedulerOutput({"prev_sample": out[0]}).prev_sample is out[0]


def test_pytrees_map_over_the_outputs_of_every_kind() -> None:
    from torch.utils import _pytree

    scheduler = AmusedScheduler(mask_token_id=7)
    scheduler.set_timesteps(2)
    logits, tokens = torch.randn(1, 4, 7), torch.full((1, 4), 7)
    outputs: list[Mapping[str, Tensor]] = [
        step(DDIMScheduler())[0],
        step(DPMSolverMultistepScheduler())[0],
        scheduler.step(logits, scheduler.timesteps[0], tokens),
    ]
    for out in outputs:
        doubled = _pytree.tree_map(lambda field: 2 * field, out)
        assert type(doubled) is type(out)
        assert all(torch.equal(doubled[key], 2 * value) for key, value in out.items())


@pytest.mark.parametrize("written", ["the sample", "the network's output"])
@pytest.mark.parametrize("as_tuple", [False, True])
def test_a_prediction_read_after_its_tensors_were_written_to_raises(written: str, as_tuple: bool) -> None:
    out, output, sample = step(DDIMScheduler(), return_dict=not as_tuple)
    (sample if written == "the sample" else output).zero_()
    with pytest.raises(RuntimeError, match=f"{written} .* has been written to since"):
        _ = out[1]
    assert out[0].shape == sample.shape


def test_a_prediction_that_was_read_stays() -> None:
    out, _, sample = step(DDIMScheduler())
    before = out.pred_original_sample.clone()
    sample.zero_()
    assert torch.equal(out.pred_original_sample, before)


def test_in_inference_mode_predictions_are_there() -> None:
    with torch.inference_mode():
        out, _, _ = step(EulerDiscreteScheduler())
        assert out.pred_original_sample.shape == out.prev_sample.shape
