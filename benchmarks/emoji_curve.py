"""The loss of a training of the emoji network: ``python -m benchmarks.emoji_curve emoji-training/curve.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure

from diffusolve.cli.plot import encode_figure
from diffusolve.files import write_atomically


def main(
    curve: Annotated[Path, typer.Argument(help="The file curve.json that examples.train_emoji wrote.")],
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("emoji-loss.png"),
) -> None:
    """Draw the mean squared error of the v-prediction over the steps of a training."""
    steps, losses = zip(*json.loads(curve.read_text(encoding="utf-8"))["loss"], strict=True)
    drawing = Figure(figsize=(7, 2.6), layout="constrained")
    axes = drawing.subplots()
    axes.plot(steps, losses, linewidth=1.2)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.2, which="both")
    write_atomically(out, encode_figure(drawing, out))


if __name__ == "__main__":
    typer.run(main)
