"""Finding a sampler by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from diffusolve.catalog.entries import ALIASES, CATALOG, Entry
from diffusolve.catalog.folding import folded
from diffusolve.catalog.schedule_types import SCHEDULE_TYPES
from diffusolve.errors import UnknownNameError, check_options, shown, unknown_name
from diffusolve.sampling.sampler import Sampler
from diffusolve.solvers import Solver
from diffusolve.spacing import SPACINGS, DiscardPenultimate, Exponential, Spacing, spacing

__all__ = ["AUTOMATIC", "NOISE_OPTIONS", "find", "own_sampler", "with_options"]

AUTOMATIC = "Automatic"
"""The schedule type that A1111 chooses for each sampler."""

NOISE_OPTIONS = ("brownian", "ensd")
"""Options of a sampler that are about its noise."""


def own_sampler(name: str, spacing: str | Spacing | None = None, **options: Any) -> Sampler:
    """The library's own reading of a name; arguments and errors as of :func:`diffusolve.sampler`."""
    entry, schedule_type = find(name)
    if schedule_type is not None and spacing is not None:
        raise ValueError(
            f"{name!r} names the schedule type {schedule_type!r} already: leave spacing={shown(spacing)} out."
        )
    discards = options.pop("discard_next_to_last_sigma", entry.discards and not isinstance(spacing, Spacing))
    noise = {option: options.pop(option) for option in NOISE_OPTIONS if option in options}
    wanted = schedule_type if spacing is None else spacing
    kind = _type_called(entry, wanted)
    solver, chosen = with_options(entry.solver_on(kind), _spacing(entry, wanted, kind), options)
    if entry.spaces_itself and chosen.final_sigma == "zero":  # in log-SNR, which is infinite at 0
        chosen = dataclasses.replace(chosen, final_sigma="sigma_min")
    if discards and not solver.adaptive:
        chosen = DiscardPenultimate(chosen)
    full_name = entry.name if schedule_type is None else f"{entry.name} {schedule_type}"
    return Sampler(
        solver, chosen, name=full_name, seed_offset=int(noise.get("ensd", 0)), brownian=bool(noise.get("brownian"))
    )


def _spacing(entry: Entry, wanted: str | Spacing | None, kind: str | None) -> Spacing:
    """The spacing that is `wanted`, which is the schedule type `kind` if it is one."""
    if isinstance(wanted, Spacing):
        return wanted
    if entry.spaces_itself:  # between the ends of the schedule, whichever type is named
        return Exponential()
    if wanted is None or kind is not None:
        return SCHEDULE_TYPES[kind or "Uniform"].spacing
    if wanted.casefold().replace(" ", "_").replace("-", "_") in SPACINGS:
        return spacing(wanted)
    short = SHORT_FORMS.get(folded(wanted))
    if short is not None:
        raise UnknownNameError(f"unknown spacing {shown(wanted)}: did you mean {short!r}?")
    raise unknown_name("spacing", wanted, [*SCHEDULE_TYPES, AUTOMATIC, *SPACINGS])


def _type_called(entry: Entry, wanted: str | Spacing | None) -> str | None:
    """The name of the schedule type `wanted`, "Uniform" where there is none; None for a spacing of another name."""
    if isinstance(wanted, Spacing):
        return None
    if wanted is None:
        return "Uniform"
    if folded(wanted) == folded(AUTOMATIC):
        return entry.automatic
    return next((kind for kind in SCHEDULE_TYPES if folded(kind) == folded(wanted)), None)


def with_options(solver: Solver, spacing: Spacing, options: Mapping[str, Any]) -> tuple[Solver, Spacing]:
    """`solver` with those of the `options` that are its own, and `spacing` with the others.

    Raises:
        UnknownNameError: an option of neither; the nearest names are offered.
    """
    defaults = solver.defaults
    check_options(solver.name, options, [*defaults, *(field.name for field in fields(spacing))])
    own = {option: value for option, value in options.items() if option in defaults}
    others = {option: value for option, value in options.items() if option not in defaults}
    return solver.with_options(**own), dataclasses.replace(spacing, **others)


def find(name: str) -> tuple[Entry, str | None]:
    """The sampler and the schedule type in `name`.

    Raises:
        UnknownNameError: there is none; the nearest names are offered.
        TypeError: `name` is no text.
    """
    names, wanted = _folded_names(), folded(name)
    if wanted in names:
        return CATALOG[names[wanted]], None
    for suffix, schedule_type in _folded_types().items():
        if wanted.endswith(suffix) and wanted.removesuffix(suffix) in names:
            return CATALOG[names[wanted.removesuffix(suffix)]], schedule_type
    of_class = [entry.name for entry in CATALOG.values() if entry.diffusers and entry.diffusers.name == name]
    if of_class:
        raise UnknownNameError(
            f"{name!r} is the class of a scheduler: expected a sampler's name, {of_class[0]!r}, or make the scheduler "
            f"with diffusolve.{name}.from_config(pipe.scheduler.config)."
        )
    with_types = [f"{known} {schedule_type}" for known in CATALOG for schedule_type in SCHEDULE_TYPES]
    named, kind = _split(name)
    if folded(named) in names:
        raise UnknownNameError(f"unknown sampler {name!r}: did you mean '{named} {kind}'?")
    if kind is not None and "_" in named:
        raise unknown_name("sampler", name, [f"{known} {kind}" for known in ALIASES])
    raise unknown_name("sampler", name, ALIASES if "_" in name else [*CATALOG, *with_types])


def _split(name: str) -> tuple[str, str | None]:
    """The words of `name` before a schedule type or its short form, and that type."""
    types, words = {**SHORT_FORMS, **_folded_types()}, name.split()
    for count in range(1, len(words)):
        schedule_type = types.get(folded(" ".join(words[count:])))
        if schedule_type is not None:
            return " ".join(words[:count]), schedule_type
    return name, None


SHORT_FORMS = {
    "ays": "Align Your Steps",
    "expo": "Exponential",
    "gits": "Align Your Steps",
    "kl": "KL Optimal",
    "linquad": "Linear quadratic",
    "sgm": "SGM Uniform",
}
"""Short forms of schedule types, folded -> the types, which are offered and not taken: programs have other variants."""


@lru_cache(maxsize=1)
def _folded_names() -> dict[str, str]:
    names = {name: name for name in CATALOG} | dict(ALIASES)
    return {folded(spelling): name for spelling, name in names.items()}


@lru_cache(maxsize=1)
def _folded_types() -> dict[str, str]:
    """Every spelling of a schedule type, folded -> its name. A name of ours goes before ComfyUI's for another."""
    types = {folded(name): name for name in (*SCHEDULE_TYPES, AUTOMATIC)}
    for kind in SCHEDULE_TYPES.values():
        if kind.comfyui is not None:
            types.setdefault(folded(kind.comfyui), kind.name)
    return types
