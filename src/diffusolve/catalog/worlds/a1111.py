"""Stable Diffusion web UI (A1111), and Forge, which carries its samplers, as measured on a copy of mid 2025."""

from __future__ import annotations

from types import MappingProxyType

from diffusolve.catalog.entries import CATALOG, Entry
from diffusolve.catalog.worlds.world import World, WorldSampler, table, whole_way
from diffusolve.solvers import dpm_adaptive, dpm_fast, dpmpp_sde, restart, unipc
from diffusolve.spacing import (
    AlignYourSteps,
    BetaSigmas,
    Counted,
    Exponential,
    Karras,
    KLOptimal,
    Leading,
    LeadingIntervals,
    Linspace,
    Polyexponential,
    Simple,
    Spacing,
    Trailing,
)

__all__ = ["A1111"]

OWN_STEPS: dict[str, Spacing] = {
    "DDIM": LeadingIntervals(),
    "DDIM CFG++": LeadingIntervals(),
    "PLMS": LeadingIntervals(),
    "UniPC": Counted(inner=Linspace(to_first=False, final_sigma="sigma_min")),
    "DPM fast": whole_way(dpm_fast),
    "DPM adaptive": whole_way(dpm_adaptive),
}
"""Samplers that no schedule type changes -> where their steps fall."""

SOLVERS = {
    "DPM++ SDE": dpmpp_sde.with_options(noise="path"),
    "Restart": restart.with_options(includes_end=True),
    "UniPC": unipc.with_options(order=3, variant="bh1"),
}
"""Samplers whose solver is not the catalog's."""

BROWNIAN = ("DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE")


def _row(entry: Entry) -> WorldSampler:
    return WorldSampler(
        entry.name,
        entry.name,
        SOLVERS.get(entry.name, entry.solver),
        discards=entry.discards,
        brownian=entry.name in BROWNIAN,
        own_steps=OWN_STEPS.get(entry.name),
        automatic=entry.automatic if entry.name not in OWN_STEPS else None,
    )


A1111 = World(
    name="a1111",
    program="A1111",
    samplers=table(*(_row(entry) for entry in CATALOG.values() if entry.a1111)),
    schedules=MappingProxyType(
        {
            "Uniform": Linspace(),
            "Karras": Karras(),
            "Exponential": Exponential(),
            "Polyexponential": Polyexponential(),
            "SGM Uniform": Linspace(to_first=False),
            "KL Optimal": KLOptimal(final_sigma="sigma_min"),
            "Align Your Steps": AlignYourSteps(to_last=True),
            "Align Your Steps XL": AlignYourSteps(model="sdxl", to_last=True),
            "Simple": Simple(),
            "Normal": Linspace(),
            "DDIM": Leading(steps_offset=1, to_end=True),
            "Beta": BetaSigmas(),
            "Turbo": Trailing(),
            "Align Your Steps GITS": AlignYourSteps(model="sd15_gits", to_last=True),
            "Align Your Steps 11": AlignYourSteps(to_last=True),
            "Align Your Steps 32": AlignYourSteps(model="sd15_32", to_last=True, below_trained=True),
        }
    ),
    default="Uniform",
)
"""The world "a1111"."""
