"""A small trained diffusion network: 8x8 handwritten digits, of the class asked for, with v-prediction."""

from __future__ import annotations

from importlib.resources import files

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from diffusolve.denoisers.blocks import Block, sinusoids, zeroed

__all__ = ["NO_CLASS", "DigitsNetwork", "load_digits_network"]

NO_CLASS = 10
"""The label that asks for any digit: the unconditional half of classifier-free guidance."""


class DigitsNetwork(nn.Module):
    """Class-conditional U-Net, 8x8 -> 4x4 -> 8x8, that predicts v = alpha * noise - sigma * image.

    The timesteps are those of :data:`diffusolve.noise.SD15`, and the images those of
    :func:`diffusolve.denoisers.digits.load_digits_data`.
    v-prediction: Salimans and Ho 2022, https://arxiv.org/abs/2202.00512.

    Args:
        channels: features at 8x8, a multiple of 8; the 4x4 level has twice as many.
        condition_size: length of the vector that carries timestep and class to every block, even.
    """

    def __init__(self, channels: int = 48, condition_size: int = 128) -> None:
        super().__init__()
        self.time = nn.Sequential(
            nn.Linear(condition_size, condition_size), nn.SiLU(), nn.Linear(condition_size, condition_size)
        )
        self.label = nn.Embedding(NO_CLASS + 1, condition_size)
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.encoder = Block(channels, channels, condition_size)
        self.down = nn.Conv2d(channels, 2 * channels, 2, stride=2)
        self.middle = nn.ModuleList(Block(2 * channels, 2 * channels, condition_size) for _ in range(2))
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.decoder = Block(2 * channels, channels, condition_size)
        self.head = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), zeroed(nn.Conv2d(channels, 1, 3, padding=1)))

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """Predict v for noisy images.

        Args:
            x: noisy images alpha * image + sigma * noise, shape (B, 1, 8, 8), dtype as the network.
            timestep: shape (B,), whole or fractional, in [0, 999].
            label: int64, shape (B,), the digit 0 to 9, or 10 (NO_CLASS) for any digit.

        Returns:
            The v-prediction, shape, dtype and device of x.

        Raises:
            ValueError: a shape is not as above.
            IndexError: a label is outside 0 to 10 (on the CPU; an accelerator reports it its own way).
        """
        if x.shape[1:] != (1, 8, 8) or timestep.shape != x.shape[:1] or label.shape != x.shape[:1]:
            raise ValueError(
                "expected x (B, 1, 8, 8), timestep (B,) and label (B,), "
                f"got {tuple(x.shape)}, {tuple(timestep.shape)} and {tuple(label.shape)}"
            )
        waves = sinusoids(timestep, self.label.embedding_dim).to(x.dtype)
        condition = functional.silu(self.time(waves) + self.label(label))
        outer = self.encoder(self.stem(x), condition)
        inner = self.down(outer)
        for block in self.middle:
            inner = block(inner, condition)
        merged = self.decoder(torch.cat([outer, self.up(inner)], dim=1), condition)
        prediction: Tensor = self.head(merged)
        return prediction


def load_digits_network() -> DigitsNetwork:
    """Load the trained network that ships with the package: float32, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: the installed package lacks its weights file.

    Source: trained by examples/train_digits.py; denoisers/data/README.md says how well it does.
    """
    weights = files("diffusolve.denoisers") / "data" / "digits.safetensors"
    # On the meta device nothing is drawn for first weights, so loading leaves torch's random state as it was.
    with torch.device("meta"):
        network = DigitsNetwork()
    state = {name: tensor.float() for name, tensor in load(weights.read_bytes()).items()}
    network.load_state_dict(state, assign=True)
    return network.eval()
