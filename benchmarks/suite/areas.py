"""What can be measured."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, cast

from diffusolve.errors import unknown_name

if TYPE_CHECKING:
    from benchmarks.suite.result import Result
    from benchmarks.suite.settings import Settings

__all__ = ["AREAS", "Area", "area"]


class Area(NamedTuple):
    """Something that the library is measured by. Its module is imported when it is."""

    name: str
    module: str
    summary: str

    def measure(self, settings: Settings) -> Result:
        """Measure it."""
        return cast("Result", importlib.import_module(self.module).measure(settings))

    def names(self) -> tuple[str, ...]:
        """The names of what is measured in it."""
        return cast("tuple[str, ...]", importlib.import_module(self.module).names())


HOME = "benchmarks.suite"

AREAS: Mapping[str, Area] = MappingProxyType(
    {
        name: Area(name, f"{HOME}.{module}", summary)
        for name, module, summary in (
            ("step", "step", "a step beside the network"),
            ("set_timesteps", "set_timesteps", "beginning a run, and making its plan"),
            ("pipeline", "pipeline", "a whole pipeline with a small network"),
            ("import", "start_up", "importing the library"),
            ("memory", "memory", "the memory that a run needs"),
        )
    }
)
"""Name -> area, in the order that they are measured in."""


def area(name: str) -> Area:
    """The area called `name`.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in AREAS:
        raise unknown_name("area", name, AREAS)
    return AREAS[name]
