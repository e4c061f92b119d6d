"""The library k-diffusion: its functions on its lists of sigmas."""

from __future__ import annotations

from types import MappingProxyType

from diffusolve.catalog.entries import CATALOG, Entry
from diffusolve.catalog.worlds.world import World, WorldSampler, table, whole_way
from diffusolve.solvers import dpmpp_sde
from diffusolve.spacing import Exponential, Karras, Linspace, Polyexponential

__all__ = ["K_DIFFUSION"]

BROWNIAN = ("DPM++ SDE", "DPM++ 2M SDE", "DPM++ 3M SDE")


def _row(entry: Entry) -> WorldSampler:
    assert entry.k_diffusion is not None
    return WorldSampler(
        entry.k_diffusion,
        entry.name,
        dpmpp_sde.with_options(noise="path") if entry.name == "DPM++ SDE" else entry.solver,
        brownian=entry.name in BROWNIAN,
        own_steps=whole_way(entry.solver) if entry.spaces_itself else None,
    )


K_DIFFUSION = World(
    name="k-diffusion",
    program="k-diffusion",
    samplers=table(*(_row(entry) for entry in CATALOG.values() if entry.k_diffusion)),
    schedules=MappingProxyType(
        {
            "uniform": Linspace(),
            "karras": Karras(),
            "exponential": Exponential(),
            "polyexponential": Polyexponential(),
        }
    ),
    default="uniform",
)
"""The world "k-diffusion"."""
