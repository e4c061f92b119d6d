"""Being taken by diffusers for one of its own, without importing it.

Pipelines of diffusers accept a scheduler whose class derives from diffusers' SchedulerMixin, and load components by the
name of a library only if that stands in a table of theirs. Our classes cannot derive from those of a package that need
not be there and takes seconds to import. So, as soon as both packages are imported, in whichever order, the base
classes of diffusers become the last bases of our :class:`~diffusolve.schedulers.mixin.SchedulerMixin` (everything that
it defines itself comes first), and this library is entered into the table. The other way round, a pipeline that was
saved with a scheduler of ours is loaded with one of theirs in its place, because theirs are registered as virtual
subclasses of ours.
"""

from __future__ import annotations

import sys
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["join", "watch"]

BASES = {"diffusers.configuration_utils": "ConfigMixin", "diffusers.schedulers.scheduling_utils": "SchedulerMixin"}
"""Module of diffusers -> the class in it that pipelines ask for."""

TABLE = "diffusers.pipelines.pipeline_loading_utils"
"""Module of diffusers with the table of libraries, LOADABLE_CLASSES: library -> base class -> methods."""

OURS = "diffusolve.schedulers.mixin"

_lock = Lock()


def watch() -> None:
    """Join as soon as the modules of diffusers concerned are imported; at once those that are already."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    join()


def join() -> None:
    """Join with what is imported of diffusers now. Doing it again changes nothing."""
    libraries = getattr(sys.modules.get(TABLE), "LOADABLE_CLASSES", None)
    if libraries is not None:
        libraries.setdefault("diffusolve", {"SchedulerMixin": ["save_pretrained", "from_pretrained"]})
    ours = getattr(sys.modules.get(OURS), "SchedulerMixin", None)
    for module, name in BASES.items():
        theirs = getattr(sys.modules.get(module), name, None)
        if ours is not None and theirs is not None:
            _append_base(ours, theirs)


def _append_base(ours: Any, theirs: type) -> None:
    with _lock:
        if issubclass(ours, theirs):
            return
        try:
            if theirs.__name__ == ours.__name__:
                ours.register(theirs)
            ours.__bases__ = (*ours.__bases__, theirs)
        except TypeError as error:
            import logging

            logging.getLogger("diffusolve").warning(
                "%s of this version of diffusers cannot be joined: its pipelines may refuse our schedulers (%s).",
                theirs.__name__,
                error,
            )


class _Finder:
    """Finds modules as the other finders do; those of diffusers that matter are followed by a :func:`join`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in BASES and fullname != TABLE:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Followed(spec.loader, join)  # type: ignore[assignment]
                return spec
        return None


class _Followed:
    """Loads a module as `loader` does, and then calls `then`."""

    def __init__(self, loader: Loader, then: Callable[[], None]) -> None:
        self.loader = loader
        self.then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.then()
