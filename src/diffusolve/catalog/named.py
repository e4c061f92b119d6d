"""The sampler that a name stands for, here or in the world of another program."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from diffusolve.catalog.entries import CATALOG
from diffusolve.catalog.find import AUTOMATIC, NOISE_OPTIONS, find, own_sampler, with_options
from diffusolve.catalog.folding import folded
from diffusolve.catalog.schedule_types import SCHEDULE_TYPES
from diffusolve.catalog.translation import from_diffusers, to_diffusers
from diffusolve.catalog.worlds import WORLDS, World
from diffusolve.errors import UnknownNameError, shown, unknown_name
from diffusolve.sampling.sampler import Sampler
from diffusolve.spacing import Spacing

__all__ = ["WORLD_NAMES", "differences_in_world", "entry_in_world", "sampler", "world_named"]

DIFFUSERS = "diffusers"

WORLD_NAMES = (*WORLDS, DIFFUSERS)
"""The worlds that names can be of: programs that have tables in :data:`WORLDS`, and the classes of diffusers."""


def sampler(name: Any, spacing: str | Spacing | None = None, *, world: str | None = None, **options: Any) -> Sampler:
    """The sampler called `name`, for example ``"DPM++ 2M Karras"``, or ``("dpmpp_2m", "karras", world="comfyui")``.

    Args:
        name: a name of :data:`CATALOG` or :data:`ALIASES`, in any case and spacing, with or without a schedule type of
            :data:`SCHEDULE_TYPES` at its end, or "Automatic" for the one that A1111 chooses. Or a scheduler, ours or
            diffusers': the sampler that makes its steps (:func:`~diffusolve.from_diffusers`), with a warning in words
            where it is not quite that.
        spacing: where the steps fall, in place of a schedule type: a name or a
            :class:`~diffusolve.spacing.Spacing`.
        world: a program, one of :data:`WORLD_NAMES` in any case, whose sigmas, end, variant and order of draws are
            wanted, slips included. Names are then the program's, or ours of what it has; of diffusers they are
            classes. Without one this is the library's own reading, in which no program's slips are.
        options: of the solver, for example ``eta=0.5`` or ``s_churn=10``; of the spacing, for example ``rho=5`` or
            ``sigma_max=10``; and

            - ``discard_next_to_last_sigma``: leave out the last sigma but one. When missing, as A1111 has it: for
              DPM2, DPM2 a and DPM++ 3M SDE, unless a :class:`~diffusolve.spacing.Spacing` is given; in a world, as that
              has it;
            - ``ensd``: A1111's "eta noise seed delta", added to the seeds of the noise between steps;
            - ``brownian``: noise between steps follows a Brownian path, as in k-diffusion. Needs torchsde.

    Raises:
        UnknownNameError: no such sampler, spacing, option or world, or none in that world; the nearest names are
            offered.
        TypeError: a name or spacing that is neither text nor, for a spacing, a :class:`~diffusolve.spacing.Spacing`.
        ValueError: a schedule type in the name and a spacing besides; an option out of its range; a class of diffusers
            whose steps no sampler makes.
    """
    if is_scheduler(name):
        if spacing is not None or world is not None:
            raise ValueError(
                f"{type(name).__name__} says itself where its steps fall: leave spacing and world out, or give a name."
            )
        return _of_scheduler(name, options)
    if world is None:
        return own_sampler(name, spacing, **options)
    world = world_named(world)
    if world == DIFFUSERS:
        return _of_class(name, spacing, options)
    return _in_world(WORLDS[world], name, spacing, options)


def _of_scheduler(scheduler: Any, options: Mapping[str, Any]) -> Sampler:
    """The sampler that makes the steps of a `scheduler`."""
    found = from_diffusers(scheduler)
    if not found.is_exact:
        warnings.warn(
            f"{found.name!r} is not quite this {type(scheduler).__name__}: {'; '.join(found.differences)}.",
            stacklevel=3,
        )
    return own_sampler(found.name, **{**found.options, **options})


def entry_in_world(name: str, world: str) -> tuple[str, str | None]:
    """The catalog's names of the sampler and of the schedule type, if there is one, in the `name` of a world.

    Raises:
        UnknownNameError: as :func:`sampler`; or a schedule that only the program has.
    """
    world = world_named(world)
    if world == DIFFUSERS:
        entry, kind = find(name)
        return entry.name, kind
    program = WORLDS[world]
    named, schedule = program.find(name)
    kinds = {kind.called_in(world): kind.name for kind in SCHEDULE_TYPES.values()}
    if schedule is not None and schedule not in kinds:
        raise unknown_name(f"schedule type in {name!r} outside {program.program}", schedule, SCHEDULE_TYPES)
    return named.entry, None if schedule is None else kinds[schedule]


def differences_in_world(name: str, world: str, flow: bool) -> tuple[str, ...]:
    """In words, each way in which the scheduler class of a sampler is not quite what a world means by `name`.

    Args:
        name: with or without a schedule.
        world: one of :data:`WORLD_NAMES`.
        flow: whether the model is one of flow matching.
    """
    world = world_named(world)
    entry, kind = entry_in_world(name, world)
    if CATALOG[entry].diffusers is None:
        raise UnknownNameError(_without_class(entry))
    told = list(to_diffusers(entry if kind is None else f"{entry} {kind}").differences)
    if world == DIFFUSERS:
        return tuple(told)
    program = WORLDS[world]
    named = program.find(name)[0]
    own = dict(CATALOG[entry].solver.options)
    options = {key: value for key, value in named.solver.options if flow or key not in OF_FLOW}
    changed = {key: value for key, value in options.items() if own.get(key) != value}
    if changed:
        told.append(f"{program.program} has it with " + ", ".join(f"{key}={value!r}" for key, value in changed.items()))
    if named.discards and not CATALOG[entry].discards:
        told.append(f"{program.program} leaves out the last sigma but one")
    if named.own_steps is not None:
        told.append(f"{program.program} has its own steps for it, {named.own_steps}")
    return tuple(told)


OF_FLOW = ("ancestral", "first_middle", "sigma_alone", "start_percent")
"""Options of solvers that change nothing but on flow matching."""


def world_named(name: Any) -> str:
    """The world called `name`, in any case and spacing.

    Raises:
        UnknownNameError: there is none; the nearest is offered.
    """
    worlds = {folded(known): known for known in WORLD_NAMES}
    if not isinstance(name, str) or folded(name) not in worlds:
        raise unknown_name("world", name, WORLD_NAMES)
    return worlds[folded(name)]


def is_scheduler(value: Any) -> bool:
    """True for a scheduler of diffusers' interface, ours or theirs."""
    return hasattr(value, "config") and hasattr(value, "set_timesteps")


def _in_world(world: World, name: str, spacing: str | Spacing | None, options: dict[str, Any]) -> Sampler:
    """The sampler that `world` means by `name` and `spacing`; `options` as of :func:`sampler`."""
    named, schedule = world.find(name)
    if schedule is not None and spacing is not None:
        raise ValueError(f"{name!r} names the schedule {schedule!r} already: leave spacing={shown(spacing)} out.")
    discards = options.pop("discard_next_to_last_sigma", None)
    noise = {option: options.pop(option) for option in NOISE_OPTIONS if option in options}
    if spacing is not None and not isinstance(spacing, Spacing):
        automatic = folded(spacing) == folded(AUTOMATIC)
        schedule = named.automatic or world.default if automatic else world.schedule(spacing)
    label = named.name if schedule is None else f"{named.name} {schedule}"
    base = spacing if isinstance(spacing, Spacing) else named.own_steps or world.schedules[schedule or world.default]
    solver, chosen = with_options(named.solver, base, options)
    return Sampler(
        solver,
        chosen if isinstance(spacing, Spacing) else world.treated(named, chosen, discards),
        name=f"{label} ({world.program})",
        seed_offset=int(noise.get("ensd", 0)),
        brownian=bool(noise.get("brownian", named.brownian)),
    )


def _of_class(name: str, spacing: str | Spacing | None, options: dict[str, Any]) -> Sampler:
    """The sampler that makes the steps of the scheduler class called `name`, or of the class of a sampler."""
    if isinstance(spacing, Spacing):
        raise ValueError(f"spacing is {shown(spacing)}: in the world of diffusers a schedule type is a name.")
    classes = {entry.diffusers.name: entry for entry in CATALOG.values() if entry.diffusers is not None}
    if name in classes:
        keys = {} if spacing is None else _keys(spacing)
        config = {"_class_name": name, **keys}
    elif folded(name).endswith("scheduler"):
        raise unknown_name("scheduler class of diffusers with a name in the catalog", name, classes)
    else:
        entry, kind = find(name if spacing is None else f"{name} {spacing}")
        if entry.diffusers is None:
            raise UnknownNameError(_without_class(name))
        there = to_diffusers(entry.name if kind is None else f"{entry.name} {kind}")
        config = {"_class_name": there.class_name, **there.config}
    found = from_diffusers(config)
    if not found.is_exact:
        told = "; ".join(found.differences)
        raise ValueError(
            f"no sampler makes the steps of {config['_class_name']} with {found.name!r}: {told}. Use the class itself, "
            "diffusolve.scheduler or diffusolve.schedulers."
        )
    of_class = find(found.name)[0].diffusers
    few_steps = {} if of_class is None else of_class.few_steps
    sampler = own_sampler(found.name, **{**few_steps, **found.options, **options})
    return dataclasses.replace(sampler, name=f"{found.name} ({config['_class_name']})")


def _keys(schedule_type: str) -> dict[str, Any]:
    """The keys of a configuration that say a schedule type, by its name or by the value of `timestep_spacing`."""
    kinds = {folded(kind.name): kind for kind in SCHEDULE_TYPES.values()} | {"linspace": SCHEDULE_TYPES["Uniform"]}
    kind = kinds.get(folded(schedule_type))
    if kind is None or kind.config is None:
        known = ["linspace", *(kind.name for kind in SCHEDULE_TYPES.values() if kind.config is not None)]
        raise unknown_name("schedule type of diffusers", schedule_type, known)
    return dict(kind.config)


def _without_class(name: str) -> str:
    try:
        to_diffusers(name)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{name} has a class")
