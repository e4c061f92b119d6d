"""The command `diffusolve convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from diffusolve.catalog import differences_in_world, entry_in_world, from_diffusers, scheduler, to_diffusers
from diffusolve.cli.worlds import WorldOption
from diffusolve.config import config_keys
from diffusolve.errors import UnknownNameError
from diffusolve.schedulers import scheduler_class
from diffusolve.schedulers.flow_config import is_flow

__all__ = ["convert_command"]

CONFIG_FILE = "scheduler_config.json"


def convert_command(
    config: Annotated[Path, typer.Argument(help="A scheduler_config.json, or the folder of a scheduler or pipeline.")],
    sampler: Annotated[
        str | None, typer.Option(help='What to make it, for example "DPM++ 2M Karras"; without, only say what it is.')
    ] = None,
    world: WorldOption = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write scheduler_config.json into.")] = None,
) -> None:
    """Change a model's scheduler configuration to another sampler."""
    path = _config_file(config)
    known = _read(path)
    console = Console()
    _say_what_it_is(console, known)
    if sampler is None:
        if world is not None:
            raise ValueError(f"world is {world}, but there is no name to read there: say which --sampler to make it.")
        if out is not None:
            raise ValueError(f"out is {out}, but there is nothing to write: say which --sampler to make it.")
        return
    if out is None:
        raise ValueError("out is missing: say which folder the new scheduler_config.json goes to (--out DIR).")
    differences, name = _in_catalog(sampler, world, known)
    class_name, written = _write(name, known, out)
    console.print(f"[bold]{class_name}[/bold] in [bold]{written}[/bold]", highlight=False, soft_wrap=True)
    if json.loads(written.read_text(encoding="utf-8")).get("prediction_type") == "flow_prediction":
        _say_who_reads_it(console, class_name, written)
    for difference in differences:
        console.print(f"  not quite {sampler!r}: {difference}.", highlight=False, soft_wrap=True, markup=False)


def _in_catalog(sampler: str, world: str | None, known: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """Differences of a scheduler class from `sampler` of a world, and the catalog's name for that."""
    if world is None:
        return to_diffusers(sampler).differences, sampler
    differences = differences_in_world(sampler, world, is_flow(known))
    entry, kind = entry_in_world(sampler, world)
    return differences, entry if kind is None else f"{entry} {kind}"


def _write(name: str, known: dict[str, Any], out: Path) -> tuple[str, Path]:
    """Write the configuration of the sampler called `name` for a model's; the class and the file."""
    if is_flow(known):
        configured = scheduler(name, like=known)
        configured.save_config(out)
        return type(configured).__name__, out / CONFIG_FILE
    translated = to_diffusers(name)
    return translated.class_name, translated.save(out, known)


def _say_who_reads_it(console: Console, class_name: str, written: Path) -> None:
    """Say that diffusers takes a flow-matching model's file for one of a model with betas, if it does."""
    if "use_flow_sigmas" not in config_keys(scheduler_class(class_name)):
        console.print(
            f"  diffusers' own {class_name} has no flow matching, and reads this file as that of a model with betas: "
            f"load it with diffusolve.{class_name}.from_pretrained.",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def _say_what_it_is(console: Console, known: dict[str, Any]) -> None:
    try:
        found = from_diffusers(known)
    except (UnknownNameError, ValueError) as error:
        console.print(f"it has no name: {error}", highlight=False, soft_wrap=True, markup=False)
        return
    options = ", ".join(f"{key}={value!r}" for key, value in found.options.items())
    console.print(
        f"it is [bold]{found.name}[/bold]" + f" with {options}" * bool(options), highlight=False, soft_wrap=True
    )
    for difference in found.differences:
        console.print(f"  but {difference}.", highlight=False, soft_wrap=True, markup=False)


def _config_file(given: Path) -> Path:
    """The path of the configuration in a file, a scheduler's folder or a pipeline's."""
    places = [given / CONFIG_FILE, given / "scheduler" / CONFIG_FILE] if given.is_dir() else [given]
    for path in places:
        if path.is_file():
            return path
    missing = " and no ".join(map(str, places))
    raise FileNotFoundError(f"there is no {missing}: expected a {CONFIG_FILE} or a folder with one.")


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}: expected a scheduler's configuration.")
    return config
