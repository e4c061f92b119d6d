"""Deterministic samplers against Euler in as many evaluations, on data whose denoisers are exact."""

from __future__ import annotations

import numpy as np

from benchmarks.against_euler import PAGE, START, Denoiser, error, exact, worse_than_euler
from diffusolve import sampler
from diffusolve.catalog import WORSE_THAN_EULER
from diffusolve.noise import NOISE_SCHEDULES
from diffusolve.spacing import Karras


def test_no_deterministic_sampler_is_worse_than_euler_where_the_catalog_does_not_say_so() -> None:
    assert worse_than_euler() == dict(WORSE_THAN_EULER), f"run python -m benchmarks.against_euler, which writes {PAGE}"


def test_the_reference_is_what_the_differential_equation_makes_of_normal_data() -> None:
    for model in ("sd15", "sd3", "edm"):
        network = Denoiser(NOISE_SCHEDULES[model], 0.0)
        start = sampler("Heun", Karras()).grid(network.noise_schedule, 800)[0]
        alpha, sigma = start.alpha, start.sigma
        drift = (0.25 / (alpha**2 * 0.25 + sigma**2)) ** 0.5
        np.testing.assert_allclose(exact(network), 0.1 + drift * (sigma * START - alpha * 0.1), atol=2e-3)


def test_unipc_by_its_name_is_better_than_euler_on_equal_timesteps() -> None:
    """A first-order step where the last one is long; a polynomial over it made errors of up to 5.8."""
    for model in ("sd15", "sd3", "flux", "edm"):
        for mean in (0.0, 0.9):
            network = Denoiser(NOISE_SCHEDULES[model], mean)
            for name in ("UniPC", "UniPC Automatic", "UniPC Normal", "UniPC bh2"):
                for steps in (5, 10, 20, 30):
                    eulers = error(sampler("Euler"), network, steps)
                    assert error(sampler(name), network, steps) < eulers + 1e-3, (model, mean, name, steps)
