"""The import paths of diffusers: a program's imports work after its word ``diffusers`` is replaced by ``diffusolve``.

    from diffusolve.schedulers.scheduling_ddim import DDIMScheduler, DDIMSchedulerOutput
    from diffusolve.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
    from diffusolve.configuration_utils import ConfigMixin, register_to_config

There are no such files: each is a module made of rows of a table when it is first imported, whose members are imported
when they are first asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MEMBERS", "OURS_ALONE", "Members", "in_both", "watch"]

Members = Mapping[str, tuple[str, str]]
"""Name -> the module in this package that has it, and its name there."""

_PACKAGE = "diffusolve"

_IN_EVERY_MODULE: dict[str, tuple[str, str]] = {
    "ConfigMixin": ("config", "ConfigMixin"),
    "KarrasDiffusionSchedulers": ("schedulers.compatible", "KarrasDiffusionSchedulers"),
    "SchedulerMixin": ("schedulers.mixin", "SchedulerMixin"),
    "SchedulerOutput": ("schedulers.outputs", "SchedulerOutput"),
    "register_to_config": ("config", "register_to_config"),
}
"""The members of each scheduler class's module besides it."""

MEMBERS: dict[str, Members] = {
    "configuration_utils": {
        "ConfigMixin": ("config", "ConfigMixin"),
        "FrozenDict": ("config", "FrozenConfig"),
        "register_to_config": ("config", "register_to_config"),
    },
    "schedulers": {"AysSchedules": ("schedulers.ays_schedules", "AysSchedules"), **_IN_EVERY_MODULE},
    "schedulers.deprecated": {
        "KarrasVeScheduler": ("schedulers.karras_ve", "KarrasVeScheduler"),
        "ScoreSdeVpScheduler": ("schedulers.score_sde_vp", "ScoreSdeVpScheduler"),
    },
    "schedulers.deprecated.scheduling_karras_ve": {
        "KarrasVeOutput": ("schedulers.karras_ve", "KarrasVeOutput"),
        "KarrasVeScheduler": ("schedulers.karras_ve", "KarrasVeScheduler"),
        **_IN_EVERY_MODULE,
    },
    "schedulers.scheduling_utils": {
        "AysSchedules": ("schedulers.ays_schedules", "AysSchedules"),
        "PushToHubMixin": ("hub", "PushToHubMixin"),
        **_IN_EVERY_MODULE,
    },
    "utils": {"PushToHubMixin": ("hub", "PushToHubMixin")},
}
"""Module -> its members, but for those that are named after a scheduler class."""

_NAMED_OTHERWISE = {
    "cm_stochastic_iterative": "scheduling_consistency_models",
    "cogvideox_ddim": "scheduling_ddim_cogvideox",
    "cogvideox_dpm": "scheduling_dpm_cogvideox",
    "karras_ve": "deprecated.scheduling_karras_ve",
    "score_sde_ve": "scheduling_sde_ve",
    "score_sde_vp": "deprecated.scheduling_sde_vp",
}
"""Our module -> the module of diffusers that stands in its place, where that is named otherwise."""

OURS_ALONE = frozenset(
    {
        "DPMSolverFastScheduler",
        "DPMSolverSinglestepAncestralScheduler",
        "FlowMatchSDEDiscreteScheduler",
        "PlanScheduler",
    }
)
"""The scheduler classes that diffusers does not have."""

_home: dict[str, str] = {}
"""Scheduler class -> the module in this package that defines it."""


def watch(homes: Mapping[str, str]) -> None:
    """Find modules under diffusers' names from now on; `homes` are the modules that define the package's members."""
    _home.update({name: home for name, home in homes.items() if name.endswith("Scheduler")})
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def members_of(path: str) -> Members | None:
    """The members of the module at `path` in the package, "schedulers.scheduling_ddim" say; None: there is none."""
    if path in MEMBERS:
        return MEMBERS[path]
    of_classes = {name: (home, name) for name, home in _home.items() if path == path_of(home)}
    if not of_classes:
        return None
    outputs = {f"{name}Output": (home, f"{name}Output") for name, (home, _) in of_classes.items()}
    return {**_IN_EVERY_MODULE, **outputs, **of_classes}


def in_both() -> dict[str, tuple[str, str]]:
    """The scheduler classes that diffusers has too, each with its module here and the one there."""
    shared = {name: home for name, home in _home.items() if name not in OURS_ALONE}
    return {name: (f"{_PACKAGE}.{home}", f"diffusers.{path_of(home)}") for name, home in shared.items()}


def path_of(home: str) -> str:
    """The path that the module at `home` has in diffusers."""
    module = home.rpartition(".")[2]
    named = _NAMED_OTHERWISE.get(module, f"scheduling_{module}")
    return f"schedulers.{named}"


def member(home: str, name: str) -> Any:
    """The object called `name` in the module at `home`; the output of a class that names none is its ``output``."""
    module = importlib.import_module(f"{_PACKAGE}.{home}")
    if not hasattr(module, name) and name.endswith("Output"):
        return getattr(module, name.removesuffix("Output")).output
    return getattr(module, name)


class _Finder:
    """Finds the modules that :func:`members_of` knows; asked last, for what no file is there for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        members = members_of(rest) if package == _PACKAGE else None
        if members is None:
            return None
        is_package = any(other.startswith(f"{rest}.") for other in MEMBERS)
        return ModuleSpec(fullname, _Loader(members), is_package=is_package)  # type: ignore[arg-type]


class _Loader:
    """Makes a module of `members`."""

    def __init__(self, members: Members) -> None:
        self.members = members

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _Module(spec.name, f"Members of {_PACKAGE} under the import path that they have in diffusers.")
        module.members = self.members
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__all__"] = sorted(self.members)


class _Module(ModuleType):
    """A module whose members are imported when they are asked for."""

    members: Members

    def __getattr__(self, name: str) -> Any:
        if name not in self.members:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        value = member(*self.members[name])
        self.__dict__[name] = value
        return value

    def __dir__(self) -> Iterable[str]:
        return sorted({*super().__dir__(), *self.members})
