"""What `sample()` needs to know of a model."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from diffusolve.noise import NoiseSchedule
from diffusolve.prediction import Prediction

__all__ = ["Network", "ScheduledNetwork"]


class Network(Protocol):
    """A model: takes samples (batch, ...) and timesteps (batch,) and returns an output of the samples' shape."""

    def __call__(self, x: Any, timestep: Any, /) -> Any: ...


@runtime_checkable
class ScheduledNetwork(Protocol):
    """A model that knows what it was trained for."""

    noise_schedule: NoiseSchedule
    prediction: Prediction

    def __call__(self, x: Any, timestep: Any, /) -> Any: ...
