"""The command `diffusolve lab`."""

from __future__ import annotations

from typing import Annotated

import typer

from diffusolve.cli.classes import MODEL_HELP

__all__ = ["lab_command"]


def lab_command(
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "emoji",
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.")] = 7860,
    browser: Annotated[bool, typer.Option(help="Show the page in a browser.")] = True,
) -> None:
    """Serve a page to try samplers on, side by side."""
    from diffusolve.lab.serve import serve

    serve(model, host, port, open_browser=browser)
