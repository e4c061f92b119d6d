"""Train the class-conditional diffusion network on Noto Emoji, 32x32 pixels in colour.

The images are in the npm package ``emoji-datasource-google``:

    npm pack emoji-datasource-google@16.0.0
    tar xzf emoji-datasource-google-16.0.0.tgz
    python -m examples.train_emoji --images package --folder emoji-training

Without ``--images`` it trains on the copy of them that ships with diffusolve. The folder receives a checkpoint every
500 steps, a picture of samples every 1,000, the training curve, and at the end the weights as ``emoji.safetensors``.
Started again with the same folder, training goes on from its checkpoint and ends as if it had never been stopped: what
is drawn at a step depends on the seed and the step alone.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from diffusolve import sampler
from diffusolve.comparing.picture import encode, tile
from diffusolve.denoisers import ClassifierFreeGuidance, Denoiser
from diffusolve.denoisers.emoji import load_emoji_data
from diffusolve.denoisers.emoji_network import NO_CLASS, EmojiNetwork
from diffusolve.files import check_writable, write_atomically
from diffusolve.noise import SD15
from diffusolve.sampling import sample, start

CATEGORIES = (
    "Smileys & Emotion",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
)
"""Of Unicode's, those that are used; people and flags would need more pixels, symbols are letters for the most part."""

PACKAGE = "emoji-datasource-google@16.0.0"

BATCH_SIZE = 64
WORKERS = 2
"""Threads that share a batch; two halves add up to the same gradient in either order."""

LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
DECAY = 0.3
"""Share of all steps, at the end, in which the learning rate falls to nothing along half a cosine."""

CURVE_STEPS, CHECKPOINT_STEPS, PICTURE_STEPS = 100, 500, 1000
"""From one point of the curve, one checkpoint, one picture of samples to the next."""

LABEL_DROPOUT = 0.1
EMA_DECAY = 0.999
GRADIENT_NORM = 1.0

CHECKPOINT, CURVE, WEIGHTS = "checkpoint.pt", "curve.json", "emoji.safetensors"


def main(
    images: Annotated[Path | None, typer.Option(help=f"The unpacked npm package {PACKAGE}.")] = None,
    folder: Annotated[Path, typer.Option(help="Where checkpoints, pictures and weights go.")] = Path("emoji-training"),
    steps: Annotated[int, typer.Option(min=1, help="Batches of 64 images.")] = 16_000,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the first weights and every random draw.")] = 0,
    write_data: Annotated[Path | None, typer.Option(help="Only write the images of --images here, as npz.")] = None,
) -> None:
    """Train the emoji network, and write its averaged weights as safetensors."""
    if write_data is not None:
        if images is None:
            raise typer.BadParameter("--write-data needs --images: the folder that the images are read from.")
        check_writable(write_data)
        write_atomically(write_data, emoji_npz(images))
        typer.echo(f"data written to {write_data}")
        return
    if images is None:
        data = load_emoji_data()
        pictures, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    else:
        arrays = read_images(images)
        pictures = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2) / np.float32(127.5) - 1).contiguous()
        labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    folder.mkdir(parents=True, exist_ok=True)
    training = Training.resume(folder, seed) if (folder / CHECKPOINT).exists() else Training.begin(seed)
    typer.echo(f"training from step {training.step} to {steps}; everything goes to {folder}")
    training.run(pictures, labels, steps, folder)
    weights = {name: tensor.half().contiguous() for name, tensor in training.average.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(weights, {"network": "diffusolve.EmojiNetwork"}))
    typer.echo(f"trained for {training.seconds:.0f} s, weights written to {folder / WEIGHTS}")


# Images


def read_images(folder: Path) -> dict[str, Any]:
    """The emoji of an unpacked npm package: images (uint8, count x 32 x 32 x 3), labels, names, classes, categories.

    Raises:
        typer.BadParameter: the folder lacks files; says which, and where they come from.
    """
    listing, pictures = folder / "emoji.json", folder / "img" / "google" / "64"
    entries = []
    if listing.is_file():
        entries = [entry for entry in json.loads(listing.read_text("utf-8")) if entry["category"] in CATEGORIES]
    entries.sort(key=lambda entry: (CATEGORIES.index(entry["category"]), entry["sort_order"]))
    missing = [pictures / entry["image"] for entry in entries if not (pictures / entry["image"]).is_file()]
    if not entries or missing:
        lacking = listing if not entries else missing[0]
        raise typer.BadParameter(
            f"{folder} lacks {lacking.relative_to(folder)}: it must hold emoji.json and img/google/64/*.png, as the "
            f"npm package {PACKAGE} does. Get it with: npm pack {PACKAGE} && tar xzf "
            f"{PACKAGE.replace('@', '-')}.tgz, then --images package."
        )
    of_class = {class_name(entry): entry["category"] for entry in entries}
    classes = list(of_class)
    return {
        "images": np.stack([small_image(pictures / entry["image"]) for entry in entries]),
        "labels": np.array([classes.index(class_name(entry)) for entry in entries], np.uint8),
        "names": np.array([entry["short_name"] for entry in entries]),
        "classes": np.array(classes),
        "categories": np.array([of_class[name] for name in classes]),
    }


def class_name(entry: dict[str, Any]) -> str:
    """Unicode's subcategory of an emoji, easy to type: ``sky & weather`` is ``sky-weather``."""
    name: str = entry["subcategory"]
    return name.replace(" & ", "-").replace(" ", "-")


def small_image(path: Path) -> np.ndarray:
    """A picture on white, 32x32 pixels, uint8."""
    with Image.open(path) as picture:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture)
        return np.asarray(white.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS))


def emoji_npz(folder: Path) -> bytes:
    """The data file that ships with the package."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **read_images(folder))
    return buffer.getvalue()


# Training


@dataclass
class Training:
    """A network in training, at the beginning of step `step`.

    Attributes:
        network: the one whose weights are trained.
        average: exponential moving average of its weights.
        optimizer: AdamW over the network's weights.
        seed: of everything random.
        step: how many steps were made.
        seconds: spent on them.
        curve: every CURVE_STEPS the step and the mean loss since the last entry.
    """

    network: EmojiNetwork
    average: EmojiNetwork
    optimizer: torch.optim.AdamW
    seed: int
    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def begin(cls, seed: int) -> Training:
        """A network with first weights drawn from `seed`."""
        torch.manual_seed(seed)
        network, average = EmojiNetwork(), EmojiNetwork()
        average.load_state_dict(network.state_dict())
        network.to(memory_format=torch.channels_last)
        return cls(network, average, torch.optim.AdamW(network.parameters(), weight_decay=0.01, fused=True), seed)

    @classmethod
    def resume(cls, folder: Path, seed: int) -> Training:
        """The training that stopped at the checkpoint in `folder`.

        Raises:
            typer.BadParameter: the checkpoint is of another seed or another network.
        """
        path = folder / CHECKPOINT
        saved = torch.load(path, weights_only=True)
        training = cls.begin(seed)
        expected = {name: tensor.shape for name, tensor in training.network.state_dict().items()}
        if {name: tensor.shape for name, tensor in saved.get("network", {}).items()} != expected:
            raise typer.BadParameter(f"{path} is a checkpoint of another network: choose another folder.")
        if saved["seed"] != seed:
            raise typer.BadParameter(f"{path} has seed {saved['seed']}, not {seed}: choose another folder.")
        training.network.load_state_dict(saved["network"])
        training.average.load_state_dict(saved["average"])
        training.optimizer.load_state_dict(saved["optimizer"])
        training.step, training.seconds, training.curve = saved["step"], saved["seconds"], saved["curve"]
        return training

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the curve."""
        buffer = io.BytesIO()
        parts = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}
        torch.save(
            {**parts, "seed": self.seed, "step": self.step, "seconds": self.seconds, "curve": self.curve}, buffer
        )
        write_atomically(folder / CHECKPOINT, buffer.getvalue())
        curve = {"batch_size": BATCH_SIZE, "seconds": self.seconds, "loss": self.curve}
        write_atomically(folder / CURVE, json.dumps(curve).encode())

    def run(self, images: Tensor, labels: Tensor, steps: int, folder: Path) -> None:
        """Train until `steps` steps are made."""
        losses: list[float] = []
        with ThreadPoolExecutor(WORKERS) as workers, tqdm(total=steps, initial=self.step, unit="step") as progress:
            begun = time.perf_counter()
            while self.step < steps:
                losses.append(self._advance(images, labels, learning_rate(self.step, steps), workers))
                self.step += 1
                progress.update()
                if self.step % CURVE_STEPS == 0:
                    self.curve.append((self.step, sum(losses) / len(losses)))
                    progress.set_postfix(loss=f"{self.curve[-1][1]:.4f}")
                    losses.clear()
                    if not math.isfinite(self.curve[-1][1]):
                        raise RuntimeError(f"training diverged: the loss is {self.curve[-1][1]}")
                if self.step % CHECKPOINT_STEPS == 0 or self.step == steps:
                    self.seconds += time.perf_counter() - begun
                    begun = time.perf_counter()
                    self.save(folder)
                if self.step % PICTURE_STEPS == 0 or self.step == steps:
                    path = folder / f"samples-{self.step:06}.png"
                    write_atomically(path, encode(tile(samples(self.average)), path))

    def _advance(self, images: Tensor, labels: Tensor, rate: float, workers: ThreadPoolExecutor) -> float:
        """Make one step and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        parts = workers.map(self._backward, shares(draw(images, labels, self.seed, self.step)))
        loss = sum(parts) / WORKERS
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        weight = 1 - min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), weight)
        return loss

    def _backward(self, share: tuple[Tensor, ...]) -> float:
        """Add a share of the batch to the gradients, and return its loss."""
        noisy, timestep, label, target = share
        # Tiles of bfloat16 (AMX) halve the time of matrix multiplications; other processors are faster in float32.
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported()):
            output = self.network(noisy.to(memory_format=torch.channels_last), timestep, label)
        loss = functional.mse_loss(output.float(), target)
        (loss / WORKERS).backward()
        return loss.item()


def draw(images: Tensor, labels: Tensor, seed: int, step: int) -> tuple[Tensor, ...]:
    """Noisy images, timesteps, labels and targets of a step, each with BATCH_SIZE rows."""
    epoch, part = divmod(step, len(images) // BATCH_SIZE)
    order = torch.randperm(len(images), generator=generator(seed, 0, epoch))
    chosen = order[part * BATCH_SIZE :][:BATCH_SIZE]
    random = generator(seed, 1, step)
    flipped = torch.rand(BATCH_SIZE, generator=random) < 0.5
    image = torch.where(flipped[:, None, None, None], images[chosen].flip(-1), images[chosen])
    dropped = torch.rand(BATCH_SIZE, generator=random) < LABEL_DROPOUT
    label = labels[chosen].masked_fill(dropped, NO_CLASS)
    # One timestep in each 64th of them, so that the loss varies less (Kingma et al. 2021, arXiv:2107.00630, app. I.1).
    place = torch.rand((), generator=random) + torch.randperm(BATCH_SIZE, generator=random)
    timestep = (place * (1000 / BATCH_SIZE)).long() % 1000
    noise = torch.randn(image.shape, generator=random)
    alpha, sigma = ALPHAS[timestep], SIGMAS[timestep]
    return alpha * image + sigma * noise, timestep, label, alpha * noise - sigma * image


ALPHAS, SIGMAS = (
    torch.as_tensor(np.asarray(values), dtype=torch.float32).reshape(-1, 1, 1, 1)
    for values in SD15.alpha_sigma(np.arange(1000))
)


def shares(batch: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """The batch in as many equal parts as there are workers."""
    return zip(*(tensor.chunk(WORKERS) for tensor in batch), strict=True)


def generator(*seeds: int) -> torch.Generator:
    """A generator of its own for each tuple of whole numbers."""
    word = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(word % 2**63)


def learning_rate(step: int, steps: int) -> float:
    """Rises over the first steps, stays, and falls over the last DECAY of all steps.

    Until the fall begins it does not depend on `steps`, so that a training may be lengthened or shortened on the way.
    """
    warm = min((step + 1) / WARMUP_STEPS, 1.0)
    fallen = max(0.0, 1 - (steps - step) / (DECAY * steps))
    return LEARNING_RATE * warm * (0.5 + 0.5 * math.cos(math.pi * fallen))


def samples(network: EmojiNetwork) -> np.ndarray:
    """An emoji of each class, in 20 steps of DPM++ 2M with guidance 2; shape (65, 3, 32, 32)."""
    labels = torch.arange(NO_CLASS)
    guided = ClassifierFreeGuidance(
        Denoiser(network, "v_prediction", SD15), labels, torch.full_like(labels, NO_CLASS), 2.0
    )
    recipe = sampler("DPM++ 2M Karras")
    seeds = list(range(NO_CLASS))
    x = start(recipe.grid(SD15, 20), torch.empty(NO_CLASS, 3, 32, 32), seeds)
    return np.asarray(sample(guided, x, recipe, steps=20, noise=seeds).numpy())


if __name__ == "__main__":
    torch.set_num_threads(1)  # the workers are the threads
    torch.backends.cuda.enable_flash_sdp(False)  # on the CPU too: for so few pixels plain products are faster
    typer.run(main)
