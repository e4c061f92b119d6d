"""Noise: seeds, generators and callables, for PyTorch and NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusolve.arrays import concatenate
from diffusolve.catalog import sampler
from diffusolve.denoisers import DatasetDenoiser
from diffusolve.noise import VarianceExploding
from diffusolve.randomness import draw_normal, noise_source
from diffusolve.sampling import Sampler, sample, start
from diffusolve.solvers import dpmpp_multistep, euler
from diffusolve.spacing import Karras
from tests.tables import for_each

VE = VarianceExploding(0.02, 20.0)
MAKE: dict[str, Callable[..., Any]] = {
    "torch": lambda *shape: torch.zeros(shape, dtype=torch.float64),
    "torch float32": lambda *shape: torch.zeros(shape),
    "torch bfloat16": lambda *shape: torch.zeros(shape, dtype=torch.bfloat16),
    "numpy": lambda *shape: np.zeros(shape),
    "numpy float32": lambda *shape: np.zeros(shape, np.float32),
}
every_library = for_each("zeros", MAKE.values(), ids=MAKE)
both_libraries = pytest.mark.parametrize("zeros", [MAKE["torch"], MAKE["numpy"]], ids=["torch", "numpy"])


def generator(zeros: Callable[..., Any], seed: int) -> Any:
    return torch.Generator().manual_seed(seed) if isinstance(zeros(1), torch.Tensor) else np.random.default_rng(seed)


def equal(a: Any, b: Any) -> bool:
    return a.shape == b.shape and bool((a == b).all())


def draw(noise: Any, like: Any, times: int = 1) -> list[Any]:
    source = noise_source(noise, like)
    return [source(like, 2.0, 1.0) for _ in range(times)]


@every_library
@for_each("noise", [None, 7, [7, 8, 9], "generator", "generators"])
def test_noise_has_the_shape_and_precision_of_the_samples(zeros: Callable[..., Any], noise: Any) -> None:
    like = zeros(3, 4, 5)
    if noise == "generator":
        noise = generator(zeros, 0)
    elif noise == "generators":
        noise = [generator(zeros, seed) for seed in range(3)]
    for drawn in (*draw(noise, like, 2), draw_normal(noise, like)):
        assert type(drawn) is type(like)
        assert (drawn.shape, drawn.dtype) == (like.shape, like.dtype)


@both_libraries
@pytest.mark.parametrize("noise", [7, [7]])
def test_noise_is_standard_normal(zeros: Callable[..., Any], noise: Any) -> None:
    for drawn in (*draw(noise, zeros(1, 100_000)), draw_normal(noise, zeros(1, 100_000))):
        moments = [float((drawn**k).mean()) for k in (1, 2, 3, 4)]
        np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.1)


@both_libraries
def test_equal_seeds_give_equal_noise_and_different_ones_different(zeros: Callable[..., Any]) -> None:
    like = zeros(2, 50)
    assert all(equal(a, b) for a, b in zip(draw(3, like, 3), draw(3, like, 3), strict=True))
    assert not equal(draw(3, like)[0], draw(4, like)[0])
    assert not equal(*draw(3, like, 2))
    assert equal(draw_normal(3, like), draw_normal(np.int64(3), like))
    assert not equal(draw(3, like)[0][:1], draw(3, like)[0][1:])


@both_libraries
@given(seeds=st.lists(st.integers(0, 2**64), min_size=2, max_size=5), which=st.integers(0, 4))
def test_with_a_seed_per_sample_its_noise_does_not_depend_on_the_batch(
    zeros: Callable[..., Any], seeds: list[int], which: int
) -> None:
    which %= len(seeds)
    batch, alone = draw(seeds, zeros(len(seeds), 3, 3), 2), draw([seeds[which]], zeros(1, 3, 3), 2)
    for a, b in zip(batch, alone, strict=True):
        assert equal(a[which : which + 1], b)
    started = draw_normal(seeds, zeros(len(seeds), 3, 3))
    assert equal(started[which : which + 1], draw_normal([seeds[which]], zeros(1, 3, 3)))


@for_each("zeros", [MAKE["torch"], MAKE["torch float32"], MAKE["numpy"], MAKE["numpy float32"]])
@for_each("solver", [euler, dpmpp_multistep], ids=lambda solver: solver.name)
def test_with_a_seed_per_sample_a_sample_does_not_depend_on_its_batch(zeros: Callable[..., Any], solver: Any) -> None:
    """To the last bit, with a network that treats each sample alone."""
    made = Sampler(solver.with_options(eta=1.0), Karras())
    plan = made.plan(VE, "sample", 6)

    def network(x: Any, timestep: Any) -> Any:
        return 0.3 * x / (1 + abs(x))

    def run(seeds: list[int]) -> Any:
        like = zeros(len(seeds), 7, 9)
        return sample(network, start(plan, like, seeds), plan, noise=seeds)

    batch = run([5, 6, 7])
    assert equal(batch, concatenate([run([5]), run([6]), run([7])]))
    assert equal(batch[1:], run([6, 7]))
    assert not equal(batch[:1], batch[1:2])


@both_libraries
@pytest.mark.parametrize("seeds", [11, [11, 12]])
def test_starting_noise_and_step_noise_from_the_same_seeds_are_independent(
    zeros: Callable[..., Any], seeds: Any
) -> None:
    like = zeros(2, 50_000)
    streams = [draw_normal(seeds, like), *draw(seeds, like, 3)]
    rows = np.concatenate([np.asarray(stream) for stream in streams])
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / 50_000**0.5


@both_libraries
def test_one_generator_is_used_up_as_the_run_goes_on(zeros: Callable[..., Any]) -> None:
    like, mine = zeros(2, 6), generator(zeros, 5)
    first, second = draw(mine, like, 2)
    again = generator(zeros, 5)
    assert equal(first, draw(again, like)[0])
    assert equal(second, draw_normal(again, like))
    assert not equal(first, second)


@both_libraries
def test_a_list_of_generators_is_one_per_sample(zeros: Callable[..., Any]) -> None:
    (batch,) = draw([generator(zeros, 5), generator(zeros, 6)], zeros(2, 6))
    assert equal(batch[:1], draw(generator(zeros, 5), zeros(1, 6))[0])
    assert equal(batch[1:], draw(generator(zeros, 6), zeros(1, 6))[0])
    (mixed,) = draw((generator(zeros, 5), 6), zeros(2, 6))
    assert equal(mixed[:1], batch[:1])
    assert equal(mixed[1:], draw([6], zeros(1, 6))[0])


def test_a_torch_generator_draws_what_torch_draws() -> None:
    expected = torch.randn(2, 6, generator=torch.Generator().manual_seed(5))
    assert equal(draw(torch.Generator().manual_seed(5), torch.zeros(2, 6))[0], expected)


def test_without_a_seed_torch_uses_its_global_generator() -> None:
    torch.manual_seed(5)
    (drawn,) = draw(None, torch.zeros(2, 6))
    assert equal(drawn, torch.randn(2, 6, generator=torch.Generator().manual_seed(5)))


def test_seeds_leave_the_global_generators_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draw(3, torch.zeros(2, 6))
    draw([3, 4], np.zeros((2, 6)))
    assert torch.equal(before, torch.get_rng_state())


@both_libraries
def test_a_callable_is_told_the_sample_and_the_interval(zeros: Callable[..., Any]) -> None:
    told: list[tuple[float, float]] = []

    def noise(x: Any, sigma_from: float, sigma_to: float) -> Any:
        assert type(x) is type(zeros(1))
        told.append((sigma_from, sigma_to))
        return 0 * x

    plan = Sampler(euler.with_options(eta=1.0), Karras()).plan(VE, "sample", 5)
    sample(DatasetDenoiser(VE, [[0.0, 1.0]]), zeros(3, 2), plan, noise=noise)
    assert told == list(zip(plan.sigmas[:-2], plan.sigmas[1:-1], strict=True))  # the last step adds no noise


@both_libraries
@for_each("count", [0, 1, 3])
def test_a_wrong_number_of_seeds_is_refused(zeros: Callable[..., Any], count: int) -> None:
    for take in (noise_source, draw_normal):
        with pytest.raises(ValueError, match=f"{count} seeds or generators for a batch of 2 samples: give one per"):
            take(list(range(count)), zeros(2, 6))


@both_libraries
@pytest.mark.parametrize("seed", [-1, [0, -1]])
def test_a_negative_seed_is_refused(zeros: Callable[..., Any], seed: Any) -> None:
    with pytest.raises(ValueError, match="seed -1 is negative: expected an int >= 0"):
        noise_source(seed, zeros(2, 6))


@both_libraries
@for_each("seed", [1.5, 2.0, True, "7", "77", b"77", [1, 2.0], [1, None], {7: 8}, object])
def test_what_is_no_seed_is_refused(zeros: Callable[..., Any], seed: Any) -> None:
    if seed is object:
        seed = object()
    for take in (noise_source, draw_normal):
        with pytest.raises(TypeError, match=r"noise is .*: expected None, a seed"):
            take(seed, zeros(2, 6))


@pytest.mark.parametrize(
    ("noise", "like"), [(np.random.default_rng(0), torch.zeros(2, 3)), (torch.Generator(), np.zeros((2, 3)))]
)
def test_a_generator_of_another_library_is_refused(noise: Any, like: Any) -> None:
    with pytest.raises(TypeError, match="a generator of the samples' library"):
        noise_source(noise, like)


def test_starting_noise_cannot_come_from_a_callable() -> None:
    with pytest.raises(TypeError, match="starting noise needs seeds or a generator, not a callable"):
        draw_normal(lambda x, s, t: x, np.zeros((2, 3)))


# Where sampling starts


@both_libraries
def test_start_is_sigma_times_noise_at_the_first_point(zeros: Callable[..., Any]) -> None:
    like = zeros(2, 6)
    made = Sampler(euler, Karras())
    plan, grid = made.plan(VE, "sample", 5), made.grid(VE, 5)
    expected = 20.0 * draw_normal(3, like)
    assert equal(start(plan, like, 3), expected)
    assert equal(start(grid, like, 3), expected)


@both_libraries
def test_a_start_with_data_of_deviation_1_is_the_noise_itself_where_programs_begin_with_that(
    zeros: Callable[..., Any],
) -> None:
    like = zeros(2, 6)
    noise = np.asarray(draw_normal([3, 4], like))
    for name, steps in (("DDIM", 20), ("PLMS", 7), ("UniPC", 5)):
        made = sampler(name, world="a1111")
        grid = made.grid("sd15", steps)
        np.testing.assert_allclose(np.asarray(start(grid, like, [3, 4], data_std=1.0)), noise, rtol=1e-6)
        assert 0.002 < np.abs(np.asarray(start(grid, like, [3, 4])) / noise - 1).max() < 0.005
    plan = sampler("lms", "normal", world="comfyui").plan("sd15", "epsilon", 8)
    assert (plan.start.alpha, plan.start.sigma) == (1.0, pytest.approx(14.61464, abs=1e-5))
    np.testing.assert_allclose(
        np.asarray(start(plan, like, [3, 4], data_std=1.0)), math.sqrt(1 + 14.61464**2) * noise, rtol=1e-5
    )
    flow = sampler("euler", "normal", world="comfyui").grid("sd3", 8)
    assert equal(start(flow, like, 3, data_std=1.0), start(flow, like, 3))


@both_libraries
@for_each(
    ("data_std", "data", "message"),
    [
        (-1.0, None, "data_std is -1: expected at least 0"),
        (math.inf, None, "data_std is inf: expected at least 0"),
        (math.nan, None, "data_std is nan: expected at least 0"),
        (1.0, 0.5, "data are given, and data_std=1 is for a start without: leave one of them out"),
    ],
)
def test_a_start_of_no_deviation_or_of_two_minds_is_refused(
    zeros: Callable[..., Any], data_std: float, data: float | None, message: str
) -> None:
    like = zeros(2, 6)
    grid = Sampler(euler, Karras()).grid(VE, 5)
    with pytest.raises(ValueError, match=message):
        start(grid, like, 3, None if data is None else like + data, data_std)


@both_libraries
def test_start_may_begin_with_data_in_the_middle(zeros: Callable[..., Any]) -> None:
    like, data = zeros(2, 6), zeros(2, 6) + 0.5
    grid = Sampler(euler, Karras()).grid(VE, 5)[2:]
    noise = draw_normal([3, 4], like)
    np.testing.assert_allclose(np.asarray(start(grid, like, [3, 4], data)), np.asarray(0.5 + grid[0].sigma * noise))
