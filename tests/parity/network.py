"""A network that every implementation is run with, and that remembers what it was asked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["SHAPE", "StandInNetwork", "standard_noise"]

SHAPE = (2, 4, 8, 8)
HIDDEN = 16


class StandInNetwork:
    """A small fixed network, smooth and nonlinear in the sample and in the timestep.

    A perceptron over the channels of each pixel and of its left neighbour.

    Args:
        timesteps: the length of the range that its timesteps come from; it changes a few times on the way.
        dtype: the precision that it computes in.
    """

    def __init__(self, timesteps: float = 1000.0, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(11)
        channels = SHAPE[1]

        def weights(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) / shape[-1] ** 0.5

        self.inward, self.outward = weights(HIDDEN, 2 * channels), weights(channels, HIDDEN)
        self.phases, self.bias = weights(HIDDEN, 1), weights(channels, 1)
        self.frequency = 3.0 / timesteps
        self.seen: list[Tensor] = []
        self.timesteps: list[float] = []

    def __call__(self, x: Tensor, timestep: Any) -> Tensor:
        t = torch.as_tensor(timestep, dtype=torch.float64).reshape(-1)
        assert torch.all(t == t[0]), "all samples of a batch stand at the same timestep"
        self.seen.append(x)
        self.timesteps.append(float(t[0]))
        pixels = torch.cat([x, x.roll(1, dims=-1)], dim=1).flatten(2).to(self.inward.dtype)
        time = torch.sin(self.frequency * t[0] + 4 * self.phases).to(self.inward.dtype)
        return (self.outward @ torch.tanh(self.inward @ pixels + time) + self.bias).reshape(x.shape)


def standard_noise(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal noise, the same numbers in every precision."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
