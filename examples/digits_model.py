"""The digits network as a batcher's model, and its samples as pictures; what the servers of digits share."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

import diffusolve
from diffusolve.denoisers.digits_network import NO_CLASS, load_digits_network
from diffusolve.errors import shown
from diffusolve.serving import ContinuousBatcher, Request

SHAPE = (1, 8, 8)

MOST_GUIDANCE = 100.0
"""The largest guidance scale: beyond some 20 digits are noise, and far beyond the network's outputs overflow."""

LONGEST_NAME = 100
"""The most characters of a sampler's name that anybody looks for."""


class Digits:
    """The network that ships with the package, called with one batch of requests of any guidance scales.

    A request's condition is the digit, 0 to 9. One call gives the outputs with the class for all, and those without it
    for requests with guidance. What the model was trained with, the batcher reads from it.
    """

    noise_schedule = diffusolve.SD15
    prediction = "v_prediction"

    def __init__(self) -> None:
        self.network = load_digits_network()

    def __call__(self, x: Tensor, timesteps: Tensor, requests: list[Request]) -> Tensor:
        guided = [index for index, request in enumerate(requests) if request.guidance_scale != 1.0]
        labels = [request.condition for request in requests] + [NO_CLASS] * len(guided)
        scales = torch.tensor([requests[index].guidance_scale for index in guided]).reshape(-1, 1, 1, 1)
        both = self.network(torch.cat([x, x[guided]]), torch.cat([timesteps, timesteps[guided]]), torch.tensor(labels))
        made: Tensor = both[: len(x)]
        made[guided] = torch.lerp(both[len(x) :], made[guided], scales)
        return made


def digits_batcher(max_batch_size: int = 16, max_queue: int = 256) -> ContinuousBatcher:
    """A batcher of digits. A request with more than 200 steps is refused."""
    return ContinuousBatcher(
        Digits(), shapes=[SHAPE], max_batch_size=max_batch_size, max_queue=max_queue, max_steps=200
    )


def digit_request(
    digit: int,
    sampler: str = "DPM++ 2M Karras",
    steps: int = 20,
    seed: int | None = None,
    guidance: float = 2.0,
    priority: int = 0,
    timeout: float | None = 60.0,
) -> Request:
    """The request for a picture of `digit`.

    Raises:
        TypeError, ValueError: a value of the wrong type, or out of its range.
    """
    if isinstance(digit, bool) or not isinstance(digit, int):
        raise TypeError(f"digit is {shown(digit)}: expected a whole number from 0 to 9.")
    if digit not in range(10):
        raise ValueError(f"digit is {shown(digit)}: expected 0 to 9.")
    if not isinstance(sampler, str) or len(sampler) > LONGEST_NAME:
        raise ValueError(f"sampler is {shown(sampler)}: expected a name of at most {LONGEST_NAME} characters.")
    if isinstance(guidance, bool) or not isinstance(guidance, int | float) or not 0 <= guidance <= MOST_GUIDANCE:
        raise ValueError(f"guidance is {shown(guidance)}: expected a number from 0 to {MOST_GUIDANCE:g}.")
    if steps is None:
        raise TypeError("steps is None: expected a whole number, at least 1.")
    return Request(
        sampler=sampler,
        steps=steps,
        shape=SHAPE,
        seed=seed,
        condition=digit,
        guidance_scale=float(guidance),
        priority=priority,
        timeout=timeout,
    )


def png(sample: Tensor, zoom: int = 16) -> bytes:
    """A sample, black where it is -1 and white where it is 1, as a PNG of 8 x 8 squares of `zoom` pixels."""
    shades = ((sample[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    picture = Image.fromarray(shades.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1).numpy())
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
