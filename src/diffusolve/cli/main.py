"""The program `diffusolve`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

__all__ = ["main", "run_program"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments` (those of the process when missing) and exit.

    Exit status 0: done. 1: done but for some rows of `generate`. 2: something was wrong with the arguments, said in
    one line. 130: interrupted.
    """
    try:
        import rich  # noqa: F401
        import typer
    except ImportError:
        sys.exit("the command line needs some more packages: pip install 'diffusolve[cli]'.")
    from diffusolve.cli.bench import bench_command
    from diffusolve.cli.command import Command, program
    from diffusolve.cli.compare import CompareCommand, compare_command
    from diffusolve.cli.convert import convert_command
    from diffusolve.cli.generate import generate_command
    from diffusolve.cli.lab import lab_command
    from diffusolve.cli.learn import learn_command
    from diffusolve.cli.list import list_command
    from diffusolve.cli.plan import plan_command
    from diffusolve.cli.sample import sample_command

    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Diffusion samplers.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command("sample", cls=Command)(sample_command)
    app.command("list", cls=Command)(list_command)
    app.command("plan", cls=Command)(plan_command)
    app.command("compare", cls=CompareCommand)(compare_command)
    app.command("convert", cls=Command)(convert_command)
    app.command("lab", cls=Command)(lab_command)
    app.command("learn", cls=Command)(learn_command)
    app.command("bench", cls=Command)(bench_command)
    app.command("generate", cls=Command)(generate_command)

    app.callback()(program)
    run_program(app, arguments)


def run_program(app: typer.Typer, arguments: Sequence[str] | None) -> None:
    """Run `app` with the command line `arguments` and exit, with the status that :func:`main` has."""
    from rich.console import Console
    from rich.markup import escape

    try:
        app(arguments)
    except (ValueError, OSError, ImportError) as error:
        Console(stderr=True).print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
