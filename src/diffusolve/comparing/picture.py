"""Many small images as one picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from diffusolve.errors import unknown_name

__all__ = ["check_picture_path", "encode", "labelled_grid", "tile"]

GAP = 2
"""Pixels between images, and around them."""

OFFERED = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tiff", ".pdf")
"""The endings that an error offers, of the many that Pillow knows."""

TEXT, CAPTION, MARGIN = 16, 11, 12
"""Sizes of names and captions, and the space around them, in pixels."""


def check_picture_path(path: Path) -> None:
    """Raise unless the ending of `path` is that of a picture format that can be written."""
    endings = sorted(ending for ending, name in Image.registered_extensions().items() if name in Image.SAVE)
    if not path.suffix:
        raise ValueError(f"{path} does not say which picture format to write: use {path}.png, for example.")
    if path.suffix.lower() not in endings:
        raise unknown_name("picture format", path.suffix, [ending for ending in OFFERED if ending in endings])


def tile(images: npt.NDArray[np.float32], columns: int | None = None, smallest: int = 64) -> Image.Image:
    """`images` side by side in rows.

    Args:
        images: shape (count, channels, height, width), 1 or 3 channels, in [-1, 1]; values outside are clipped, as
            anywhere where an image becomes pixels.
        columns: how many a row; as many as rows when missing.
        smallest: images with fewer pixels a side are enlarged to about that, pixel by pixel.
    """
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    zoom = max(1, smallest // max(height, width))
    pixels = np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width = pixels.shape[1] + GAP, pixels.shape[2] + GAP
    canvas = np.full((rows * height + GAP, columns * width + GAP, channels), 64, np.uint8)
    for index, image in enumerate(pixels):
        top, left = GAP + index // columns * height, GAP + index % columns * width
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas)


def labelled_grid(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[Image.Image, str]]]], note: str = ""
) -> Image.Image:
    """Pictures in rows and columns with their names, black on white.

    Args:
        columns: what stands above each column.
        rows: for each row what stands left of it, and a picture with its caption for each column.
        note: a line below all.
    """
    font, small = ImageFont.load_default(TEXT), ImageFont.load_default(CAPTION)
    left = MARGIN + math.ceil(max(font.getlength(name) for name, _ in rows)) + MARGIN
    widths = [
        MARGIN + max(math.ceil(font.getlength(column)), *(_width(*cells[i], small) for _, cells in rows))
        for i, column in enumerate(columns)
    ]
    heights = [max(picture.height for picture, _ in cells) + 2 * CAPTION + MARGIN for _, cells in rows]
    top = MARGIN + 2 * TEXT
    below = CAPTION + MARGIN if note else 0
    width = max(left + sum(widths), 2 * MARGIN + math.ceil(small.getlength(note)))
    canvas = Image.new("RGB", (width, top + sum(heights) + below), "white")
    draw = ImageDraw.Draw(canvas)
    lefts = [left + sum(widths[:i]) for i in range(len(columns))]
    for x, column in zip(lefts, columns, strict=True):
        draw.text((x, MARGIN), column, "black", font)
    for (name, cells), height in zip(rows, heights, strict=True):
        draw.text((MARGIN, top + (height - MARGIN - 2 * CAPTION - TEXT) // 2), name, "black", font)
        for x, (picture, caption) in zip(lefts, cells, strict=True):
            canvas.paste(picture, (x, top))
            draw.text((x, top + picture.height + 2), caption, "gray", small)
        top += height
    draw.text((MARGIN, top), note, "gray", small)
    return canvas


def _width(picture: Image.Image, caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return max(picture.width, math.ceil(font.getlength(caption)))


def encode(picture: Image.Image, path: Path) -> bytes:
    """The bytes of `picture` in the format that the ending of `path` names."""
    buffer = io.BytesIO()
    picture.save(buffer, format=Image.registered_extensions()[path.suffix.lower()])
    return buffer.getvalue()
