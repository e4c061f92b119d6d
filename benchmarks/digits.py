"""How often a classifier sees the digit that was asked for: ``python -m benchmarks.digits``."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

from diffusolve.catalog import sampler
from diffusolve.denoisers import ClassifierFreeGuidance, Denoiser, load_digits_data
from diffusolve.denoisers.digits_network import NO_CLASS, load_digits_network
from diffusolve.noise import SD15
from diffusolve.sampling import sample, start


@lru_cache(maxsize=1)
def classifier() -> SVC:
    """A plain classifier trained on all real digits."""
    images, labels = load_digits_data()
    return new_classifier().fit(pixels(images), labels)


def new_classifier() -> SVC:
    return SVC(gamma=0.001)


def pixels(images: np.ndarray) -> np.ndarray:
    """Images as the data set counts ink, from 0 to 16, one row each."""
    return np.asarray((images.reshape(len(images), -1) + 1) * 8)


def agreement(name: str, steps: int, count: int = 500, guidance: float = 1.0, seed: int = 0) -> float:
    """The share of `count` samples of all ten digits in which the classifier sees the digit asked for.

    Args:
        name: the sampler's.
        steps: its steps.
        count: how many samples, a multiple of 10.
        guidance: classifier-free guidance scale.
        seed: the first sample's; the others follow.
    """
    labels = torch.arange(count) % 10
    network = Denoiser(load_digits_network(), "v_prediction", SD15)
    guided = ClassifierFreeGuidance(network, labels, torch.full_like(labels, NO_CLASS), guidance)
    recipe = sampler(name)
    seeds = list(range(seed, seed + count))
    x = start(recipe.grid(SD15, steps), torch.empty(count, 1, 8, 8), seeds)
    images = sample(guided, x, recipe, steps=steps, noise=seeds)
    return float(np.mean(classifier().predict(pixels(images.numpy())) == labels.numpy()))


def main(steps: Annotated[int, typer.Option(min=1)] = 20) -> None:
    """Print the agreement for some samplers and guidance scales, and the classifier's own on real digits."""
    table = Table(
        "sampler", "no guidance", "guidance 2", title=f"agreement over 500 samples, {steps} steps, seeds 0-499"
    )
    for name in ("DPM++ 2M", "DPM++ 2M Karras", "UniPC", "Euler", "Euler a", "DPM++ 2M SDE Karras"):
        table.add_row(name, *(f"{agreement(name, steps, guidance=guidance):.1%}" for guidance in (1.0, 2.0)))
    console = Console()
    console.print(table)
    images, labels = load_digits_data()
    scores = cross_val_score(new_classifier(), pixels(images), labels)
    console.print(f"the classifier on real digits that it was not trained on (five folds): {scores.mean():.1%}")


if __name__ == "__main__":
    typer.run(main)
