"""Networks that ship with the package as a batcher's models, and their samples as pictures; shared by the servers."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import diffusolve
from diffusolve.denoisers.digits_network import NO_CLASS as NO_DIGIT
from diffusolve.denoisers.digits_network import load_digits_network
from diffusolve.denoisers.emoji import class_label
from diffusolve.denoisers.emoji_network import NO_CLASS as NO_EMOJI
from diffusolve.denoisers.emoji_network import load_emoji_network
from diffusolve.errors import shown
from diffusolve.serving import ContinuousBatcher, Request

__all__ = ["MODELS", "Guided", "PictureModel", "batcher_of", "picture_request", "png"]

MOST_GUIDANCE = 100.0
"""The largest guidance scale: beyond some 20 pictures are noise, and far beyond the network's outputs overflow."""

LONGEST_NAME = 100
"""The most characters of a name that anybody looks for."""


def digit_label(digit: Any) -> int:
    """The label of a digit, which is the digit."""
    if isinstance(digit, bool) or not isinstance(digit, int):
        raise TypeError(f"digit is {shown(digit)}: expected a whole number from 0 to 9.")
    if digit not in range(10):
        raise ValueError(f"digit is {shown(digit)}: expected 0 to 9.")
    return digit


def emoji_label(name: Any) -> int:
    """The label of a class of emoji, such as "cat-face"."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        raise TypeError(f"class is {shown(name)}: expected a name such as 'cat-face'.")
    return class_label(name)


@dataclass(frozen=True)
class PictureModel:
    """A network, and how a client asks for its pictures.

    Attributes:
        key: of the request's body, what is to be in the picture.
        example: a value of it.
        label: of such a value the network's label; raises TypeError or ValueError where there is none.
        no_class: the label of pictures of anything.
        shape: of a sample.
        load: the network, called with samples, timesteps and labels.
        zoom: how many pixels of a picture a pixel of a sample is, each way.
    """

    key: str
    example: Any
    label: Callable[[Any], int]
    no_class: int
    shape: tuple[int, ...]
    load: Callable[[], Any]
    zoom: int


MODELS = {
    "digits": PictureModel("digit", 3, digit_label, NO_DIGIT, (1, 8, 8), load_digits_network, zoom=16),
    "emoji": PictureModel("class", "cat-face", emoji_label, NO_EMOJI, (3, 32, 32), load_emoji_network, zoom=4),
}


class Guided:
    """A network of :data:`MODELS`, called with one batch of requests of any guidance scales.

    A request's condition is a label. One call gives the outputs with the class for all, and those without it for
    requests with guidance. What the model was trained with, the batcher reads from it.
    """

    noise_schedule = diffusolve.SD15
    prediction = "v_prediction"

    def __init__(self, model: PictureModel) -> None:
        self.network, self.no_class = model.load(), model.no_class

    def __call__(self, x: Tensor, timesteps: Tensor, requests: list[Request]) -> Tensor:
        guided = [index for index, request in enumerate(requests) if request.guidance_scale != 1.0]
        labels = [request.condition for request in requests] + [self.no_class] * len(guided)
        scales = torch.tensor([requests[index].guidance_scale for index in guided]).reshape(-1, 1, 1, 1)
        both = self.network(torch.cat([x, x[guided]]), torch.cat([timesteps, timesteps[guided]]), torch.tensor(labels))
        made: Tensor = both[: len(x)]
        made[guided] = torch.lerp(both[len(x) :], made[guided], scales)
        return made


def batcher_of(name: str = "digits", max_batch_size: int = 16, max_queue: int = 256) -> ContinuousBatcher:
    """A batcher of a model of :data:`MODELS`. A request with more than 200 steps is refused."""
    model = MODELS[name]
    return ContinuousBatcher(
        Guided(model), shapes=[model.shape], max_batch_size=max_batch_size, max_queue=max_queue, max_steps=200
    )


def picture_request(
    model: PictureModel,
    of: Any,
    sampler: str = "DPM++ 2M Karras",
    steps: int = 20,
    seed: int | None = None,
    guidance: float = 2.0,
    priority: int = 0,
    timeout: float | None = 60.0,
) -> Request:
    """The request for a picture of the class `of`.

    Raises:
        TypeError, ValueError: a value of the wrong type, or out of its range.
    """
    label = model.label(of)
    if not isinstance(sampler, str) or len(sampler) > LONGEST_NAME:
        raise ValueError(f"sampler is {shown(sampler)}: expected a name of at most {LONGEST_NAME} characters.")
    if isinstance(guidance, bool) or not isinstance(guidance, int | float) or not 0 <= guidance <= MOST_GUIDANCE:
        raise ValueError(f"guidance is {shown(guidance)}: expected a number from 0 to {MOST_GUIDANCE:g}.")
    if steps is None:
        raise TypeError("steps is None: expected a whole number, at least 1.")
    return Request(
        sampler=sampler,
        steps=steps,
        shape=model.shape,
        seed=seed,
        condition=label,
        guidance_scale=float(guidance),
        priority=priority,
        timeout=timeout,
    )


def png(sample: Tensor, zoom: int = 1) -> bytes:
    """A sample, shape (1 or 3, height, width), as a PNG, -1 dark and 1 bright, each pixel `zoom` x `zoom` times."""
    shades = ((sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = shades.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if len(sample) == 1 else pixels).save(file, "PNG")
    return file.getvalue()
