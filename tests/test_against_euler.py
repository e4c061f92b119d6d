"""Deterministic samplers against Euler in as many evaluations, on data whose denoisers are exact."""

from __future__ import annotations

from itertools import product

import numpy as np

from benchmarks.against_euler import MEANS, MODELS, PAGE, START, Denoiser, deterministic, error, exact, is_worse
from diffusolve import sampler
from diffusolve.catalog import SCHEDULE_TYPES, WORSE_THAN_EULER
from diffusolve.noise import NOISE_SCHEDULES
from diffusolve.spacing import Karras


def test_no_deterministic_sampler_is_worse_than_euler_where_the_catalog_does_not_say_so() -> None:
    """Each sampler on each schedule type where it is said to be worse is so somewhere, and elsewhere on no one of
    two of the models and data, which are others from one to the next: all are looked at by the program.
    """
    models = [Denoiser(NOISE_SCHEDULES[model], mean) for model in MODELS for mean in MEANS.values()]
    twos = [[models[index] for index in two] for two in ((0, 7), (3, 4), (1, 6), (2, 5))]
    samplers = [*deterministic()]
    wrong = []
    for (row, name), (column, kind) in product(enumerate(samplers), enumerate(SCHEDULE_TYPES)):
        said = kind in WORSE_THAN_EULER.get(name, ())
        if any(is_worse(name, kind, model) for model in (models if said else twos[(row + column) % 4])) != said:
            wrong.append(f"{name} {kind}: {'not ' * said}worse than Euler")
    assert wrong == [], f"run python -m benchmarks.against_euler, which writes {PAGE}"
    assert WORSE_THAN_EULER.keys() <= {*samplers}


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
