"""Samplers of diffusolve in SD.Next: copy this file to `extensions/diffusolve/scripts/`; see README.md."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import diffusolve
from diffusolve.catalog import CATALOG

__all__ = ["PREFIX", "Sampler", "add", "entries"]

PREFIX = "diffusolve "
"""What the names begin with in SD.Next, which has samplers of its own by most of them."""

SCHEDULES = ("", " Karras")
"""The schedule types that each sampler is listed with: its own, and Karras."""


class Sampler:
    """A sampler as SD.Next makes one for a model.

    Attributes:
        name: as SD.Next lists it.
        sampler: the scheduler that takes the place of the model's; None where the model cannot be sampled by it, for
            which SD.Next falls back to the model's own.
        config: the scheduler's configuration.
    """

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self.sampler: Any = None
        like = getattr(model, "default_scheduler", None) or getattr(model, "scheduler", None)
        like = diffusolve.EulerDiscreteScheduler() if like is None else like
        try:
            self.sampler = diffusolve.scheduler(name.removeprefix(PREFIX), like=like)
        except ValueError as error:
            warnings.warn(f"{name}: {error}", stacklevel=2)
        self.config = {} if self.sampler is None else dict(self.sampler.config)


def entries(sampler_data: Any) -> list[Any]:
    """A `sampler_data` (name, constructor, aliases, options) for each sampler of the catalog that has a class."""
    names = [
        entry.name + schedule
        for entry in CATALOG.values()
        if entry.diffusers is not None
        for schedule in SCHEDULES
        if not schedule or not (entry.diffusers.own_steps or entry.spaces_itself)
    ]
    return [sampler_data(PREFIX + name, _constructor(PREFIX + name), [], {}) for name in names]


def _constructor(name: str) -> Any:
    return lambda model: Sampler(name, model)


def add(samplers: Any, listed: list[Any], sampler_data: Any) -> Sequence[str]:
    """Put the entries into SD.Next's list, once; their names are returned.

    Args:
        samplers: its module `sd_samplers`.
        listed: its list of samplers, `sd_samplers_diffusers.samplers_data_diffusers`.
        sampler_data: its class `SamplerData`.
    """
    there = {each.name for each in listed}
    made = [each for each in entries(sampler_data) if each.name not in there]
    listed.extend(made)
    samplers.list_samplers()
    samplers.set_samplers()
    return [each.name for each in made]


try:
    from modules import sd_samplers, sd_samplers_diffusers  # type: ignore[import-not-found]
    from modules.sd_samplers_common import SamplerData  # type: ignore[import-not-found]
except ImportError:  # outside of SD.Next, as in tests
    pass
else:
    add(sd_samplers, sd_samplers_diffusers.samplers_data_diffusers, SamplerData)
