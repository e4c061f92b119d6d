"""Our modules in place of k-diffusion's, for programs that import ``k_diffusion``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from types import ModuleType, TracebackType

__all__ = ["Installation", "install", "uninstall"]

OURS, THEIRS = "diffusolve.k_diffusion", "k_diffusion"

_replaced: dict[str, ModuleType | None] | None = None
"""While ours are installed, what `sys.modules` had under each name; None while they are not."""


class Installation:
    """The result of :func:`install`, and a context manager that undoes it, unless ours were installed before."""

    def __init__(self, undoes: bool) -> None:
        self._undoes = undoes

    def __enter__(self) -> Installation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._undoes and _replaced is not None:
            uninstall()


def install() -> Installation:
    """Make ``import k_diffusion`` and imports of its modules find ours, each loaded once, until :func:`uninstall`.

    Modules that hold names of k-diffusion already keep them: call this before they are imported. Installing a second
    time changes nothing. As a context manager it is undone at the end of the block::

        with diffusolve.k_diffusion.install():
            import a_program_that_uses_k_diffusion
    """
    global _replaced
    if _replaced is not None:
        return Installation(undoes=False)
    ours = importlib.import_module(OURS)
    modules = {THEIRS: ours}
    for module in pkgutil.iter_modules(ours.__path__):
        modules[f"{THEIRS}.{module.name}"] = importlib.import_module(f"{OURS}.{module.name}")
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == THEIRS}
    _replaced = dict.fromkeys(modules) | before
    for name in before:  # theirs that ours has no module for would otherwise be found beside ours
        del sys.modules[name]
    sys.modules.update(modules)
    return Installation(undoes=True)


def uninstall() -> None:
    """Put back what ``k_diffusion`` was before :func:`install`; modules that hold ours keep them.

    Raises:
        RuntimeError: ours are not installed.
    """
    global _replaced
    if _replaced is None:
        raise RuntimeError("our modules are not installed as k_diffusion: call install() first.")
    for name in [name for name in sys.modules if name.partition(".")[0] == THEIRS]:
        del sys.modules[name]
    sys.modules.update({name: module for name, module in _replaced.items() if module is not None})
    _replaced = None
