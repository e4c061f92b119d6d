"""The emoji network: 32x32 pictures in colour, of the class asked for, with v-prediction."""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from diffusolve.denoisers.blocks import Attention, Block, ChannelNorm, sinusoids, zeroed

__all__ = ["NO_CLASS", "EmojiNetwork", "load_emoji_network"]

NO_CLASS = 65
"""The label that asks for an emoji of any class: the unconditional half of classifier-free guidance."""

SIZE = 32
"""Of the images, in pixels."""

FOLD = 2
"""Pixels a side that are folded into channels, so that the convolutions work on a quarter as many positions."""


class Layer(nn.Module):
    """A residual block, followed by attention where that is asked for."""

    def __init__(self, in_channels: int, channels: int, condition_size: int, attention: bool) -> None:
        super().__init__()
        self.block = Block(in_channels, channels, condition_size, ChannelNorm)
        self.attention = Attention(channels) if attention else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        output: Tensor = self.attention(self.block(x, condition))
        return output


class EmojiNetwork(nn.Module):
    """Class-conditional U-Net, 16x16 -> 8x8 -> 4x4 -> 8x8 -> 16x16, that predicts v = alpha * noise - sigma * image.

    The timesteps are those of :data:`diffusolve.noise.SD15`, the images and classes those of
    :func:`diffusolve.denoisers.emoji.load_emoji_data`.
    v-prediction: Salimans and Ho 2022, https://arxiv.org/abs/2202.00512.

    Args:
        channels: features at each of the resolutions, multiples of 8, and of 32 from the second one on, where
            attention is.
        condition_size: length of the vector that carries timestep and class to every block, even.
    """

    def __init__(self, channels: tuple[int, ...] = (48, 96, 128), condition_size: int = 192) -> None:
        super().__init__()
        folded = 3 * FOLD**2
        self.time = nn.Sequential(
            nn.Linear(condition_size, condition_size), nn.SiLU(), nn.Linear(condition_size, condition_size)
        )
        self.label = nn.Embedding(NO_CLASS + 1, condition_size)
        self.stem = nn.Conv2d(folded, channels[0], 3, padding=1)
        self.encoders = nn.ModuleList(Layer(c, c, condition_size, i > 0) for i, c in enumerate(channels))
        self.downs = nn.ModuleList(nn.Conv2d(c, d, 2, stride=2) for c, d in pairwise(channels))
        self.middle = Layer(channels[-1], channels[-1], condition_size, True)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(d, c, 2, stride=2) for c, d in pairwise(channels))
        self.decoders = nn.ModuleList(Layer(2 * c, c, condition_size, i > 0) for i, c in enumerate(channels))
        self.head = nn.Sequential(
            ChannelNorm(channels[0]), nn.SiLU(), zeroed(nn.Conv2d(channels[0], folded, 3, padding=1))
        )

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """Predict v for noisy images.

        Args:
            x: noisy images alpha * image + sigma * noise, shape (B, 3, 32, 32), dtype as the network.
            timestep: shape (B,), whole or fractional, in [0, 999].
            label: int64, shape (B,), the class 0 to 64, or 65 (NO_CLASS) for any.

        Returns:
            The v-prediction, shape, dtype and device of x.

        Raises:
            ValueError: a shape is not as above.
            IndexError: a label is outside 0 to 65 (on the CPU; an accelerator reports it its own way).
        """
        if x.shape[1:] != (3, SIZE, SIZE) or timestep.shape != x.shape[:1] or label.shape != x.shape[:1]:
            raise ValueError(
                f"expected x (B, 3, {SIZE}, {SIZE}), timestep (B,) and label (B,), "
                f"got {tuple(x.shape)}, {tuple(timestep.shape)} and {tuple(label.shape)}"
            )
        waves = sinusoids(timestep, self.label.embedding_dim).to(x.dtype)
        condition = functional.silu(self.time(waves) + self.label(label))
        hidden = self.stem(functional.pixel_unshuffle(x, FOLD))
        kept = []
        for encoder, down in zip(self.encoders, (*self.downs, nn.Identity()), strict=True):
            kept.append(encoder(hidden, condition))
            hidden = down(kept[-1])
        hidden = self.middle(hidden, condition)
        for decoder, up in zip(reversed(self.decoders), (nn.Identity(), *reversed(self.ups)), strict=True):
            hidden = decoder(torch.cat([up(hidden), kept.pop()], dim=1), condition)
        prediction: Tensor = functional.pixel_shuffle(self.head(hidden), FOLD)
        return prediction


def load_emoji_network(path: str | Path | None = None) -> EmojiNetwork:
    """Load a trained network: float32, on the CPU, in evaluation mode.

    Args:
        path: a safetensors file that ``examples.train_emoji`` wrote; without it the one that ships with the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file's weights are of another network.
    """
    file = files("diffusolve.denoisers") / "data" / "emoji.safetensors" if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: expected weights that python -m examples.train_emoji wrote.")
    try:
        state = load(file.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}.") from error
    # On the meta device nothing is drawn for first weights, so loading leaves torch's random state as it was.
    with torch.device("meta"):
        network = EmojiNetwork()
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{path} holds the weights of another network: {name} is {found.get(name, 'missing')}, and "
                f"{expected.get(name, 'absent')} in the emoji network. Weights that fit are written by "
                "python -m examples.train_emoji."
            )
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return network.eval()
