"""Models by name, conditioned and ready to be sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusolve.denoisers.named import (
    check_model,
    classes_of,
    conditional_denoiser,
    gaussian_of_digits,
    is_named,
    label_of,
    makes_emoji,
    shape_of,
)
from diffusolve.denoisers.pipeline import PipelineModel, conditioned, open_pipeline
from diffusolve.denoisers.wrap import ClassifierFreeGuidance

__all__ = ["load_model"]

STRIDE = 19
"""From one sample's class of emoji to the next one's: neighbours look alike, and 65 are passed through without gaps."""


def load_model(
    name: str,
    batch_size: int,
    *,
    prompt: str | None,
    label: str | int | None,
    guidance: float,
    opened: Callable[[str], Any] = open_pipeline,
) -> PipelineModel:
    """The model called `name`, conditioned for `batch_size` samples.

    Args:
        name: one of :data:`MODELS`, a file of the emoji network's weights, a pipeline folder or a Hub id
            ``organisation/name``.
        batch_size: how many samples will be made at once.
        prompt: for text-to-image pipelines.
        label: which class to make, by its name or number; models with classes make all in turn without it.
        guidance: classifier-free guidance scale; 1 is none.
        opened: what opens a pipeline; whoever samples again and again keeps those that are open.

    Raises:
        UnknownNameError: no such model or class, and `name` is no folder and no Hub id either.
        FileNotFoundError: no such file of weights, no such folder.
        ValueError: an option that the model has no use for.
    """
    check_model(name)
    if not is_named(name):
        number = None if label is None else label_of(name, label)
        return conditioned(opened(name), name, batch_size, prompt=prompt, label=number, guidance=guidance)
    if prompt is not None:
        raise ValueError(f"the {name} model takes no prompt.")
    chosen = None if label is None else label_of(name, label)
    if name == "gaussian":
        if guidance != 1.0:
            raise ValueError("the gaussian model knows no classes: leave guidance out.")
        return PipelineModel(gaussian_of_digits(), shape_of(name), _as_is)
    count = len(classes_of(name))
    in_turn = torch.arange(batch_size) * (STRIDE if makes_emoji(name) else 1) % count
    labels = in_turn if chosen is None else torch.full((batch_size,), chosen)
    guided = ClassifierFreeGuidance(conditional_denoiser(name), labels, torch.full((batch_size,), count), guidance)
    return PipelineModel(guided, shape_of(name), _as_is)


def _as_is(samples: Tensor) -> Tensor:
    """The decoding of samples that are images already."""
    return samples
