"""The libraries that this one is compared with, where they are installed."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

from benchmarks.suite.timing import Loop

__all__ = ["attempted", "attempted_loop", "diffusers", "k_diffusion_sampling", "missing", "quiet"]

Made = TypeVar("Made")


@lru_cache(maxsize=1)
def diffusers() -> Any:
    """The package diffusers; None if it is not installed."""
    return importlib.import_module("diffusers") if find_spec("diffusers") else None


@lru_cache(maxsize=1)
def k_diffusion_sampling() -> Any:
    """The module ``k_diffusion.sampling``; None if it cannot be imported.

    The package itself imports its training tools, which its samplers do not need and few have installed. So its modules
    are imported into an empty package of its name, which is taken out again.
    """
    if "k_diffusion" in sys.modules:
        return importlib.import_module("k_diffusion.sampling")
    found = find_spec("k_diffusion")
    if found is None or not found.submodule_search_locations:
        return None
    package = ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    stand_ins = {"k_diffusion": package}
    if find_spec("torchvision") is None:  # for reading pictures
        functional, transforms = ModuleType("torchvision.transforms.functional"), ModuleType("torchvision.transforms")
        transforms.functional = functional  # type: ignore[attr-defined]
        stand_ins |= {made.__name__: made for made in (ModuleType("torchvision"), transforms, functional)}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("k_diffusion.sampling")
    except ImportError:
        return None
    finally:
        for name in [name for name in sys.modules if name in stand_ins or name.startswith("k_diffusion.")]:
            del sys.modules[name]


def missing(package: str) -> str:
    """What to say where `package` is not there to be compared with."""
    return f"{package} is not installed: nothing is compared with it."


@contextmanager
def quiet() -> Iterator[None]:
    """Within, neither warnings nor the log of diffusers are shown: they are about configurations of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (library := diffusers()) is None:
            yield
            return
        logging = library.utils.logging
        before = logging.get_verbosity()
        logging.set_verbosity(logging.CRITICAL)
        try:
            yield
        finally:
            logging.set_verbosity(before)


def attempted(make: Callable[[], Made]) -> tuple[Made | None, str]:
    """What another library makes; or None and why it does not."""
    try:
        return make(), ""
    except Exception as error:  # whatever is wrong there is not for us to mend, and no reason to stop
        return None, f"fails there: {type(error).__name__}: {str(error).partition(chr(10))[0]}"


def attempted_loop(make: Callable[[], Loop]) -> tuple[Loop | None, str]:
    """The loop of another library, having run once; or None and why it does not."""

    def run_once() -> Loop:
        loop = make()
        loop()
        return loop

    return attempted(run_once)
