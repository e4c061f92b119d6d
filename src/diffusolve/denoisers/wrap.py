"""Wrappers that tell `sample()` what it needs to know of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusolve.arrays import Array, array_like, concatenate, to_numpy
from diffusolve.errors import check_finite
from diffusolve.noise import NoiseSchedule
from diffusolve.noise import noise_schedule as schedule_called
from diffusolve.prediction import Prediction, PredictionOrName, prediction

__all__ = ["ClassifierFreeGuidance", "Denoiser", "alpha_sigma_like"]


@dataclass(frozen=True)
class Denoiser:
    """A network together with what it was trained for, ``Denoiser(unet, "epsilon", "sd15")``.

    Args:
        network: called with samples (batch, ...), timesteps (batch,) and whatever else is passed through; returns an
            output of the samples' shape.
        prediction_type: what the output is: epsilon, sample, v_prediction, flow or edm.
        noise_schedule: the schedule that the network was trained with, or its name.

    Raises:
        UnknownNameError: a name that no prediction type or noise schedule has.
    """

    network: Any
    prediction: Prediction
    noise_schedule: NoiseSchedule

    def __init__(self, network: Any, prediction_type: PredictionOrName, noise_schedule: str | NoiseSchedule) -> None:
        object.__setattr__(self, "network", network)
        object.__setattr__(self, "prediction", prediction(prediction_type))
        object.__setattr__(self, "noise_schedule", schedule_called(noise_schedule))

    def __call__(self, x: Array, timestep: Array, *args: Any, **kwargs: Any) -> Array:
        return self.network(x, timestep, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "guided_and_unguided":  # if the network itself has it
            return getattr(self.network, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class ClassifierFreeGuidance:
    """Ho & Salimans 2022: ``unconditional + scale * (conditional - unconditional)`` of a conditional network.

    Both outputs come from one call on a batch of twice the size; with scale 1 the unconditional one is not computed.

    Args:
        network: called with samples, timesteps and a condition, each with the batch as first dimension; several batches
            in one array (``diffusolve.sample(..., at_once=True)``) have the conditions once each.
        condition: what to generate, shape (batch, ...).
        unconditional: the condition that stands for none, of the same shape.
        scale: 1 is no guidance; 0 ignores the condition. With solvers that have ``cfg_pp=True`` (Chung et al. 2024,
            CFG++) it is the paper's lambda, from 0 to 1: the data are then an interpolation, and each step is led on
            by the network without condition, so that 1 is strong guidance, not none.
    """

    def __init__(self, network: Any, condition: Array, unconditional: Array, scale: float) -> None:
        if condition.shape != unconditional.shape:
            raise ValueError(
                f"condition has shape {tuple(condition.shape)}, but unconditional has shape "
                f"{tuple(unconditional.shape)}: they must be equal."
            )
        check_finite("scale", scale)
        self.network = network
        self.scale = scale
        self.condition = condition
        self.both = concatenate([unconditional, condition])

    def __getattr__(self, name: str) -> Any:
        if name in ("prediction", "noise_schedule"):  # whatever the network itself knows
            return getattr(self.network, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __call__(self, x: Array, timestep: Array) -> Array:
        if self.scale == 1.0:
            return self.network(x, timestep, self._conditions(x)[1])
        return self.guided_and_unguided(x, timestep)[0]

    def guided_and_unguided(self, x: Array, timestep: Array) -> tuple[Array, Array]:
        """The output for samples `x`, shape (batch, ...), and the one without the condition, both of that shape."""
        both = self.network(concatenate([x, x]), concatenate([timestep, timestep]), self._conditions(x)[0])
        unconditional, conditional = both[: x.shape[0]], both[x.shape[0] :]
        return unconditional + self.scale * (conditional - unconditional), unconditional

    def _conditions(self, x: Array) -> tuple[Array, Array]:
        """The conditions for a call with `x` twice, first none and then that of each sample, and these alone."""
        rows = self.condition.shape[0]
        batches, rest = divmod(x.shape[0], rows)
        if rest or not batches:
            raise ValueError(f"a condition for {rows} samples, but the batch has {x.shape[0]}.")
        if batches == 1:
            return self.both, self.condition
        unconditional = self.both[:rows]
        both = concatenate([unconditional] * batches + [self.condition] * batches)
        return both, both[rows * batches :]


def alpha_sigma_like(noise_schedule: NoiseSchedule, timestep: Array, x: Array) -> tuple[Array, Array]:
    """(alpha, sigma) at each sample's timestep, as arrays like `x` of shape (batch, 1, ...)."""
    shape = (-1, *[1] * (len(x.shape) - 1))
    alpha, sigma = noise_schedule.alpha_sigma(to_numpy(timestep).astype(np.float64))
    return array_like(alpha.reshape(shape), x), array_like(sigma.reshape(shape), x)
