"""What is compared: everything that the network was shown on the way, and the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusolve.noise import Grid
from diffusolve.plan import Plan, plan_for
from diffusolve.prediction import prediction
from diffusolve.sampling import sample
from diffusolve.solvers import Solver

from .network import StandInNetwork

__all__ = ["PROMISED", "TIGHT", "Trajectory", "assert_same", "difference", "our_trajectory", "plan_on", "recorded"]

PROMISED = 1e-4
"""The relative error in float32 that the library promises."""

TIGHT = 2e-5
"""What both sides' rounding amounts to where they work with the same sigmas."""


@dataclass(frozen=True)
class Trajectory:
    """One way from noise to data.

    Attributes:
        samples: what the network was shown at each evaluation, then the result.
        timesteps: what the network was conditioned on.
    """

    samples: tuple[Tensor, ...] = field(repr=False)
    timesteps: npt.NDArray[np.float64]


def recorded(walk: Callable[[StandInNetwork], Tensor], network: StandInNetwork) -> Trajectory:
    """The trajectory of `walk`, a function of the network that returns the result."""
    with torch.no_grad():
        result = walk(network)
    return Trajectory((*network.seen, result), np.array(network.timesteps))


def plan_on(grid: Grid, solver: Solver, prediction_type: str) -> Plan:
    """The plan of `solver` over a given grid."""
    return plan_for(solver, grid, prediction(prediction_type))


def our_trajectory(plan: Plan, x: Tensor, network: StandInNetwork, **options: Any) -> Trajectory:
    """The trajectory of `plan` from `x`, by :func:`diffusolve.sample` with its `options`."""
    return recorded(lambda network: sample(network, x, plan, **options), network)


def difference(ours: Trajectory, theirs: Trajectory) -> float:
    """The largest difference of any element on the way, in units of their root mean square at that point."""
    pairs = zip(ours.samples, theirs.samples, strict=True)
    return float(torch.stack([(a - b).abs().max() / b.square().mean().sqrt() for a, b in pairs]).max())


def assert_same(ours: Trajectory, theirs: Trajectory, within: float = TIGHT) -> None:
    """The network is asked the same questions in the same order, and the results are the same."""
    assert len(ours.samples) == len(theirs.samples), "both evaluate the network equally often"
    assert ours.samples[-1].dtype == theirs.samples[-1].dtype
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps, rtol=0, atol=PROMISED * np.ptp(theirs.timesteps))
    assert all(torch.isfinite(x).all() for x in theirs.samples), "the reference's own numbers are finite"
    assert difference(ours, theirs) <= within
