"""The command `diffusolve generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from diffusolve.cli.classes import MODEL_HELP

__all__ = ["generate_command"]

SHOWN = 10
"""The most ids that are shown of rows that differ."""


def generate_command(
    rows: Annotated[Path, typer.Argument(help="A file of rows: .jsonl, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="The folder that the shards go to; a stopped job there is gone on with.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "digits",
    workers: Annotated[int, typer.Option(help="How many processes; one works in this one.")] = 1,
    format: Annotated[str, typer.Option(help="parquet or webdataset.")] = "parquet",
    shard_size: Annotated[int, typer.Option(help="Rows in each shard.")] = 1000,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows under way in each worker; found out by each when missing.")
    ] = None,
    call_size: Annotated[
        int | None, typer.Option(help="Rows that the network is called on at once; other bits than the default's.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Of PyTorch, in each worker.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Workers are Ray actors, on this machine or RAY_ADDRESS.")] = False,
    ray_address: Annotated[str | None, typer.Option(help="Workers are Ray actors of the cluster there.")] = None,
    verify: Annotated[int, typer.Option(help="Make so many rows again, each alone, and compare.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Pass over rows that cannot be made.")] = False,
) -> None:
    """Make a sample of each row of a file.

    Rows have id, seed, sampler, world, steps, guidance, class or prompt, and size. Exit status 1: some rows could not
    be made, failed.jsonl in the folder says why; or differ when made alone.
    """
    from diffusolve.bulk import generate

    summary = generate(
        rows,
        model,
        out,
        workers=workers,
        format=format,
        shard_size=shard_size,
        batch_size=batch_size,
        call_size=call_size,
        device=device,
        threads=threads,
        ray=ray,
        ray_address=ray_address,
        verify=verify,
        skip_bad=skip_bad,
        progress=sys.stderr.isatty(),  # logs are for what happened
    )
    console = Console()
    for damaged in summary.damaged:
        console.print(damaged, highlight=False, soft_wrap=True, markup=False)
    before = f", {summary.made_before} rows of them before" if summary.made_before else ""
    console.print(
        f"{summary.made} of {summary.rows} rows in [bold]{out}[/bold]{before}: {summary.evaluations} evaluations, "
        f"{summary.occupancy:.0%} of what the network computed, {summary.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    for shape, (rows_at_once, why) in sorted(summary.calls.items())[:SHOWN]:
        console.print(
            f"samples of {'x'.join(map(str, shape))}: calls of {rows_at_once} rows, the same bits as of "
            f"{summary.call_size}" + (f"; {2 * rows_at_once} were tried: {why}" if why else ""),
            highlight=False,
            soft_wrap=True,
        )
    if summary.verified:
        same = summary.verified - len(summary.differing)
        console.print(f"{same} of {summary.verified} rows are the same bits when each is made alone", highlight=False)
        for id in summary.differing[:SHOWN]:
            console.print(f"differs: {id}", highlight=False, soft_wrap=True, markup=False)
    if not summary.is_complete:
        console.print(
            f"[bold red]{summary.rows - summary.made} rows could not be made[/bold red]: {out / 'failed.jsonl'} says "
            "why.",
            highlight=False,
            soft_wrap=True,
        )
    if summary.differing or not summary.is_complete:
        raise typer.Exit(1)
