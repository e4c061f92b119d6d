"""Running a scheduler class of ours and the one of diffusers side by side."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve
from tests.parity.network import StandInNetwork, standard_noise
from tests.tables import in_pairs

diffusers = pytest.importorskip("diffusers", reason="these tests compare with diffusers, which is not installed")

__all__ = [
    "PROMISED",
    "SHORT",
    "STABLE_DIFFUSION",
    "Walk",
    "assert_same",
    "assert_signatures_begin_as_in_diffusers",
    "both",
    "combinations",
    "difference",
    "generators",
    "name_of",
    "ours",
    "theirs",
    "walk",
]

PROMISED = 1e-4
"""The relative error in float32 that the library promises."""

STABLE_DIFFUSION: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

SHORT: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.007,
    "beta_end": 0.11,
    "num_train_timesteps": 100,
}
"""About the same noise levels over fewer training timesteps, with which schedulers of diffusers are made sooner."""


@dataclass(frozen=True)
class Walk:
    """What a walk from noise to data showed.

    Attributes:
        scheduler: after the walk.
        samples: what each step led to.
        data: the last step's prediction of x0, where the class has it.
    """

    scheduler: Any
    samples: tuple[Tensor, ...]
    data: Tensor | None


@cache
def _constructed(name: str, config: str) -> Any:
    return getattr(diffusers, name)(**json.loads(config))


def theirs(name: str, config: Mapping[str, Any]) -> Any:
    """The scheduler of diffusers, made as a copy where possible: some constructors take half a second."""
    return copy.deepcopy(_constructed(name, json.dumps(dict(config))))


def ours(name: str, config: Mapping[str, Any]) -> Any:
    """Our scheduler of this name."""
    return getattr(diffusolve, name)(**config)


def both(name: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Ours and theirs."""
    return ours(name, config), theirs(name, config)


def generators(scheduler: Any, seed: int | None) -> dict[str, torch.Generator]:
    """The argument of ``step`` that it draws its noise from, if it takes one."""
    if seed is None or "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    return {"generator": torch.Generator().manual_seed(seed)}


def walk(
    scheduler: Any,
    *,
    first: int = 0,
    begin_index: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int | None = 1,
    output: Callable[[Tensor], Tensor] = lambda made: made,
    **step_options: Any,
) -> Walk:
    """Walk with a scheduler whose timesteps are set, with a network that depends smoothly on all that it is shown.

    Args:
        first: the place among the timesteps to start at, from data with as much noise as belongs there.
        begin_index: what to tell ``set_begin_index``; it is not called when missing.
        dtype: of samples and outputs.
        seed: of the generator that ``step`` is given; none is given when missing.
        output: what a network with more outputs makes of the prediction.
        step_options: for ``step``.
    """
    timesteps = scheduler.timesteps[first:]
    if begin_index is not None:
        scheduler.set_begin_index(begin_index)
    x = standard_noise(0, dtype)
    if first:
        x = scheduler.add_noise(0.3 * standard_noise(1, dtype), x, timesteps[:1].repeat(len(x)))
    else:
        x = x * float(scheduler.init_noise_sigma)
    network = StandInNetwork(float(scheduler.config["num_train_timesteps"]))
    options = {**generators(scheduler, seed), **step_options}
    samples, data = [], None
    with torch.no_grad():
        for timestep in timesteps:
            seen = scheduler.scale_model_input(x, timestep)
            assert seen.dtype == dtype
            made = scheduler.step(output(network(seen, timestep).to(dtype)), timestep, x, **options)
            x = made.prev_sample
            assert x.dtype == dtype
            samples.append(x)
            data = getattr(made, "pred_original_sample", None)
    return Walk(scheduler, tuple(samples), data)


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of any element, in units of the largest element."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-12))


def assert_same(mine: Walk, reference: Walk, *, within: float = PROMISED, timesteps_within: float = 1e-6) -> None:
    """Both took the same steps to the same samples.

    Args:
        within: the relative error of samples, sigmas and the like.
        timesteps_within: the error of timesteps, in units of how many there are in training.
    """
    a, b = mine.scheduler, reference.scheduler
    assert a.timesteps.dtype == b.timesteps.dtype
    assert a.timesteps.shape == b.timesteps.shape
    distance = (a.timesteps.double() - b.timesteps.double()).abs().max()
    assert float(distance) <= timesteps_within * b.config["num_train_timesteps"]
    if hasattr(b, "sigmas"):
        assert a.sigmas.shape == b.sigmas.shape
        assert difference(a.sigmas, b.sigmas) <= within
    assert float(a.init_noise_sigma) == pytest.approx(float(b.init_noise_sigma), rel=within)
    assert torch.isfinite(reference.samples[-1]).all(), "the reference's own numbers are finite"
    for x, y in zip(mine.samples, reference.samples, strict=True):
        assert difference(x, y) <= within
    if reference.data is not None:
        assert mine.data is not None
        assert difference(mine.data, reference.data) <= within


def assert_signatures_begin_as_in_diffusers(name: str) -> None:
    """The constructor and `step` take what diffusers' take, and `set_timesteps` perhaps more, after it.

    There an argument may be left out that diffusers insists on, where others can take its place.
    """
    for method in ("__init__", "set_timesteps", "step"):
        mine, reference = (
            list(inspect.signature(getattr(getattr(library, name), method)).parameters.values())
            for library in (diffusolve, diffusers)
        )
        more = mine[len(reference) :] if method == "set_timesteps" else []
        assert [p.name for p in mine] == [p.name for p in (*reference, *more)], method
        assert {p.name for p in more} <= {"timesteps", "sigmas", "mu"}
        for own, other in zip(mine, reference, strict=False):
            assert own.default == other.default or (other.default is other.empty and own.default is None), own


def combinations(**options: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Combinations of one value of each option, in which each two values of different options meet.

    A value of None leaves the option out, a mapping stands for options of its own.
    """
    for values in in_pairs(*options.values()):
        made: dict[str, Any] = {}
        for key, value in zip(options, values, strict=True):
            made |= value if isinstance(value, Mapping) else {} if value is None else {key: value}
        yield made


def name_of(value: Any) -> str:
    """A test's name for a configuration."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={entry}"[:40] for key, entry in value.items()) or "default"
    return str(value)
