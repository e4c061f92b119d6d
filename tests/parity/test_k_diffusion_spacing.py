"""Noise schedules and spacings against k-diffusion."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffusolve.noise import SD15, Cosine, Scaling, VarianceExploding, VariancePreserving
from diffusolve.spacing import Exponential, Karras, Linspace, Polyexponential
from tests.tables import for_each

from .k_diffusion_reference import denoiser, external, sampling
from .network import StandInNetwork

STEPS = (5, 10, 14, 15, 20, 50)
RANGES = [(0.002, 80.0), (0.0292, 14.6146), (0.1, 5.0)]
DISCRETE = {
    "scaled_linear": SD15,
    "linear": VariancePreserving(),
    "squaredcos": VariancePreserving(beta_schedule="squaredcos_cap_v2"),
}


def wrapped(noise_schedule: VariancePreserving) -> Any:
    return denoiser(StandInNetwork(), noise_schedule, "epsilon", torch.float64)


@for_each("steps", STEPS)
@for_each("ends", RANGES)
@for_each("rho", [3.0, 7.0])
def test_karras_is_that_of_k_diffusion(rho: float, ends: tuple[float, float], steps: int) -> None:
    ours = Karras(rho=rho).grid(VarianceExploding(*ends), steps).sigmas
    np.testing.assert_allclose(ours, sampling.get_sigmas_karras(steps, *ends, rho), rtol=1e-5)


@for_each("steps", STEPS)
@for_each("ends", RANGES)
def test_exponential_is_that_of_k_diffusion(ends: tuple[float, float], steps: int) -> None:
    ours = Exponential().grid(VarianceExploding(*ends), steps).sigmas
    np.testing.assert_allclose(ours, sampling.get_sigmas_exponential(steps, *ends), rtol=1e-5)


@for_each("steps", STEPS)
@for_each("ends", RANGES)
@for_each("rho", [0.5, 1.0, 2.0])
def test_polyexponential_is_that_of_k_diffusion(rho: float, ends: tuple[float, float], steps: int) -> None:
    ours = Polyexponential(rho=rho).grid(VarianceExploding(*ends), steps).sigmas
    np.testing.assert_allclose(ours, sampling.get_sigmas_polyexponential(steps, *ends, rho), rtol=1e-5)


@for_each("steps", [*STEPS, 1000])
@for_each("noise_schedule", DISCRETE.values(), ids=list(DISCRETE))
def test_linspace_is_what_k_diffusion_chooses_for_a_discrete_model(
    noise_schedule: VariancePreserving, steps: int
) -> None:
    ours = Linspace().grid(noise_schedule, steps).in_scaling(Scaling.VARIANCE_EXPLODING).sigmas
    np.testing.assert_allclose(ours, wrapped(noise_schedule).get_sigmas(steps), rtol=1e-5)


@pytest.mark.parametrize("noise_schedule", DISCRETE.values(), ids=list(DISCRETE))
def test_timesteps_between_whole_ones_have_k_diffusions_sigma(noise_schedule: VariancePreserving) -> None:
    timesteps = np.random.default_rng(0).uniform(0, 999, 200)
    theirs = wrapped(noise_schedule).t_to_sigma(torch.tensor(timesteps))
    np.testing.assert_allclose(noise_schedule.sigma(timesteps), theirs, rtol=1e-5)  # it rounds timesteps to float32


@pytest.mark.parametrize("noise_schedule", DISCRETE.values(), ids=list(DISCRETE))
def test_sigmas_stand_at_k_diffusions_timestep(noise_schedule: VariancePreserving) -> None:
    log_ends = np.log([noise_schedule.sigma_min / 2, noise_schedule.sigma_max])  # below the smallest: timestep 0
    sigmas = np.exp(np.random.default_rng(0).uniform(*log_ends, 200))
    theirs = wrapped(noise_schedule).sigma_to_t(torch.tensor(sigmas))
    np.testing.assert_allclose(noise_schedule.timestep(sigmas), theirs, atol=1e-8)


def test_the_wrapper_for_latent_diffusion_has_our_sigmas() -> None:
    model = SimpleNamespace(alphas_cumprod=torch.tensor(SD15.alphas_cumprod), apply_model=StandInNetwork())
    theirs = external.CompVisDenoiser(model)
    assert float(theirs.sigma_min) == pytest.approx(SD15.sigma_min, rel=1e-12)
    assert float(theirs.sigma_max) == pytest.approx(SD15.sigma_max, rel=1e-12)
    np.testing.assert_allclose(SD15.sigma(np.arange(1000)), theirs.sigmas, rtol=1e-12)


def test_the_cosine_schedule_is_k_diffusions_v_diffusion() -> None:
    theirs = external.VDenoiser(StandInNetwork())
    timesteps = np.linspace(0.001, 0.999, 100)
    np.testing.assert_allclose(Cosine().sigma(timesteps), theirs.t_to_sigma(torch.tensor(timesteps)), rtol=1e-9)
    sigmas = np.geomspace(0.001, 1000, 100)
    np.testing.assert_allclose(Cosine().timestep(sigmas), theirs.sigma_to_t(torch.tensor(sigmas)), rtol=1e-9)
