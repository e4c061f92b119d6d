"""Plots as files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from diffusolve.drawing import needs_matplotlib
from diffusolve.errors import unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_plot_path", "encode_figure"]


def check_plot_path(path: Path) -> None:
    """Raise unless matplotlib is there and can write what the ending of `path` names."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise needs_matplotlib(error) from error
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if not path.suffix:
        raise ValueError(f"{path} does not say which picture format to write: use {path}.png, for example.")
    if path.suffix.lower().removeprefix(".") not in known:
        raise unknown_name("picture format", path.suffix, [f".{ending}" for ending in known])


def encode_figure(figure: Figure, path: Path) -> bytes:
    """The bytes of `figure` in the format that the ending of `path` names."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower().removeprefix("."), dpi=120)
    return buffer.getvalue()
