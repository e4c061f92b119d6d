"""Noise from a counter: fast, the same on every machine, and independent of everything but its seed and place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusolve.arrays import Array, is_torch, moved

compiled: Any = None
with suppress(ImportError):  # installed without a compiler
    from diffusolve.randomness import _normal as compiled

__all__ = ["CounterNoise", "counter_normal"]

BLOCKS = 256
"""Counters at a time; each gives four numbers, which stand this far from one another."""

Floats = npt.NDArray[np.float32]


class CounterNoise:
    """Seeds whose noise comes from a counter: a stand-in for seeds wherever the library takes `noise`.

    Each number is a function of the seed, of how many times noise was drawn before, and of its place in the sample:
    Philox 4x32-10 (Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3), made normal as Box and Muller have
    it. It is made on the processor, by all of PyTorch's threads, each two to three times as fast as ``torch.randn``,
    and is the same to the bit on every machine and device. Noise of other seeds and draws is independent of it. All of
    it has single precision.

    Args:
        seed: one for the whole batch, or a list with one per sample; a sample then does not depend on its batch.
    """

    def __init__(self, seed: int | Sequence[int]) -> None:
        self.seed = seed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.seed!r})"


def counter_normal(keys: Sequence[npt.NDArray[np.uint32]], draw: int, like: Array) -> Array:
    """Standard normal noise like `like`: all of it from one key, or each sample's from its own."""
    shape = tuple(like.shape)
    noise = np.empty(shape, np.float32)
    for part, key in zip([noise] if len(keys) == 1 else noise, keys, strict=True):
        _fill(part.reshape(-1), key, draw, _threads(like))
    if not is_torch(like):
        return noise.astype(like.dtype, copy=False)
    import torch

    return moved(torch.from_numpy(noise), like.device).to(like.dtype)


def _threads(like: Array) -> int:
    if not is_torch(like):
        return 1
    import torch

    return torch.get_num_threads()


def _fill(numbers: Floats, key: npt.NDArray[np.uint32], draw: int, threads: int) -> None:
    if compiled is not None:
        compiled.normal(numbers.ctypes.data, numbers.size, int(key[0]), int(key[1]), draw, threads)
        return
    chunks = -(-numbers.size // (4 * BLOCKS))
    normals = np.empty((chunks, 4, BLOCKS), np.float32)
    words = _philox(np.arange(chunks * BLOCKS, dtype=np.uint64), key, draw).reshape(4, chunks, BLOCKS)
    normals[:, 0], normals[:, 1] = _normals(words[0], words[1])
    normals[:, 2], normals[:, 3] = _normals(words[2], words[3])
    numbers[:] = normals.reshape(-1)[: numbers.size]


def _philox(blocks: npt.NDArray[np.uint64], key: npt.NDArray[np.uint32], draw: int) -> npt.NDArray[np.uint32]:
    """Four uniform words for each block: shape (4, blocks)."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1 = blocks & low, blocks >> half
    c2, c3 = np.full_like(blocks, draw & 0xFFFFFFFF), np.full_like(blocks, draw >> 32)
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(10):
        p, q = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (q >> half) ^ c1 ^ np.uint64(k0), q & low, (p >> half) ^ c3 ^ np.uint64(k1), p & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def _normals(a: npt.NDArray[np.uint32], b: npt.NDArray[np.uint32]) -> tuple[Floats, Floats]:
    """Two normal numbers of two uniform words, operation by operation as the compiled module has it."""
    f: Callable[[float], np.float32] = np.float32
    u = a.astype(np.float32) * f(2.0**-32) + f(2.0**-33)
    shifted = u.view(np.uint32) - np.uint32(0x3F3504F3)
    m = ((shifted & np.uint32(0x007FFFFF)) + np.uint32(0x3F3504F3)).view(np.float32)
    exponent = (shifted.view(np.int32) >> 23).astype(np.float32)
    z = (m - f(1)) / (m + f(1))
    w = z * z
    series = z * (f(2) + w * (f(2 / 3) + w * (f(2 / 5) + w * (f(2 / 7) + w * f(2 / 9)))))
    radius = np.sqrt(f(-2) * np.minimum(exponent * f(np.log(2)) + series, f(0)))
    angle = ((b & np.uint32(0x3FFFFFFF)).view(np.int32) - np.int32(0x20000000)).astype(np.float32)
    angle = angle * f(np.pi / 2**31)
    v = angle * angle
    sine = angle * (f(1) + v * (f(-1 / 6) + v * (f(1 / 120) + v * (f(-1 / 5040) + v * f(1 / 362880)))))
    even = f(1 / 24) + v * (f(-1 / 720) + v * (f(1 / 40320) + v * f(-1 / 3628800)))
    cosine = f(1) + v * (f(-0.5) + v * even)
    quarter = b >> np.uint32(30)
    odd = (quarter & np.uint32(1)).astype(bool)
    x, y = np.where(odd, sine, cosine), np.where(odd, cosine, sine)
    return (
        radius * np.where((quarter == 1) | (quarter == 2), -x, x),
        radius * np.where(quarter >= 2, -y, y),
    )
