"""Options that are NaN, infinite or huge: an error that names them, or a plan of finite numbers; never neither."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from math import inf, isfinite, nan
from typing import Any

import pytest
import torch

import diffusolve
from diffusolve.backends import Clip
from diffusolve.denoisers import ClassifierFreeGuidance, GaussianDenoiser
from diffusolve.noise import NOISE_SCHEDULES, SD15, NoiseSchedule
from diffusolve.plan import Plan
from diffusolve.sampling import Sampler
from diffusolve.solvers import SOLVERS, dpm_adaptive, euler
from diffusolve.spacing import SPACINGS, Spacing, spacing
from tests.tables import for_each

HUGE = 10**400
VALUES = (nan, inf, -inf, 1e308, HUGE)


def is_option(default: object) -> bool:
    return default is None or (isinstance(default, int | float) and not isinstance(default, bool))


def nonsense(value_of: Callable[[], Plan], option: str, value: Any) -> str | None:
    """What is wrong about a plan that is made with an option that has this value, or None."""
    try:
        plan = value_of()
    except (ValueError, TypeError) as error:
        named = option in str(error)
        return None if named or (value != value and "NaN" in str(error)) or value in (inf, -inf, 1e308) else str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    numbers = [c for stage in plan.stages for write in stage.update.writes for _, c in write.terms]
    if not all(map(isfinite, [*numbers, *plan.sigmas])):
        return "not finite"
    return "NaN has no effect" if value != value else "so large a number has no effect" if value == HUGE else None


def options_of_solvers() -> Iterator[tuple[str, str]]:
    for name, solver in SOLVERS.items():
        for option, default in solver.defaults.items():
            if is_option(default) and not solver.adaptive:
                yield name, option


@for_each(("solver", "option"), options_of_solvers())
def test_options_of_solvers(solver: str, option: str) -> None:
    for value in VALUES:
        made = lambda value=value: Sampler(  # noqa: E731
            SOLVERS[solver].with_options(**{option: value}), spacing("karras")
        ).plan(SD15, "epsilon", 5)
        wrong = nonsense(made, option, value)
        assert wrong is None, f"{value}: {wrong}"


def fields_of(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        for field in dataclasses.fields(value):
            if is_option(getattr(value, field.name)):
                yield name, field.name


GIVEN_SPACINGS: dict[str, Spacing] = {name: spacing(name) for name in SPACINGS}


@for_each(("name", "option"), fields_of(GIVEN_SPACINGS))
def test_options_of_spacings(name: str, option: str) -> None:
    pytest.importorskip("scipy")
    for value in (*VALUES, 0.0, -1.0):
        made = lambda value=value: Sampler(  # noqa: E731
            euler, dataclasses.replace(GIVEN_SPACINGS[name], **{option: value})
        ).plan(SD15, "epsilon", 5)
        wrong = nonsense(made, option, value)
        assert wrong is None or value in (0.0, -1.0), f"{value}: {wrong}"
        assert wrong is None or "Error: " not in wrong, f"{value}: {wrong}"


GIVEN_SCHEDULES: dict[str, NoiseSchedule] = dict(NOISE_SCHEDULES)


@for_each(("name", "option"), [row for row in fields_of(GIVEN_SCHEDULES) if row[1] != "trained_betas"])
def test_parameters_of_noise_schedules(name: str, option: str) -> None:
    kind = "flow" if type(GIVEN_SCHEDULES[name]).__name__ == "FlowMatching" else "v_prediction"
    for value in VALUES:
        made = lambda value=value: Sampler(euler, spacing("karras")).plan(  # noqa: E731
            dataclasses.replace(GIVEN_SCHEDULES[name], **{option: value}),  # type: ignore[type-var]
            kind,
            5,
        )
        wrong = nonsense(made, option, value)
        assert wrong is None, f"{value}: {wrong}"


@for_each("count", [10**12, 2**62, 1_000_001, 1, 0, -5, 2.5])
def test_a_schedule_has_as_many_training_timesteps_as_memory_holds(count: Any) -> None:
    for schedule in NOISE_SCHEDULES.values():
        if getattr(schedule, "trained_betas", None) is None and "num_train_timesteps" in vars(schedule):
            with pytest.raises(ValueError, match="num_train_timesteps"):
                dataclasses.replace(schedule, num_train_timesteps=count)  # type: ignore[type-var]


def test_restarts_are_as_many_as_memory_holds() -> None:
    solver = SOLVERS["restart"].with_options(restart_list={0.1: (10, 10**12, 2.0)})
    with pytest.raises(ValueError, match=r"restart_list has 10 sigmas 1e\+12 times: expected at most 100,000 steps"):
        Sampler(solver, spacing("karras")).plan(SD15, "epsilon", 5)


# Steps that are chosen by the data


class Answering:
    """A network that answers a function of the exact prediction."""

    noise_schedule = SD15

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor] = lambda data: data) -> None:
        self.exact = GaussianDenoiser(SD15, torch.tensor(0.5), torch.tensor(0.3))
        self.prediction = self.exact.prediction
        self.change = change

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.change(self.exact(x, timestep))


def adaptive(network: Answering, **options: float) -> torch.Tensor:
    sampler = diffusolve.sampler("DPM adaptive", **options)
    x = diffusolve.start(sampler.grid(SD15, 1), torch.empty(2, 1, 2, 2), 0)
    made: torch.Tensor = diffusolve.sample(network, x, sampler)
    return made


def test_an_adaptive_solver_ends_where_the_network_says_nan() -> None:
    with pytest.raises(ValueError, match="the network's output is NaN by sigma"):
        adaptive(Answering(lambda data: data * nan))


def test_an_adaptive_solver_ends_where_its_steps_get_ever_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dpm_adaptive.function.__globals__, "MOST_STEPS", 200)
    with pytest.raises(ValueError, match=r"does not get on from sigma .* expected larger rtol and atol"):
        adaptive(Answering(lambda data: data + torch.randn_like(data)), rtol=0.0, atol=1e-12)


@for_each(
    ("option", "value"),
    [
        (option, value)
        for option, values in {
            "rtol": (nan, inf, -1.0),
            "atol": (nan, inf, -1.0),
            "h_init": (nan, inf, 0.0, -1.0),
            "accept_safety": (nan, inf, 0.0, 1.1),
            "pcoeff": (nan, inf, -inf, 1e308),
            "icoeff": (nan, inf, -inf, 1e308),
            "dcoeff": (nan, inf, -inf, 1e308),
            "eta": (nan, inf, -1.0),
        }.items()
        for value in values
    ],
)
def test_options_of_an_adaptive_solver(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        adaptive(Answering(), **{option: value})


# Elsewhere


@for_each("scale", [nan, inf, -inf, HUGE, "2", None])
def test_guidance_is_a_number(scale: Any) -> None:
    label = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"scale is .*: expected a finite number"):
        ClassifierFreeGuidance(lambda x, t, c: x, label, label, scale)


@for_each("limit", [nan, -1.0, -inf])
def test_a_limit_is_not_negative(limit: float) -> None:
    with pytest.raises(ValueError, match=r"limit is .*: expected at least 0"):
        Clip(limit)
