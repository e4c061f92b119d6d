"""Exact denoisers against independent computations, and the wrappers around networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusolve.denoisers import (
    ClassifierFreeGuidance,
    DatasetDenoiser,
    Denoiser,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    Predicting,
)
from diffusolve.errors import SingularPointError, UnknownNameError
from diffusolve.noise import SD15, Cosine, FlowMatching, NoiseSchedule, VarianceExploding
from diffusolve.prediction import EDM, Epsilon, Sample, VPrediction
from diffusolve.sampling import sample
from diffusolve.sampling.denoiser import ScheduledNetwork
from tests.tables import for_each

VE = VarianceExploding(0.002, 80.0)
SCHEDULES: dict[str, NoiseSchedule] = {"VP": SD15, "VE": VE, "flow": FlowMatching(3.0), "cosine": Cosine()}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
SHAPE = (4, 2, 3)


def samples(schedule: NoiseSchedule, position: float) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Samples, their timesteps, alpha and sigma."""
    timestep = float(schedule.timestep(schedule.sigma_at_index(position * (schedule.num_train_timesteps - 1))))
    alpha, sigma = (float(value) for value in schedule.alpha_sigma(timestep))
    rng = np.random.default_rng(0)
    x = alpha * rng.normal(0.3, 0.5, SHAPE) + sigma * rng.standard_normal(SHAPE)
    return x, np.full(SHAPE[0], timestep), alpha, sigma


positions = st.floats(0.0, 1.0)


# Gaussian


@every_schedule
@given(position=positions, mean=st.floats(-2, 2), std=st.floats(0.05, 3))
def test_the_gaussian_denoiser_is_the_conjugate_posterior_mean(
    schedule: NoiseSchedule, position: float, mean: float, std: float
) -> None:
    """Precisions add: the prior's 1 / std^2 and the observation's alpha^2 / sigma^2."""
    x, timestep, alpha, sigma = samples(schedule, position)
    expected = (mean / std**2 + alpha * x / sigma**2) / (1 / std**2 + alpha**2 / sigma**2)
    made = GaussianDenoiser(schedule, mean, std)(x, timestep)
    np.testing.assert_allclose(made, expected, rtol=1e-9, atol=1e-9)


def test_mean_and_standard_deviation_may_differ_for_each_element() -> None:
    mean, std = np.arange(6).reshape(2, 3) / 5, 0.1 + np.arange(6).reshape(2, 3)
    x, timestep, *_ = samples(VE, 0.7)
    made = GaussianDenoiser(VE, mean, std)(x, timestep)
    for i, j in np.ndindex(2, 3):
        alone = GaussianDenoiser(VE, mean[i, j], std[i, j])(x[:, i, j], timestep)
        np.testing.assert_allclose(made[:, i, j], alone, rtol=1e-12)


@every_schedule
def test_each_sample_may_have_its_own_timestep(schedule: NoiseSchedule) -> None:
    denoisers = [
        GaussianDenoiser(schedule, 0.2, 0.5),
        DatasetDenoiser(schedule, np.random.default_rng(1).random((5, 2, 3))),
    ]
    x, *_ = samples(schedule, 0.5)
    timesteps = np.concatenate([samples(schedule, position)[1][:1] for position in (0.2, 0.4, 0.6, 0.8)])
    for denoiser in denoisers:
        made = denoiser(x, timesteps)
        for i in range(4):
            np.testing.assert_allclose(made[i : i + 1], denoiser(x[i : i + 1], timesteps[i : i + 1]), rtol=1e-9)


PATHS = {  # (alpha, sigma) along a parameter u, with their derivatives
    "VE": (lambda u: (1.0, u), lambda u: (0.0, 1.0)),
    "flow": (lambda u: (1 - u, u), lambda u: (-1.0, 1.0)),
    "VP": (lambda u: (math.cos(u), math.sin(u)), lambda u: (-math.sin(u), math.cos(u))),
    "neither": (lambda u: (2 - u**2, 0.5 + u), lambda u: (-2 * u, 1.0)),
}


@pytest.mark.parametrize(("path", "slope"), PATHS.values(), ids=PATHS)
@given(u=st.floats(0.1, 0.9), mean=st.floats(-1, 1), std=st.floats(0.2, 2))
def test_the_exact_solution_obeys_the_probability_flow_ode(
    path: Any, slope: Any, u: float, mean: float, std: float
) -> None:
    """dx = dalpha D + dsigma epsilon, with D the posterior mean and epsilon = (x - alpha D) / sigma."""
    denoiser = GaussianDenoiser(VE, mean, std)
    x_start = np.random.default_rng(0).normal(0, 2, 5)

    def at(u: float) -> np.ndarray:
        return denoiser.exact(x_start, path(0.95), path(u))

    (alpha, sigma), (d_alpha, d_sigma), h, x = path(u), slope(u), 1e-5, at(u)
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    data = mean + gain * (x - alpha * mean)
    expected = d_alpha * data + d_sigma * (x - alpha * data) / sigma
    np.testing.assert_allclose((at(u + h) - at(u - h)) / (2 * h), expected, rtol=1e-5, atol=1e-6)


@given(st.floats(0.05, 3))
def test_the_exact_solution_keeps_the_distribution(std: float) -> None:
    """What has the marginal distribution at the start has it at the end; and going nowhere changes nothing."""
    denoiser = GaussianDenoiser(VE, 0.3, std)
    start, end = (0.2, 0.9), (0.95, 0.1)
    deviations = np.array([-2.0, 0.0, 1.5])
    x = 0.2 * 0.3 + deviations * math.hypot(0.2 * std, 0.9)
    np.testing.assert_allclose(denoiser.exact(x, start, end), 0.95 * 0.3 + deviations * math.hypot(0.95 * std, 0.1))
    np.testing.assert_allclose(denoiser.exact(x, start, start), x, rtol=1e-12)


# Mixtures


@every_schedule
@given(position=positions, std=st.floats(0.05, 2))
def test_a_mixture_of_one_is_a_gaussian(schedule: NoiseSchedule, position: float, std: float) -> None:
    x, timestep, *_ = samples(schedule, position)
    mean = np.random.default_rng(1).random((2, 3))
    one = GaussianMixtureDenoiser(schedule, mean[None], std)
    expected = GaussianDenoiser(schedule, mean, std)(x, timestep)
    np.testing.assert_allclose(one(x, timestep), expected, rtol=1e-9, atol=1e-9)


@every_schedule
@settings(max_examples=30)
@given(
    position=st.floats(0.3, 1),
    components=st.lists(st.tuples(st.floats(-2, 2), st.floats(0.1, 1), st.floats(0.1, 3)), min_size=1, max_size=4),
    equal_stds=st.booleans(),
    equal_weights=st.booleans(),
)
def test_a_mixture_is_the_posterior_mean_by_quadrature(
    schedule: NoiseSchedule, position: float, components: list[Any], equal_stds: bool, equal_weights: bool
) -> None:
    means, stds, weights = (np.array(column) for column in zip(*components, strict=True))
    stds = np.full_like(stds, stds[0]) if equal_stds else stds
    weights = np.ones_like(weights) if equal_weights else weights
    x, timestep, alpha, sigma = samples(schedule, position)
    x = x.reshape(-1, 1)
    x0 = np.linspace(-12, 12, 20_001)
    prior = (weights * np.exp(-((x0[:, None] - means) ** 2) / (2 * stds**2)) / stds).sum(1)
    log_likelihood = -((x - alpha * x0) ** 2) / (2 * sigma**2)
    posterior = prior * np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    expected = (posterior * x0).sum(1) / posterior.sum(1)
    made = GaussianMixtureDenoiser(schedule, means[:, None], stds, None if equal_weights else weights)(
        x, np.full(len(x), timestep[0])
    )
    np.testing.assert_allclose(made[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_a_mixture_in_several_dimensions_weighs_by_the_whole_likelihood() -> None:
    """Against Bayes' rule with the normal density of each component, in three dimensions."""
    rng = np.random.default_rng(0)
    means, stds, weights = rng.normal(size=(3, 3)), np.array([0.3, 0.8, 1.5]), np.array([0.2, 0.5, 0.3])
    x, sigma = rng.normal(size=(6, 3)), 0.7
    made = GaussianMixtureDenoiser(VE, means, stds, weights)(x, np.full(6, sigma))
    for i in range(6):
        variance = stds**2 + sigma**2
        density = weights * np.exp(-((x[i] - means) ** 2).sum(1) / (2 * variance)) / variance**1.5
        posterior = density / density.sum()
        conditional = means + (stds**2 / variance)[:, None] * (x[i] - means)
        np.testing.assert_allclose(made[i], posterior @ conditional, rtol=1e-10)


def test_one_standard_deviation_stands_for_all_components() -> None:
    x, timestep, *_ = samples(VE, 0.5)
    means = np.random.default_rng(1).random((4, 2, 3))
    np.testing.assert_array_equal(
        GaussianMixtureDenoiser(VE, means, 0.3)(x, timestep), GaussianMixtureDenoiser(VE, means, [0.3] * 4)(x, timestep)
    )


# Data sets

DATA = np.random.default_rng(3).normal(size=(10, 2, 3))


@every_schedule
def test_a_data_set_at_little_noise_gives_back_the_nearest_datum(schedule: NoiseSchedule) -> None:
    timestep = float(schedule.timestep(schedule.sigma_at_index(2)))
    alpha, sigma = (float(value) for value in schedule.alpha_sigma(timestep))
    x = alpha * DATA[[7, 0, 3, 3]] + sigma * np.random.default_rng(0).standard_normal(SHAPE)
    made = DatasetDenoiser(schedule, DATA)(x, np.full(4, timestep))
    np.testing.assert_allclose(made, DATA[[7, 0, 3, 3]], atol=1e-6)


@pytest.mark.parametrize(("schedule", "timestep"), [(Cosine(), 1.0), (FlowMatching(), 1000.0), (VE, 80.0)])
def test_a_data_set_in_pure_noise_gives_the_mean(schedule: NoiseSchedule, timestep: float) -> None:
    x = np.random.default_rng(0).standard_normal(SHAPE)
    made = DatasetDenoiser(schedule, DATA)(x, np.full(4, timestep))
    np.testing.assert_allclose(made, np.broadcast_to(DATA.mean(0), SHAPE), atol=0.01 if schedule is VE else 1e-12)


def test_a_label_chooses_the_data_that_bear_it_and_an_unknown_one_chooses_all() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 5, 5, 5])
    x, timestep, *_ = samples(VE, 0.6)
    for library in (np.asarray, torch.as_tensor):
        denoiser = DatasetDenoiser(VE, DATA, labels)
        made = np.asarray(denoiser(library(x), library(timestep), library(np.array([1, 5, 0, 10]))))
        for i, only in enumerate([DATA[3:7], DATA[7:], DATA[:3], DATA]):
            alone = DatasetDenoiser(VE, only)(x[i : i + 1], timestep[:1])
            np.testing.assert_allclose(made[i : i + 1], alone, rtol=1e-9)
        np.testing.assert_allclose(np.asarray(denoiser(x, timestep)), DatasetDenoiser(VE, DATA)(x, timestep))


@for_each(
    ("arguments", "message"),
    [
        ({"weights": [1.0, 0.0]}, "weights must be 2 positive numbers"),
        ({"weights": [1.0]}, "weights must be 2 positive numbers, one per component"),
        ({"weights": [1.0, math.nan]}, "weights must be 2 positive numbers"),
        ({"stds": -0.1}, "stds must not be negative; got -0.1"),
        ({"stds": [0.1, 0.2, 0.3]}, "stds must be one number or 2, one per component"),
        ({"labels": [1, 2, 3]}, "labels must be 2 whole numbers, one per component"),
        ({"means": np.zeros((0, 3))}, "at least one"),
    ],
)
def test_mixtures_that_do_not_fit_together_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixtureDenoiser(VE, **{"means": np.zeros((2, 3)), "stds": 0.5, **arguments})


def test_a_label_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="no labels to choose by"):
        DatasetDenoiser(VE, DATA)(DATA, np.ones(10), np.ones(10, int))


def test_negative_standard_deviations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"std must not be negative; got -1\.0"):
        GaussianDenoiser(VE, 0.0, -1.0)


# Libraries


DENOISERS = {
    "gaussian": GaussianDenoiser(VE, 0.2, 0.5),
    "mixture": GaussianMixtureDenoiser(VE, DATA, np.linspace(0.1, 1, 10), np.arange(1, 11)),
    "data set": DatasetDenoiser(VE, DATA),
    "epsilon": Predicting(DatasetDenoiser(VE, DATA), "epsilon"),
    "edm": Predicting(GaussianDenoiser(VE, 0.2, 0.5), "edm"),
}


@for_each("denoiser", DENOISERS.values(), ids=DENOISERS)
def test_torch_and_numpy_agree(denoiser: Any) -> None:
    x, timestep, *_ = samples(VE, 0.6)
    expected = denoiser(x, timestep)
    made = denoiser(torch.from_numpy(x), torch.from_numpy(timestep))
    assert made.dtype == torch.float64
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-12, atol=1e-12)
    for single in (torch.from_numpy(x).float(), x.astype(np.float32)):
        made = denoiser(single, timestep.astype(np.float32))
        assert made.dtype == single.dtype
        assert made.shape == SHAPE
        np.testing.assert_allclose(np.asarray(made), expected, rtol=1e-4, atol=1e-4)


@for_each("denoiser", DENOISERS.values(), ids=DENOISERS)
def test_denoisers_write_to_nothing(denoiser: Any) -> None:
    x, timestep, *_ = samples(VE, 0.6)
    for convert in (np.array, torch.tensor):
        mine, times = convert(x), convert(timestep)
        denoiser(mine, times)
        assert (mine == convert(x)).all()
        assert (times == convert(timestep)).all()


# Predicting


@every_schedule
@for_each("position", [0.05, 0.3, 0.9])
def test_outputs_are_those_that_the_prediction_types_define(schedule: NoiseSchedule, position: float) -> None:
    exact = GaussianDenoiser(schedule, 0.3, 0.5)
    x, timestep, alpha, sigma = samples(schedule, position)
    data = exact(x, timestep)
    noise = (x - alpha * data) / sigma
    norm = math.hypot(alpha, sigma)
    expected = {"epsilon": noise, "flow": noise - data, "v_prediction": (alpha * noise - sigma * data) / norm}
    for name, output in expected.items():
        np.testing.assert_allclose(Predicting(exact, name)(x, timestep), output, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(Predicting(exact, "sample")(x, timestep), data, rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 30.0])
def test_edm_outputs_are_those_of_the_preconditioned_network(sigma: float) -> None:
    """Karras et al. 2022, equation 7: D(x) = c_skip x + c_out F(c_in x)."""
    exact, raw = GaussianDenoiser(VE, 0.3, 0.5), Predicting(GaussianDenoiser(VE, 0.3, 0.5), EDM(0.7))
    x, timestep = sigma * np.random.default_rng(0).standard_normal(SHAPE), np.full(4, sigma)
    c_in, c_skip = 1 / math.hypot(sigma, 0.7), 0.7**2 / (sigma**2 + 0.7**2)
    c_out = sigma * 0.7 / math.hypot(sigma, 0.7)
    np.testing.assert_allclose(c_skip * x + c_out * raw(c_in * x, timestep), exact(x, timestep), rtol=1e-9, atol=1e-12)


def test_predicting_passes_conditions_on() -> None:
    denoiser = DatasetDenoiser(VE, DATA, np.arange(10))
    x, timestep, *_ = samples(VE, 0.6)
    label = np.array([4, 4, 9, 1])
    output = Predicting(denoiser, "epsilon")(x, timestep, label)
    np.testing.assert_allclose(x - timestep[0] * output, DATA[label], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "timestep", "message"),
    [("flow", 0.0, "at timestep 0 the flow output has no effect"), ("epsilon", 1000.0, "epsilon prediction says noth")],
)
def test_where_an_output_is_not_defined_that_is_said(name: str, timestep: float, message: str) -> None:
    network = Predicting(GaussianDenoiser(FlowMatching()), name)
    with pytest.raises(SingularPointError, match=message):
        network(np.ones(SHAPE), np.full(4, timestep))


def test_unknown_prediction_types_offer_the_nearest() -> None:
    for make in (lambda: Predicting(GaussianDenoiser(VE), "epsilom"), lambda: Denoiser(None, "epsilom", VE)):
        with pytest.raises(UnknownNameError, match="did you mean 'epsilon'"):
            make()


# Wrappers


def test_a_denoiser_passes_everything_to_its_network() -> None:
    told: list[Any] = []

    def network(*args: Any, **kwargs: Any) -> str:
        told.append((args, kwargs))
        return "output"

    wrapped = Denoiser(network, "v_prediction", SD15)
    assert wrapped("x", "t", "condition", mask="m") == "output"
    assert told == [(("x", "t", "condition"), {"mask": "m"})]
    assert (wrapped.prediction, wrapped.noise_schedule) == (VPrediction(), SD15)


def test_all_denoisers_say_what_they_were_trained_for() -> None:
    for denoiser in (*DENOISERS.values(), Denoiser(len, "epsilon", VE)):
        assert isinstance(denoiser, ScheduledNetwork)
        assert denoiser.noise_schedule == VE
    assert GaussianDenoiser(VE).prediction == Sample()
    assert Predicting(GaussianDenoiser(VE), "epsilon").prediction == Epsilon()


class Conditional:
    """A conditional network that counts its calls."""

    prediction = Epsilon()
    noise_schedule = VE

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Any, timestep: Any, condition: Any) -> Any:
        self.batches.append(x.shape[0])
        assert timestep.shape == (x.shape[0],)
        return x * condition[:, None] + timestep[:, None]


@for_each("library", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@for_each("scale", [0.0, 0.5, 1.0, 1.5, 7.5])
def test_guidance_extrapolates_from_the_unconditional_output(library: Any, scale: float) -> None:
    x, timestep = library(np.random.default_rng(0).standard_normal((3, 4))), library(np.array([1.0, 2.0, 3.0]))
    condition, none = library(np.array([1.0, 2.0, -1.0])), library(np.array([0.0, 0.5, 0.0]))
    network = Conditional()
    made = ClassifierFreeGuidance(network, condition, none, scale)(x, timestep)
    with_it, without = Conditional()(x, timestep, condition), Conditional()(x, timestep, none)
    np.testing.assert_allclose(np.asarray(made), np.asarray(without + scale * (with_it - without)), rtol=1e-12)
    assert network.batches == ([3] if scale == 1.0 else [6])


def test_guidance_knows_what_its_network_knows() -> None:
    guided = ClassifierFreeGuidance(Conditional(), np.ones(3), np.zeros(3), 2.0)
    assert guided.prediction == Epsilon()
    assert guided.noise_schedule == VE
    with pytest.raises(AttributeError, match="has no attribute 'weights'"):
        guided.weights  # noqa: B018
    ignorant = ClassifierFreeGuidance(lambda x, t, c: x, np.ones(3), np.zeros(3), 2.0)
    assert getattr(ignorant, "prediction", None) is None


def test_guided_samples_move_towards_the_condition() -> None:
    from diffusolve.catalog import sampler

    labels = np.array([0] * 5 + [1] * 5)
    data = np.concatenate([np.full((5, 1), -1.0), np.full((5, 1), 1.0)]) + np.linspace(-0.1, 0.1, 10)[:, None]
    network = Denoiser(DatasetDenoiser(VE, data, labels), "sample", VE)
    x = 80 * np.random.default_rng(0).standard_normal((64, 1))
    ones, none = np.ones(64, int), np.full(64, 2)
    made = [
        sample(ClassifierFreeGuidance(network, ones, none, scale), x, sampler("Euler Karras"), steps=20)
        for scale in (0.0, 1.0, 2.0)
    ]
    assert {float(np.sign(value)) for value in made[0].ravel()} == {-1.0, 1.0}
    assert made[1].min() > 0.85
    assert made[2].min() > 0.85


def test_conditions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"condition has shape \(3,\), but unconditional has shape \(2,\)"):
        ClassifierFreeGuidance(Conditional(), np.ones(3), np.zeros(2), 2.0)
    for scale in (1.0, 2.0):
        guided = ClassifierFreeGuidance(Conditional(), np.ones(3), np.zeros(3), scale)
        with pytest.raises(ValueError, match="a condition for 3 samples, but the batch has 4"):
            guided(np.ones((4, 2)), np.ones(4))
