"""Between the catalog's names and the scheduler classes of diffusers with their configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from os import PathLike
from pathlib import Path
from typing import Any

from diffusolve.catalog.entries import CATALOG, DiffusersClass, Entry
from diffusolve.catalog.find import AUTOMATIC, find
from diffusolve.catalog.schedule_types import SCHEDULE_TYPES, ScheduleType
from diffusolve.config import config_keys
from diffusolve.errors import unknown_name
from diffusolve.files import write_atomically
from diffusolve.noise import SD15, Grid
from diffusolve.schedulers import scheduler_class

__all__ = ["FromDiffusers", "ToDiffusers", "from_diffusers", "to_diffusers"]

CONFIG_FILE = "scheduler_config.json"

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

SOLVER_KEYS = ("algorithm_type", "solver_order", "solver_type", "predict_x0", "skip_prk_steps")
"""The configuration keys that say which solver it is."""

NEARLY_NOTHING = 1e-2
"""Differences of smaller noise levels do not count in full."""

CURVES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
"""The configuration keys that say where the steps fall, besides `timestep_spacing`."""

STEPS = 20
"""Of how many steps on Stable Diffusion's noise schedule the levels are compared."""

SAME_LEVELS = 1e-3
"""Levels that differ relatively by less than this are the same: tables are in single precision."""


@dataclass(frozen=True)
class ToDiffusers:
    """What a sampler is called in diffusers.

    Attributes:
        name: the sampler's.
        class_name: of the scheduler.
        config: the keys that make it this sampler, to be joined with those of the model.
        differences: where it is not quite the same; nothing when empty.
    """

    name: str
    class_name: str
    config: dict[str, Any]
    differences: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether the class makes the same steps."""
        return not self.differences

    def joined(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A model's configuration, changed to this sampler; keys of other classes stay for the way back."""
        off: dict[str, Any] = {curve: False for curve in CURVES if config.get(curve)}
        return {**config, **off, **self.config, "_class_name": self.class_name}

    def scheduler(self, config: Mapping[str, Any] | None = None) -> Any:
        """The scheduler, with a model's configuration if one is given.

        Raises:
            ValueError: only diffusers has the class.
        """
        there = CATALOG[find(self.name)[0].name].diffusers
        if there is not None and not there.here:
            raise ValueError(
                f"{self.class_name} is a class of diffusers that this library does not have: use diffusolve.sample "
                f"with {self.name!r}, or {self.class_name}.from_config of diffusers."
            )
        return scheduler_class(self.class_name).from_config(self.joined(config or {}))

    def save(self, directory: str | PathLike[str], config: Mapping[str, Any] | None = None) -> Path:
        """Write ``scheduler_config.json`` into `directory`, which is made, and return its path."""
        path = Path(directory) / CONFIG_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.joined(config or {}), indent=2, sort_keys=True) + "\n"
        write_atomically(path, text.encode())
        return path


@dataclass(frozen=True)
class FromDiffusers:
    """What a scheduler of diffusers is called in the catalog.

    Attributes:
        name: for :func:`~diffusolve.sampler`, with the schedule type.
        differences: where the sampler of that name is not quite the same; nothing when empty.
    """

    name: str
    differences: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether the sampler of that name makes the same steps."""
        return not self.differences


def to_diffusers(name: str) -> ToDiffusers:
    """The scheduler class and configuration for the sampler called `name`, for example ``"DPM++ 2M SDE Karras"``.

    Raises:
        UnknownNameError: there is no such sampler.
        ValueError: diffusers has nothing like it; the nearest sampler that it has is named.
    """
    entry, schedule_type = find(name)
    there = entry.diffusers
    if there is None:
        raise ValueError(
            f"diffusers has no scheduler for {entry.name!r}; the nearest that it has is {_nearest(entry)!r}."
        )
    differences = [there.difference] if there.difference else []
    schedule_type = entry.automatic if schedule_type == AUTOMATIC else schedule_type or "Uniform"
    wanted = SCHEDULE_TYPES[schedule_type]
    config = {**there.config, **_levels_of(wanted, entry, there, differences)}
    if entry.discards:
        differences.append("A1111 leaves out the last noise level but one")
    return ToDiffusers(name, there.name, config, tuple(differences))


def _levels_of(wanted: ScheduleType, entry: Entry, there: DiffusersClass, differences: list[str]) -> dict[str, Any]:
    """The keys that make the class's noise levels those of a schedule type, or the nearest that there are."""
    if wanted.config is None:
        differences.append(
            f"no configuration says {wanted.name!r}: give the levels with set_timesteps(sigmas=...) or (timesteps=...)"
        )
        return {}
    if not there.here:
        return dict(wanted.config) if "timestep_spacing" in wanted.config else {}
    keys = set(config_keys(scheduler_class(there.name)))
    missing = sorted(wanted.config.keys() - keys)
    spaces_timesteps = "timestep_spacing" in wanted.config
    if missing and not spaces_timesteps:
        differences.append(f"{there.name} has no {', '.join(missing)}, which {wanted.name!r} needs")
        return {}
    choices: list[Mapping[str, Any]] = [{} if missing else wanted.config]
    if spaces_timesteps and not missing:
        others = (made.config for made in SCHEDULE_TYPES.values() if made.config and "timestep_spacing" in made.config)
        choices += [config for config in others if config not in choices]
    distances = [_distance(entry, wanted, {**there.config, **config}) for config in choices]
    least = min(distances)
    if least > SAME_LEVELS:
        differences.append(_differing(least))
    return dict(choices[distances.index(least)])


def _differing(distance: float) -> str:
    return f"the noise levels differ by up to {distance:.1%} ({STEPS} steps on Stable Diffusion's schedule)"


def _distance(entry: Entry, schedule_type: ScheduleType, config: Mapping[str, Any]) -> float:
    """How far a scheduler's noise levels (sigma / alpha) are from a schedule type's; infinity for another count."""
    assert entry.diffusers is not None
    scheduler = scheduler_class(entry.diffusers.name).from_config({**STABLE_DIFFUSION, **config})
    scheduler.set_timesteps(STEPS)
    spacing = schedule_type.spacing
    if entry.spaces_itself:
        return 0.0
    ours, theirs = _ratios(spacing.grid(SD15, STEPS)), _ratios(scheduler.grid)
    if len(ours) != len(theirs):
        return inf
    return max(abs(a - b) / max(a, NEARLY_NOTHING) for a, b in zip(ours, theirs, strict=True))


def _ratios(grid: Grid) -> list[float]:
    """sigma / alpha at each point; what PNDM asks about twice counts once."""
    return list(dict.fromkeys(float(point.sigma / point.alpha) for point in grid))


def _nearest(entry: Entry) -> str:
    nearest = CATALOG[entry.nearest]
    return nearest.name if nearest.diffusers is not None else _nearest(nearest)


def from_diffusers(scheduler: Any) -> FromDiffusers:
    """The catalog's name for a scheduler of diffusers' interface, ours or theirs, or for its configuration.

    Args:
        scheduler: a live scheduler; its configuration as a mapping, with ``_class_name``; or the path of a folder with
            a ``scheduler_config.json``, or of such a file.

    Raises:
        UnknownNameError: a class that has no name in the catalog.
        ValueError: a configuration without ``_class_name``.
    """
    config = _config(scheduler)
    class_name = str(config.get("_class_name", "")).removeprefix("Flax")
    if not class_name:
        raise ValueError(
            "the configuration has no _class_name, so that nobody knows which scheduler it is of: add it, or give the "
            "scheduler itself."
        )
    of_class = [entry for entry in CATALOG.values() if entry.diffusers and entry.diffusers.name == class_name]
    if not of_class:
        known = sorted({entry.diffusers.name for entry in CATALOG.values() if entry.diffusers})
        raise unknown_name("scheduler class with a name in the catalog", class_name, known)
    here = _there(of_class[0]).here
    full = {key: config.get(key, value) for key, value in _defaults(class_name).items()} if here else config
    best = min(of_class, key=lambda entry: len(_contradictions(entry, full)))
    there = _there(best)
    differences = [there.difference] if there.difference else []
    for key, usual in _contradictions(best, full).items():
        differences.append(f"{key} is {full[key]!r} there, and {usual!r} in {best.name!r}")
    if not here:
        return FromDiffusers(best.name, tuple(differences))
    if full.get("use_flow_sigmas"):
        differences.append(
            "use_flow_sigmas takes flow matching's noise levels: sample on a FlowMatching noise schedule"
        )
    return FromDiffusers(f"{best.name} {_schedule_type(best, full, differences)}", tuple(differences))


def _there(entry: Entry) -> DiffusersClass:
    assert entry.diffusers is not None
    return entry.diffusers


@lru_cache(maxsize=64)
def _defaults(class_name: str) -> Mapping[str, Any]:
    """The configuration keys of a class of ours, with their defaults."""
    made = scheduler_class(class_name)()
    return {key: made.config[key] for key in config_keys(type(made))}


def _contradictions(entry: Entry, config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that say which solver it is and have other values than an entry's, with the entry's values."""
    there = _there(entry)
    usual = {**(_defaults(there.name) if there.here else {}), **there.config}
    keys = {*SOLVER_KEYS, *there.config}
    return {key: usual[key] for key in sorted(keys) if key in config and key in usual and config[key] != usual[key]}


def _schedule_type(entry: Entry, config: Mapping[str, Any], differences: list[str]) -> str:
    curve = next((key for key in CURVES if config.get(key)), None)
    if curve is not None:
        return next(made.name for made in SCHEDULE_TYPES.values() if made.config == {curve: True})
    keys = {key: config[key] for key in ("timestep_spacing", "steps_offset") if key in config}
    names = [made.name for made in SCHEDULE_TYPES.values() if made.config and "timestep_spacing" in made.config]
    distances = {name: _distance(entry, SCHEDULE_TYPES[name], {**_there(entry).config, **keys}) for name in names}
    best = min(distances, key=lambda name: distances[name])
    if distances[best] > SAME_LEVELS:
        differences.append(_differing(distances[best]))
    return best


def _config(scheduler: Any) -> dict[str, Any]:
    if isinstance(scheduler, (str, PathLike)):
        path = Path(scheduler)
        if path.is_dir():
            path = path / CONFIG_FILE
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}: expected a {CONFIG_FILE} or a folder with one.")
        try:
            made = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}.") from None
        if not isinstance(made, dict):
            raise ValueError(f"{path} holds a {type(made).__name__}: expected a scheduler's configuration.")
        return made
    if isinstance(scheduler, Mapping):
        return dict(scheduler)
    if not hasattr(scheduler, "config"):
        raise TypeError(f"expected a scheduler, its configuration or a path, not {scheduler!r}.")
    return {"_class_name": type(scheduler).__name__, **scheduler.config}
