"""A classifier of emoji, to judge samples by: ``python -m benchmarks.emoji_classifier``.

It is trained on the 1,026 emoji as they are or flipped, each in one of the two ways only, and told apart by the other
one: that is all there is of pictures which it has not seen.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from diffusolve.denoisers import load_emoji_data
from diffusolve.files import check_writable, write_atomically

__all__ = ["EmojiClassifier", "load_classifier", "two_ways"]

EPOCHS = 200
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
FEATURES = 64
"""Length of the vector before the last layer, which the Frechet distance is of."""


class EmojiClassifier(nn.Module):
    """Convolutions at 16x16, 8x8 and 4x4, a vector of 64 features, and a class of 65."""

    def __init__(self) -> None:
        super().__init__()
        widths = (12, 48, 96, 192)
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),
            *_level(widths[0], widths[1]),
            nn.MaxPool2d(2),
            *_level(widths[1], widths[2]),
            nn.MaxPool2d(2),
            *_level(widths[2], widths[3]),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[3], FEATURES),
        )
        self.head = nn.Linear(FEATURES, 65)

    def features(self, images: Tensor) -> Tensor:
        """Shape (B, 64), for images of shape (B, 3, 32, 32) in [-1, 1]; values outside are clipped."""
        made: Tensor = self.body(images.clamp(-1, 1))
        return made

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (B, 65)."""
        made: Tensor = self.head(functional.relu(self.features(images)))
        return made


def _level(entering: int, leaving: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for channels in (entering, leaving):
        layers += [
            nn.Conv2d(channels, leaving, 3, padding=1, bias=False), nn.BatchNorm2d(leaving), nn.ReLU()
        ]  # fmt: skip
    return layers


def two_ways() -> tuple[Tensor, Tensor, Tensor]:
    """The emoji in the way that the classifier is trained on, in the other way, and their labels.

    Returns:
        Two tensors of shape (1026, 3, 32, 32), and one of shape (1026,).
    """
    data = load_emoji_data()
    images = torch.from_numpy(data.images)
    flipped = torch.rand(len(images), generator=torch.Generator().manual_seed(0)) < 0.5
    mirrored = images.flip(-1)
    chosen = flipped[:, None, None, None]
    return torch.where(chosen, mirrored, images), torch.where(chosen, images, mirrored), torch.from_numpy(data.labels)


def augmented(images: Tensor) -> Tensor:
    """The images a little moved, turned, larger or smaller, darker or lighter, tinted and noisy."""
    count = len(images)
    angle = (torch.rand(count) - 0.5) * math.radians(24)
    zoom = 1 + 0.3 * (torch.rand(count, 2) - 0.5)
    cos, sin, shift = angle.cos(), angle.sin(), (torch.rand(count, 2) - 0.5) * 0.25
    matrix = torch.stack(
        [
            torch.stack([cos * zoom[:, 0], -sin * zoom[:, 1], shift[:, 0]], 1),
            torch.stack([sin * zoom[:, 0], cos * zoom[:, 1], shift[:, 1]], 1),
        ],
        1,
    )
    places = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images - 1, places, padding_mode="zeros", align_corners=False) + 1  # white is 0
    tinted = moved * (1 + 0.2 * (torch.rand(count, 3, 1, 1) - 0.5)) + 0.2 * (torch.rand(count, 3, 1, 1) - 0.5)
    return tinted + 0.15 * torch.rand(count, 1, 1, 1) * torch.randn_like(images)


def train(seed: int = 0) -> EmojiClassifier:
    """A classifier trained on one way of each emoji, in evaluation mode."""
    torch.manual_seed(seed)
    images, _, labels = two_ways()
    classifier = EmojiClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    steps = EPOCHS * math.ceil(len(images) / BATCH_SIZE)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in trange(EPOCHS, desc="training the classifier", unit="epoch"):
        for batch in torch.split(torch.randperm(len(images)), BATCH_SIZE):
            logits = classifier(augmented(images[batch]))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            decay.step()
    return classifier.eval()


def load_classifier(path: Path) -> EmojiClassifier:
    """The classifier in the file `path`; trained now, and kept there, if there is no such file."""
    if not path.exists():
        check_writable(path)
        write_atomically(path, save(train().state_dict()))
    classifier = EmojiClassifier()
    try:
        classifier.load_state_dict(load(path.read_bytes()))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} is no emoji classifier: remove it, and it is trained again.") from error
    return classifier.eval()


@torch.no_grad()
def recognised(classifier: EmojiClassifier, images: Tensor, labels: Tensor) -> float:
    """The share of images in which the classifier sees the class of their label."""
    seen = torch.cat([classifier(part).argmax(1) for part in torch.split(images, 256)])
    return float((seen == labels).double().mean())


def main(
    out: Annotated[Path, typer.Option(help="Where the classifier is, or goes.")] = Path("emoji-classifier.safetensors"),
) -> None:
    """Train the classifier, unless that is done, and print what it recognises."""
    classifier = load_classifier(out)
    seen, unseen, labels = two_ways()
    console = Console()
    console.print(f"recognised of the images it was trained on: {recognised(classifier, seen, labels):.1%}")
    console.print(f"recognised of the same images the other way round: {recognised(classifier, unseen, labels):.1%}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
