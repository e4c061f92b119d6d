"""The classes that the models of `diffusolve sample` know. Needs no torch."""

from __future__ import annotations

from diffusolve.denoisers.emoji import class_label, load_emoji_classes
from diffusolve.errors import unknown_name

__all__ = ["MODELS", "MODEL_HELP", "classes_of", "label_of", "makes_emoji"]

MODELS = {
    "digits": "a small network trained on handwritten digits",
    "exact": "the exact denoiser of the same digits, without a network: samples are the digits themselves",
    "gaussian": "the exact denoiser of independent pixels with the digits' means and standard deviations",
    "emoji": "a small network trained on 1,026 emoji of 32x32 pixels in colour",
    "emoji-flow": "the same network as a flow-matching model",
    "emoji-exact": "the exact denoiser of the same emoji, without a network: samples are the emoji themselves",
}
"""Name -> what it is. Anything else is a file of the emoji network's weights, a pipeline folder or a Hub id."""

MODEL_HELP = f"{', '.join(MODELS)}, a file that examples.train_emoji wrote, a diffusers pipeline folder or a Hub id."

WEIGHTS_ENDING = ".safetensors"


def classes_of(model: str) -> tuple[str, ...]:
    """Names of the classes of one of :data:`MODELS` or of a file of weights, in the order of their labels.

    A model without classes has no names.

    Raises:
        UnknownNameError: no such model.
    """
    if makes_emoji(model):
        return load_emoji_classes()
    if model not in MODELS:
        raise unknown_name("model", model, MODELS)
    return () if model == "gaussian" else tuple(map(str, range(10)))


def makes_emoji(model: str) -> bool:
    """True of the models of emoji, and of a file of the network's weights."""
    return (model.startswith("emoji") and model in MODELS) or model.endswith(WEIGHTS_ENDING)


def label_of(model: str, name: str | int) -> int:
    """The label of the class called `name`; of a pipeline, whose classes have no names, the whole number itself.

    Raises:
        ValueError: the model has no such class.
    """
    if makes_emoji(model):
        return class_label(str(name))
    try:
        label = int(name)
    except ValueError as error:
        raise ValueError(f"class {name!r}: the classes of {model} are whole numbers.") from error
    if model in MODELS and label not in range(len(classes_of(model))):
        if not classes_of(model):
            raise ValueError(f"the {model} model knows no classes: leave the class out.")
        raise ValueError(f"class {name}: the {model} model knows the classes 0 to {len(classes_of(model)) - 1}.")
    return label
