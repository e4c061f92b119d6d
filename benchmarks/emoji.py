"""Samplers measured on emoji, with pictures: ``python -m benchmarks.emoji``.

For each sampler, number of evaluations and guidance scale: the share of samples in which a classifier sees the class
that was asked for, and the Frechet distance of its features to those of the emoji (each as it is and flipped). The
classes are asked for as often as the emoji have them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.emoji_classifier import EmojiClassifier, load_classifier, recognised, two_ways
from benchmarks.which_sampler import frechet
from diffusolve.catalog import sampler
from diffusolve.comparing.cells import steps_of_column
from diffusolve.comparing.picture import encode, labelled_grid, tile
from diffusolve.denoisers import ClassifierFreeGuidance, load_emoji_data
from diffusolve.denoisers.named import conditional_denoiser
from diffusolve.files import write_atomically
from diffusolve.sampling import sample, start

SAMPLERS = (
    "Euler",
    "DPM++ 2M",
    "DPM++ 2M Karras",
    "UniPC",
    "Heun",
    "Euler a",
    "DPM++ 2M SDE",
    "DPM++ 2M SDE Karras",
)

EMOJI = ("emoji", "emoji-flow", "emoji-exact")
"""Models of emoji that ship."""

EVALUATIONS = (5, 10, 20, 50)
GUIDANCE = (1.0, 2.0, 4.0)

BATCH_SIZE = 100
SHOWN = ("cat-face", "food-fruit", "transport-ground", "heart", "animal-bird", "sky-weather", "sport", "plant-flower")
"""Classes of the pictures of samplers."""


@dataclass(frozen=True)
class Figures:
    """The measurement of one setting.

    Attributes:
        sampler, evaluations, guidance: the setting; evaluations of the guided denoiser.
        recognised: share of samples in which the classifier sees the class asked for.
        frechet: Frechet distance of the classifier's features.
    """

    sampler: str
    evaluations: int
    guidance: float
    recognised: float
    frechet: float


def made(network: Any, name: str, evaluations: int, guidance: float, labels: Tensor) -> Tensor:
    """Samples of `labels`, sample i from noise of seed i; shape (len(labels), 3, 32, 32).

    Args:
        network: a denoiser of emoji, called with labels.
        name: the sampler's.
        evaluations: as many steps as they pay for are made.
        guidance: classifier-free guidance scale.
        labels: shape (count,), int64.

    Raises:
        ValueError: the sampler takes more evaluations for a single step.
    """
    recipe = sampler(name)
    steps = steps_of_column(recipe, network, evaluations, "evaluations")
    grid = recipe.grid(network.noise_schedule, steps or 1)
    parts = []
    for first in range(0, len(labels), BATCH_SIZE):
        part = labels[first : first + BATCH_SIZE]
        seeds = list(range(first, first + len(part)))
        guided = ClassifierFreeGuidance(network, part, torch.full_like(part, 65), guidance)
        x = start(grid, torch.empty(len(part), 3, 32, 32), seeds)
        parts.append(sample(guided, x, recipe, steps=steps, noise=seeds))
    return torch.cat(parts)


@torch.no_grad()
def features(classifier: EmojiClassifier, images: Tensor) -> np.ndarray:
    """The classifier's features as float64, shape (count, 64)."""
    return np.concatenate([classifier.features(part).double().numpy() for part in torch.split(images, 256)])


def labels_in_turn(count: int) -> Tensor:
    """The emoji's own labels in a fixed random order, from the beginning when all have been had; shape (count,)."""
    labels = torch.from_numpy(load_emoji_data().labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return labels[order].repeat(-(-count // len(labels)))[:count]


def measure(
    network: Any,
    classifier: EmojiClassifier,
    names: Sequence[str],
    evaluations: Sequence[int],
    guidance: Sequence[float],
    count: int,
) -> list[Figures]:
    """Figures of every setting, of `count` samples each."""
    labels = labels_in_turn(count)
    data = features(classifier, torch.cat(two_ways()[:2]))
    found = []
    for name in names:
        for scale in guidance:
            for number in evaluations:
                images = made(network, name, number, scale, labels)
                share, distance = recognised(classifier, images, labels), frechet(features(classifier, images), data)
                found.append(Figures(name, number, scale, share, distance))
    return found


def floor(classifier: EmojiClassifier, count: int) -> float:
    """Frechet distance of as many real emoji, drawn with replacement and flipped at random, to all of them."""
    data = features(classifier, torch.cat(two_ways()[:2]))
    return frechet(data[np.random.default_rng(0).integers(len(data), size=count)], data)


def nearest(images: Tensor) -> tuple[Tensor, Tensor]:
    """The emoji, as it is or flipped, that is nearest to each image, and its distance.

    Returns:
        Images of the shape of `images`, and root mean square differences of the pixels, in units of [-1, 1].
    """
    every = torch.cat(two_ways()[:2])
    distance = torch.cdist(images.flatten(1), every.flatten(1)) / images[0].numel() ** 0.5
    least = distance.min(dim=1)
    return every[least.indices], least.values


# Pictures


def picture_of_samplers(network: Any, names: Sequence[str], evaluations: Sequence[int], guidance: float) -> Image.Image:
    """Samplers down, evaluations across, an emoji of each class of :data:`SHOWN` in each cell."""
    classes = load_emoji_data().classes
    labels = torch.tensor([classes.index(name) for name in SHOWN])
    rows = []
    for name in names:
        cells = [made(network, name, number, guidance, labels).numpy() for number in evaluations]
        rows.append((name, [(tile(images, 4, 32), "") for images in cells]))
    return labelled_grid([f"{number} evaluations" for number in evaluations], rows)


def picture_of_guidance(network: Any, scales: Sequence[float], evaluations: Sequence[int]) -> Image.Image:
    """Guidance scales down, evaluations of DPM++ 2M Karras across."""
    classes = load_emoji_data().classes
    labels = torch.tensor([classes.index(name) for name in SHOWN])
    rows = [
        (f"guidance {scale:g}", [(tile(images.numpy(), 4, 32), "") for images in cells])
        for scale in scales
        for cells in [[made(network, "DPM++ 2M Karras", number, scale, labels) for number in evaluations]]
    ]
    return labelled_grid([f"{number} evaluations" for number in evaluations], rows)


def picture_of_classes(network: Any, guidance: float) -> Image.Image:
    """Four samples of every class, in 20 evaluations of DPM++ 2M Karras."""
    classes = load_emoji_data().classes
    images = made(network, "DPM++ 2M Karras", 20, guidance, torch.arange(len(classes)).repeat_interleave(4))
    columns = 5
    rows = []
    for first in range(0, len(classes), columns):
        cells = [(tile(images[4 * i : 4 * i + 4].numpy(), 4, 32), classes[i]) for i in range(first, first + columns)]
        rows.append(("", cells))
    return labelled_grid([""] * columns, rows)


def picture_of_neighbours(network: Any, guidance: float, count: int = 48) -> tuple[Image.Image, Tensor]:
    """Each sample with the nearest emoji to its right, and their distances."""
    images = made(network, "DPM++ 2M Karras", 20, guidance, labels_in_turn(count))
    real, distances = nearest(images)
    return tile(torch.stack([images, real], 1).flatten(0, 1).numpy(), 12, 64), distances


# The program


def table(found: Sequence[Figures], what: str) -> Table:
    """One of the figures; samplers and guidance down, evaluations across."""
    columns = list(dict.fromkeys(one.evaluations for one in found))
    shown = Table("sampler", "guidance", *map(str, columns), title=what)
    for name, scale in dict.fromkeys((one.sampler, one.guidance) for one in found):
        of = {one.evaluations: one for one in found if (one.sampler, one.guidance) == (name, scale)}
        cells = [f"{of[c].recognised:.1%}" if what == "recognised" else f"{of[c].frechet:.2f}" for c in columns]
        shown.add_row(name, f"{scale:g}", *cells)
    return shown


def main(
    model: Annotated[
        str, typer.Option(help=f"{', '.join(EMOJI)}, or a file that examples.train_emoji wrote.")
    ] = "emoji",
    samplers: Annotated[list[str] | None, typer.Option(help="Names; without it, eight of them.")] = None,
    evaluations: Annotated[list[int] | None, typer.Option(help="Without it, 5 10 20 50.")] = None,
    guidance: Annotated[list[float] | None, typer.Option(help="Scales; without it, 1 2 4.")] = None,
    count: Annotated[int, typer.Option(min=65, help="Samples of each setting.")] = 10_000,
    classifier: Annotated[Path, typer.Option(help="Trained now, and kept there, if it is not there.")] = Path(
        "emoji-classifier.safetensors"
    ),
    out: Annotated[Path, typer.Option(help="The folder of pictures and figures.")] = Path("emoji-benchmark"),
) -> None:
    """Measure samplers on emoji, print tables, and write figures and pictures into a folder."""
    if model not in EMOJI and not Path(model).is_file():
        raise typer.BadParameter(
            f"there is no model {model!r}: expected {', '.join(EMOJI)}, or a file that python -m examples.train_emoji "
            "wrote."
        )
    names, numbers, scales = samplers or SAMPLERS, evaluations or EVALUATIONS, guidance or GUIDANCE
    network: Any = conditional_denoiser(model)
    judge = load_classifier(classifier)
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    found = measure(network, judge, names, numbers, scales, count)
    write_atomically(
        out / "figures.json", json.dumps({"model": model, "count": count, "figures": [*map(asdict, found)]}).encode()
    )
    console.print(table(found, "recognised"))
    console.print(table(found, "frechet distance"))
    seen, unseen, labels = two_ways()
    console.print(
        f"{count} samples each. The classifier recognises {recognised(judge, seen, labels):.1%} of the emoji it was "
        f"trained on, {recognised(judge, unseen, labels):.1%} of them the other way round; {count} of them are at a "
        f"distance of {floor(judge, count):.2f}.",
        highlight=False,
    )
    neighbours, distances = picture_of_neighbours(network, scales[0])
    pictures = {
        "samplers.png": picture_of_samplers(network, names, numbers, scales[-1]),
        "guidance.png": picture_of_guidance(network, scales, numbers),
        "classes.png": picture_of_classes(network, scales[-1]),
        "neighbours.png": neighbours,
    }
    for name, picture in pictures.items():
        write_atomically(out / name, encode(picture, out / name))
    low, median, high = np.quantile(distances.numpy(), (0, 0.5, 1))
    console.print(
        f"from a sample to the nearest emoji, root mean square: {low:.3f} to {high:.3f}, median {median:.3f}; pictures "
        f"in {out}",
        highlight=False,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)  # the networks are small: more threads would only wait for each other
    typer.run(main)
