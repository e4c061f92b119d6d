"""Prediction types: outputs made by their definitions give back the data."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffusolve.errors import SingularPointError, UnknownNameError
from diffusolve.noise import Grid, NoiseSchedule, Point, Scaling
from diffusolve.prediction import EDM, Epsilon, Flow, Prediction, Sample, VPrediction, prediction
from tests.strategies import noise_schedules, predictions
from tests.tables import for_each


def output_by_definition(kind: Prediction, x0: float, noise: float, alpha: float, sigma: float) -> float:
    """What a perfect network returns for the sample ``alpha * x0 + sigma * noise`` of its own scaling."""
    if isinstance(kind, Epsilon):
        return noise
    if isinstance(kind, Sample):
        return x0
    if isinstance(kind, VPrediction):  # Salimans & Ho 2022 define it for alpha^2 + sigma^2 = 1
        c = math.hypot(alpha, sigma)
        return (alpha * noise - sigma * x0) / c
    if isinstance(kind, Flow):
        return noise - x0
    # Karras et al. 2022, table 1, for the sample scaled to alpha = 1: D = c_skip x + c_out F(c_in x)
    assert isinstance(kind, EDM)
    s, d = sigma / alpha, kind.sigma_data
    c_skip, c_out = d**2 / (s**2 + d**2), s * d / math.sqrt(s**2 + d**2)
    return (x0 - c_skip * (x0 + s * noise)) / c_out


@given(
    noise_schedules, st.floats(0, 0.98), st.sampled_from(list(Scaling)), predictions, st.floats(-2, 2), st.floats(-3, 3)
)
def test_the_data_come_back_from_the_output_in_every_scaling(
    schedule: NoiseSchedule, position: float, scaling: Scaling, kind: Prediction, x0: float, noise: float
) -> None:
    sigma = float(schedule.sigma_at_index(position * (schedule.num_train_timesteps - 1)))
    own = Grid.from_sigmas(schedule, [sigma, 0.0])
    point = own.in_scaling(scaling)[0]
    scale, a, b = kind.conversion(point)
    output = output_by_definition(kind, x0, noise, own[0].alpha, own[0].sigma)
    x = point.alpha * x0 + point.sigma * noise
    size = abs(a * x) + abs(b * output) + abs(x0)
    assert a * x + b * output == pytest.approx(x0, abs=1e-12 * size + 1e-300, rel=1e-9)
    # and the network sees its own sample, scaled by nothing but what the prediction itself asks for
    seen = own[0].alpha * x0 + own[0].sigma * noise
    assert scale * x == pytest.approx(kind.input_scale(own[0].alpha, own[0].sigma) * seen, rel=1e-9, abs=1e-12)


@given(st.floats(1e-4, 1e4), st.floats(0.01, 10))
def test_edm_is_the_preconditioning_of_table_1(sigma: float, sigma_data: float) -> None:
    scale, a, b = EDM(sigma_data).conversion(Point(0.0, 1.0, sigma))
    assert scale == pytest.approx(1 / math.sqrt(sigma**2 + sigma_data**2), rel=1e-12)
    assert a == pytest.approx(sigma_data**2 / (sigma**2 + sigma_data**2), rel=1e-12)
    assert b == pytest.approx(sigma * sigma_data / math.sqrt(sigma**2 + sigma_data**2), rel=1e-12)


@given(st.floats(-5, 5), st.floats(0.1, 3))
def test_edm_outputs_and_inputs_have_unit_variance_on_data_of_the_standard_deviation_sigma_data(
    log_sigma: float, sigma_data: float
) -> None:
    """What table 1's functions were derived from (appendix B.6): Var[c_in x] = Var[F] = 1."""
    sigma = math.exp(log_sigma)
    scale, a, b = EDM(sigma_data).conversion(Point(0.0, 1.0, sigma))
    assert scale**2 * (sigma_data**2 + sigma**2) == pytest.approx(1.0)
    assert ((1 - a) ** 2 * sigma_data**2 + a**2 * sigma**2) / b**2 == pytest.approx(1.0)


@given(st.floats(0.01, 0.99), st.floats(0.1, 10))
def test_the_conversion_does_not_depend_on_how_the_sample_is_scaled(position: float, norm: float) -> None:
    alpha, sigma = math.cos(position * math.pi / 2), math.sin(position * math.pi / 2)
    for kind in (Epsilon(), Sample(), VPrediction(), Flow(), EDM()):
        plain = kind.conversion(Point(1.0, alpha, sigma))
        scaled = kind.conversion(Point(1.0, alpha / norm, sigma / norm, scale=norm))
        assert scaled == pytest.approx((plain.scale * norm, plain.a * norm, plain.b), rel=1e-9)


def test_v_at_pure_noise_is_minus_the_data() -> None:
    assert VPrediction().conversion(Point(999, 0.0, 1.0)) == (1.0, 0.0, -1.0)


def test_flow_at_pure_noise_is_the_noise_minus_the_data() -> None:
    assert Flow().conversion(Point(1000.0, 0.0, 1.0)) == (1.0, 1.0, -1.0)


def test_the_data_themselves_need_no_conversion() -> None:
    assert Sample().conversion(Point(999, 0.0, 1.0)) == (1.0, 0.0, 1.0)


def test_epsilon_at_pure_noise_says_nothing_and_the_error_says_what_does() -> None:
    with pytest.raises(SingularPointError, match=r"v_prediction, sample or flow.*start at a smaller timestep"):
        Epsilon().conversion(Point(999, 0.0, 1.0))


@given(predictions, st.booleans())
def test_at_both_singular_ends_the_numbers_are_finite(kind: Prediction, at_the_data: bool) -> None:
    assume(at_the_data or not isinstance(kind, Epsilon))
    point = Point(0, 1.0, 0.0) if at_the_data else Point(999, 0.0, 1.0)
    assert all(math.isfinite(number) for number in kind.conversion(point))


@pytest.mark.parametrize("kind", [Epsilon(), VPrediction(), Flow(), EDM()])
def test_without_noise_the_sample_is_the_data(kind: Prediction) -> None:
    _, a, b = kind.conversion(Point(0, 1.0, 0.0))
    assert (a, b) == (1.0, 0.0)


@for_each(
    ("name", "kind"),
    [
        ("epsilon", Epsilon()),
        ("sample", Sample()),
        ("v_prediction", VPrediction()),
        ("flow", Flow()),
        ("flow_prediction", Flow()),
        ("edm", EDM(0.5)),
        (EDM(1.0), EDM(1.0)),
    ],
)
def test_predictions_are_found_by_name(name: str | Prediction, kind: Prediction) -> None:
    assert prediction(name) == kind


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prediction("v_predicton"), "unknown prediction type 'v_predicton': did you mean 'v_prediction'"),
        (lambda: prediction("velocity of light"), "unknown prediction type"),
        (lambda: prediction("edm", sigma_dta=1.0), "option of edm 'sigma_dta': did you mean 'sigma_data'"),
        (lambda: prediction("epsilon", sigma_data=1.0), "option of epsilon 'sigma_data': there are none"),
    ],
)
def test_unknown_names_offer_the_nearest(make, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        make()


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.nan])
def test_sigma_data_must_be_positive(sigma_data: float) -> None:
    with pytest.raises(ValueError, match=r"sigma_data is .*: expected the data's standard deviation, above 0"):
        EDM(sigma_data)


def test_options_given_besides_a_made_prediction_are_refused() -> None:
    with pytest.raises(ValueError, match="sigma_data"):
        prediction(EDM(), sigma_data=1.0)
