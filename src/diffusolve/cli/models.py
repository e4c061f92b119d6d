"""The models that `diffusolve sample` knows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diffusolve.cli.classes import MODELS, classes_of, label_of, makes_emoji
from diffusolve.denoisers import (
    AsFlow,
    ClassifierFreeGuidance,
    DatasetDenoiser,
    Denoiser,
    GaussianDenoiser,
    load_digits_data,
    load_emoji_data,
)
from diffusolve.denoisers.pipeline import PipelineModel, load_pipeline
from diffusolve.errors import unknown_name
from diffusolve.noise import SD15

__all__ = ["MODELS", "conditional_denoiser", "load_model"]

DIGITS_SHAPE = (1, 8, 8)
EMOJI_SHAPE = (3, 32, 32)

STRIDE = 19
"""From one sample's class of emoji to the next one's: neighbours look alike, and 65 are passed through without gaps."""


def load_model(
    name: str, batch_size: int, *, prompt: str | None, label: str | int | None, guidance: float
) -> PipelineModel:
    """The model called `name`, conditioned for `batch_size` samples.

    Args:
        name: one of :data:`MODELS`, a file of the emoji network's weights, a pipeline folder or a Hub id
            ``organisation/name``.
        batch_size: how many samples will be made at once.
        prompt: for text-to-image pipelines.
        label: which class to make, by its name or number; models with classes make all in turn without it.
        guidance: classifier-free guidance scale; 1 is none.

    Raises:
        UnknownNameError: no such model or class, and `name` is no folder and no Hub id either.
        FileNotFoundError: no such file of weights.
        ValueError: an option that the model has no use for.
    """
    if name not in MODELS and not makes_emoji(name):
        if not Path(name).is_dir() and name.count("/") != 1:
            raise unknown_name("model", name, MODELS)
        number = None if label is None else label_of(name, label)
        return load_pipeline(name, batch_size, prompt=prompt, label=number, guidance=guidance)
    if prompt is not None:
        raise ValueError(f"the {name} model takes no prompt.")
    chosen = None if label is None else label_of(name, label)
    if name == "gaussian":
        if guidance != 1.0:
            raise ValueError("the gaussian model knows no classes: leave guidance out.")
        images = load_digits_data()[0]
        return PipelineModel(GaussianDenoiser(SD15, images.mean(axis=0), images.std(axis=0)), DIGITS_SHAPE, _as_is)
    count, emoji = len(classes_of(name)), makes_emoji(name)
    in_turn = torch.arange(batch_size) * (STRIDE if emoji else 1) % count
    labels = in_turn if chosen is None else torch.full((batch_size,), chosen)
    guided = ClassifierFreeGuidance(conditional_denoiser(name), labels, torch.full((batch_size,), count), guidance)
    return PipelineModel(guided, EMOJI_SHAPE if emoji else DIGITS_SHAPE, _as_is)


def conditional_denoiser(name: str) -> object:
    """The denoiser of a model with classes, called with labels; the label after the last class stands for none."""
    if name == "exact":
        return DatasetDenoiser(SD15, *load_digits_data())
    if name == "emoji-exact":
        emoji = load_emoji_data()
        return DatasetDenoiser(SD15, emoji.images, emoji.labels)
    if name == "digits":
        from diffusolve.denoisers.digits_network import load_digits_network

        return Denoiser(load_digits_network(), "v_prediction", SD15)
    from diffusolve.denoisers.emoji_network import load_emoji_network

    network = Denoiser(load_emoji_network(None if name in MODELS else name), "v_prediction", SD15)
    return AsFlow(network) if name == "emoji-flow" else network


def _as_is(samples: Tensor) -> Tensor:
    """The decoding of samples that are images already."""
    return samples
