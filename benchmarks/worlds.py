"""Differences of each name in a world from the library's own reading, for ``docs/names.md``."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.against_euler import START, Denoiser
from diffusolve.catalog import CATALOG, SCHEDULE_TYPES, WORLDS, World, WorldSampler, sampler
from diffusolve.noise import NOISE_SCHEDULES, Scaling
from diffusolve.sampling import Sampler, sample

__all__ = ["sampler_differences", "schedule_differences", "tables"]

STEPS = 20
SAME = 5e-5
"""Samples of size 1 that are nearer than this are the same."""


class Guided(Denoiser):
    """A denoiser of a mixture, guided with 0.7 from one that knows nothing of where its middle is."""

    def guided_and_unguided(self, x: Any, timestep: Any) -> tuple[Any, Any]:
        guided = self(x, timestep)
        return guided, guided - 0.07 * np.ones_like(x)


def samples_of(made: Sampler, model: str) -> Any:
    """The samples that `made` makes of :data:`START`; first draws have the same noise, and second ones, and so on."""
    schedule, drawn = NOISE_SCHEDULES[model], np.random.default_rng(0)
    start = made.grid(schedule, STEPS)[0].sigma * START
    return sample(
        Guided(schedule, 0.9),
        start,
        made,
        steps=None if made.solver.adaptive else STEPS,
        noise=lambda like, sigma_from, sigma_to: drawn.standard_normal(like.shape),
    )


def sampler_differences(world: World) -> list[list[str]]:
    """A row for each name: its name here, its options, the distance of its samples on Stable Diffusion and on SD3."""
    rows = [["name", "here", "options", "apart on Stable Diffusion", "on SD3"]]
    for made in world.samplers.values():
        entry = CATALOG[made.entry]
        kind = made.automatic or ("Normal" if world.name == "comfyui" else "Uniform")
        own = sampler(entry.name, kind)
        there = sampler(made.name, "Automatic", world=world.name)
        apart = [distance(there, own, model) for model in ("sd15", "sd3")]
        rows.append([f"`{made.name}`", entry.name, options(made, own), *apart])
    return rows


def distance(there: Sampler, own: Sampler, model: str) -> str:
    """The root mean square distance of the samples of both; "-" where one of them cannot sample the model."""
    try:
        apart = float(np.sqrt(np.mean((samples_of(there, model) - samples_of(own, model)) ** 2)))
    except ValueError:
        return "-"
    return "same" if apart < SAME else f"{apart:.1g}"


def options(made: WorldSampler, own: Sampler) -> str:
    """The options of a world's solver that are not those of the library's, and what else is not."""
    defaults = own.solver.defaults
    mine, theirs = ({**defaults, **dict(solver.options)} for solver in (own.solver, made.solver))
    told = [f"`{key}={value!r}`" for key, value in theirs.items() if mine[key] != value]
    told += ["along a Brownian path"] if made.brownian else []
    told += ["steps of its own"] if made.own_steps is not None else []
    discards = CATALOG[made.entry].discards
    if made.discards != discards:
        told.append("discards the last sigma but one" if made.discards else "discards no sigma")
    return ", ".join(told) or "-"


def schedule_differences(world: World) -> list[list[str]]:
    """A row for each schedule: its type here, and the largest ratio of its sigmas to that type's in 20 steps."""
    models = ("sd15", "sd3", "flux", "edm") if world.name == "comfyui" else ("sd15",)
    rows = [["schedule", "here", *models]]
    for name in world.schedules:
        kinds = [kind for kind in SCHEDULE_TYPES.values() if kind.called_in(world.name) == name]
        if not kinds:
            rows.append([f"`{name}`", "-", *["-"] * len(models)])
            continue
        ratios = [ratio(world, name, kinds[0].name, model) for model in models]
        rows.append([f"`{name}`", kinds[0].name, *ratios])
    return rows


def ratio(world: World, schedule: str, kind: str, model: str) -> str:
    """The largest ratio of the sigmas of a world's schedule to those of a schedule type, or the other way round."""
    noise_schedule = NOISE_SCHEDULES[model]
    first = next(iter(world.samplers))
    try:
        both = [
            made.spacing.grid(noise_schedule, STEPS)
            for made in (sampler(first, schedule, world=world.name), sampler("Euler", kind))
        ]
    except ValueError:
        return "only there"
    if len(both[0]) != len(both[1]):
        return f"{both[0].steps} steps"
    theirs, ours = (np.array([_sigma(point, noise_schedule.scaling) for point in grid]) for grid in both)
    if (theirs[-1] == 0) != (ours[-1] == 0):
        return "another end"
    inside = theirs > 0
    apart = float(np.exp(np.abs(np.log(theirs[inside] / ours[inside])).max()))
    return "same" if apart < 1.0001 else f"{apart:.3g}"


def _sigma(point: Any, scaling: Scaling) -> float:
    return float(point.sigma if scaling is Scaling.FLOW else point.sigma / point.alpha)


def tables() -> dict[str, list[list[str]]]:
    """Name of a table in the page -> its rows."""
    return {
        **{f"{world.program} samplers": sampler_differences(world) for world in WORLDS.values()},
        **{f"{world.program} schedules": schedule_differences(world) for world in WORLDS.values()},
    }
