"""Area `set_timesteps`: what beginning a run costs, and making its plan."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch

import diffusolve
from benchmarks.suite.loops import configured
from benchmarks.suite.machine import machine
from benchmarks.suite.peers import attempted_loop, diffusers, missing, quiet
from benchmarks.suite.result import Figure, Goal, Result, Table, at_least, at_most
from benchmarks.suite.settings import Settings
from benchmarks.suite.timing import Effort, Loop, interleaved, repeated, threads
from diffusolve.catalog import CATALOG
from diffusolve.catalog import sampler as sampler_called
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from diffusolve.sampling import Sampler
from diffusolve.schedulers.compatible import KarrasDiffusionSchedulers

__all__ = ["CURVES", "clear_caches", "is_multistep", "measure", "names"]

STEPS = 20

CLASSES = tuple(kind.name for kind in KarrasDiffusionSchedulers)

CURVES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "karras": {"use_karras_sigmas": True},
        "exponential": {"use_exponential_sigmas": True},
        "beta": {"use_beta_sigmas": True},
    }
)
"""Where the steps fall -> the configuration that says so, for classes that have the key."""

MICRO = 1e6


def names() -> tuple[str, ...]:
    """What can be measured."""
    return (*CLASSES, *(name for name, entry in CATALOG.items() if not entry.solver.adaptive))


def measure(settings: Settings) -> Result:
    """Measure it."""
    cases = [
        (name, curve)
        for name in CLASSES
        if settings.wants(name)
        for curve, config in CURVES.items()
        if set(config) <= set(inspect.signature(getattr(diffusolve, name).__init__).parameters)
    ]
    samplers = [name for name, made in CATALOG.items() if settings.wants(name) and not made.solver.adaptive]
    library, effort = diffusers(), settings.effort
    tables = []

    def add(name: str, title: str, peer: str | None, figures: Iterator[Figure]) -> None:
        settings.tell(f"set_timesteps: {title}")
        if made := tuple(figures):
            tables.append(Table(name, title, "us", peer, made))

    def compared(make: Callable[[Any, Mapping[str, Any]], Loop]) -> Iterator[Figure]:
        for name, curve in cases:
            yield _figure(name, curve, library, make, effort)

    peer = "diffusers" if library else None
    steps = f"set_timesteps({STEPS}), microseconds"
    with torch.no_grad(), quiet(), threads(1):
        add("cold", f"{steps}: a new scheduler, nothing in any cache", peer, compared(_cold))
        add("cached", f"{steps}: the same scheduler again", peer, compared(_cached))
        add("constructed", f"{steps}: and making the scheduler, nothing in any cache", peer, compared(_constructed))
        plans = (figure for name in samplers for figure in _plan_figures(name, effort))
        add("planning", f"A plan of {STEPS} steps, microseconds", None, plans)
    goals = [*_goals(tables), *_plan_goals(tables)]
    notes = () if library else (missing("diffusers"),)
    return Result("set_timesteps", effort.quick, machine(), tuple(tables), tuple(goals), notes)


def clear_caches() -> None:
    """Forget everything that the library remembers between calls."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "diffusolve":
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def is_multistep(plan: Plan) -> bool:
    """Whether steps begin with something remembered from steps before."""
    return any(stage.stage == 0 and len(live) > 1 for stage, live in zip(plan.stages, plan.live(), strict=True))


def _figure(
    name: str, curve: str, library: Any, make: Callable[[Any, Mapping[str, Any]], Loop], effort: Effort
) -> Figure:
    config = CURVES[curve]
    contestants, note = {"here": make(getattr(diffusolve, name), config)}, ""
    try:
        contestants["here"]()
    except ImportError as error:  # SciPy, torchsde
        return Figure(name, curve, None, note=str(error))
    if library is not None:
        there, note = attempted_loop(lambda: make(getattr(library, name), config))
        if there is not None:
            contestants["there"] = there
    medians, rounds = interleaved(contestants, effort)
    theirs = medians["there"] * MICRO if "there" in medians else None
    return Figure(name, curve, medians["here"] * MICRO, theirs, rounds=rounds, note=note)


def _cold(kind: Any, config: Mapping[str, Any]) -> Loop:
    def loop() -> float:
        clear_caches()
        scheduler = configured(kind, **config)
        begun = time.perf_counter()
        scheduler.set_timesteps(STEPS)
        return time.perf_counter() - begun

    return loop


def _cached(kind: Any, config: Mapping[str, Any]) -> Loop:
    scheduler = configured(kind, **config)
    return repeated(lambda: scheduler.set_timesteps(STEPS), 5)


def _constructed(kind: Any, config: Mapping[str, Any]) -> Loop:
    def loop() -> float:
        clear_caches()
        begun = time.perf_counter()
        configured(kind, **config).set_timesteps(STEPS)
        return time.perf_counter() - begun

    return loop


def _plan_figures(name: str, effort: Effort) -> Iterator[Figure]:
    recipe = sampler_called(name)
    multistep = {"multistep": is_multistep(recipe.plan(SD15, "epsilon", STEPS))}
    loops = {"cold": _cold_plan(recipe), "cached": repeated(lambda: recipe.plan(SD15, "epsilon", STEPS), 20)}
    for column, loop in loops.items():
        medians, rounds = interleaved({"here": loop}, effort)
        yield Figure(name, column, medians["here"] * MICRO, rounds=rounds, details=multistep)


def _cold_plan(recipe: Sampler) -> Loop:
    def loop() -> float:
        clear_caches()
        begun = time.perf_counter()
        recipe.plan(SD15, "epsilon", STEPS)
        return time.perf_counter() - begun

    return loop


def _goals(tables: list[Table]) -> Iterator[Goal]:
    for table in tables:
        if table.name in ("cold", "cached"):
            each = 1.0 if table.name == "cold" else 20.0
            yield from at_least(f"set_timesteps {table.name} against diffusers", table.ratios(table.columns), each)


def _plan_goals(tables: list[Table]) -> Iterator[Goal]:
    for table in tables:
        if table.name == "planning":
            for column, limit in (("cold", 1000.0), ("cached", 10.0)):
                multistep = {
                    figure.row: figure.here
                    for figure in table.figures
                    if figure.column == column and figure.here is not None and figure.details["multistep"]
                }
                yield at_most(f"{column} plans of multistep samplers", multistep, limit, " us")
