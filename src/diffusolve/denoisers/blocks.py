"""The parts that the shipped networks are built of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Attention", "Block", "ChannelNorm", "group_norm", "sinusoids", "zeroed"]


def group_norm(channels: int, affine: bool = True) -> nn.Module:
    """Group normalisation in eight groups."""
    return nn.GroupNorm(8, channels, affine=affine)


class ChannelNorm(nn.Module):
    """Layer normalisation of the features of each pixel, as ConvNeXt has it (https://arxiv.org/abs/2201.03545).

    With channels last in memory it takes a third of group normalisation's time on the CPU.

    Args:
        channels: features of each pixel.
        affine: scale and shift the normalised features by learned numbers.
    """

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return output


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, the condition scaling and shifting the features between them.

    The modulation is FiLM (Perez et al. 2018, https://arxiv.org/abs/1709.07871).

    Args:
        in_channels, out_channels: features of each pixel before and after.
        condition_size: length of the condition's vector.
        norm: makes a normalisation of so many channels, with or without learned numbers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        condition_size: int,
        norm: Callable[[int, bool], nn.Module] = group_norm,
    ) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            norm(in_channels, True), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.norm = norm(out_channels, False)
        self.film = nn.Linear(condition_size, 2 * out_channels)
        self.leave = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm(self.enter(x)) * (1 + scale) + shift
        output: Tensor = self.skip(x) + self.leave(functional.silu(hidden))
        return output


class Attention(nn.Module):
    """Residual self-attention over the pixels of a feature map, in heads of 32 features.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.

    Args:
        channels: features of each pixel, a multiple of 32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // 32
        self.norm = ChannelNorm(channels)
        self.enter = nn.Conv2d(channels, 3 * channels, 1)
        self.leave = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.enter(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1))  # (B, 3, heads, 32, pixels)
        query, key, value = tokens.transpose(-1, -2).unbind(1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        output: Tensor = x + self.leave(mixed.transpose(-1, -2).reshape(x.shape))
        return output


def sinusoids(timestep: Tensor, size: int) -> Tensor:
    """Timesteps as waves, a vector that a network can tell them apart by.

    Args:
        timestep: shape (B,), whole or fractional, in [0, 999].
        size: length of the vector, even.

    Returns:
        Shape (B, size): cosines, then sines; float64 for float64 timesteps, else float32.
    """
    # No wave is faster than 0.1 radian per timestep, so that the network changes smoothly between the whole
    # timesteps it was trained on: solvers also step to fractional ones.
    time = timestep.to(torch.float64 if timestep.dtype == torch.float64 else torch.float32)
    frequencies = torch.logspace(-3, -1, size // 2, dtype=time.dtype, device=time.device)
    angles = time[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Start a layer at zero, so that every residual block begins as its skip and the network as v = 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
