"""DPM adaptive against k-diffusion."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from diffusolve.noise import SD15, Scaling, VariancePreserving
from diffusolve.sampling import Report, Sampler, sample_with_report
from diffusolve.solvers import dpm_adaptive
from diffusolve.spacing import Sigmas
from tests.tables import for_each

from .k_diffusion_reference import IntervalNoise, denoiser, sampling
from .network import StandInNetwork, standard_noise
from .trajectory import PROMISED, Trajectory, assert_same

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "sde": {"eta": 1.0},
    "half sde": {"eta": 0.5, "s_noise": 0.9},
    "accurate": {"rtol": 0.01, "atol": 0.001},
    "bold first step": {"h_init": 3.0},
    "pid": {"pcoeff": 0.3, "icoeff": 0.7, "dcoeff": 0.1},
    "hard to please": {"accept_safety": 0.95, "h_init": 1.0, "eta": 1.0},
}


class Adaptive(NamedTuple):
    """What the solver is run on, and with what options."""

    noise_schedule: VariancePreserving
    prediction_type: str
    order: int
    options: dict[str, Any]
    dtype: torch.dtype

    @property
    def ends(self) -> tuple[float, float]:
        return self.noise_schedule.sigma_max, self.noise_schedule.sigma_min

    @property
    def x(self) -> torch.Tensor:
        return self.ends[0] * standard_noise(dtype=self.dtype)


def ours(case: Adaptive) -> tuple[Trajectory, Report]:
    solver = dpm_adaptive.with_options(order=case.order, **case.options)
    sampler = Sampler(solver, Sigmas(case.ends), Scaling.VARIANCE_EXPLODING)
    model = {"noise_schedule": case.noise_schedule, "prediction_type": case.prediction_type}
    noise = IntervalNoise(case.dtype).ours
    network = StandInNetwork(dtype=case.dtype)
    result, report = sample_with_report(network, case.x, sampler, noise=noise, **model)
    return Trajectory((*network.seen, result), np.array(network.timesteps)), report


def theirs(case: Adaptive) -> tuple[Trajectory, dict[str, int]]:
    network = StandInNetwork(dtype=case.dtype)
    model = denoiser(network, case.noise_schedule, case.prediction_type, case.dtype)
    high, low = (torch.tensor(sigma, dtype=case.dtype) for sigma in case.ends)
    arguments = {"order": case.order, "noise_sampler": IntervalNoise(case.dtype).theirs, **case.options}
    with torch.no_grad():
        result, info = sampling.sample_dpm_adaptive(
            model, case.x, low, high, disable=True, return_info=True, **arguments
        )
    return without_repeats(Trajectory((*network.seen, result), np.array(network.timesteps))), info


def without_repeats(trajectory: Trajectory) -> Trajectory:
    """Without the questions that k-diffusion asks again after a rejected step."""
    *seen, result = trajectory.samples
    new = [i for i, x in enumerate(seen) if not any(torch.equal(x, earlier) for earlier in seen[:i])]
    return Trajectory((*(seen[i] for i in new), result), trajectory.timesteps[new])


pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
every_case = for_each(
    ("noise_schedule", "prediction_type", "order", "options"),
    itertools.product((SD15, VariancePreserving()), ("epsilon", "v_prediction"), (2, 3), OPTIONS.values()),
)


@every_case
def test_dpm_adaptive_walks_the_same_trajectory_as_k_diffusion(
    noise_schedule: VariancePreserving, prediction_type: str, order: int, options: dict[str, Any]
) -> None:
    """In float64: the size of each step depends on the data, and rounding errors grow from step to step."""
    case = Adaptive(noise_schedule, prediction_type, order, options, torch.float64)
    (our_way, report), (their_way, info) = ours(case), theirs(case)
    assert (report.accepted, report.rejected) == (info["n_accept"], info["n_reject"])
    assert report.nfe == info["nfe"] - info["n_reject"], "a point is asked about once, even if the step is rejected"
    assert_same(our_way, their_way)


@every_case
def test_dpm_adaptive_accepts_the_same_steps_in_float32_as_k_diffusion(
    noise_schedule: VariancePreserving, prediction_type: str, order: int, options: dict[str, Any]
) -> None:
    case = Adaptive(noise_schedule, prediction_type, order, options, torch.float32)
    (our_way, report), (their_way, info) = ours(case), theirs(case)
    assert (report.accepted, report.rejected) == (info["n_accept"], info["n_reject"])
    result, reference = our_way.samples[-1], their_way.samples[-1]
    assert (result - reference).abs().max() <= PROMISED * reference.square().mean().sqrt()
