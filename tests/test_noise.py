"""Noise schedules against the formulas of their papers, and as inverses of themselves."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusolve.errors import SingularPointError, UnknownNameError
from diffusolve.noise import (
    BETA_SCHEDULES,
    NOISE_SCHEDULES,
    SD15,
    Cosine,
    FlowMatching,
    Grid,
    NoiseSchedule,
    Point,
    Scaling,
    VarianceExploding,
    VariancePreserving,
    noise_schedule,
)
from tests.strategies import noise_schedules
from tests.tables import for_each

ZERO_SNR = VariancePreserving(rescale_betas_zero_snr=True)
SCHEDULES = {
    **NOISE_SCHEDULES,
    **{name: VariancePreserving(beta_schedule=name) for name in BETA_SCHEDULES},
    "zero-terminal-SNR": ZERO_SNR,
    "zero-terminal-SNR cosine": VariancePreserving(beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=True),
    "shifted cosine": Cosine(log_snr_shift=math.log(64 / 256)),
    "log sigma": VarianceExploding(0.01, 50.0, "log_sigma"),
    "sigma": VarianceExploding(0.002, 80.0, "sigma"),
}
every_schedule = for_each("schedule", SCHEDULES.values(), ids=SCHEDULES)


def indices_of(schedule: NoiseSchedule) -> np.ndarray:
    return np.linspace(0, schedule.num_train_timesteps - 1, 257)


# Betas, each by its paper's formula, term by term in decimal arithmetic of 40 digits where it is rational, else in
# Python's own float64.


def _linear(start: float, end: float, i: int, count: int) -> float:
    getcontext().prec = 40
    return float(Decimal(start) + (Decimal(end) - Decimal(start)) * i / (count - 1))


def _scaled_linear(start: float, end: float, i: int, count: int) -> float:
    getcontext().prec = 40
    low, high = Decimal(start).sqrt(), Decimal(end).sqrt()
    return float((low + (high - low) * i / (count - 1)) ** 2)


def _sigmoid(start: float, end: float, i: int, count: int) -> float:
    return start + (end - start) * (1 + math.tanh((-6 + 12 * i / (count - 1)) / 2)) / 2


@for_each(("name", "formula"), [("linear", _linear), ("scaled_linear", _scaled_linear), ("sigmoid", _sigmoid)])
@for_each(("start", "end", "count"), [(0.0001, 0.02, 1000), (0.00085, 0.012, 100), (0.001, 0.05, 2)])
def test_betas_are_those_of_the_paper(name: str, formula, start: float, end: float, count: int) -> None:
    expected = [formula(start, end, i, count) for i in range(count)]
    np.testing.assert_allclose(VariancePreserving(name, start, end, count).betas, expected, rtol=1e-13)


def _cosine_power(t: float) -> float:
    return (1 + math.cos((t + 0.008) / 1.008 * math.pi)) / 2


def _laplace_root_power(t: float) -> float:
    log_snr = -math.copysign(0.5, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    return math.sqrt(math.exp(log_snr) / (1 + math.exp(log_snr)))


@for_each(
    ("name", "signal"),
    [("squaredcos_cap_v2", _cosine_power), ("exp", lambda t: math.exp(-12 * t)), ("laplace", _laplace_root_power)],
)
@for_each("count", [2, 100, 1000])
def test_the_cumulative_product_follows_the_papers_signal_until_the_cap(name: str, signal, count: int) -> None:
    schedule = VariancePreserving(name, num_train_timesteps=count)
    ratio = [signal((i + 1) / count) / signal(i / count) for i in range(count)]
    np.testing.assert_allclose(schedule.betas, np.minimum(1 - np.array(ratio), 0.999), rtol=1e-10)
    free = schedule.betas < 0.999
    uncapped = int(np.argmin(free)) if not free.all() else count
    expected = [signal((i + 1) / count) / signal(0.0) for i in range(uncapped)]
    np.testing.assert_allclose(schedule.alphas_cumprod[:uncapped], expected, rtol=1e-9)


def test_trained_betas_are_taken_as_they_are() -> None:
    betas = (0.1, 0.2, 0.4)
    schedule = VariancePreserving(trained_betas=betas)
    assert schedule.num_train_timesteps == 3
    np.testing.assert_allclose(schedule.alphas_cumprod, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.6], rtol=1e-15)
    assert schedule == VariancePreserving(trained_betas=np.array(betas))  # an array makes the same value
    assert hash(schedule) == hash(VariancePreserving(trained_betas=list(betas)))


@for_each("name", sorted(BETA_SCHEDULES))
def test_zero_terminal_snr_leaves_nothing_at_the_last_timestep_and_the_first_as_it_was(name: str) -> None:
    plain, rescaled = VariancePreserving(name), VariancePreserving(name, rescale_betas_zero_snr=True)
    alpha, sigma = rescaled.alpha_sigma(999)
    assert (float(alpha), float(sigma)) == (0.0, 1.0)
    assert math.isinf(rescaled.sigma_max)
    assert float(rescaled.log_snr(999)) == -math.inf
    np.testing.assert_allclose(rescaled.alphas_cumprod[0], plain.alphas_cumprod[0], rtol=1e-14)


def test_zero_terminal_snr_is_lin_et_als_algorithm_1() -> None:
    alphas_bar_sqrt = np.sqrt(np.cumprod(1 - np.linspace(0.0001, 0.02, 1000)))
    first, last = alphas_bar_sqrt[0], alphas_bar_sqrt[-1]
    alphas_bar_sqrt = (alphas_bar_sqrt - last) * (first / (first - last))
    np.testing.assert_allclose(ZERO_SNR.alphas_cumprod, alphas_bar_sqrt**2, rtol=1e-12)


@every_schedule
def test_alpha_and_sigma_obey_the_law_of_their_space(schedule: NoiseSchedule) -> None:
    sigmas = schedule.sigma_at_index(indices_of(schedule))
    alpha, sigma = schedule.alpha_sigma(schedule.timestep(sigmas))
    if schedule.scaling is Scaling.VARIANCE_PRESERVING:
        np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-14)
    elif schedule.scaling is Scaling.FLOW:
        np.testing.assert_allclose(alpha + sigma, 1.0, rtol=1e-14)
    else:
        assert np.all(alpha == 1.0)
    assert np.all((alpha >= 0) & (sigma > 0))


@every_schedule
def test_noise_grows_with_the_level_and_with_the_timestep(schedule: NoiseSchedule) -> None:
    sigmas = schedule.sigma_at_index(indices_of(schedule))
    assert np.all(np.diff(sigmas[:-1]) > 0)
    assert sigmas[-1] > sigmas[-2]
    assert np.all(np.diff(schedule.timestep(sigmas)) > 0)
    assert (sigmas[0], sigmas[-1]) == (schedule.sigma_min, schedule.sigma_max)


@given(noise_schedules, st.floats(0, 1))
def test_sigma_to_timestep_and_back_is_the_identity(schedule: NoiseSchedule, position: float) -> None:
    sigma = float(schedule.sigma_at_index(position * (schedule.num_train_timesteps - 1)))
    back = float(schedule.sigma(schedule.timestep(sigma)))
    assert back == sigma or back == pytest.approx(sigma, rel=1e-9)


@given(noise_schedules, st.floats(0, 1))
def test_timestep_to_sigma_and_back_is_the_identity(schedule: NoiseSchedule, position: float) -> None:
    low, high = (float(schedule.timestep(s)) for s in (schedule.sigma_min, schedule.sigma_max))
    timestep = low + position * (high - low)
    assert float(schedule.timestep(schedule.sigma(timestep))) == pytest.approx(timestep, rel=1e-9, abs=1e-9)


@given(noise_schedules, st.floats(0, 1))
def test_log_snr_is_the_logarithm_of_alpha_over_sigma(schedule: NoiseSchedule, position: float) -> None:
    timestep = float(schedule.timestep(schedule.sigma_at_index(position * (schedule.num_train_timesteps - 1))))
    alpha, sigma = (float(value) for value in schedule.alpha_sigma(timestep))
    expected = math.log(alpha / sigma) if alpha > 0 else -math.inf
    assert float(schedule.log_snr(timestep)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.integers(0, 998), st.floats(0, 1))
def test_log_sigma_is_linear_between_whole_timesteps(low: int, weight: float) -> None:
    log_sigma = [math.log(float(SD15.sigma(t))) for t in (low, low + weight, low + 1)]
    assert log_sigma[1] == pytest.approx((1 - weight) * log_sigma[0] + weight * log_sigma[2], rel=1e-12, abs=1e-12)


def test_alpha_falls_linearly_into_a_zero_terminal_snr() -> None:
    alphas = ZERO_SNR.alpha_sigma([998.0, 998.25, 998.5, 999.0])[0]
    np.testing.assert_allclose(alphas, alphas[0] * np.array([1, 0.75, 0.5, 0]), rtol=1e-12)


@given(st.floats(0.2, 12.0), st.integers(2, 1000))
def test_the_last_flow_matching_level_is_exactly_pure_noise(shift: float, count: int) -> None:
    schedule = FlowMatching(shift, count)
    assert schedule.sigma_max == 1.0
    assert schedule.alpha_sigma(schedule.timestep(schedule.sigma_max)) == (0.0, 1.0)


@given(st.floats(0.2, 12.0), st.floats(0.0, 999.0))
def test_the_flow_matching_shift_divides_the_signal_to_noise_ratio(shift: float, index: float) -> None:
    """Esser et al. 2024, section 5.3.2: the shift is a constant added to the log-SNR."""
    plain, shifted = (float(FlowMatching(s).sigma_at_index(index)) for s in (1.0, shift))
    assert (1 - shifted) / shifted == pytest.approx((1 - plain) / plain / shift, rel=1e-9, abs=1e-12)


@given(st.floats(-3, 3), st.floats(0.01, 0.99))
def test_the_cosine_shift_is_added_to_the_log_snr(shift: float, t: float) -> None:
    expected = math.log(math.cos(math.pi * t / 2) / math.sin(math.pi * t / 2)) + shift
    assert float(Cosine(shift).log_snr(t)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_cosine_ends_in_pure_noise() -> None:
    assert Cosine().alpha_sigma(1.0) == (0.0, 1.0)
    assert float(Cosine().timestep(math.inf)) == 1.0


@pytest.mark.parametrize(
    ("conditioning", "formula"),
    [("sigma", lambda s: s), ("log_sigma", math.log), ("edm", lambda s: math.log(s) / 4)],
)
def test_variance_exploding_networks_are_told_of_sigma_as_the_conditioning_says(conditioning: str, formula) -> None:
    schedule = VarianceExploding(0.002, 80.0, conditioning)
    for sigma in (0.002, 0.3, 1.0, 80.0):
        assert float(schedule.timestep(sigma)) == pytest.approx(formula(sigma), rel=1e-14)


@given(st.floats(1e-3, 1.0), st.floats(2.0, 100.0), st.sampled_from(["sigma", "log_sigma", "edm"]))
def test_the_ends_of_a_variance_exploding_range_may_come_back_rounded_to_float32(
    sigma_min: float, sigma_max: float, conditioning: str
) -> None:
    """As they do from a network's timesteps."""
    schedule = VarianceExploding(sigma_min, sigma_max, conditioning)
    rounded = schedule.timestep([sigma_min, sigma_max]).astype(np.float32)
    np.testing.assert_allclose(schedule.sigma(rounded), [sigma_min, sigma_max], rtol=1e-5)


def test_variance_exploding_levels_are_geometric() -> None:
    sigmas = VarianceExploding(0.01, 50.0).sigma_at_index(np.arange(1000))
    np.testing.assert_allclose(sigmas, np.geomspace(0.01, 50.0, 1000), rtol=1e-12)


@every_schedule
def test_below_the_smallest_level_comes_the_first_timestep(schedule: NoiseSchedule) -> None:
    if isinstance(schedule, (Cosine, FlowMatching)):  # these are trained down to sigma = 0
        assert float(schedule.timestep(0.0)) == 0.0
    else:
        assert float(schedule.timestep(0.0)) == float(schedule.timestep(schedule.sigma_min))


@for_each(
    ("schedule", "timestep", "nearest"),
    [
        (SD15, 1000, "999"),
        (SD15, -1, "0"),
        (SD15, 999.5, "999"),
        (ZERO_SNR, 1000, "999"),
        (FlowMatching(), 1000.5, "1000"),
        (FlowMatching(), -0.25, "0"),
        (Cosine(), 1.5, "1"),
        (VarianceExploding(0.5, 8.0), 16, "8"),
        (VarianceExploding(0.5, 8.0), 0.25, "0.5"),
    ],
)
def test_a_timestep_out_of_range_names_itself_the_range_and_the_nearest(
    schedule: NoiseSchedule, timestep: float, nearest: str
) -> None:
    with pytest.raises(ValueError, match=rf"timestep {timestep:g} is outside .*\[.*\]; the nearest is {nearest}\."):
        schedule.sigma([float(schedule.timestep(schedule.sigma_min)), timestep])


@for_each(
    ("schedule", "sigma", "nearest"),
    [
        (SD15, 15.0, "14.6"),
        (SD15, -0.5, "0"),
        (FlowMatching(), 1.5, "1"),
        (Cosine(), -1.0, "0"),
        (ZERO_SNR, -1.0, "0"),
        (VarianceExploding(0.5, 8.0), 16.0, "8"),
    ],
)
def test_a_sigma_out_of_range_names_itself_the_range_and_the_nearest(
    schedule: NoiseSchedule, sigma: float, nearest: str
) -> None:
    with pytest.raises(ValueError, match=rf"sigma {sigma:g} is outside .*\[0, .*\]; the nearest is {nearest}"):
        schedule.timestep([schedule.sigma_min, sigma])


@every_schedule
@for_each("method", ["sigma", "timestep", "sigma_at_index"])
def test_nan_has_no_place_on_a_schedule(schedule: NoiseSchedule, method: str) -> None:
    with pytest.raises(ValueError, match="nan is outside"):
        getattr(schedule, method)(math.nan)


@every_schedule
def test_levels_out_of_range_raise(schedule: NoiseSchedule) -> None:
    with pytest.raises(ValueError, match="the nearest is 999"):
        schedule.sigma_at_index(schedule.num_train_timesteps)


@every_schedule
def test_schedules_are_values(schedule: NoiseSchedule) -> None:
    assert len({schedule, schedule}) == 1
    with pytest.raises(AttributeError):
        schedule.num_train_timesteps = 7


@for_each(
    ("make", "message"),
    [
        (lambda: VariancePreserving("scaled_linaer"), "did you mean 'scaled_linear'"),
        (lambda: VariancePreserving(trained_betas=(0.1, 1.5)), "beta 1.5 at timestep 1"),
        (lambda: VariancePreserving(trained_betas=(0.1, 0.0)), "beta 0 at timestep 1"),
        (lambda: VariancePreserving(trained_betas=(0.1, math.nan)), "beta nan at timestep 1"),
        (lambda: VariancePreserving(num_train_timesteps=1), "num_train_timesteps is 1: expected at least 2"),
        (lambda: Cosine(num_train_timesteps=0), "num_train_timesteps is 0: expected at least 2"),
        (lambda: FlowMatching(num_train_timesteps=1), "num_train_timesteps is 1: expected at least 2"),
        (lambda: VarianceExploding(num_train_timesteps=1), "num_train_timesteps is 1: expected at least 2"),
        (lambda: Cosine(log_snr_shift=math.nan), "log_snr_shift is nan"),
        (lambda: VarianceExploding(conditioning="log_sgima"), "did you mean 'log_sigma'"),
        (lambda: VarianceExploding(sigma_min=2.0, sigma_max=1.0), "sigma_min < sigma_max < inf, got 2 and 1"),
        (lambda: VarianceExploding(sigma_min=0.0), "got 0 and 80"),
        (lambda: FlowMatching(shift=0.0), "shift is 0"),
        (lambda: FlowMatching(shift=math.nan), "shift is nan"),
        (lambda: noise_schedule("sdlx"), "did you mean 'sdxl'"),
    ],
)
def test_impossible_schedules_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_schedules_are_found_by_name() -> None:
    assert noise_schedule("sd15") is SD15
    with pytest.raises(UnknownNameError, match="unknown noise schedule 'nothing like it'"):
        noise_schedule("nothing like it")


# Grids


def test_a_grid_of_sigmas_finds_their_timesteps() -> None:
    grid = Grid.from_sigmas(FlowMatching(), [0.75, 0.25, 0.0])
    assert grid.points == (Point(750.0, 0.25, 0.75), Point(250.0, 0.75, 0.25), Point(0.0, 1.0, 0.0))
    assert (grid.steps, len(grid), grid[-1].log_snr) == (2, 3, math.inf)
    np.testing.assert_array_equal(grid.timesteps, [750, 250])
    np.testing.assert_array_equal(grid[1:].sigmas, [0.25, 0])


def test_whole_timesteps_of_discrete_schedules_are_ints_and_others_are_floats() -> None:
    assert [type(p.timestep) for p in Grid.from_sigmas(SD15, SD15.sigma([900, 500]), [900, 500])] == [int, int]
    assert [type(p.timestep) for p in Grid.from_sigmas(SD15, SD15.sigma([900.5, 500]), [900.5, 500])] == [float, float]
    assert [type(p.timestep) for p in Grid.from_sigmas(FlowMatching(), [1.0, 0.0])] == [float, float]


@pytest.mark.parametrize("scaling", list(Scaling))
def test_a_number_has_the_scales_of_an_array_with_it(scaling: Scaling) -> None:
    for sigma in (0.0, 1e-3, 0.5, 1.0, *([80.0, math.inf] if scaling is Scaling.VARIANCE_PRESERVING else [])):
        assert scaling.scales(sigma) == pytest.approx([float(value) for value in scaling.alpha_sigma(sigma)], rel=1e-15)


@given(noise_schedules, st.floats(0.01, 0.99), st.sampled_from(list(Scaling)))
def test_scalings_differ_by_a_scale_only(schedule: NoiseSchedule, position: float, scaling: Scaling) -> None:
    sigma = float(schedule.sigma_at_index(position * (schedule.num_train_timesteps - 1)))
    own = Grid.from_sigmas(schedule, [sigma, 0.0])
    other = own.in_scaling(scaling)
    p, q = own[0], other[0]
    law = {
        Scaling.VARIANCE_PRESERVING: math.hypot(q.alpha, q.sigma),
        Scaling.VARIANCE_EXPLODING: q.alpha,
        Scaling.FLOW: q.alpha + q.sigma,
    }
    assert law[scaling] == pytest.approx(1.0, rel=1e-12)
    assert (q.scale * q.alpha, q.scale * q.sigma) == pytest.approx((p.alpha, p.sigma), rel=1e-12)
    assert q.log_snr == pytest.approx(p.log_snr, rel=1e-9, abs=1e-9)
    assert other[1].log_snr == math.inf


@given(noise_schedules, st.floats(0.02, 0.98), st.sampled_from(list(Scaling)))
def test_points_made_in_between_are_where_they_should_be(
    schedule: NoiseSchedule, position: float, scaling: Scaling
) -> None:
    sigmas = schedule.sigma_at_index(np.array([0.99, position, 0.01]) * (schedule.num_train_timesteps - 1))
    grid = Grid.from_sigmas(schedule, sigmas).in_scaling(scaling)
    expected = grid[1]
    for made in (
        grid.at_sigma(expected.sigma),
        grid.at_log_snr(expected.log_snr),
        grid.at_timestep(expected.timestep),
    ):
        for attribute in ("alpha", "sigma", "scale"):
            assert getattr(made, attribute) == pytest.approx(getattr(expected, attribute), rel=1e-6)
        assert made.timestep == pytest.approx(expected.timestep, rel=1e-6, abs=1e-6)


def test_samples_without_signal_cannot_be_scaled_to_alpha_1() -> None:
    grid = Grid.from_sigmas(ZERO_SNR, [math.inf, 1.0, 0.0])
    with pytest.raises(SingularPointError, match=r"timestep 999 .*no signal is left.*or start at a smaller timestep"):
        grid.in_scaling(Scaling.VARIANCE_EXPLODING)
    assert grid.in_scaling(Scaling.FLOW)[0] == Point(999, 0.0, 1.0)


@for_each(
    ("sigmas", "message"),
    [
        ([1.0], "at least two numbers"),
        ([], "at least two numbers"),
        ([[1.0, 0.0]], r"got shape \(1, 2\)"),
        ([1.0, math.nan, 0.0], r"sigmas\[1\] is NaN"),
        ([1.0, -0.5], r"sigmas\[1\] is -0.5: expected sigma >= 0"),
        ([1.0, 0.5, 0.5, 0.0], r"sigmas\[1\] = 0.5 is followed by sigmas\[2\] = 0.5"),
        ([0.0, 0.5, 1.0], "They increase: reverse the list"),
        ([15.0, 0.0], "sigma 15 is outside"),
    ],
)
def test_sigmas_that_make_no_grid_are_refused(sigmas: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid.from_sigmas(SD15, sigmas)


def test_sigmas_that_are_pure_noise_twice_are_refused_without_a_warning() -> None:
    with pytest.raises(ValueError, match=r"sigmas\[0\] = inf is followed by sigmas\[1\] = inf"):
        Grid.from_sigmas(Cosine(), [math.inf, math.inf, 0.0])


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [([1, 2, 3, 4], r"3 sigmas need 2 timesteps .* or 3; got shape \(4,\)"), ([5, math.nan], r"timesteps\[1\] is NaN")],
)
def test_timesteps_that_do_not_fit_the_sigmas_are_refused(timesteps: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid.from_sigmas(SD15, [1.0, 0.5, 0.0], timesteps)


def test_sigmas_rounded_up_in_publication_stand_for_the_largest() -> None:
    """14.6146 is printed for Stable Diffusion's 14.61464..., and lists end in 14.6147 or 14.615."""
    assert float(SD15.timestep(14.615)) == 999.0
    grid = Grid.from_sigmas(FlowMatching(), [1.0005, 0.5, 0.0])
    assert grid[0] == Point(1000.0, 0.0, 1.0)
