"""Sources of noise.

Wherever the library takes `noise`, it understands

- ``None``: the array library's own global generator;
- an int: one generator made from this seed;
- a list of ints, one per sample: a sample then does not depend on the batch that it is in;
- a :class:`CounterNoise` of such seeds: two to three times as fast on the processor, and the same on every machine;
- a ``torch.Generator`` (or ``numpy.random.Generator`` for arrays), or a list of them, one per sample;
- a callable ``(x, sigma_from, sigma_to) -> noise like x``, for example
  a :class:`BrownianPath`.
"""

from diffusolve.randomness.brownian import BrownianPath
from diffusolve.randomness.counter import CounterNoise
from diffusolve.randomness.generators import NoiseLike, draw_normal, draw_normal_with, noise_source

__all__ = ["BrownianPath", "CounterNoise", "NoiseLike", "draw_normal", "draw_normal_with", "noise_source"]
