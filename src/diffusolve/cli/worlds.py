"""The option `--world` of the commands that take names."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

__all__ = ["WorldOption", "in_any_case"]


def in_any_case(name: str | None) -> str | None:
    """The world called `name`, as the library writes it; None without one."""
    from diffusolve.catalog.named import world_named  # here: the help of a command needs no catalog

    return None if name is None else world_named(name)


WorldOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Take names as this program does, slips included: a1111, comfyui, k-diffusion or diffusers.",
        callback=in_any_case,
    ),
]
