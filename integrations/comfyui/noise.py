"""Noise from ComfyUI's seeds: as ComfyUI draws it, and for each row of a batch by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusolve.randomness import BrownianPath

Draw = Callable[[Tensor, float, float], Tensor]

SAME = 1e-6
"""Relative; sigmas are in single precision."""


class RowSeeds(int):
    """A seed, the first row's, that also knows those of all rows. Whoever knows nothing of rows sees a number.

    Args:
        seed: of the first row.
        rows: of each row; when missing each has the number after that of the row before.
    """

    rows: tuple[int, ...] | None

    def __new__(cls, seed: int, rows: Sequence[int] | None = None) -> RowSeeds:
        made = super().__new__(cls, seed)
        made.rows = None if rows is None else tuple(rows)
        return made

    def of(self, batch: int) -> list[int]:
        """The seed of each row of a `batch`.

        Raises:
            ValueError: the seeds are of another number of rows.
        """
        rows = self.rows or range(self, self + batch)
        if len(rows) != batch:
            raise ValueError(
                f"the noise was made for {len(rows)} rows and the batch has {batch}: give the latents that are sampled "
                "to the node that samples, and nothing that changes their number in between."
            )
        return [*rows]


class NoisePerRow:
    """A NOISE of ComfyUI in which each row of a batch has a seed of its own.

    Row i begins with the noise that ComfyUI gives a batch of one for the seed ``seed + i``, and our samplers add the
    noise between steps alike. Rows that were taken out of a batch (`batch_index`) keep the seed that they had there.
    """

    def __init__(self, seed: int) -> None:
        self.seed = RowSeeds(seed)

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        """The noise to start from, on the CPU, for ``latent["samples"]`` of shape (batch, ...)."""
        samples: Tensor = latent["samples"]
        first = int(self.seed)
        rows = [first + int(index) for index in latent.get("batch_index") or range(len(samples))]
        self.seed = RowSeeds(first, rows)
        return torch.cat([_normal(samples[:1], _generator(seed, "cpu")) for seed in self.seed.of(len(samples))])


def between_steps(
    seed: int | None, x: Tensor, sigmas: Sequence[float], brownian: bool, device: Any, known: Sequence[float] = ()
) -> Draw:
    """The function that draws a sampler's noise for samples like `x`.

    ComfyUI draws from a generator with the seed, on the CPU the number after it, so that the noise between steps is
    not that to start from; samplers of SDEs follow a Brownian path with the seed itself.

    Args:
        seed: one for the batch, :class:`RowSeeds`, or None for PyTorch's global generator.
        sigmas: those that are sampled at; the ends of the path.
        brownian: follow a path.
        device: where the noise is made; it is moved to the samples.
        known: sigmas as ComfyUI has them, in single precision; a path differs even between neighbouring numbers.
    """
    seeds = seed.of(len(x)) if isinstance(seed, RowSeeds) else seed
    if brownian:
        levels = torch.tensor(sigmas, dtype=torch.float32)
        path = BrownianPath(float(levels[levels > 0].min()), float(levels.max()), seeds)
        return lambda like, *ends: path(like.to(device), *(_rounded(end, known) for end in ends)).to(like.device)
    if seeds is None:
        return lambda like, start, end: torch.randn_like(like)
    ahead = 1 if torch.device(device).type == "cpu" else 0
    if isinstance(seeds, int):
        generator = _generator(seeds + ahead, device)
        return lambda like, start, end: _normal(like, generator).to(like.device)
    generators = [_generator(one + ahead, device) for one in seeds]
    return lambda like, start, end: torch.cat([_normal(like[:1], one) for one in generators]).to(like.device)


def _generator(seed: int, device: Any) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=generator.device, generator=generator)


def with_middles(sigmas: Sequence[float], flow: bool) -> list[float]:
    """`sigmas` and those in the middle of each step in log-SNR, where solvers of two evaluations ask, as in ComfyUI."""
    above = torch.tensor([sigma for sigma in sigmas if sigma > 0], dtype=torch.float32)
    log_snr = above.logit() if flow else above.log()
    between = log_snr[:-1] + log_snr.diff() / 2
    return [*above.tolist(), *(between.sigmoid() if flow else between.exp()).tolist()]


def _rounded(sigma: float, known: Sequence[float]) -> float:
    """The one of `known` that is `sigma` but for rounding; where none is, `sigma` in single precision."""
    nearest = min(known, key=lambda one: abs(one - sigma), default=sigma)
    return nearest if abs(nearest - sigma) < SAME * sigma else float(torch.tensor(sigma, dtype=torch.float32))
