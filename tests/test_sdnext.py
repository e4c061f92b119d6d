"""The entries for SD.Next, in a stand-in for its list of samplers."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest

import diffusolve
from integrations.sdnext import diffusolve_samplers as entries

SamplerData = namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])


class Samplers(SimpleNamespace):
    """As much of `sd_samplers` as the entries call."""

    listed: Any = ()
    was_set: bool = False

    def list_samplers(self) -> None:
        self.listed = [each.name for each in self.all]

    def set_samplers(self) -> None:
        self.was_set = True


def test_entries_are_added_once_and_make_schedulers_for_the_model() -> None:
    all_samplers = [SamplerData("Euler a", None, [], {})]
    samplers = Samplers(all=all_samplers)
    added = entries.add(samplers, all_samplers, SamplerData)
    assert {"diffusolve Euler a", "diffusolve DPM++ 2M Karras", "diffusolve Flow SDE"} <= {*added}
    assert samplers.listed == ["Euler a", *added]
    assert samplers.was_set
    assert not entries.add(samplers, all_samplers, SamplerData)
    stable = diffusolve.EulerDiscreteScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    flow = diffusolve.FlowMatchEulerDiscreteScheduler(shift=3.0)
    by_name = {each.name: each for each in all_samplers}
    for model in (SimpleNamespace(default_scheduler=stable), SimpleNamespace(scheduler=flow), None):
        made = by_name["diffusolve DPM++ 2M Karras"].constructor(model)
        assert type(made.sampler).__name__ == "DPMSolverMultistepScheduler"
        assert made.config["use_karras_sigmas"]
    assert made.name == "diffusolve DPM++ 2M Karras"
    of_stable = by_name["diffusolve DPM++ 2M"].constructor(SimpleNamespace(default_scheduler=stable))
    assert of_stable.config["prediction_type"] == "v_prediction"


def test_every_entry_makes_a_scheduler_or_says_why_not() -> None:
    without = []
    for entry in entries.entries(SamplerData):
        made = entry.constructor(None) if entry.name not in NOT_FOR_BETAS else None
        if made is not None and made.sampler is None:
            without.append(entry.name)
    assert not without
    flow = SimpleNamespace(scheduler=diffusolve.FlowMatchEulerDiscreteScheduler())
    with pytest.warns(UserWarning, match="diffusolve DDPM: "):
        assert entries.Sampler("diffusolve DDPM", flow).sampler is None


NOT_FOR_BETAS = {"diffusolve iPNDM", "diffusolve Flow SDE", "diffusolve Dance SDE"}
