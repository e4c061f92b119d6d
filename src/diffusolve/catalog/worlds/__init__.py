"""Worlds: programs whose names promise sigmas, ends, variants and the order of draws."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from diffusolve.catalog.worlds.a1111 import A1111
from diffusolve.catalog.worlds.comfyui import COMFYUI
from diffusolve.catalog.worlds.k_diffusion import K_DIFFUSION
from diffusolve.catalog.worlds.world import World, WorldSampler

__all__ = ["WORLDS", "World", "WorldSampler"]

WORLDS: Mapping[str, World] = MappingProxyType({world.name: world for world in (A1111, COMFYUI, K_DIFFUSION)})
"""Name -> world."""
