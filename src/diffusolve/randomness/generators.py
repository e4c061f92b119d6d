"""Noise from seeds and generators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeAlias, cast

import numpy as np

from diffusolve.arrays import Array, concatenate, is_torch, moved, namespace
from diffusolve.errors import shown
from diffusolve.randomness.counter import CounterNoise, counter_normal

__all__ = ["NoiseLike", "draw_normal", "draw_normal_with", "noise_source"]

NoiseLike: TypeAlias = Any
"""Anything in the list at the top of :mod:`diffusolve.randomness`."""

NoiseSource: TypeAlias = Callable[[Array, float, float], Array]

START, STEPS = 0, 1
"""A seed's two streams: the noise that sampling starts from, and the noise that stochastic samplers add."""


def noise_source(noise: NoiseLike, like: Array) -> NoiseSource:
    """The function that draws a sampler's noise for samples like `like`.

    Raises:
        ValueError: a list whose length is not the batch size.
        TypeError: none of the things that :mod:`diffusolve.randomness` lists.
    """
    if callable(noise):
        return cast(NoiseSource, noise)
    if isinstance(noise, CounterNoise):
        keys, draws = _keys(noise, like, STEPS), count()
        return lambda x, sigma_from, sigma_to: counter_normal(keys, next(draws), x)
    generator = _generators(noise, like, STEPS)
    return lambda x, sigma_from, sigma_to: _draw(x, generator)


def draw_normal(noise: NoiseLike, like: Array) -> Array:
    """Standard normal noise with the shape, precision and device of `like`, to start sampling from.

    With seeds it is independent of the noise that :func:`noise_source` draws from the same seeds. Raises as that does.
    """
    if callable(noise):
        raise TypeError("starting noise needs seeds or a generator, not a callable, which draws noise between sigmas.")
    if isinstance(noise, CounterNoise):
        return counter_normal(_keys(noise, like, START), 0, like)
    return _draw(like, _generators(noise, like, START))


def draw_normal_with(generator: Any, like: Array) -> Array:
    """Standard normal noise like `like` from a generator, a list of them with one per sample, or None (the global one).

    Raises:
        ValueError: a list whose length is not the batch size.
        TypeError: neither.
    """
    if isinstance(generator, Sequence) and len(generator) != like.shape[0]:
        raise _wrong_count(len(generator), like)
    try:
        return _draw(like, generator)
    except AttributeError as error:
        raise TypeError(
            f"generator is {shown(generator)}: expected a torch.Generator, for example "
            "torch.Generator().manual_seed(0), or a list with one for each sample."
        ) from error


def _generators(noise: NoiseLike, like: Array, stream: int) -> Any:
    """A generator, a list of them, or None, of the kind that draws arrays like `like`."""
    make = _torch_generator if is_torch(like) else _numpy_generator
    if noise is None:
        return None if is_torch(like) else np.random.default_rng()
    if isinstance(noise, Sequence) and not isinstance(noise, (str, bytes)):
        if len(noise) != like.shape[0]:
            raise _wrong_count(len(noise), like)
        return [make(entry, stream) for entry in noise]
    return make(noise, stream)


def _torch_generator(noise: NoiseLike, stream: int) -> Any:
    import torch

    if isinstance(noise, torch.Generator):
        return noise
    return torch.Generator().manual_seed(int(_seed(noise, stream).generate_state(1, np.uint64)[0]) >> 1)


def _numpy_generator(noise: NoiseLike, stream: int) -> np.random.Generator:
    return noise if isinstance(noise, np.random.Generator) else np.random.default_rng(_seed(noise, stream))


def _keys(noise: CounterNoise, like: Array, stream: int) -> list[Any]:
    """The key of the batch, or of each sample."""
    if not isinstance(noise.seed, Sequence) or isinstance(noise.seed, (str, bytes)):
        return [_seed(noise.seed, stream).generate_state(2)]
    if len(noise.seed) != like.shape[0]:
        raise _wrong_count(len(noise.seed), like)
    return [_seed(seed, stream).generate_state(2) for seed in noise.seed]


def _seed(noise: NoiseLike, stream: int) -> np.random.SeedSequence:
    if isinstance(noise, bool) or not isinstance(noise, (int, np.integer)):
        raise TypeError(
            f"noise is {noise!r}: expected None, a seed (an int >= 0), a generator of the samples' library, a list of "
            "seeds or generators with one per sample, or a callable (x, sigma_from, sigma_to) -> noise."
        )
    if noise < 0:
        raise ValueError(f"seed {noise} is negative: expected an int >= 0.")
    return np.random.SeedSequence(int(noise), spawn_key=(stream,))


def _wrong_count(given: int, like: Array) -> ValueError:
    return ValueError(
        f"{given} seeds or generators for a batch of {like.shape[0]} samples: give one per sample, or a single one for "
        "the whole batch."
    )


def _draw(like: Array, generator: Any) -> Array:
    """Standard normal noise like `like`, from one generator or from one per row."""
    draw: Callable[[Any, Any], Any] = _draw_torch if is_torch(like) else _draw_array
    if generator is None or not isinstance(generator, Sequence):
        return draw(like, generator)
    return concatenate([draw(like[i : i + 1], one) for i, one in enumerate(generator)])


def _draw_torch(like: Any, generator: Any) -> Any:
    """A generator draws on its own device, and the noise then moves: equal seeds give equal noise on any device."""
    import torch

    if generator is None:
        return torch.randn(like.shape, dtype=like.dtype, device=like.device)
    return moved(torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device), like.device)


def _draw_array(like: Array, generator: np.random.Generator) -> Array:
    return namespace(like).asarray(generator.standard_normal(like.shape), dtype=like.dtype)
