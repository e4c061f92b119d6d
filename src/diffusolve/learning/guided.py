"""Classifier-free guidance for batches whose conditions change."""

from __future__ import annotations

from typing import Any

from diffusolve.arrays import Array, concatenate
from diffusolve.denoisers import ClassifierFreeGuidance
from diffusolve.sampling import trained_for

__all__ = ["Guided"]


class Guided:
    """A conditional network with guidance inside, called with the conditions of each batch.

    Args:
        network: called with samples, timesteps and a condition, each with the batch as first dimension.
        unconditional: the condition that stands for none, shape (1, ...).
        scale: of the guidance; 1 is none.

    Raises:
        ValueError: the network does not know what it was trained with: wrap it in a Denoiser.
    """

    def __init__(self, network: Any, unconditional: Array, scale: float) -> None:
        self.network = network
        self.unconditional = unconditional
        self.scale = scale
        self.noise_schedule, self.prediction = trained_for(network, None, None)

    def __call__(self, x: Array, timestep: Array, condition: Array) -> Array:
        """The guided output for samples `x`, shape (batch, ...), with `condition`, shape (batch, ...)."""
        if self.scale == 1.0:
            return self.network(x, timestep, condition)
        none = concatenate([self.unconditional] * x.shape[0])
        return ClassifierFreeGuidance(self.network, condition, none, self.scale)(x, timestep)
