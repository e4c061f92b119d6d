"""Noise along a Brownian path."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from diffusolve.noise import VarianceExploding
from diffusolve.randomness import BrownianPath
from diffusolve.sampling import Sampler, sample
from diffusolve.solvers import dpmpp_sde
from diffusolve.spacing import Karras
from tests.tables import for_each

torchsde = pytest.importorskip("torchsde", reason="a Brownian path needs torchsde, which is not installed")

LIKE = torch.zeros(2, 3, 40, 40)


def path(seed: Any = 7) -> BrownianPath:
    return BrownianPath(0.1, 10.0, seed)


@for_each("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@for_each("seed", [7, [7, 8], None])
def test_noise_is_standard_normal_and_like_the_samples(dtype: torch.dtype, seed: Any) -> None:
    torch.manual_seed(0)
    drawn = path(seed)(LIKE.to(dtype), 8.0, 3.0)
    assert (drawn.dtype, drawn.shape) == (dtype, LIKE.shape)
    moments = [float((drawn.double() ** k).mean()) for k in (1, 2, 3, 4)]
    deviations = np.sqrt([1 / drawn.numel(), 2 / drawn.numel(), 15 / drawn.numel(), 96 / drawn.numel()])
    assert np.all(np.abs(np.subtract(moments, [0, 1, 0, 3])) < 5 * deviations)


def test_noise_of_separate_intervals_is_independent_and_that_of_their_union_is_made_of_both() -> None:
    one, first, rest, whole = path(), *((9.0, 4.0), (4.0, 2.0), (9.0, 2.0))
    a, b, both = (one(LIKE.double(), *interval) for interval in (first, rest, whole))
    assert abs(float((a * b).mean())) < 0.05
    torch.testing.assert_close(both, math.sqrt(5 / 7) * a + math.sqrt(2 / 7) * b)
    torch.testing.assert_close(one(LIKE.double(), 2.0, 9.0), -both)


def test_at_its_ends_a_path_is_asked_without_a_warning_and_answers_as_its_tree_does() -> None:
    low, high = 0.0291674, 14.6146406  # torchsde rounds these to 0.029167 and 14.614641
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = BrownianPath(low, high, 7)(LIKE, high, low)
        BrownianPath(0.0291676, 14.6146404, 7)(LIKE, 14.6146404, 0.0291676)  # and these to the other side
    tree = torchsde.BrownianTree(low, torch.zeros_like(LIKE), high, entropy=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(drawn, -tree(low, high) / math.sqrt(high - low), rtol=0, atol=0)


def test_the_path_depends_on_the_seed_alone() -> None:
    one, other = path(), path()
    other(LIKE, 5.0, 1.0)
    other(LIKE, 7.7, 6.1)
    assert torch.equal(one(LIKE, 9.0, 4.0), other(LIKE, 9.0, 4.0))
    assert not torch.equal(one(LIKE, 9.0, 4.0), path(8)(LIKE, 9.0, 4.0))


def test_a_sample_with_its_own_seed_does_not_depend_on_its_batch() -> None:
    batch = path([5, 6])(LIKE, 9.0, 4.0)
    assert torch.equal(batch[1:], path([6])(LIKE[1:], 9.0, 4.0))
    assert not torch.equal(batch[:1], batch[1:])


@pytest.mark.parametrize("seed", [7, None])
def test_copies_and_pickles_follow_the_same_path(seed: int | None) -> None:
    one = path(seed)
    one(LIKE, 9.0, 4.0)
    expected = one(LIKE, 4.0, 1.0)
    assert torch.equal(copy.deepcopy(one)(LIKE, 4.0, 1.0), expected)
    assert torch.equal(pickle.loads(pickle.dumps(one))(LIKE, 4.0, 1.0), expected)


def test_without_a_seed_the_global_generator_gives_one() -> None:
    torch.manual_seed(3)
    expected = path(int(torch.randint(0, 2**63 - 1, [])))(LIKE, 9.0, 4.0)
    torch.manual_seed(3)
    assert torch.equal(path(None)(LIKE, 9.0, 4.0), expected)


def test_the_numbers_are_those_of_k_diffusion() -> None:
    from tests.parity.k_diffusion_reference import sampling

    for seed in (7, [7, 8]):
        theirs, ours = sampling.BrownianTreeNoiseSampler(LIKE, 0.1, 10.0, seed), path(seed)
        for interval in ((9.0, 4.0), (9.0, 2.0), (0.5, 0.25)):
            torch.testing.assert_close(
                ours(LIKE, *interval), theirs(*map(torch.tensor, interval)), rtol=1e-6, atol=1e-6
            )


def test_samplers_take_it_for_their_noise() -> None:
    """More steps along one path come nearer to the same sample."""
    schedule = VarianceExploding(0.1, 10.0)
    x = 10 * torch.randn(4, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return 0.8 * torch.tanh(x)

    def run(steps: int, noise: Any) -> torch.Tensor:
        sampler = Sampler(dpmpp_sde, Karras(final_sigma="sigma_min"))
        made: torch.Tensor = sample(
            network, x, sampler, steps=steps, noise_schedule=schedule, prediction_type="sample", noise=noise
        )
        return made

    best = run(160, path())
    errors = [float((run(steps, path()) - best).square().mean()) for steps in (10, 20, 40)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert float((run(40, 1) - best).square().mean()) > 10 * errors[2]


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ((11.0, 4.0), r"sigma 11 is outside this Brownian path, which goes from 0\.1 to 10"),
        ((4.0, 0.0), r"sigma 0 is outside"),
        ((4.0, 4.0), r"from sigma 4 to 4 is empty"),
    ],
)
def test_what_is_not_on_the_path_is_refused(interval: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        path()(LIKE, *interval)


def test_rounded_ends_are_on_the_path() -> None:
    assert torch.equal(path()(LIKE, 10.001, 0.0999), path()(LIKE, 10.0, 0.1))


def test_what_it_cannot_be_like_is_refused() -> None:
    with pytest.raises(ValueError, match="3 seeds for a batch of 2 samples: give one per sample"):
        path([1, 2, 3])(LIKE, 9.0, 4.0)
    with pytest.raises(TypeError, match="for PyTorch tensors, not ndarray"):
        path()(np.zeros((2, 3)), 9.0, 4.0)


def test_without_torchsde_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusolve.randomness.brownian.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'diffusolve\[sde\]'"):
        path()
