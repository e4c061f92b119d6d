"""The command `diffusolve list`. Needs no torch."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusolve.catalog import AUTOMATIC, CATALOG, SCHEDULE_TYPES, WORLD_NAMES, WORLDS, WORSE_THAN_EULER, Entry
from diffusolve.cli.classes import MODELS, classes_of
from diffusolve.errors import unknown_name
from diffusolve.noise import SD15
from diffusolve.sampling import Sampler
from diffusolve.spacing import Karras

__all__ = ["list_command", "record"]

STEPS = 12
"""Of the plan that evaluations per step are counted in."""


def list_command(
    word: Annotated[str | None, typer.Argument(help="Show only samplers with this word in a name or paper.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    world: Annotated[
        str | None, typer.Option(help="Show what this program has: a1111, comfyui, k-diffusion or diffusers.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Show the classes of this model instead, or those with the word in their names.")
    ] = None,
) -> None:
    """Every sampler, what it is called elsewhere, and what is known about it; or the classes of a model."""
    if model is not None:
        if world is not None:
            raise ValueError(f"world is {world} and model {model}: list one of them, samplers or classes.")
        _list_classes(model, word, json)
        return
    records = [record(entry) for entry in CATALOG.values() if world is None or _names_in(world, entry)]
    if word is not None:
        records = [known for known in records if word.casefold() in json_module.dumps(list(known.values())).casefold()]
    if json:
        print(json_module.dumps({"samplers": records, "schedule_types": _schedule_types(world)}, indent=2))
        return
    if not records:
        raise ValueError(
            f"no sampler has {word!r} in its names or paper: leave the word out to see all {len(CATALOG)}."
        )
    console = Console()
    console.print(_table(records))
    types = ", ".join(
        WORLDS[world].schedules if world is not None and world in WORLDS else (*SCHEDULE_TYPES, AUTOMATIC)
    )
    console.print(
        f'[bold]{len(records)}[/bold] samplers. Add a schedule type to a name ({types}), as in "DPM++ 2M Karras". '
        "E: evaluations per step; * stochastic.",
        highlight=False,
    )


def _names_in(world: str, entry: Entry) -> tuple[str, ...]:
    """The names that a sampler has in a world; none if it is not there."""
    if world not in WORLD_NAMES:
        raise unknown_name("world", world, WORLD_NAMES)
    if world in WORLDS:
        return tuple(made.name for made in WORLDS[world].samplers.values() if made.entry == entry.name)
    there = entry.diffusers
    return () if there is None or not there.in_diffusers else (there.name,)


def _list_classes(model: str, word: str | None, json: bool) -> None:
    """Print the classes of `model` that have `word` in their names."""
    every = classes_of(model)
    if not every:
        raise ValueError(f"the {model} model has no classes.")
    classes = [name for name in every if word is None or word.casefold() in name.casefold()]
    if not classes:
        raise unknown_name(f"class of {model}", word, every)
    if json:
        print(json_module.dumps({"model": model, "classes": classes}, indent=2))
        return
    console = Console()
    console.print(Columns(classes, padding=(0, 3)), highlight=False)
    console.print(
        f'[bold]{len(classes)}[/bold] classes of {model}, which is {MODELS[model]}. Use one as in "diffusolve sample '
        f'--model {model} --class {classes[0]}".',
        highlight=False,
    )


def record(entry: Entry) -> dict[str, Any]:
    """Everything that is known about a sampler, as JSON has it."""
    plan = None
    if not entry.solver.adaptive:
        plan = Sampler(entry.solver, Karras(final_sigma="sigma_min")).plan(SD15, "epsilon", STEPS)
    there = entry.diffusers
    return {
        "name": entry.name,
        "a1111": entry.name if entry.a1111 else None,
        "comfyui": list(entry.comfyui),
        "k_diffusion": entry.k_diffusion,
        "diffusers": None if there is None or not there.in_diffusers else there.name,
        "config": {} if there is None else dict(there.config),
        "class": None if there is None else there.name,
        "aliases": list(entry.aliases),
        "order": entry.order,
        "evaluations_per_step": None if plan is None else round(plan.nfe / STEPS, 2),
        "stochastic": plan is not None and plan.is_stochastic,
        "adaptive": entry.solver.adaptive,
        "solver": str(entry.solver),
        "worse_than_euler_on": list(WORSE_THAN_EULER.get(entry.name, ())),
        "paper": entry.paper,
    }


def _table(records: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1), show_lines=False)
    for heading in ("sampler", "ComfyUI", "k-diffusion", "diffusers", "order", "E", "paper"):
        table.add_column(heading, justify="right" if heading in ("order", "E") else "left", overflow="fold")
    for known in records:
        keys = " ".join(f"{key}={value}" for key, value in known["config"].items())
        there = known["diffusers"] or (f"({known['class']}, here only)" if known["class"] else "-")
        evaluations = known["evaluations_per_step"]
        table.add_row(
            Text(known["name"] + ("*" if known["stochastic"] else ""), style="bold"),
            ", ".join(known["comfyui"]) or "-",
            (known["k_diffusion"] or "-").removeprefix("sample_"),
            Text(f"{there} {keys}".strip()),
            str(known["order"]),
            "varies" if evaluations is None else f"{round(evaluations):d}",
            Text(known["paper"].split(",")[0]),
        )
    return table


def _schedule_types(world: str | None) -> list[dict[str, Any]]:
    """A table of the schedule types, or of the schedules of a world that has a table of them."""
    if world is not None and world in WORLDS:
        return [{"name": name, "spacing": str(spacing)} for name, spacing in WORLDS[world].schedules.items()]
    return [
        {
            "name": kind.name,
            "a1111": kind.a1111,
            "comfyui": kind.comfyui,
            "config": None if kind.config is None else dict(kind.config),
            "spacing": str(kind.spacing),
        }
        for kind in SCHEDULE_TYPES.values()
    ]
