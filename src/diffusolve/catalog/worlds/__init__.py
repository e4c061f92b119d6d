"""Worlds: programs whose names promise levels, ends, variants and the order of draws."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from diffusolve.catalog.worlds.a1111 import A1111
from diffusolve.catalog.worlds.comfyui import COMFYUI
from diffusolve.catalog.worlds.k_diffusion import K_DIFFUSION
from diffusolve.catalog.worlds.world import World, WorldSampler
from diffusolve.errors import unknown_name

__all__ = ["WORLDS", "World", "WorldSampler", "world_called"]

WORLDS: Mapping[str, World] = MappingProxyType({world.name: world for world in (A1111, COMFYUI, K_DIFFUSION)})
"""Name -> world."""


def world_called(name: str) -> World:
    """The world called `name`, one of :data:`WORLDS`.

    Raises:
        UnknownNameError: no such world; the nearest names are offered.
    """
    if name not in WORLDS:
        raise unknown_name("world", name, WORLDS)
    return WORLDS[name]
