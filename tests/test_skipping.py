"""Evaluations left out, and extrapolated."""

from __future__ import annotations

import numpy as np
import pytest

import diffusolve
from diffusolve.denoisers import GaussianDenoiser
from diffusolve.noise import SD15, FlowMatching
from diffusolve.sampling import sample, start

MEAN = np.array([0.3, -0.4, 0.1])


def network(schedule: object = SD15) -> GaussianDenoiser:
    return GaussianDenoiser(schedule, MEAN, 0.5)  # type: ignore[arg-type]


def test_euler_leaves_out_what_is_said_and_extrapolates_the_noise() -> None:
    for every, order, asked in (
        (3, 2, [0, 1, 3, 4, 6, 7, 9]),
        (2, 3, [0, 1, 2, 4, 6, 8, 9]),
        (4, 4, [0, 1, 2, 3, 4, 5, 6, 8, 9]),
    ):
        made = diffusolve.sampler("Euler Karras", skip_every=every, skip_order=order)
        plan = made.plan(SD15, "sample", 10)
        assert plan.nfe == len(asked)
        full = diffusolve.sampler("Euler Karras").plan(SD15, "sample", 10)
        assert plan.timesteps == tuple(full.timesteps[i] for i in asked)
        x = start(plan, np.zeros((4, 3)), [0, 1, 2, 3])
        points = [*(stage.point for stage in full.stages), full.end]
        sigmas = [point.sigma / point.alpha for point in points]
        expected, history = x / points[0].alpha, []  # scaled to alpha = 1
        for i in range(10):
            if i in asked:
                data = network()(expected / np.hypot(1, sigmas[i]), np.full(4, full.timesteps[i]))
                history.append((expected - data) / sigmas[i])
                noise = history[-1]
            else:
                signs = {2: (2, -1), 3: (3, -3, 1), 4: (4, -6, 4, -1)}[order]
                noise = sum(sign * past for sign, past in zip(signs, history[::-1], strict=False))
            expected = expected + (sigmas[i + 1] - sigmas[i]) * noise
        np.testing.assert_allclose(sample(network(), x, plan), expected, rtol=1e-9)
        assert diffusolve.Plan.from_json(plan.to_json()) == plan


def test_solvers_that_leave_out_evaluations_converge_to_the_exact_samples() -> None:
    wrong = []
    for name in ("Euler", "DPM++ 2M", "UniPC", "Heun", "DEIS", "iPNDM", "DPM2", "LMS"):
        for schedule, predicts in ((SD15, "sample"), (FlowMatching(), "sample")):
            errors = []
            for steps in (15, 60):
                made = diffusolve.sampler(name, "Exponential" if schedule is SD15 else "Uniform", skip_every=3)
                plan = made.plan(schedule, predicts, steps)
                assert plan.nfe < diffusolve.sampler(name).plan(schedule, predicts, steps).nfe
                x = start(plan, np.zeros((16, 3)), list(range(16)))
                exact = network(schedule).exact(
                    x, (plan.start.alpha, plan.start.sigma), (plan.end.alpha, plan.end.sigma)
                )
                errors.append(float(np.abs(sample(network(schedule), x, plan) - exact).max()))
            if not errors[1] < 0.5 * errors[0] + 1e-6:
                wrong.append((name, schedule, errors))
    assert wrong == []


def test_what_cannot_be_left_out_is_an_error() -> None:
    with pytest.raises(ValueError, match="skip_every is 1 and skip_order 2"):
        diffusolve.sampler("Euler", skip_every=1).plan(SD15, "sample", 5)
    with pytest.raises(ValueError, match="skip_order 5"):
        diffusolve.sampler("Euler", skip_every=3, skip_order=5).plan(SD15, "sample", 5)
    with pytest.raises(ValueError, match="an output without guidance at each step"):
        diffusolve.sampler("Euler", cfg_pp=True, skip_every=3).plan(SD15, "sample", 9)
    adaptive = diffusolve.sampler("DPM adaptive", skip_every=3)
    with pytest.raises(ValueError, match="chooses its steps by the data"):
        sample(network(), np.zeros((1, 3)), adaptive, noise_schedule=SD15)
