"""Noto Emoji: 1,026 pictures in colour of 32x32 pixels, in 65 classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from diffusolve.errors import unknown_name

__all__ = ["EmojiData", "class_label", "load_emoji_classes", "load_emoji_data"]


@dataclass(frozen=True)
class EmojiData:
    """The emoji, and what they are called.

    Attributes:
        images: float32, shape (1026, 3, 32, 32), red, green and blue in [-1, 1], on white.
        labels: int64, shape (1026,), the class of each image, 0 to 64.
        names: of the images, for example ``grinning`` or ``red_car``.
        classes: of each label its name, for example ``cat-face``: Unicode's subcategories.
        categories: of each label the category that Unicode has it in, for example ``Smileys & Emotion``.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    classes: tuple[str, ...]
    categories: tuple[str, ...]


def load_emoji_data() -> EmojiData:
    """Load the 1,026 emoji that ship with the package (needs NumPy only).

    Raises:
        FileNotFoundError: the installed package lacks its data file.

    Source: Noto Emoji by Google, Apache License 2.0, https://github.com/googlefonts/noto-emoji;
    denoisers/data/README.md says how they were made smaller.
    """
    with (files("diffusolve.denoisers") / "data" / "emoji.npz").open("rb") as file, np.load(file) as arrays:
        pixels, labels, names = arrays["images"], arrays["labels"], arrays["names"]
        classes, categories = arrays["classes"], arrays["categories"]
    images = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    return EmojiData(
        np.ascontiguousarray(images),
        labels.astype(np.int64),
        tuple(names.tolist()),
        tuple(classes.tolist()),
        tuple(categories.tolist()),
    )


@lru_cache(maxsize=1)
def load_emoji_classes() -> tuple[str, ...]:
    """Names of the 65 classes in the order of their labels, without the images."""
    with (files("diffusolve.denoisers") / "data" / "emoji.npz").open("rb") as file, np.load(file) as arrays:
        return tuple(arrays["classes"].tolist())


def class_label(name: str) -> int:
    """The label of the class called `name`, for example 0 to 64 for ``cat-face``.

    Raises:
        UnknownNameError: there is no such class; the nearest names are in the message.
    """
    classes = load_emoji_classes()
    if name not in classes:
        raise unknown_name("class of emoji", name, classes)
    return classes.index(name)
