"""Being taken by diffusers for one of its own, without importing it.

Pipelines of diffusers accept a scheduler whose class derives from diffusers' SchedulerMixin, and load components by the
name of a library only if that stands in a table of theirs. Our classes cannot derive from those of a package that need
not be there and takes seconds to import. So, as soon as both packages are imported, in whichever order, the base
classes of diffusers become the last bases of our :class:`~diffusolve.schedulers.mixin.SchedulerMixin` (everything that
it defines itself comes first), and this library is entered into the table. Likewise each scheduler class of theirs
becomes the last base of ours of the same name, so that ``isinstance(scheduler, diffusers.DDIMScheduler)`` says yes of
ours too; ours inherits nothing of it (:class:`_Absent`) and does the same whether or not diffusers is there. The other
way round, a pipeline that was
saved with a scheduler of ours is loaded with one of theirs in its place, because theirs are registered as virtual
subclasses of ours.
"""

from __future__ import annotations

import sys
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["join", "watch"]

BASES = {"diffusers.schedulers.scheduling_utils": "SchedulerMixin", "diffusers.configuration_utils": "ConfigMixin"}
"""Module of diffusers -> the class in it that pipelines ask for; in the order in which its schedulers have them."""

TABLE = "diffusers.pipelines.pipeline_loading_utils"
"""Module of diffusers with the table of libraries, LOADABLE_CLASSES: library -> base class -> methods."""

OURS = "diffusolve.schedulers.mixin"

_lock = Lock()

_classes: dict[str, tuple[str, str]] = {}
"""Scheduler class -> its module here, and that in diffusers."""


def watch(classes: Mapping[str, tuple[str, str]] = MappingProxyType({})) -> None:
    """Join as soon as the modules of diffusers concerned are imported; at once those that are already.

    Args:
        classes: scheduler classes that both libraries have: name -> the module here, and that in diffusers.
    """
    _classes.update(classes)
    for modules in classes.values():
        _followed.update(modules)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    join()


_followed: set[str] = {*BASES, TABLE}
"""The modules whose import is followed by a :func:`join`."""


def join() -> None:
    """Join with what is imported of diffusers now. Doing it again changes nothing."""
    libraries = getattr(sys.modules.get(TABLE), "LOADABLE_CLASSES", None)
    if libraries is not None:
        libraries.setdefault("diffusolve", {"SchedulerMixin": ["save_pretrained", "from_pretrained"]})
    mixin = _imported(OURS, "SchedulerMixin")
    with _lock:
        if mixin is not None:
            _join_mixins(mixin)
        for name, (here, there) in _classes.items():
            ours, theirs = _imported(here, name), _imported(there, name)
            if ours is not None and theirs is not None and not issubclass(ours, theirs):
                _join_class(ours, theirs)


def _imported(module: str, name: str) -> Any:
    """The class `name` of a module, if that is imported."""
    return vars(sys.modules[module]).get(name) if module in sys.modules else None


def _join_mixins(ours: Any) -> None:
    theirs = [_imported(module, name) for module, name in BASES.items()]
    theirs = [base for base in theirs if base is not None]
    if all(issubclass(ours, base) for base in theirs):
        return
    for base in theirs:
        if base.__name__ == ours.__name__:
            ours.register(base)
    _set_bases(ours, (*(base for base in ours.__bases__ if base not in theirs), *theirs))


def _join_class(ours: Any, theirs: type) -> None:
    own = {name for base in ours.__mro__ if base not in theirs.__mro__ for name in vars(base)}
    inherited = [base for base in theirs.__mro__ if base is not object and not issubclass(ours, base)]
    hidden = {name for base in inherited for name in vars(base) if not name.startswith("__")} - own
    # What ours has of the bases that both share stays what it is.
    had = {name: value for base in reversed(ours.__mro__) for name, value in vars(base).items() if name in hidden}
    if _set_bases(ours, (*ours.__bases__, theirs)):
        for name in hidden:
            setattr(ours, name, had.get(name, _Absent(name)))


def _set_bases(ours: Any, bases: tuple[type, ...]) -> bool:
    try:
        ours.__bases__ = bases
    except TypeError as error:
        import logging

        logging.getLogger("diffusolve").warning(
            "%s cannot be joined with this version of diffusers, whose pipelines may refuse our schedulers: %s.",
            ours.__name__,
            error,
        )
        return False
    return True


class _Absent:
    """Keeps a class from inheriting a member of the class in diffusers that it is joined with."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, held: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__!r} object has no attribute {self.name!r}")


class _Finder:
    """Finds modules as the finders after it do; those of diffusers that matter are followed by a :func:`join`.

    Those before it have been asked already. One of them may be another of these, if the library was imported anew.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _followed:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
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
