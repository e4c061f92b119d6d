"""Train the small class-conditional diffusion network on the handwritten digits that ship with diffusolve.

Takes a few minutes on two CPU cores. To replace the weights that ship with the package:

    python -m examples.train_digits --out src/diffusolve/denoisers/data/digits.safetensors
"""

import math
import time
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import save
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import trange

from diffusolve.denoisers.digits import load_digits_data
from diffusolve.denoisers.digits_network import NO_CLASS, DigitsNetwork
from diffusolve.files import check_writable, write_atomically
from diffusolve.noise import SD15

BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
LABEL_DROPOUT = 0.1
EMA_DECAY = 0.998


def main(
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the 1,797 digits.")] = 240,
    seed: Annotated[int, typer.Option(help="Seeds the first weights and every random draw.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the float16 weights go.")] = Path("digits.safetensors"),
    write_data: Annotated[
        Path | None, typer.Option(help="Only write digits.npz here, from scikit-learn's copy of the digits.")
    ] = None,
) -> None:
    """Train the digits network, and write its averaged weights as safetensors."""
    try:
        check_writable(out if write_data is None else write_data)
    except OSError as error:
        raise typer.BadParameter(str(error)) from error
    if write_data is not None:
        write_atomically(write_data, digits_npz())
        typer.echo(f"data written to {write_data}")
        return

    start = time.perf_counter()
    network, loss = train(epochs, seed)
    weights = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(out, save(weights))
    seconds = time.perf_counter() - start
    typer.echo(f"trained for {seconds:.0f} s, final loss {loss:.4f}, weights written to {out}")


def train(epochs: int, seed: int) -> tuple[DigitsNetwork, float]:
    """Train a network; return it with the running average of its weights, and the last epoch's mean loss."""
    torch.manual_seed(seed)
    images, labels = (torch.from_numpy(array) for array in load_digits_data())
    alphas, sigmas = (
        torch.as_tensor(np.asarray(values), dtype=torch.float32).reshape(-1, 1, 1, 1)
        for values in SD15.alpha_sigma(np.arange(1000))
    )

    network = DigitsNetwork()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    steps = epochs * math.ceil(len(images) / BATCH_SIZE)
    warmup = min(WARMUP_STEPS, steps)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )

    progress = trange(epochs, desc="training", unit="epoch")
    for _ in progress:
        losses = []
        for batch in torch.randperm(len(images)).split(BATCH_SIZE):
            image = images[batch]
            dropped = torch.rand(len(batch)) < LABEL_DROPOUT
            label = labels[batch].masked_fill(dropped, NO_CLASS)
            timestep = torch.randint(1000, (len(batch),))
            noise = torch.randn_like(image)
            alpha, sigma = alphas[timestep], sigmas[timestep]

            prediction = network(alpha * image + sigma * noise, timestep, label)
            loss = functional.mse_loss(prediction, alpha * noise - sigma * image)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            average.update_parameters(network)
            losses.append(loss.item())
        mean_loss = sum(losses) / len(losses)
        progress.set_postfix(loss=f"{mean_loss:.4f}")
        if not math.isfinite(mean_loss):
            raise RuntimeError(f"training diverged: the loss is {mean_loss}")
    averaged: DigitsNetwork = average.module
    return averaged, mean_loss


def digits_npz() -> bytes:
    """The data file that ships with the package, made from scikit-learn's copy of the digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    buffer = BytesIO()
    np.savez_compressed(buffer, images=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8))
    return buffer.getvalue()


if __name__ == "__main__":
    typer.run(main)
