"""The command `diffusolve list`. Needs no torch."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusolve.catalog import AUTOMATIC, CATALOG, SCHEDULE_TYPES, WORLDS, WORSE_THAN_EULER, Entry
from diffusolve.cli.worlds import in_any_case
from diffusolve.denoisers.named import MODELS, classes_of
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
        str | None,
        typer.Option(
            help="Show what this program has: a1111, comfyui, k-diffusion or diffusers.", callback=in_any_case
        ),
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
    types = _schedule_types(world)
    if json:
        print(json_module.dumps({"samplers": _with(word, records), "schedule_types": types}, indent=2))
        return
    names = ", ".join([kind["name"] for kind in types] + ([] if world in WORLDS else [AUTOMATIC]))
    if word is not None:
        records, types = _with(word, records), _with(word, types)
        if not records and not types:
            raise ValueError(
                f"no sampler has {word!r} in its names or paper, and no schedule type: leave the word out to see all "
                f"{len(CATALOG)}."
            )
    console = Console()
    if not console.is_terminal:
        console = Console(width=1_000)  # whole lines, whatever reads them
    left_out = list[str]()
    if records:
        left_out += _print_table(console, [_columns(known) for known in records])
    if word is not None and types:
        left_out += _print_table(
            console, [{"schedule type": kind["name"], "spacing": kind["spacing"]} for kind in types]
        )
    more = f" A wider terminal shows {', '.join(left_out)} too." if left_out else ""
    console.print(
        f'[bold]{len(records)}[/bold] samplers. Add a schedule type to a name ({names}), as in "DPM++ 2M Karras". '
        f"E: evaluations per step; * stochastic.{more}",
        highlight=False,
        soft_wrap=not console.is_terminal,
    )


def _with(word: str | None, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with `word` somewhere in what is known of them."""
    if word is None:
        return records
    return [known for known in records if word.casefold() in json_module.dumps(list(known.values())).casefold()]


def _names_in(world: str, entry: Entry) -> tuple[str, ...]:
    """The names that a sampler has in a world; none if it is not there."""
    if world in WORLDS:
        return tuple(row.name for row in WORLDS[world].samplers.values() if row.entry == entry.name)
    there = entry.diffusers
    return () if there is None or not there.in_diffusers else (there.name,)


def _list_classes(model: str, word: str | None, json: bool) -> None:
    """Print the classes of `model` that have `word` in their names."""
    if model not in MODELS and Path(model).is_dir():
        raise ValueError(
            f"{model} is a folder, and the classes of pipelines have no names: if it has any, they are numbers from 0 "
            f"on, as in diffusolve sample --model {model} --class 0."
        )
    every = classes_of(model)
    if not every:
        raise ValueError(f"the {model} model has no classes.")
    classes = [name for name in every if word is None or word.casefold() in name.casefold()]
    if not classes:
        raise unknown_name(f"class of {model}", word, every)
    if json:
        print(json_module.dumps({"model": model, "classes": classes}, indent=2))
        return
    console, plural = Console(), "es" if len(classes) > 1 else ""
    console.print(Columns(classes, padding=(0, 3)), highlight=False)
    console.print(
        f'[bold]{len(classes)}[/bold] class{plural} of {model}, which is {MODELS[model]}. Use one as in "diffusolve '
        f'sample --model {model} --class {classes[0]}".',
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


def _columns(known: dict[str, Any]) -> dict[str, str]:
    """The cells of a sampler's row, the most wanted first."""
    keys = " ".join(f"{key}={value}" for key, value in known["config"].items())
    there = known["diffusers"] or (f"({known['class']}, here only)" if known["class"] else "-")
    evaluations = known["evaluations_per_step"]
    return {
        "sampler": known["name"] + ("*" if known["stochastic"] else ""),
        "order": str(known["order"]),
        "E": "varies" if evaluations is None else f"{round(evaluations):d}",
        "diffusers": there,
        "ComfyUI": ", ".join(known["comfyui"]) or "-",
        "k-diffusion": (known["k_diffusion"] or "-").removeprefix("sample_"),
        "options in diffusers": keys,
        "paper": known["paper"].split(",")[0],
    }


def _print_table(console: Console, rows: list[dict[str, str]]) -> list[str]:
    """Print a line for each of `rows`, of the first columns that fit; those that do not are returned."""
    table, used, left_out = Table(box=None, padding=(0, 1), pad_edge=False), 0, list[str]()
    for heading in rows[0]:
        used += 2 + max(len(heading), *(len(row[heading]) for row in rows))
        if left_out or used > console.width + 2:
            left_out.append(heading)
            continue
        table.add_column(heading, justify="right" if heading in ("order", "E") else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            *(Text(row[heading], "bold" if heading == "sampler" else "") for heading in row if heading not in left_out)
        )
    console.print(table)
    return left_out


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
