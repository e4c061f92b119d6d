"""CFG++: the data with guidance, renoised without; the network's two outputs on every way through the library."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.digits import classifier, pixels
from diffusolve.backends import Run
from diffusolve.catalog import CATALOG, sampler
from diffusolve.denoisers import ClassifierFreeGuidance, Denoiser, GaussianDenoiser, Predicting
from diffusolve.denoisers.digits_network import NO_CLASS, load_digits_network
from diffusolve.noise import SD15, FlowMatching, NoiseSchedule, Scaling, VarianceExploding
from diffusolve.plan import Plan
from diffusolve.sampling import Sampler, sample, start
from diffusolve.solvers import Solver, euler
from diffusolve.solvers.ancestral import split_noise
from diffusolve.spacing import Karras, Trailing
from tests.tables import for_each

PREDICTIONS = {
    "variance preserving": (SD15, "epsilon"),
    "variance exploding": (VarianceExploding(0.02, 40.0), "edm"),
    "flow matching": (FlowMatching(3.0), "flow"),
}
every_noise_schedule = for_each(("schedule", "predicts"), PREDICTIONS.values(), ids=PREDICTIONS)
NAMES = [name for name, entry in CATALOG.items() if dict(entry.solver.options).get("cfg_pp")]
PLAIN = {
    name: "Euler" if name == "DDIM CFG++" else name.removesuffix(" CFG++") for name in NAMES if name.endswith("CFG++")
}
"""Names -> the sampler that it is without CFG++, where that has a name."""

every_sampler = for_each("name", NAMES)
both_libraries = pytest.mark.parametrize("library", ["torch", "numpy"])


@dataclass
class Guided:
    """Two exact denoisers of different data, the first of them with guidance."""

    schedule: NoiseSchedule
    predicts: str
    unguided_mean: float = -0.3
    unguided_std: float = 0.7

    def __post_init__(self) -> None:
        datas = (0.5, 0.3), (self.unguided_mean, self.unguided_std)
        self.guided, self.unguided = (
            Predicting(GaussianDenoiser(self.schedule, mean, std), self.predicts) for mean, std in datas
        )
        self.noise_schedule, self.prediction = self.schedule, self.guided.prediction

    def __call__(self, x: Any, timestep: Any) -> Any:
        return self.guided(x, timestep)

    def guided_and_unguided(self, x: Any, timestep: Any) -> tuple[Any, Any]:
        return self.guided(x, timestep), self.unguided(x, timestep)


def solver_of(name: str, cfg_pp: bool = True) -> Solver:
    return CATALOG[name].solver.with_options(cfg_pp=cfg_pp)


def noise_at(made: Sampler, schedule: NoiseSchedule, steps: int, library: str = "numpy") -> Any:
    x = np.random.default_rng(3).standard_normal((3, 2, 5)) * made.grid(schedule, steps)[0].sigma
    return torch.from_numpy(x) if library == "torch" else x


# What it is


@every_noise_schedule
@every_sampler
def test_without_guidance_it_is_the_plain_sampler(name: str, schedule: NoiseSchedule, predicts: str) -> None:
    network = Guided(schedule, predicts, 0.5, 0.3)
    made, plain = (Sampler(solver_of(name, cfg_pp), Trailing()) for cfg_pp in (True, False))
    x = noise_at(made, schedule, 7)
    results = [sample(network, x, each, steps=7, noise=[1, 2, 3]) for each in (made, plain)]
    np.testing.assert_allclose(*results, rtol=1e-11, atol=1e-11)
    assert name not in PLAIN or plain.solver == CATALOG[PLAIN[name]].solver


@every_noise_schedule
@for_each("eta", [0.0, 1.0])
def test_a_step_of_euler_is_that_of_the_papers_algorithm(eta: float, schedule: NoiseSchedule, predicts: str) -> None:
    """The data with guidance; the noise that the network sees without; what else is to be there, fresh."""
    network, made = Guided(schedule, predicts), Sampler(euler.with_options(eta=eta, cfg_pp=True), Trailing())
    grid = made.grid(schedule, 5)
    x = begun = noise_at(made, schedule, 5)
    fresh = np.random.default_rng(9).standard_normal((5, *x.shape))
    drawn = iter(fresh)
    for step, (s, t) in enumerate(pairwise(grid)):
        timestep = np.full(3, s.timestep)
        assert s.scale == 1, "the samples are scaled as the network's are"
        guided, unguided = (
            GaussianDenoiser(schedule, mean, std)(x, timestep) for mean, std in ((0.5, 0.3), (-0.3, 0.7))
        )
        up, down = split_noise(s, t, eta)
        x = t.alpha * guided + down.sigma * (x - s.alpha * unguided) / s.sigma
        if up > 0:
            x = x + up * fresh[step]
    result = sample(network, begun, made, steps=5, noise=lambda x, s, t: next(drawn))
    np.testing.assert_allclose(result, x, rtol=1e-8, atol=1e-8)


@every_sampler
def test_the_unguided_output_matters(name: str) -> None:
    made = Sampler(solver_of(name), Karras())
    x = noise_at(made, SD15, 6)
    networks = Guided(SD15, "epsilon"), Guided(SD15, "epsilon", 0.0, 0.5)
    results = [sample(network, x, made, steps=6, noise=[1, 2, 3]) for network in networks]
    assert float(np.abs(results[0] - results[1]).mean()) > 1e-3


@pytest.mark.parametrize("name", ["DPM++ 2M CFG++", "RES multistep CFG++", "Gradient estimation CFG++"])
def test_history_is_made_of_the_guided_data(name: str) -> None:
    """With guided data that never change, nothing is extrapolated: all samplers take Euler's steps."""

    class ConstantData(Guided):
        def guided_and_unguided(self, x: Any, timestep: Any) -> tuple[Any, Any]:
            return np.full_like(x, 0.5), 0.1 * x

    network = ConstantData(SD15, "sample")
    results = []
    for each in (solver_of(name), euler.with_options(cfg_pp=True)):
        made = Sampler(each, Karras(final_sigma="sigma_min"))
        results.append(sample(network, noise_at(made, SD15, 6), made, steps=6))
    if name.startswith("Gradient"):  # whose history is of slopes
        assert not np.allclose(*results, rtol=1e-3)
    else:
        np.testing.assert_allclose(*results, rtol=1e-9)


@every_sampler
def test_guided_digits_are_recognised_with_a_scale_below_1(name: str) -> None:
    labels = torch.arange(20) % 10
    none = torch.full_like(labels, NO_CLASS)
    network = Denoiser(load_digits_network(), "v_prediction", SD15)
    made = sampler(name, "karras")
    x = start(made.grid(SD15, 12), torch.empty(20, 1, 8, 8), list(range(20)))
    right = {}
    for scale in (0.0, 0.6):
        guided = ClassifierFreeGuidance(network, labels, none, scale)
        images = sample(guided, x, made, steps=12, noise=list(range(20)))
        right[scale] = np.mean(classifier().predict(pixels(images.numpy())) == labels.numpy())
    assert right[0.6] >= 0.95
    assert right[0.0] <= 0.3, "a scale of 0 takes no notice of the condition"


# Plans and runs


@every_sampler
def test_plans_with_two_outputs_survive_json(name: str) -> None:
    plan = sampler(name).plan(SD15, "v_prediction", 6)
    assert plan.reads_unguided
    assert "guided and unguided" in str(plan)
    assert Plan.from_json(plan.to_json()) == plan
    assert not Sampler(solver_of(name, cfg_pp=False)).plan(SD15, "v_prediction", 6).reads_unguided


@every_noise_schedule
@every_sampler
def test_torch_numpy_and_the_compiled_backend_agree(name: str, schedule: NoiseSchedule, predicts: str) -> None:
    made, network = sampler(name, "trailing"), Guided(schedule, predicts)
    fresh = np.random.default_rng(5).standard_normal((20, 3, 2, 5))

    def result(x: Any) -> np.ndarray[Any, Any]:
        drawn = iter(fresh)
        noise = lambda x, s, t: torch.from_numpy(next(drawn)) if isinstance(x, torch.Tensor) else next(drawn)  # noqa: E731
        return np.asarray(sample(network, x, made, steps=6, noise=noise))

    x = noise_at(made, schedule, 6)
    transposed = torch.from_numpy(x).transpose(0, 2).contiguous().transpose(0, 2)  # which is left to torch
    for other in (torch.from_numpy(x), transposed):
        np.testing.assert_allclose(result(other), result(x), rtol=1e-9, atol=1e-10)


def plan_of(name: str) -> Plan:
    return sampler(name).plan(SD15, "epsilon", 4)


@both_libraries
def test_a_run_wants_the_unguided_output_if_its_plan_reads_it(library: str) -> None:
    x = noise_at(sampler("Euler"), SD15, 4, library)
    run = Run(plan_of("Euler CFG++"))
    with pytest.raises(ValueError, match=r"needs the network's output without guidance as well: step\(guided, x, ung"):
        run.step(x, run.begin(x))
    plain = Run(plan_of("Euler"))
    with pytest.raises(ValueError, match="has no use for an unguided output, which solvers with cfg_pp=True take"):
        plain.step(x, plain.begin(x), x)
    with pytest.raises(ValueError, match=r"unguided output.*shape"):
        run.step(x, x, x[:1])
    assert run.position == 0, "what was refused did not happen"
    assert run.step(x, x, 0.5 * x).shape == x.shape


@both_libraries
def test_a_network_without_guidance_is_told_what_to_do(library: str) -> None:
    x = noise_at(sampler("Euler"), SD15, 4, library)
    with pytest.raises(TypeError, match=r"GaussianDenoiser has no method guided_and_unguided.*ClassifierFreeGuidance"):
        sample(GaussianDenoiser(SD15), x, sampler("Euler CFG++"), steps=4)

    class Wrong(Guided):
        def guided_and_unguided(self, x: Any, timestep: Any) -> Any:
            return [x, x, x]

    with pytest.raises(TypeError, match=r"guided_and_unguided returned 3 outputs: expected two"):
        sample(Wrong(SD15, "epsilon"), x, sampler("Euler CFG++"), steps=4)


def test_two_rules_for_the_noise_that_is_left_are_refused() -> None:
    made = Sampler(euler.with_options(cfg_pp=True, unclipped_noise=True), scaling=Scaling.VARIANCE_PRESERVING)
    with pytest.raises(ValueError, match="cfg_pp and unclipped_noise both say which noise is left"):
        made.plan(SD15, "epsilon", 4)


def test_gradients_flow_through_both_outputs() -> None:
    made, network = sampler("DPM++ 2M CFG++", "karras"), Guided(SD15, "epsilon")
    x = noise_at(made, SD15, 4, "torch").requires_grad_()
    sample(network, x, made, steps=4, gradients=True).sum().backward()
    moved = []
    for shift in (1e-4, -1e-4):
        y = x.detach().clone()
        y[0, 0, 0] += shift
        moved.append(float(sample(network, y, made, steps=4).sum()))
    assert x.grad is not None
    assert float(x.grad[0, 0, 0]) == pytest.approx((moved[0] - moved[1]) / 2e-4, rel=1e-4)
