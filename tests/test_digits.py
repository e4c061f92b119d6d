"""The shipped data and network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from benchmarks.digits import agreement
from diffusolve.denoisers import load_digits_data
from diffusolve.denoisers.digits_network import NO_CLASS, load_digits_network


def test_the_data_are_scikit_learns_digits() -> None:
    images, labels = load_digits_data()
    reference = load_digits()
    np.testing.assert_array_equal(8 * (images[:, 0] + 1), reference.images)
    np.testing.assert_array_equal(labels, reference.target)


def test_the_network_is_small() -> None:
    assert sum(parameter.numel() for parameter in load_digits_network().parameters()) < 1_000_000


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_classifier_recognises_the_digits_that_were_asked_for(guidance: float) -> None:
    assert agreement("DPM++ 2M", steps=20, count=150, guidance=guidance) >= 0.95


def test_the_network_knows_how_noisy_its_input_is_between_whole_timesteps() -> None:
    network = load_digits_network()
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([3, NO_CLASS])
    with torch.no_grad():
        whole, next_whole, between = (network(x, torch.full((2,), t), label) for t in (500.0, 501.0, 500.5))
    torch.testing.assert_close(between, (whole + next_whole) / 2, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("x", "timestep", "label"),
    [((2, 1, 9, 8), (2,), (2,)), ((2, 1, 8, 8), (), (2,)), ((2, 1, 8, 8), (2,), (3,))],
)
def test_shapes_that_do_not_fit_are_named(
    x: tuple[int, ...], timestep: tuple[int, ...], label: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"expected x \(B, 1, 8, 8\)"):
        load_digits_network()(torch.zeros(x), torch.zeros(timestep), torch.zeros(label, dtype=torch.int64))
