"""Walking with the functions of k-diffusion, without the training tools that its package imports."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import cos, log, log1p, sin
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusolve.noise import VariancePreserving

from .network import StandInNetwork, standard_noise

__all__ = ["IntervalNoise", "denoiser", "external", "sampling"]


@contextmanager
def _stand_ins(package_path: list[str]) -> Iterator[None]:
    """An empty ``k_diffusion`` package, and an empty torchvision where there is none, while modules are imported.

    ``k_diffusion/__init__.py`` imports everything, training tools included.
    """
    package = ModuleType("k_diffusion")
    package.__path__ = package_path
    stand_ins = {"k_diffusion": package}
    if importlib.util.find_spec("torchvision") is None:
        transforms = ModuleType("torchvision.transforms")
        transforms.functional = ModuleType("torchvision.transforms.functional")  # type: ignore[attr-defined]
        stand_ins |= {"torchvision": ModuleType("torchvision"), transforms.__name__: transforms}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name in stand_ins or name.startswith("k_diffusion.")]:
            del sys.modules[name]


@lru_cache(maxsize=1)
def _modules() -> tuple[ModuleType, ModuleType]:
    if "k_diffusion" in sys.modules:
        return tuple(importlib.import_module(f"k_diffusion.{name}") for name in ("sampling", "external"))
    found = importlib.util.find_spec("k_diffusion")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("these tests compare with k-diffusion, which is not installed", allow_module_level=True)
    try:
        with _stand_ins(list(found.submodule_search_locations)):
            return tuple(importlib.import_module(f"k_diffusion.{name}") for name in ("sampling", "external"))
    except ImportError as error:
        pytest.skip(f"k-diffusion's sampling module cannot be imported: {error}", allow_module_level=True)


sampling, external = _modules()


def denoiser(
    network: StandInNetwork, noise_schedule: VariancePreserving, prediction_type: str, dtype: torch.dtype
) -> Any:
    """k-diffusion's wrapper of a network that was trained on whole timesteps: predicts x0 of x0 + sigma * noise."""
    kinds = {"epsilon": external.DiscreteEpsDDPMDenoiser, "v_prediction": external.DiscreteVDDPMDenoiser}
    alphas_cumprod = torch.tensor(noise_schedule.alphas_cumprod, dtype=dtype)
    return kinds[prediction_type](network, alphas_cumprod, quantize=False)


class IntervalNoise:
    """Standard normal noise that changes smoothly with the interval of sigmas that it belongs to.

    The same for both sides only if both name the same intervals.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.parts = standard_noise(2, dtype), standard_noise(3, dtype)

    def ours(self, x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        """As :func:`diffusolve.sample` asks for it."""
        angle = log(sigma_from) + 2 * log1p(sigma_to)
        return cos(angle) * self.parts[0] + sin(angle) * self.parts[1]

    def theirs(self, sigma_from: Tensor, sigma_to: Tensor) -> Tensor:
        """As k-diffusion's ``noise_sampler``."""
        return self.ours(self.parts[0], float(sigma_from), float(sigma_to))
