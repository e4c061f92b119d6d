"""The models that `diffusolve sample` knows."""

from __future__ import annotations

from pathlib import Path

import torch

from diffusolve.denoisers import (
    ClassifierFreeGuidance,
    DatasetDenoiser,
    Denoiser,
    GaussianDenoiser,
    load_digits_data,
)
from diffusolve.denoisers.pipeline import PipelineModel, load_pipeline
from diffusolve.errors import unknown_name
from diffusolve.noise import SD15

__all__ = ["MODELS", "load_model"]

MODELS = {
    "digits": "a small network trained on handwritten digits",
    "exact": "the exact denoiser of the same digits, without a network: samples are the digits themselves",
    "gaussian": "the exact denoiser of independent pixels with the digits' means and standard deviations",
}
"""Name -> what it is. Anything else is a pipeline folder or a Hub id."""

DIGITS_SHAPE = (1, 8, 8)


def load_model(name: str, batch_size: int, *, prompt: str | None, label: int | None, guidance: float) -> PipelineModel:
    """The model called `name`, conditioned for `batch_size` samples.

    Args:
        name: one of :data:`MODELS`, a pipeline folder or a Hub id ``organisation/name``.
        batch_size: how many samples will be made at once.
        prompt: for text-to-image pipelines.
        label: which class to make; the digits models make all ten in turn without it.
        guidance: classifier-free guidance scale; 1 is none.

    Raises:
        UnknownNameError: no such model, and `name` is no folder and no Hub id either.
        ValueError: an option that the model has no use for.
    """
    if name not in MODELS:
        if not Path(name).is_dir() and name.count("/") != 1:
            raise unknown_name("model", name, MODELS)
        return load_pipeline(name, batch_size, prompt=prompt, label=label, guidance=guidance)
    if prompt is not None:
        raise ValueError(f"the {name} model takes no prompt.")
    if name == "gaussian":
        if label is not None or guidance != 1.0:
            raise ValueError("the gaussian model knows no classes: leave class and guidance out.")
        images = load_digits_data()[0]
        return _digits(GaussianDenoiser(SD15, images.mean(axis=0), images.std(axis=0)))
    if label is not None and not 0 <= label <= 9:
        raise ValueError(f"class {label}: the {name} model knows the classes 0 to 9.")
    labels = torch.arange(batch_size) % 10 if label is None else torch.full((batch_size,), label)
    any_class = torch.full((batch_size,), 10)
    return _digits(ClassifierFreeGuidance(_conditional(name), labels, any_class, guidance))


def _conditional(name: str) -> object:
    if name == "exact":
        return DatasetDenoiser(SD15, *load_digits_data())
    from diffusolve.denoisers.digits_network import load_digits_network

    return Denoiser(load_digits_network(), "v_prediction", SD15)


def _digits(network: object) -> PipelineModel:
    return PipelineModel(network, DIGITS_SHAPE, lambda x: x)
