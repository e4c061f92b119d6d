"""The models that come with the package, by their names, and the classes that they know. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from diffusolve.denoisers.as_flow import AsFlow
from diffusolve.denoisers.digits import load_digits_data
from diffusolve.denoisers.emoji import class_label, load_emoji_classes, load_emoji_data
from diffusolve.denoisers.exact import DatasetDenoiser, GaussianDenoiser
from diffusolve.denoisers.wrap import Denoiser
from diffusolve.errors import unknown_name
from diffusolve.noise import SD15

__all__ = [
    "MODELS",
    "check_model",
    "classes_of",
    "conditional_denoiser",
    "gaussian_of_digits",
    "is_named",
    "label_of",
    "makes_emoji",
    "shape_of",
]

MODELS = {
    "digits": "a small network trained on handwritten digits",
    "exact": "the exact denoiser of the same digits, without a network: samples are the digits themselves",
    "gaussian": "the exact denoiser of independent pixels with the digits' means and standard deviations",
    "emoji": "a small network trained on 1,026 emoji of 32x32 pixels in colour",
    "emoji-flow": "the same network as a flow-matching model",
    "emoji-exact": "the exact denoiser of the same emoji, without a network: samples are the emoji themselves",
}
"""Name -> what it is. Anything else is a file of the emoji network's weights, a pipeline folder or a Hub id."""

WEIGHTS_ENDING = ".safetensors"

DIGITS_SHAPE = (1, 8, 8)
EMOJI_SHAPE = (3, 32, 32)


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


def is_named(model: str) -> bool:
    """True of :data:`MODELS` and of files of weights, and not of pipelines."""
    return model in MODELS or makes_emoji(model)


def check_model(model: str) -> None:
    """Raise unless `model` can be the name of one; what is on the Hub is not asked for.

    Raises:
        UnknownNameError: none of :data:`MODELS`, no folder, and no Hub id either.
        FileNotFoundError: a file of weights or a folder that is not there.
    """
    if model in MODELS:
        return
    path = Path(model)
    if model.endswith(WEIGHTS_ENDING):
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no file {model}: expected weights that python -m examples.train_emoji wrote."
            )
    elif not path.is_dir():
        if path.is_absolute() or model.startswith((".", "~")) or model.endswith("/") or model.count("/") > 1:
            raise FileNotFoundError(f"there is no folder {model}: expected a pipeline folder, with a model_index.json.")
        if model.count("/") != 1:
            raise unknown_name("model", model, MODELS)


def shape_of(model: str) -> tuple[int, ...]:
    """The shape of a sample of one of :data:`MODELS` or of a file of weights."""
    return EMOJI_SHAPE if makes_emoji(model) else DIGITS_SHAPE


def gaussian_of_digits() -> GaussianDenoiser:
    """The model called ``gaussian``."""
    images = load_digits_data()[0]
    return GaussianDenoiser(SD15, images.mean(axis=0), images.std(axis=0))


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
