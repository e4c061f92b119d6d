"""A sampler's name in place of the scheduler that a model came with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffusolve.catalog.entries import CATALOG, DiffusersClass, Entry
from diffusolve.catalog.find import AUTOMATIC, find
from diffusolve.catalog.named import differences_in_world, entry_in_world
from diffusolve.catalog.schedule_types import SCHEDULE_TYPES
from diffusolve.catalog.translation import configuration_of, nearest_with_class, to_diffusers
from diffusolve.config import config_keys
from diffusolve.config.mixin import DEFAULTED
from diffusolve.schedulers import CLASSES, scheduler_class
from diffusolve.schedulers.flow_config import is_flow

__all__ = ["patch", "scheduler"]

FLOW_CLASSES = {"EulerDiscreteScheduler": "FlowMatchEulerDiscreteScheduler", "LCMScheduler": "FlowMatchLCMScheduler"}
"""Classes that have one of their own for flow matching -> that one."""

CURVES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def scheduler(name: str, like: Any, *, world: str | None = None) -> Any:
    """The scheduler that a sampler's name stands for, for the model of an existing scheduler.

    >>> pipe.scheduler = diffusolve.scheduler("DPM++ 2M Karras", like=pipe.scheduler)  # doctest: +SKIP

    Args:
        name: a sampler with or without a schedule type, as :func:`~diffusolve.sampler` takes it. On flow matching the
            types that choose among timesteps ("Uniform", "Simple", "SGM Uniform") are all equal steps of sigma.
        like: a scheduler, ours or diffusers'; its configuration; or the path of its file. What belongs to the model is
            kept: betas, prediction, shift, terminal sigma. What belongs to the sampler is the name's.
        world: a program, as for :func:`~diffusolve.sampler`, whose sampler is wanted. Classes have no program's slips,
            so that this is an error where they would make another sample.

    Raises:
        UnknownNameError: no such sampler or world, or none in that world; the nearest names are offered.
        ValueError: a sampler that no scheduler class is, or none for such a model; those that are are named. A program
            whose sampler differs from the class, and in what.
    """
    config = configuration_of(like)
    if world is not None:
        name = _as_class(name, world, is_flow(config))
    entry, kind = find(name)
    if is_flow(config):
        return _flow_scheduler(name, entry, kind, config)
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        _check_scheduler(like, config)
        raise ValueError(
            f"{config.get('_class_name') or 'the configuration'} has neither betas nor the shift of flow matching, so "
            f"that no class for {entry.name!r} samples its model: keep the scheduler, or use diffusolve.sample with "
            f"{name!r} and the noise schedule of the model."
        )
    if config.get("snr_shift_scale") not in (None, 1, 1.0):
        raise ValueError(
            f"snr_shift_scale is {config['snr_shift_scale']}: only CogVideoXDDIMScheduler and CogVideoXDPMScheduler "
            "have the noise schedule that it makes, so that no other class samples this model: use one of these, or "
            f"diffusolve.sample with {name!r} and trained_betas."
        )
    defaulted = {DEFAULTED, *config.get(DEFAULTED, ())}
    chosen = {key: value for key, value in config.items() if key not in defaulted}
    there = _check_class(entry, entry.diffusers)
    if "beta_schedule" not in config_keys(scheduler_class(there.name)):
        raise ValueError(
            f"{entry.name!r} is {there.name}, which samples flow-matching models, and none with betas: use "
            f"{entry.nearest!r}, or diffusolve.sample with {name!r}."
        )
    return to_diffusers(name).scheduler(chosen)


def _check_scheduler(like: Any, config: Mapping[str, Any]) -> None:
    """Raise TypeError if what a model came with is given in place of its scheduler."""
    own = str(config.get("_class_name", ""))
    if own and not own.endswith("Scheduler"):
        has_one = hasattr(like, "scheduler")
        raise TypeError(
            f"like is a {own}, which is no scheduler: expected that of the pipeline, like="
            f"{'its' if has_one else 'pipe'}.scheduler, a scheduler's configuration, or the path of its file."
        )


def _as_class(name: str, world: str, flow: bool) -> str:
    """The catalog's name for what `name` is in a world, if its class makes the same samples."""
    differences = differences_in_world(name, world, flow)
    if differences:
        raise ValueError(
            f"no scheduler class is {name!r} of {world}: {'; '.join(differences)}. Use diffusolve.sample with "
            f"diffusolve.sampler({name!r}, world={world!r}), or the nearest class, without world."
        )
    entry, kind = entry_in_world(name, world)
    return entry if kind is None else f"{entry} {kind}"


def patch(pipe: Any, name: str) -> str:
    """Put the scheduler that `name` stands for in place of a pipeline's, in place, and say so.

    Args:
        pipe: any object with a `scheduler`: a pipeline of diffusers.
        name: as for :func:`scheduler`.

    Returns:
        one line: the class before, the class now and what it was given.

    Raises:
        TypeError: `pipe` has no scheduler.
        UnknownNameError, ValueError: as :func:`scheduler`; the pipeline is as it was then.
    """
    old = getattr(pipe, "scheduler", None)
    if old is None:
        raise TypeError(f"{type(pipe).__name__} has no scheduler: expected a pipeline of diffusers.")
    new = scheduler(name, like=old)
    pipe.scheduler = new
    before = {"num_train_timesteps": None, **configuration_of(old)}
    keys = [key for key, value in new.config.items() if key[0] != "_" and before.get(key, value) != value]
    keys += [key for key in CURVES if new.config.get(key) and key not in keys]
    said = ", ".join(f"{key}={new.config[key]!r}" for key in keys)
    return f"{name}: {type(old).__name__} -> {type(new).__name__}({said}), the model's own noise schedule kept"


def _flow_scheduler(name: str, entry: Entry, kind: str | None, config: Mapping[str, Any]) -> Any:
    """The scheduler for a flow-matching model. Solvers' keys of another class that `config` keeps do not count."""
    there = entry.diffusers
    if there is not None and there.name in FLOW_CLASSES:
        there = replace(there, name=FLOW_CLASSES[there.name])
    there = _check_class(entry, there)
    cls = scheduler_class(there.name)
    if not cls.samples_flow:
        others = [known for known in CATALOG if _samples_flow(CATALOG[known])]
        raise ValueError(
            f"{entry.name!r} is {there.name}, which cannot sample a flow-matching model: use {', '.join(others)}."
        )
    kind = entry.automatic if kind == AUTOMATIC else kind
    keys = {} if kind is None else SCHEDULE_TYPES[kind].config
    if keys is None:
        raise ValueError(
            f"no configuration says {kind!r}: leave it out and give the sigmas, set_timesteps(sigmas=...), which "
            "pipelines take as sigmas=..."
        )
    curve = {key: value for key, value in keys.items() if key in CURVES}
    kept = {key: value for key, value in config.items() if key not in (*CURVES, *there.config)}
    kept[DEFAULTED] = [key for key in config.get(DEFAULTED, ()) if key in kept]
    return cls.from_config(kept, **there.config, **curve)


def _check_class(entry: Entry, there: DiffusersClass | None) -> DiffusersClass:
    """`there`, the class of a sampler, which this library must have."""
    if there is None or there.name not in CLASSES:
        raise ValueError(
            f"no scheduler class is {entry.name!r}: use diffusolve.sample with it, or in a pipeline the nearest that "
            f"has one, {nearest_with_class(entry)!r}."
        )
    return there


def _samples_flow(entry: Entry) -> bool:
    there = entry.diffusers
    return there is not None and there.name in CLASSES and scheduler_class(there.name).samples_flow
