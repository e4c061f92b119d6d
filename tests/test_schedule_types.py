"""The schedule types of ComfyUI and A1111: published numbers, closed forms, and what they are good for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from diffusers.schedulers import AysSchedules
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from diffusolve.errors import SingularPointError, UnknownNameError
from diffusolve.noise import (
    NOISE_SCHEDULES,
    SD15,
    Cosine,
    FlowMatching,
    NoiseSchedule,
    VarianceExploding,
    VariancePreserving,
)
from diffusolve.spacing import (
    ALIGN_YOUR_STEPS,
    SPACINGS,
    AlignYourSteps,
    Beta,
    DiscardPenultimate,
    Exponential,
    Karras,
    KLOptimal,
    Leading,
    LinearQuadratic,
    Linspace,
    Sigmas,
    Simple,
    Spacing,
    Timesteps,
    Trailing,
    spacing,
)
from diffusolve.spacing.by_timestep import IndexSpacing
from tests.parity.k_diffusion_reference import sampling
from tests.strategies import noise_schedules, spacings
from tests.tables import for_each

EDM = VarianceExploding(0.002, 80.0)
SVD = VarianceExploding(0.002, 700.0)
FLOW = FlowMatching()
ZERO_SNR = VariancePreserving(rescale_betas_zero_snr=True)
SCHEDULES: dict[str, NoiseSchedule] = {"discrete": SD15, "variance exploding": EDM, "flow": FlowMatching(3.0)}
every_schedule = for_each("schedule", SCHEDULES.values(), ids=SCHEDULES)
some_steps = for_each("steps", [1, 2, 3, 7, 20, 30, 50, 333, 1000])


def ratios(grid: object) -> list[float]:
    """sigma / alpha at each point."""
    return [point.sigma / point.alpha for point in grid]  # type: ignore[attr-defined]


# All of them, on all schedules


@for_each("name", SPACINGS)
@for_each("steps", [1, 2, 5, 20, 40])
@for_each("schedule", NOISE_SCHEDULES.values(), ids=NOISE_SCHEDULES)
def test_every_name_divides_every_models_schedule_or_says_why_not(
    name: str, steps: int, schedule: NoiseSchedule
) -> None:
    if name == "linear_quadratic" and not isinstance(schedule, FlowMatching):
        with pytest.raises(ValueError, match="sigma that runs from 1 to 0, as in flow matching"):
            spacing(name).grid(schedule, steps)
        return
    by_index = isinstance(spacing(name), IndexSpacing | AlignYourSteps | KLOptimal)
    starts_at_noise = not math.isfinite(float(schedule.scaling.log_snr(schedule.sigma_max)))
    if starts_at_noise and not by_index and (name == "uniform_log_snr" or not isinstance(schedule, FlowMatching)):
        with pytest.raises(SingularPointError, match="infinite"):
            spacing(name).grid(schedule, steps)
        return
    grid = spacing(name).grid(schedule, steps)
    assert grid.steps == steps
    assert np.all(np.diff([point.log_snr for point in grid]) > 0)
    assert (grid[-1].alpha, grid[-1].sigma) == (1.0, 0.0)


@given(st.data(), noise_schedules, st.integers(1, 40))
def test_without_the_last_level_but_one_the_others_are_those_of_one_step_more(
    data: st.DataObject, schedule: NoiseSchedule, steps: int
) -> None:
    inner = data.draw(spacings(schedule, steps + 1).filter(lambda made: not isinstance(made, (Sigmas, Timesteps))))
    longer = inner.grid(schedule, steps + 1)
    grid = DiscardPenultimate(inner).grid(schedule, steps)
    assert grid.points == (*longer.points[:-2], longer.points[-1])
    assert grid.steps == steps
    assert grid.scaling is longer.scaling


# Over timesteps


@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_uniform_and_normal_are_equally_spaced_timesteps(name: str) -> None:
    """Parity of Linspace with k-diffusion's ``get_sigmas``, which A1111 calls for "Uniform": tests/parity."""
    assert spacing(name) == Linspace()
    np.testing.assert_allclose(spacing(name).grid(SD15, 4).timesteps, [999, 666, 333, 0], atol=1e-9)


@every_schedule
@some_steps
def test_simple_picks_training_sigmas_at_equal_distances_from_the_noisiest(schedule: NoiseSchedule, steps: int) -> None:
    table = schedule.sigma_at_index(np.arange(1000))
    picked = [table[-1 - math.floor(i * (1000 / steps))] for i in range(steps)]
    own = [p.sigma if isinstance(schedule, FlowMatching) else p.sigma / p.alpha for p in Simple().grid(schedule, steps)]
    np.testing.assert_allclose(own, [*picked, 0.0], rtol=1e-12)


@for_each(
    ("steps", "expected"), [(4, [999, 749, 499, 249]), (3, [999, 666, 333]), (7, [999, 857, 714, 571, 428, 285, 142])]
)
def test_simple_rounds_away_from_the_data(steps: int, expected: list[int]) -> None:
    assert Simple().grid(SD15, steps).timesteps.tolist() == expected


@for_each("steps", [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 200, 250, 500])
def test_ddim_uniform_counts_from_the_second_training_sigma(steps: int) -> None:
    expected = list(range(1, 1000, 1000 // steps))[::-1]
    assert spacing("ddim_uniform") == Leading(steps_offset=1)
    assert spacing("ddim_uniform").grid(SD15, steps).timesteps.tolist() == expected


@for_each("steps", [6, 7, 30, 64])
def test_ddim_uniform_takes_as_many_steps_as_it_is_asked_for(steps: int) -> None:
    counted_on = list(range(1, 1000, 1000 // steps))[::-1]  # as ComfyUI does
    grid = spacing("ddim_uniform").grid(SD15, steps)
    assert grid.timesteps.tolist() == counted_on[-steps:]
    assert len(counted_on) > steps


@for_each("steps", [1, 2, 5, 10, 20, 50, 100])
def test_whole_beta_rounds_the_quantiles(steps: int) -> None:
    expected = np.rint(stats.beta.ppf(1 - np.arange(steps) / steps, 0.6, 0.6) * 999)
    assert Beta(whole=True).grid(SD15, steps).timesteps.tolist() == expected.tolist()


# KL Optimal


@every_schedule
@some_steps
def test_kl_optimal_makes_equal_steps_in_the_arctangent(schedule: NoiseSchedule, steps: int) -> None:
    grid = KLOptimal(final_sigma="sigma_min").grid(schedule, steps)
    own = [p.sigma if isinstance(schedule, FlowMatching) else p.sigma / p.alpha for p in grid]
    low, high = math.atan(schedule.sigma_min), math.atan(schedule.sigma_max)
    expected = [math.tan(i / steps * low + (1 - i / steps) * high) for i in range(steps + 1)]
    np.testing.assert_allclose(own, expected, rtol=1e-9)


@for_each("sigma_data", [0.1, 0.5, 1.0])
@for_each("steps", [2, 4, 7])
def test_no_other_levels_bring_eulers_method_nearer_to_a_gaussian(sigma_data: float, steps: int) -> None:
    """Theorem 3.1, by numerical search. Both distributions are normal, so the ratio of their deviations says it all."""
    low, high = 0.01, 20.0
    true = math.sqrt((low**2 + sigma_data**2) / (high**2 + sigma_data**2))

    def distance(levels: np.ndarray) -> float:
        t = np.concatenate([[high], levels, [low]])
        made = np.prod(1 + (t[1:] - t[:-1]) * t[:-1] / (t[:-1] ** 2 + sigma_data**2))
        return abs(math.log(max(made, 1e-9) / true))

    grid = KLOptimal(sigma_data=sigma_data, sigma_min=low, sigma_max=high, final_sigma="sigma_min").grid(EDM, steps)
    inner = np.array(ratios(grid)[1:-1])
    start = np.geomspace(high, low, steps + 1)[1:-1]
    found = optimize.minimize(distance, start, method="Nelder-Mead", options={"maxiter": 20000, "fatol": 1e-14})
    assert distance(inner) <= found.fun * (1 + 1e-9)
    assert distance(inner) < distance(start)
    np.testing.assert_allclose(found.x, inner, rtol=1e-3)


@for_each("schedule", [FlowMatching(), ZERO_SNR, Cosine()], ids=["flow", "zero terminal SNR", "cosine"])
def test_the_ratio_may_be_infinite_where_kl_optimal_starts(schedule: NoiseSchedule) -> None:
    grid = KLOptimal(of="ratio", final_sigma="sigma_min").grid(schedule, 6)
    end = math.exp(-float(schedule.scaling.log_snr(schedule.sigma_min)))
    assert grid[0].alpha == 0.0
    angles = np.arctan([point.sigma / point.alpha for point in grid[1:]])
    np.testing.assert_allclose(angles, np.linspace(math.pi / 2, math.atan(end), 7)[1:], rtol=1e-9)


def test_what_kl_optimal_divides_matters_for_flow_matching_only() -> None:
    for schedule in (SD15, EDM):
        sigma, ratio = (KLOptimal(of=of).grid(schedule, 9) for of in ("sigma", "ratio"))
        np.testing.assert_allclose(sigma.sigmas, ratio.sigmas, rtol=1e-9)
    flow = [KLOptimal(of=of).grid(FlowMatching(), 9)[4].sigma for of in ("sigma", "ratio")]
    assert abs(flow[0] - flow[1]) > 0.05


# Align Your Steps


@for_each(
    ("model", "schedule", "published"),
    [
        ("sd15", SD15, "StableDiffusionSigmas"),
        ("sdxl", SD15, "StableDiffusionXLSigmas"),
        ("svd", SVD, "StableVideoDiffusionSigmas"),
    ],
)
def test_ten_steps_are_the_published_table(model: str, schedule: NoiseSchedule, published: str) -> None:
    key = published.replace("StableVideoDiffusion", "StableDiffusionVideo")
    np.testing.assert_allclose(ratios(AlignYourSteps(model=model).grid(schedule, 10)), AysSchedules[key], rtol=1e-9)


@for_each(
    ("model", "schedule", "timesteps"),
    [
        ("sd15", "sd15", [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]),
        ("sdxl", "sdxl", [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]),
        ("deepfloyd", "iddpm", [995, 920, 811, 686, 555, 418, 315, 174, 109, 12]),
    ],
)
def test_the_tables_are_whole_timesteps_of_their_models(model: str, schedule: str, timesteps: list[int]) -> None:
    """As the authors published them; they pin the schedule that each table was made for."""
    grid = AlignYourSteps(model=model).grid(NOISE_SCHEDULES[schedule], 10)
    np.testing.assert_allclose(grid.timesteps, timesteps, atol=0.6)  # three digits of sigma are worth that much


@for_each("model", ALIGN_YOUR_STEPS)
@for_each("steps", [1, 2, 5, 20, 40])
def test_other_numbers_of_steps_interpolate_the_logarithm(model: str, steps: int) -> None:
    table = np.log(ALIGN_YOUR_STEPS[model])
    wide = VarianceExploding(0.001, 1000.0)
    own = np.log(ratios(AlignYourSteps(model=model, final_sigma="sigma_min").grid(wide, steps)))
    for i, value in enumerate(own):
        last = len(table) - 1
        position = last * i / steps
        below = min(int(position), last - 1)
        expected = table[below] + (position - below) * (table[below + 1] - table[below])
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_twenty_steps_keep_the_tables_levels_and_halve_between_them() -> None:
    twenty = ratios(AlignYourSteps().grid(SD15, 20))
    np.testing.assert_allclose(twenty[::2], [*ALIGN_YOUR_STEPS["sd15"][:-1], 0.0], rtol=1e-9)
    np.testing.assert_allclose(np.square(twenty[1:19:2]), np.multiply(twenty[:18:2], twenty[2:20:2]), rtol=1e-9)


def test_as_in_a1111_eleven_steps_go_through_the_last_level_too() -> None:
    np.testing.assert_allclose(
        ratios(AlignYourSteps(to_last=True).grid(SD15, 11)), [*ALIGN_YOUR_STEPS["sd15"], 0.0], rtol=1e-9
    )
    with_ten = ratios(AlignYourSteps(to_last=True).grid(SD15, 10))
    assert with_ten[0] == pytest.approx(14.615)
    assert with_ten[-2:] == [pytest.approx(0.029), 0.0]


@every_schedule
def test_a_table_means_sigma_over_alpha_on_every_schedule(schedule: NoiseSchedule) -> None:
    np.testing.assert_allclose(
        ratios(AlignYourSteps(final_sigma="sigma_min").grid(schedule, 10)), ALIGN_YOUR_STEPS["sd15"], rtol=1e-9
    )


# Linear-quadratic


@for_each("steps", [2, 3, 5, 10, 50, 64, 333])
@for_each("threshold", [0.025, 0.1])
def test_linear_quadratic_is_what_mochi_uses(steps: int, threshold: float) -> None:
    own = LinearQuadratic(threshold=threshold).grid(FlowMatching(), steps).sigmas
    np.testing.assert_allclose(own[:-1], linear_quadratic_schedule(steps, threshold), rtol=1e-12)
    assert own[-1] == 0.0


def test_fifty_steps_begin_as_a_thousand_equal_ones() -> None:
    """Movie Gen: 25 steps of the linear schedule of N steps, here 1000, and 25 that grow."""
    own = LinearQuadratic().grid(FlowMatching(shift=1.0), 50).sigmas
    np.testing.assert_allclose(own[:26], 1 - np.arange(26) / 1000, rtol=1e-12)
    growth = np.diff(own[25:], 2)
    np.testing.assert_allclose(growth, growth[0], rtol=1e-9)


def test_linear_quadratic_ends_where_it_is_told_to() -> None:
    sigmas = LinearQuadratic(sigma_min=0.1, sigma_max=0.9, final_sigma="sigma_min").grid(FlowMatching(), 8).sigmas
    expected = 0.1 + (0.9 - 0.1) * LinearQuadratic().grid(FlowMatching(), 8).sigmas
    np.testing.assert_allclose(sigmas, expected, rtol=1e-12)
    assert LinearQuadratic().grid(FlowMatching(), 1).sigmas.tolist() == [1.0, 0.0]


@for_each("linear", [1, 3, 9])
def test_the_number_of_linear_steps_can_be_given(linear: int) -> None:
    progress = 1 - LinearQuadratic(linear_steps=linear, threshold=0.02).grid(FlowMatching(), 10).sigmas
    np.testing.assert_allclose(progress[: linear + 1], 0.02 * np.arange(linear + 1) / linear, atol=1e-15)
    assert progress[-1] == 1.0


# Without the last level but one


def test_discarding_follows_the_ending_of_its_inner_spacing() -> None:
    to_min = Karras(final_sigma="sigma_min")
    assert DiscardPenultimate(to_min).final_sigma == "sigma_min"
    assert DiscardPenultimate(Karras(), final_sigma="sigma_min") == DiscardPenultimate(to_min)
    assert replace(DiscardPenultimate(Karras()), final_sigma="sigma_min") == DiscardPenultimate(to_min)
    np.testing.assert_allclose(
        DiscardPenultimate(to_min).grid(EDM, 4).sigmas, np.delete(to_min.grid(EDM, 5).sigmas, -2), rtol=1e-12
    )


def test_discarding_shortens_a_spacing_that_knows_its_number_of_steps() -> None:
    assert DiscardPenultimate(Sigmas((4.0, 2.0, 1.0, 0.0))).grid(EDM).sigmas.tolist() == [4.0, 2.0, 0.0]
    assert DiscardPenultimate(Timesteps((999, 500, 10))).grid(SD15, 2).timesteps.tolist() == [999, 500]


def test_the_levels_that_a1111_gives_dpm2_with_karras() -> None:
    """All of k-diffusion's levels for one step more, but for the last above zero."""
    theirs = np.delete(sampling.get_sigmas_karras(11, SD15.sigma_min, SD15.sigma_max).numpy(), -2)
    np.testing.assert_allclose(ratios(DiscardPenultimate(Karras()).grid(SD15, 10)), theirs, rtol=1e-5)


# Errors


@for_each(
    ("make", "message"),
    [
        (lambda: KLOptimal(sigma_data=0), "sigma_data is 0: expected the data's standard deviation"),
        (lambda: KLOptimal(of="ration"), "unknown quantity to divide 'ration': did you mean 'ratio'"),
        (lambda: KLOptimal(sigma_max=0.01).grid(SD15, 5), "0 < sigma_min < sigma_max"),
        (lambda: spacing("kl_optimal", rho=7), "unknown option of kl_optimal 'rho'"),
        (lambda: spacing("kl optimum"), "unknown spacing 'kl optimum': did you mean 'kl_optimal'"),
        (lambda: AlignYourSteps(model="sd1.5"), "unknown model of Align Your Steps 'sd1.5': did you mean 'sd15'"),
        (lambda: AlignYourSteps(to_last=True, final_sigma="sigma_min"), "to_last says how the steps end at zero"),
        (lambda: AlignYourSteps(model="svd").grid(SD15, 10), r"svd table .* 700 to 0\.034, .* from 14\.6.* to 0\.029"),
        (lambda: AlignYourSteps().grid(VarianceExploding(0.2, 80.0), 10), r"sd15 table .* 14\.615 to 0\.152, .* to 0"),
        (lambda: AlignYourSteps(to_last=True).grid(VarianceExploding(0.1, 80.0), 10), r"to 0\.029, but"),
        (lambda: LinearQuadratic(threshold=0), "threshold is 0: expected a part of the way"),
        (lambda: LinearQuadratic(threshold=1.5), "threshold is 1.5"),
        (lambda: LinearQuadratic(linear_steps=0), "linear_steps is 0: expected at least 1"),
        (
            lambda: LinearQuadratic(linear_steps=5).grid(FLOW, 5),
            "linear_steps is 5: of 5 steps at most 4 can be linear",
        ),
        (lambda: LinearQuadratic(threshold=0.6).grid(FLOW, 10), r"threshold is 0\.6: 5 of 10 equal steps go 0\.5 of"),
        (lambda: LinearQuadratic(sigma_min=0.1), "sigma_min is 0.1, but these sigmas run to 0: leave sigma_min out"),
        (lambda: LinearQuadratic().grid(SD15, 5), r"as in flow matching, but .* from 14\.6.*: use kl_optimal"),
        (lambda: Beta(whole=True).grid(SD15, 400), r"steps is 400, but only \d+ of their timesteps differ"),
        (lambda: spacing("ddim_uniform").grid(SD15, 1000), "steps_offset is 1: with 1000 of 1000 timesteps"),
        (lambda: DiscardPenultimate(Karras()).grid(SD15, 0), "steps is 0: expected at least 1"),
        (lambda: DiscardPenultimate(Karras()).grid(SD15, 1000), "steps is 1000, .* use at most 999"),
        (lambda: DiscardPenultimate(Karras()).grid(SD15), "how many steps"),
        (lambda: DiscardPenultimate(Sigmas((1.0, 0.0))).grid(SD15), "has a single step: expected two"),
        (lambda: DiscardPenultimate(Karras(), final_sigma="end"), "unknown final_sigma 'end'"),
    ],
)
def test_impossible_schedule_types_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_spacing_cannot_be_shortened() -> None:
    with pytest.raises(TypeError, match="inner of DiscardPenultimate is 'karras': expected a spacing"):
        DiscardPenultimate("karras")  # type: ignore[arg-type]


def test_unknown_models_are_unknown_names() -> None:
    with pytest.raises(UnknownNameError):
        AlignYourSteps(model="flux")


def test_equal_schedule_types_are_equal_values() -> None:
    makers: list[Callable[[], Spacing]] = [
        Simple,
        KLOptimal,
        AlignYourSteps,
        LinearQuadratic,
        lambda: DiscardPenultimate(Exponential()),
    ]
    for make in makers:
        assert make() == make()
        assert hash(make()) == hash(make())
    assert DiscardPenultimate(Trailing()) != Trailing()
