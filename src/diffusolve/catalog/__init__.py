"""Every sampler by the name that people know, and from one world's names to another's."""

from diffusolve.catalog.against_euler import WORSE_THAN_EULER
from diffusolve.catalog.entries import ALIASES, CATALOG, DiffusersClass, Entry
from diffusolve.catalog.find import AUTOMATIC, find
from diffusolve.catalog.named import WORLD_NAMES, differences_in_world, entry_in_world, sampler
from diffusolve.catalog.schedule_types import SCHEDULE_TYPES, ScheduleType
from diffusolve.catalog.swap import patch, scheduler
from diffusolve.catalog.translation import FromDiffusers, ToDiffusers, from_diffusers, to_diffusers
from diffusolve.catalog.worlds import WORLDS, World, WorldSampler

__all__ = [
    "ALIASES",
    "AUTOMATIC",
    "CATALOG",
    "SCHEDULE_TYPES",
    "WORLDS",
    "WORLD_NAMES",
    "WORSE_THAN_EULER",
    "DiffusersClass",
    "Entry",
    "FromDiffusers",
    "ScheduleType",
    "ToDiffusers",
    "World",
    "WorldSampler",
    "differences_in_world",
    "entry_in_world",
    "find",
    "from_diffusers",
    "patch",
    "sampler",
    "scheduler",
    "to_diffusers",
]
