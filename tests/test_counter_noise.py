"""Noise from a counter: the published generator, normal, and a function of seed, draw and place alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from diffusolve import BatchRun, CounterNoise
from diffusolve.denoisers import GaussianDenoiser
from diffusolve.noise import SD15
from diffusolve.randomness import counter, draw_normal, noise_source
from diffusolve.sampling import Sampler, sample, start
from diffusolve.solvers import dpmpp_multistep
from diffusolve.spacing import Karras

KEY = np.array([0xA4093822, 0x299F31D0], np.uint32)


def fill(count: int, draw: int = 0, key: Any = KEY, threads: int = 1) -> np.ndarray[Any, Any]:
    made = np.full(count, np.nan, np.float32)
    counter._fill(made, key, draw, threads)
    return made


def test_the_words_are_those_of_philox() -> None:
    """The known answers of Random123, the authors' library: counters and keys of zeros, ones, and digits of pi."""
    zeros = counter._philox(np.zeros(1, np.uint64), np.zeros(2, np.uint32), 0)
    assert [f"{int(word):08x}" for word in zeros[:, 0]] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    ones = counter._philox(np.full(1, 2**64 - 1, np.uint64), np.full(2, 2**32 - 1, np.uint32), 2**64 - 1)
    assert [f"{int(word):08x}" for word in ones[:, 0]] == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]
    digits = counter._philox(np.array([0x85A308D3243F6A88], np.uint64), KEY, 0x0370734413198A2E)
    assert [f"{int(word):08x}" for word in digits[:, 0]] == ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]


@pytest.mark.skipif(counter.compiled is None, reason="the package was installed without a compiler")
@pytest.mark.parametrize("count", [0, 1, 255, 1023, 1024, 1025, 200_001])
def test_the_compiled_module_and_numpy_agree_to_the_bit(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = fill(count, 2**40 + 3), fill(count, 2**40 + 3, threads=3)
    monkeypatch.setattr(counter, "compiled", None)
    expected = fill(count, 2**40 + 3)
    assert all(np.array_equal(made.view(np.uint32), expected.view(np.uint32)) for made in compiled)


def test_extreme_words_give_finite_numbers() -> None:
    words = np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**30, 3 * 2**30, 2**29], np.uint32)
    a, b = (grid.reshape(-1) for grid in np.meshgrid(words, words))
    x, y = counter._normals(a, b)
    assert np.isfinite(x).all()
    assert np.isfinite(y).all()
    radius = np.sqrt(-2 * np.log((a.astype(np.float64) + 0.5) / 2**32))
    np.testing.assert_allclose(np.hypot(x.astype(np.float64), y), radius, rtol=2e-6, atol=4e-4)


def test_numbers_are_normal_and_independent() -> None:
    numbers = fill(2_000_000).astype(np.float64)
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        spread = math.sqrt(stats.norm.moment(2 * power) / numbers.size)
        assert abs(np.mean(numbers**power) - moment) < 4 * spread
    for lag in (1, 255, 256, 512, 1024):  # neighbours, numbers of one counter, chunks
        assert abs(np.mean(numbers[:-lag] * numbers[lag:])) < 4 / math.sqrt(numbers.size)
        assert abs(np.mean(numbers[:-lag] ** 2 * numbers[lag:] ** 2) - 1) < 4 * math.sqrt(8 / numbers.size)
    for other in (fill(2_000_000, 1), fill(2_000_000, key=KEY + np.uint32(1))):
        assert abs(np.mean(numbers * other)) < 4 / math.sqrt(numbers.size)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    like = torch.empty(3, 4, 8, 8)
    together = draw_normal(CounterNoise([5, 6, 7]), like)
    assert torch.equal(together[1:2], draw_normal(CounterNoise([6]), like[:1]))
    source, alone = noise_source(CounterNoise([5, 6, 7]), like), noise_source(CounterNoise([6]), like[:1])
    for _ in range(3):
        drawn = source(like, 2.0, 1.0)
        assert torch.equal(drawn[1:2], alone(like[:1], 2.0, 1.0))
        assert not torch.equal(drawn, together)
        assert abs(float(drawn.std()) - 1) < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_noise_is_the_same_in_every_library_and_precision(dtype: torch.dtype) -> None:
    torch_noise = draw_normal(CounterNoise(3), torch.empty(2, 5, dtype=dtype))
    numpy_noise = draw_normal(CounterNoise(3), np.empty((2, 5)))
    assert torch_noise.dtype == dtype
    assert numpy_noise.dtype == np.float64
    assert torch.equal(torch_noise, torch.from_numpy(numpy_noise).to(dtype))


def test_it_stands_in_for_seeds_everywhere() -> None:
    made, network = Sampler(dpmpp_multistep.with_options(eta=1.0), Karras()), GaussianDenoiser(SD15, 0.4, 0.6)
    seeds = CounterNoise(list(range(500)))
    x = start(made.grid(SD15, 30), torch.empty(500, 1, 8, 8), seeds)
    images = sample(network, x, made, steps=30, noise=seeds)
    assert torch.equal(images, sample(network, x, made, steps=30, noise=seeds)), "a recipe, without a state"
    assert float(images.mean()) == pytest.approx(0.4, abs=0.02)
    assert float(images.std()) == pytest.approx(0.6, rel=0.03)
    batch, plan = BatchRun(), made.plan(SD15, "sample", 30)
    row = batch.join(plan, x[7], noise=CounterNoise([7]))
    while len(batch):
        for inputs in batch.inputs():
            batch.advance(inputs, network(inputs.x, inputs.timesteps))
    torch.testing.assert_close(row.result, images[7], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "seed -1 is negative"),
        ("x", TypeError, "noise is 'x': expected None, a seed"),
        ([1, 2, 3], ValueError, "3 seeds or generators for a batch of 2"),
    ],
)
def test_wrong_seeds_are_refused(seed: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        draw_normal(CounterNoise(seed), torch.empty(2, 3))
