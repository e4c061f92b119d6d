"""The program itself, and commands that say how a name with spaces is given."""

from __future__ import annotations

import re
import sys
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from diffusolve import __version__

__all__ = ["Command", "program"]


INTERRUPTED = 130
"""The exit status of a command that was interrupted, as shells have it."""


class Command(TyperCommand):
    """A command that says how names with spaces are quoted, and what is kept when it is interrupted."""

    def __init__(self, *arguments: Any, help: str | None = None, **options: Any) -> None:
        # Typer prints paragraphs after the first with the ends of lines that they have in the source.
        joined = None if help is None else re.sub(r"(?<!\n)\n(?!\n)", " ", cleandoc(help))
        super().__init__(*arguments, help=joined, **options)

    def invoke(self, ctx: Any) -> Any:
        out = ctx.params.get("out")
        before = _state(out)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            kept = ""
            if isinstance(out, Path) and not out.is_dir():
                after = _state(out)
                same = "is as it was before" if after else "was not written"
                kept = f": {out} " + (same if after == before else "holds the best until then")
            print(f"interrupted{kept}.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if "unexpected extra argument" in (message := getattr(error, "message", "")):
                error.message = f'{message}. Quote a name with spaces: "DPM++ 2M Karras".'  # type: ignore[attr-defined]
            if (words := _in_words(error)) is not None:
                error.message = words  # type: ignore[attr-defined]
            raise


def _state(path: object) -> tuple[int, int] | None:
    """Two numbers that change when a file is written; None if there is none."""
    if not isinstance(path, Path) or not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


EXPECTED = {"int_parsing": "a whole number", "float_parsing": "a number"}
"""The name that a failure has in Typer's parser -> the kind of value that an option takes."""


def _in_words(error: Exception) -> str | None:
    """The message of an `error` about text that is no number, as other errors have it; None for other errors."""
    errors = getattr(error.__cause__, "errors", None)
    first: dict[str, Any] = errors()[0] if callable(errors) else {}
    expected = EXPECTED.get(first.get("type", ""))
    return None if expected is None else f"{first['input']!r}, expected {expected}."


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"diffusolve {__version__}")
        raise typer.Exit


def program(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Diffusion samplers as tables of numbers."""
