"""Spacings against formulas written down again here."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffusolve.errors import SingularPointError, UnknownNameError, unknown_name
from diffusolve.noise import SD15, Cosine, FlowMatching, NoiseSchedule, VarianceExploding, VariancePreserving
from diffusolve.spacing import (
    SPACINGS,
    Beta,
    BetaSigmas,
    Exponential,
    Karras,
    Leading,
    Linspace,
    Polyexponential,
    Shifted,
    Sigmas,
    Spacing,
    Timesteps,
    Trailing,
    UniformLogSNR,
    spacing,
)
from diffusolve.spacing.by_timestep import IndexSpacing
from diffusolve.spacing.two_ends import TwoEnds
from tests.strategies import noise_schedules, spacings
from tests.tables import for_each

ZERO_SNR = VariancePreserving(rescale_betas_zero_snr=True)
EDM = VarianceExploding(0.002, 80.0)
FINITE: dict[str, NoiseSchedule] = {"discrete": SD15, "variance exploding": EDM, "flow": FlowMatching(3.0)}
every_schedule = for_each("schedule", FINITE.values(), ids=FINITE)
some_steps = for_each("steps", [1, 2, 3, 7, 20, 50, 333])


# What all of them promise


@given(st.data(), noise_schedules, st.integers(1, 40))
def test_a_grid_has_one_point_more_than_steps_falls_and_ends_at_zero_or_sigma_min(
    data: st.DataObject, schedule: NoiseSchedule, steps: int
) -> None:
    chosen = data.draw(spacings(schedule, steps))
    grid = chosen.grid(schedule, steps)
    assert (grid.steps, len(grid.timesteps)) == (steps, steps)
    assert np.all(np.diff([point.log_snr for point in grid]) > 0)
    assert np.all(np.diff(grid.timesteps) < 0)
    if chosen.final_sigma == "zero":
        assert (grid[-1].alpha, grid[-1].sigma) == (1.0, 0.0)
    else:
        last = schedule.scaling.alpha_sigma(schedule.sigma_min)
        assert (grid[-1].alpha, grid[-1].sigma) == pytest.approx([float(value) for value in last], rel=1e-12)
    assert chosen.grid(schedule, steps) == grid


@given(st.data(), noise_schedules, st.integers(1, 40))
def test_the_timestep_of_each_point_is_that_of_its_noise(
    data: st.DataObject, schedule: NoiseSchedule, steps: int
) -> None:
    grid = data.draw(spacings(schedule, steps)).grid(schedule, steps)
    for point in grid[:-1]:
        alpha, sigma = schedule.alpha_sigma(point.timestep)
        assert (point.alpha, point.sigma) == pytest.approx((float(alpha), float(sigma)), rel=1e-9, abs=1e-12)


@for_each("name", SPACINGS)
@for_each("final_sigma", ["zero", "sigma_min"])
@every_schedule
def test_every_spacing_starts_where_it_says(name: str, final_sigma: str, schedule: NoiseSchedule) -> None:
    start = 0.99 if isinstance(schedule, FlowMatching) else schedule.sigma_max
    by_index = isinstance(spacing(name), IndexSpacing)
    options = {} if by_index or name == "align_your_steps" else {"sigma_max": start}
    if name == "leading":
        options, start = {"steps_offset": 10}, float(schedule.sigma_at_index(910))
    elif name == "ddim_uniform":
        start = float(schedule.sigma_at_index(901))
    elif name == "align_your_steps":
        start = float(schedule.scaling.sigma_from_log_snr(-math.log(14.615)))
    elif by_index:
        start = schedule.sigma_max
    if spacing(name) == Linspace() and final_sigma == "sigma_min":
        return  # has its own test: the last level is sigma_min already
    if name == "linear_quadratic" and not isinstance(schedule, FlowMatching):
        return  # refused, tests/test_schedule_types.py
    grid = spacing(name, final_sigma=final_sigma, **options).grid(schedule, 10)
    assert grid[0].log_snr == pytest.approx(float(schedule.scaling.log_snr(start)), rel=1e-12)


# Over timesteps


@some_steps
def test_linspace_takes_equally_spaced_timesteps_from_the_last_to_the_first(steps: int) -> None:
    expected = [999 * (1 - i / max(steps - 1, 1)) for i in range(steps)]
    np.testing.assert_allclose(Linspace().grid(SD15, steps).timesteps, expected, rtol=1e-12, atol=1e-12)


@some_steps
def test_sgm_uniform_leaves_out_the_first_timestep(steps: int) -> None:
    expected = [999 * (1 - i / steps) for i in range(steps)]
    np.testing.assert_allclose(spacing("SGM uniform").grid(SD15, steps).timesteps, expected, rtol=1e-12)


@for_each("steps", [1, 2, 3, 7, 20, 50, 333, 1000])
def test_whole_linspace_rounds_to_integers(steps: int) -> None:
    timesteps = Linspace(whole=True).grid(SD15, steps).timesteps
    assert timesteps.dtype == np.int64
    assert np.abs(timesteps - Linspace().grid(SD15, steps).timesteps).max() <= 0.5


@for_each(
    ("steps", "offset", "expected"),
    [
        (10, 0, [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),  # Song et al. 2021, appendix D.3: c * i
        (10, 1, [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]),  # Stable Diffusion 1.x
        (3, 0, [666, 333, 0]),
        (1, 0, [0]),
        (600, 0, list(range(599, -1, -1))),
    ],
)
def test_leading_counts_up_from_the_first_timestep(steps: int, offset: int, expected: list[int]) -> None:
    grid = Leading(steps_offset=offset).grid(SD15, steps)
    assert grid.timesteps.tolist() == expected
    assert grid.timesteps.dtype == np.int64


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (10, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),  # Lin et al. 2023, table 2
        (5, [999, 799, 599, 399, 199]),
        (3, [999, 666, 332]),
        (1, [999]),
    ],
)
def test_trailing_counts_down_from_the_last_timestep(steps: int, expected: list[int]) -> None:
    assert Trailing().grid(SD15, steps).timesteps.tolist() == expected


@for_each(("alpha", "beta"), [(0.6, 0.6), (1.0, 1.0), (2.0, 0.5)])
@some_steps
def test_beta_takes_the_quantiles_of_the_distribution(alpha: float, beta: float, steps: int) -> None:
    expected = 999 * stats.beta.ppf([1 - i / steps for i in range(steps)], alpha, beta)
    np.testing.assert_allclose(Beta(alpha=alpha, beta=beta).grid(SD15, steps).timesteps, expected, rtol=1e-9)


def test_timestep_spacings_choose_shifted_levels_in_flow_matching() -> None:
    """Esser et al. 2024, equation 23, with the shift of Stable Diffusion 3."""
    times = np.array([1.0, 0.75, 0.5, 0.25])
    grid = Trailing().grid(FlowMatching(shift=3.0), 4)
    np.testing.assert_allclose(grid.sigmas[:-1], 3 * times / (1 + 2 * times), rtol=1e-12)
    np.testing.assert_allclose(grid.timesteps, 1000 * grid.sigmas[:-1], rtol=1e-12)


def test_the_noise_at_the_timesteps_of_a_discrete_schedule_is_that_of_its_table() -> None:
    table = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    grid = Trailing().grid(SD15, 4)
    np.testing.assert_allclose([p.alpha**2 for p in grid], [*table[[999, 749, 499, 249]], 1.0], rtol=1e-12)


# Over sigmas


def sigmas_of(chosen: Spacing, schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """By the schedule's convention."""
    return np.array(
        [p.sigma if isinstance(schedule, FlowMatching) else p.sigma / p.alpha for p in chosen.grid(schedule, steps)]
    )


@for_each("rho", [1.0, 5.0, 7.0])
@every_schedule
@some_steps
def test_karras_is_equation_5(rho: float, schedule: NoiseSchedule, steps: int) -> None:
    low, high = schedule.sigma_min ** (1 / rho), schedule.sigma_max ** (1 / rho)
    expected = [(high + i / max(steps - 1, 1) * (low - high)) ** rho for i in range(steps)] + [0.0]
    np.testing.assert_allclose(sigmas_of(Karras(rho=rho), schedule, steps), expected, rtol=1e-9)


@every_schedule
@some_steps
def test_exponential_is_a_geometric_sequence(schedule: NoiseSchedule, steps: int) -> None:
    expected = [*np.geomspace(schedule.sigma_max, schedule.sigma_min, steps), 0.0]
    np.testing.assert_allclose(sigmas_of(Exponential(), schedule, steps), expected, rtol=1e-9)


@every_schedule
@some_steps
def test_polyexponential_is_a_power_of_the_position_in_log_sigma(schedule: NoiseSchedule, steps: int) -> None:
    low, high = math.log(schedule.sigma_min), math.log(schedule.sigma_max)
    ramp = np.linspace(1, 0, steps) ** 2.5
    expected = [*np.exp(low + ramp * (high - low)), 0.0]
    np.testing.assert_allclose(sigmas_of(Polyexponential(rho=2.5), schedule, steps), expected, rtol=1e-9)


@every_schedule
@some_steps
def test_beta_sigmas_takes_the_quantiles_between_both_ends(schedule: NoiseSchedule, steps: int) -> None:
    quantiles = stats.beta.ppf(np.linspace(1, 0, steps), 0.6, 0.6)
    expected = [*(schedule.sigma_min + quantiles * (schedule.sigma_max - schedule.sigma_min)), 0.0]
    np.testing.assert_allclose(sigmas_of(BetaSigmas(), schedule, steps), expected, rtol=1e-9)


@pytest.mark.parametrize(("schedule", "high"), [(SD15, None), (EDM, None), (FlowMatching(), 0.98), (Cosine(), 50.0)])
def test_uniform_log_snr_makes_equal_steps_in_log_snr(schedule: NoiseSchedule, high: float | None) -> None:
    grid = UniformLogSNR(sigma_max=high, final_sigma="sigma_min").grid(schedule, 12)
    differences = np.diff([point.log_snr for point in grid])
    np.testing.assert_allclose(differences, differences[0], rtol=1e-9)


def test_the_ends_of_a_ramp_are_exact() -> None:
    for make in (Karras, Exponential, Polyexponential, UniformLogSNR, BetaSigmas):
        grid = make(sigma_min=0.3, sigma_max=7.7, final_sigma="sigma_min").grid(EDM, 9)
        assert (grid[0].sigma, grid[-1].sigma) == (7.7, 0.3)


@for_each("make", [Karras, Exponential, Polyexponential, UniformLogSNR, BetaSigmas])
def test_ending_at_sigma_min_divides_the_range_into_that_many_steps(make) -> None:
    to_zero, to_min = make().grid(EDM, 6), make(final_sigma="sigma_min").grid(EDM, 5)
    np.testing.assert_allclose(to_zero.sigmas[:-1], to_min.sigmas, rtol=1e-12)


@pytest.mark.parametrize("make", [Trailing, Beta, lambda **o: Leading(steps_offset=1, **o)])
def test_ending_at_sigma_min_replaces_the_last_point_of_timestep_spacings(make) -> None:
    to_zero, to_min = make().grid(SD15, 6), make(final_sigma="sigma_min").grid(SD15, 6)
    assert to_zero[:-1] == to_min[:-1]
    assert to_min[-1].sigma / to_min[-1].alpha == pytest.approx(SD15.sigma_min, rel=1e-12)


def test_whole_ramps_round_the_timesteps_and_not_the_noise() -> None:
    plain, whole = Karras().grid(SD15, 8), Karras(whole=True).grid(SD15, 8)
    assert whole.timesteps.tolist() == np.rint(plain.timesteps).astype(int).tolist()
    np.testing.assert_array_equal(whole.sigmas, plain.sigmas)


# Custom


def test_custom_timesteps_are_used_as_they_are() -> None:
    grid = Timesteps((999, 600, 10)).grid(SD15)
    assert grid.timesteps.tolist() == [999, 600, 10]
    np.testing.assert_allclose([p.sigma / p.alpha for p in grid[:-1]], SD15.sigma([999, 600, 10]), rtol=1e-12)
    assert Timesteps([999, 600, 10]) == Timesteps((999, 600, 10))
    assert hash(Timesteps(np.array([999.0, 600.0]))) == hash(Timesteps((999, 600)))


def test_custom_timesteps_may_end_at_sigma_min() -> None:
    end = Timesteps((999, 10), final_sigma="sigma_min").grid(SD15)[-1]
    assert end.sigma / end.alpha == pytest.approx(SD15.sigma_min, rel=1e-12)


def test_custom_sigmas_are_used_as_they_are() -> None:
    grid = Sigmas((80.0, 3.0, 0.5)).grid(EDM)
    assert grid.sigmas.tolist() == [80.0, 3.0, 0.5]
    assert Sigmas([80, 3]) == Sigmas((80.0, 3.0))
    assert hash(Sigmas(np.array([80.0, 3.0]))) == hash(Sigmas((80.0, 3.0)))


# Errors


@for_each("name", SPACINGS)
@for_each("steps", [0, -3])
def test_fewer_than_one_step_is_refused(name: str, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps is {steps}: expected at least 1"):
        spacing(name).grid(SD15, steps)


@for_each("name", SPACINGS)
@for_each("steps", [2.0, True, "20", 1.5])
def test_steps_that_are_no_whole_number_are_refused(name: str, steps: object) -> None:
    with pytest.raises(TypeError, match="expected a whole number, at least 1"):
        spacing(name).grid(SD15, steps)


@for_each("name", SPACINGS)
def test_a_missing_number_of_steps_is_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match="how many steps"):
        spacing(name).grid(SD15)


@for_each("name", SPACINGS)
def test_more_steps_than_a_discrete_schedule_has_timesteps_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="steps is 1001, but the noise schedule holds only 1000 timesteps"):
        spacing(name).grid(SD15, 1001)


@pytest.mark.parametrize("steps", [np.int64(5), np.int32(5)])
def test_numpy_integers_are_whole_numbers(steps: np.integer) -> None:
    assert Karras().grid(SD15, steps) == Karras().grid(SD15, 5)


@for_each("name", ["karras", "exponential", "polyexponential", "beta_sigmas", "uniform_log_snr"])
@for_each("schedule", [ZERO_SNR, Cosine()], ids=["zero terminal SNR", "cosine"])
def test_an_infinite_range_of_sigmas_cannot_be_divided(name: str, schedule: NoiseSchedule) -> None:
    with pytest.raises(SingularPointError, match=r"infinite.*give sigma_max, or use .*trailing"):
        spacing(name).grid(schedule, 5)
    assert spacing(name, sigma_max=20.0).grid(schedule, 5).steps == 5


def test_an_infinite_log_snr_cannot_be_divided() -> None:
    with pytest.raises(SingularPointError, match=r"sigma = 1, .* smaller sigma_max, for example 0\.999"):
        UniformLogSNR().grid(FlowMatching(), 5)


@for_each(
    ("make", "message"),
    [
        (lambda: spacing("karas"), "unknown spacing 'karas': did you mean 'karras'"),
        (lambda: spacing("zzzz"), "choose one of 'linspace', 'leading'"),
        (lambda: spacing("karras", rhu=7), "option of karras 'rhu': did you mean 'rho'"),
        (lambda: spacing("trailing", rho=7), "option of trailing 'rho': "),
        (lambda: Karras(final_sigma="zeros"), "unknown final_sigma 'zeros': did you mean 'zero'"),
        (lambda: Karras(rho=0), "rho is 0: expected a positive number"),
        (lambda: Karras(rho=-1), "rho is -1"),
        (lambda: Karras(rho=math.nan), "rho is nan"),
        (lambda: Polyexponential(rho=0), "rho is 0"),
        (lambda: Beta(alpha=0).grid(SD15, 5), "alpha is 0 and beta is 0.6: expected two positive numbers"),
        (lambda: BetaSigmas(beta=-1).grid(SD15, 5), "alpha is 0.6 and beta is -1"),
        (lambda: Karras(sigma_max=0.01).grid(SD15, 5), "0 < sigma_min < sigma_max, got sigma_min 0.029.* 0.01"),
        (lambda: Karras(sigma_min=0.0).grid(SD15, 5), "got sigma_min 0 and"),
        (lambda: Karras(sigma_max=math.nan).grid(SD15, 5), "sigma_max is nan"),
        (lambda: Karras(sigma_max=20.0).grid(SD15, 5), r"sigma 20 is outside .*the nearest is 14\.6"),
        (lambda: Leading(steps_offset=100).grid(SD15, 10), r"steps_offset is 100: with 10 of 1000 .* from 0 to 99"),
        (lambda: Leading(steps_offset=-1).grid(SD15, 10), "steps_offset is -1: .* from 0 to 99"),
        (lambda: Linspace(final_sigma="sigma_min").grid(SD15, 5), "already ends at the smallest sigma"),
        (lambda: Timesteps(()), "no timesteps: expected at least one"),
        (lambda: Timesteps((10, 600)).grid(SD15), r"must strictly decrease, but timesteps\[0\] = 10 .* by 600"),
        (lambda: Timesteps((600, 600)).grid(SD15), r"timesteps\[0\] = 600 is followed by 600"),
        (lambda: Timesteps((999, 999)).grid(ZERO_SNR), r"timesteps\[0\] = 999 is followed by 999"),
        (lambda: Timesteps((1000, 10)).grid(SD15), r"timestep 1000 is outside .*\[0, 999\]; the nearest is 999"),
        (lambda: Timesteps((math.nan,)).grid(SD15), "timestep nan is outside"),
        (lambda: Timesteps((999, 10)).grid(SD15, 3), "steps is 3, but 2 timesteps are given: leave steps out"),
        (lambda: Sigmas((2.0, 1.0, 0.0)).grid(SD15, 3), "steps is 3, but 3 sigmas make 2 steps: leave steps out"),
        (lambda: Sigmas((1.0, 2.0, 0.0)).grid(SD15), r"sigmas\[0\] = 1 is followed by sigmas\[1\] = 2"),
        (lambda: Sigmas((1.0, 1.0, 0.0)).grid(SD15), r"sigmas\[0\] = 1 is followed by sigmas\[1\] = 1"),
        (lambda: Sigmas((1.0, -1.0)).grid(SD15), r"sigmas\[1\] is -1"),
        (lambda: Sigmas((1.0, math.nan)).grid(SD15), r"sigmas\[1\] is NaN"),
        (lambda: Sigmas((1.0,)).grid(SD15), "at least two numbers"),
        (lambda: Sigmas((20.0, 0.0)).grid(SD15), "sigma 20 is outside"),
    ],
)
def test_impossible_spacings_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Shifted: moved towards noise, then stretched


def test_a_shift_multiplies_the_ratio_of_noise_to_signal_and_the_end_stays() -> None:
    inner = Linspace(final_sigma="zero")
    for shift in (0.5, 1.0, 3.0):
        plain, moved = (s.grid(FlowMatching(), 8) for s in (inner, Shifted(inner=inner, shift=shift)))
        ratio = shift * plain.sigmas[1:-1] / (1 - plain.sigmas[1:-1])
        np.testing.assert_allclose(moved.sigmas[1:-1], ratio / (1 + ratio), rtol=1e-12)
        assert (moved.sigmas[0], moved.sigmas[-1]) == (1.0, 0.0)
        np.testing.assert_allclose(moved.timesteps, 1000 * moved.sigmas[:-1])
    by_schedule = inner.grid(FlowMatching(shift=3.0), 8)
    np.testing.assert_array_equal(Shifted(inner=inner, shift=3.0).grid(FlowMatching(), 8).sigmas, by_schedule.sigmas)


def test_stretching_multiplies_the_signal_so_that_the_last_sigma_is_the_terminal_one() -> None:
    inner = Sigmas((1.0, 0.7, 0.4, 0.0))
    stretched = Shifted(inner=inner, terminal=0.1).grid(FlowMatching()).sigmas
    np.testing.assert_allclose(stretched, [1.0, 1 - 0.3 * 0.9 / 0.6, 0.1, 0.0], rtol=1e-12)
    single = Shifted(inner=Sigmas((0.7, 0.0)), terminal=0.1).grid(FlowMatching())
    assert single.sigmas.tolist() == [0.7, 0.0]


def test_the_way_between_two_ends_is_divided_into_as_many_steps_as_are_asked_for() -> None:
    inner = Trailing()
    for of_steps, steps, ends_of in ((20, None, 20), (20, 1, 20), (20, 7, 7), (None, 7, 7), (1, None, 1)):
        ends = VarianceExploding(0.1, 10.0)
        between = inner.grid(ends, ends_of).sigmas
        if ends_of == 1:
            with pytest.raises(ValueError, match="a single sigma above 0"):
                TwoEnds(inner=inner, of_steps=of_steps).grid(ends, steps)
            continue
        made = TwoEnds(inner=inner, of_steps=of_steps).grid(ends, steps).sigmas
        np.testing.assert_allclose(made, np.geomspace(between[0], between[-2], ends_of + 1), rtol=1e-12)
    assert [TwoEnds(inner=inner, of_steps=count).ends_follow_steps for count in (1, 20, None)] == [False, True, True]


def test_impossible_shifts_are_refused() -> None:
    for make, message in (
        (lambda: Shifted(inner=Linspace(), shift=0.0), "shift is 0: expected a positive number"),
        (lambda: Shifted(inner=Linspace(), terminal=1.0), "terminal is 1: expected a sigma between 0 and 1"),
        (lambda: Shifted(inner=Linspace(), shift=3.0).grid(SD15, 5), "use the inner spacing itself"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_options_of_diffusers_timestep_spacings() -> None:
    assert Linspace(from_first=True).indices(1, 100).tolist() == [0.0]
    assert Linspace(from_first=True, whole=True).indices(3, 100).tolist() == [99.0, 50.0, 0.0]
    assert Leading(to_first=False).indices(4, 100).tolist() == [80.0, 60.0, 40.0, 20.0]
    assert Trailing(stride=10.0).indices(10, 35).tolist() == [34.0, 24.0, 14.0, 4.0]
    assert Trailing(stride=10.0).indices(2, 35).tolist() == [34.0, 24.0]


def test_what_is_no_text_is_no_name() -> None:
    for value in (5, None, Linspace()):
        with pytest.raises(TypeError, match="is no name of a spacing: expected text, for example 'karras'"):
            spacing(value)  # type: ignore[arg-type]


def test_unknown_names_are_unknown_name_errors() -> None:
    with pytest.raises(UnknownNameError):
        spacing("karas")
    many = [f"class {number}" for number in range(65)]
    assert str(unknown_name("class", "zzzz", many)).endswith("'class 18', 'class 19' and 45 more.")
    assert str(unknown_name("class", "zzzz", many[:20])).endswith("'class 18', 'class 19'.")


@pytest.mark.parametrize("name", ["beta", "beta_sigmas"])
def test_without_scipy_the_beta_spacings_say_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(ImportError, match=r"needs SciPy: pip install 'diffusolve\[scipy\]'"):
        spacing(name).grid(SD15, 5)


@pytest.mark.parametrize("spelling", ["Karras", "KARRAS", "karras"])
def test_names_are_found_in_any_case(spelling: str) -> None:
    assert spacing(spelling) == Karras()
    assert spacing("Uniform log-SNR") == UniformLogSNR()
