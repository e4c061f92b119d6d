"""What figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["machine"]

PACKAGES = ("torch", "numpy", "diffusers", "k-diffusion", "torchsde")


def machine() -> dict[str, Any]:
    """Processor, threads and versions; nothing that names the machine or its owner."""
    import torch

    import diffusolve

    return {
        "processor": _processor(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "diffusolve": diffusolve.__version__,
        "compiled module": find_spec("diffusolve.backends._combine") is not None,
        **{package: _version(package) for package in PACKAGES},
    }


def _processor() -> str:
    """The model of the processor."""
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
