"""Every sampler by every schedule type, on every kind of noise schedule, for every prediction type.

All of them plan, and each two of these run together to samples of the right distribution, a mixture of two normal
distributions whose best network is known; those that make no sense are refused with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from diffusolve.backends import Run
from diffusolve.catalog import CATALOG, SCHEDULE_TYPES, Entry, sampler
from diffusolve.denoisers import GaussianMixtureDenoiser
from diffusolve.errors import NotPlannableError, SingularPointError
from diffusolve.noise import NOISE_SCHEDULES, Grid, NoiseSchedule
from diffusolve.plan import Plan
from diffusolve.prediction import PREDICTIONS
from diffusolve.sampling import Sampler, sample
from diffusolve.solvers import Evaluate, Noise, SolverRun, Value, euler, gradient_estimation, lcm, solver, ud10_ab
from diffusolve.spacing import Karras
from tests.tables import for_each

Array = np.ndarray[Any, np.dtype[np.float64]]

SCHEDULES = {name: NOISE_SCHEDULES[name] for name in ("sd15", "cosine", "edm", "sd3")}
"""Variance preserving, also from pure noise; variance exploding; flow matching."""

EVERYWHERE = [(name, schedule_type) for name in SCHEDULES for schedule_type in SCHEDULE_TYPES]

INFINITE = "divides the range of sigmas, which is infinite .* give sigma_max, or use a spacing over timesteps"
NOT_FLOW = "divide a sigma that runs from 1 to 0, as in flow matching, but .* use kl_optimal"
REFUSED = {
    **{(name, "Linear quadratic"): NOT_FLOW for name in ("sd15", "cosine", "edm")},
    **{("cosine", ramp): INFINITE for ramp in ("Karras", "Exponential", "Polyexponential", "Beta sigmas")},
    ("cosine", "Uniform log-SNR"): INFINITE,
    ("cosine", "Bong tangent"): "BongTangent divides the range of sigmas, which is infinite",
    ("sd3", "Uniform log-SNR"): r"log\(alpha / sigma\) is infinite at sigma = 1, .* give a smaller sigma_max",
}
"""Where there are no such noise levels, whatever the sampler, and why."""

NO_EPSILON = "an epsilon prediction says nothing about the data where alpha is 0 .* v_prediction, sample or flow"


# The data, and the best possible network for them

MEANS, STDS, WEIGHTS = np.array([-1.0, 1.0]), np.array([0.4, 0.6]), np.array([0.4, 0.6])
MEAN = float(WEIGHTS @ MEANS)
STD = math.sqrt(WEIGHTS @ (STDS**2 + MEANS**2) - MEAN**2)
COUNT = 2000


def probability_below(x: Array, alpha: float = 1.0, sigma: float = 0.0, weights: Array = WEIGHTS) -> Array:
    """The distribution function of ``alpha * data + sigma * noise``."""
    stds = np.hypot(alpha * STDS, sigma)
    return np.asarray(weights @ ndtr((x - alpha * MEANS[:, None]) / stds[:, None]))


def posterior_mean(x: Array, alpha: float, sigma: float, weights: Array = WEIGHTS) -> Array:
    """Of the data, given samples `x`."""
    variances = (alpha * STDS) ** 2 + sigma**2
    gains = alpha * STDS**2 / variances
    offsets = MEANS - alpha * gains * MEANS
    # The logarithm of what is left of Bayes' formula is a parabola: how much likelier the first mode is.
    parabola = np.array([np.full(2, -0.5), alpha * MEANS, -0.5 * (alpha * MEANS) ** 2]) / variances
    parabola[2] += np.log(weights) - 0.5 * np.log(variances)
    a, b, c = parabola[:, 0] - parabola[:, 1]
    with np.errstate(over="ignore"):
        odds = np.exp((a * x + b) * x + c)
    first, change = gains[0] * x + offsets[0], (gains[1] - gains[0]) * x + (offsets[1] - offsets[0])
    return np.asarray(first + change / (1 + odds))


LINE = np.linspace(-5.0, 6.0, 20001)
ON_LINE = probability_below(LINE)


def consistency_function(x: Array, alpha: float, sigma: float) -> Array:
    """Where the probability-flow ODE takes samples `x`: to equal quantiles, since it keeps their order on a line."""
    return np.interp(probability_below(x, alpha, sigma), ON_LINE, LINE)


SIGMA_DATA = 0.5

OUTPUTS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "epsilon": lambda alpha, sigma: (1 / sigma, -alpha / sigma),
    "sample": lambda alpha, sigma: (0 * alpha, 1 + 0 * alpha),
    "v_prediction": lambda alpha, sigma: (alpha / sigma / np.hypot(alpha, sigma), -np.hypot(alpha, sigma) / sigma),
    "flow": lambda alpha, sigma: (1 / sigma, -(alpha + sigma) / sigma),
    "edm": lambda alpha, sigma: (
        -alpha * SIGMA_DATA / sigma / np.hypot(sigma, alpha * SIGMA_DATA),
        np.hypot(sigma, alpha * SIGMA_DATA) / sigma / SIGMA_DATA,
    ),
}
"""Prediction type -> how the output is made of a sample ``alpha * data + sigma * noise`` and the data: two weights.

From the definitions: the noise; the data; alpha * noise - sigma * data of a sample with alpha^2 + sigma^2 = 1; noise -
data; EDM's F."""


@cache
def draws(count: int) -> tuple[Array, Array]:
    """`count` draws of the data, and standard normal noise for them, shape (400, count), which is as even as can be.

    All of it is uncorrelated, so that variances add up as those of the distributions do: the standard deviation of the
    samples is then two to three times nearer to its limit than with independent numbers.
    """
    rng, even = np.random.default_rng(0), (np.arange(count) + 0.5) / count
    data = np.interp(rng.permutation(even), ON_LINE, LINE)
    columns = [np.ones(count), (data - data.mean()) / data.std()]
    columns += [rng.permutation(ndtri(even)) for _ in range(min(400, count // 2))]
    correlated = np.array(columns)
    factor = np.linalg.cholesky(correlated @ correlated.T / count)
    return data, np.linalg.solve(factor, correlated)[2:]


def noises(count: int) -> Iterator[Array]:
    """One after the other; those of a second round belong to the samples in another order."""
    rng, order = np.random.default_rng(1), np.arange(count)
    while True:
        for noise in draws(count)[1]:
            yield noise[order]
        order = rng.permutation(count)


def run(
    plan: Plan,
    schedule: NoiseSchedule,
    prediction_type: str,
    *,
    best: Callable[[Array, float, float], Array] = posterior_mean,
    count: int = COUNT,
) -> Array:
    """Samples made with `plan`, from samples at its start, by the network that predicts what `best` says of the data.

    It is told of timesteps, in the way of a network, and not of noise levels.
    """
    noise = noises(count)
    under_way = Run(plan, lambda like, sigma_from, sigma_to: next(noise))
    x = under_way.begin(plan.start.alpha * draws(count)[0] + plan.start.sigma * next(noise))
    alpha, sigma = schedule.alpha_sigma(np.array(plan.timesteps))
    of_sample, of_data = OUTPUTS[prediction_type](alpha, sigma)
    scale = np.hypot(sigma, alpha * SIGMA_DATA) if prediction_type == "edm" else np.ones_like(alpha)
    for a, s, k, p, q in zip(*(each.tolist() for each in (alpha, sigma, scale, of_sample, of_data)), strict=True):
        seen = under_way.model_input(x) * k
        output = p * seen + q * best(seen, a, s)
        x = under_way.step(output, x, output if plan.reads_unguided else None)
    return x


class Distances(NamedTuple):
    """How far samples are from the data's distribution."""

    mean: float
    """In units of the data's standard deviation."""
    std: float
    """As a part of itself."""
    weight: float
    """The part of the samples that is above 0, where the modes meet."""
    quantiles: float
    """The largest distance between the distribution functions (Kolmogorov and Smirnov)."""

    def are_within(self, bounds: Distances) -> bool:
        return all(abs(distance) <= bound for distance, bound in zip(self, bounds, strict=True))  # False for NaN

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:+.4f}" for name, value in self._asdict().items())


BOUNDS = Distances(mean=0.025, std=0.03, weight=0.025, quantiles=0.03)
"""A tenth too much noise moves the standard deviation by about 0.045."""


def distances(x: Array) -> Distances:
    below = probability_below(np.sort(x))
    rank = np.arange(len(x) + 1) / len(x)
    above = np.count_nonzero(x > 0) / len(x) + float(probability_below(np.zeros(1))[0]) - 1
    apart = max(np.abs(below - rank[1:]).max(), np.abs(below - rank[:-1]).max())
    return Distances(float((x.mean() - MEAN) / STD), float(x.std() / STD - 1), above, float(apart))


# The grid


def steps_of(entry: Entry, name: str, schedule_type: str) -> int:
    """Enough steps for the sampler's own error to be well within the bounds.

    Quantiles of a Beta distribution over sigma itself, and the two tangents, leave little of the steps to the low
    levels, the less the more the range has of high ones.
    """
    steps = {("sd15", "Beta sigmas"): 120, ("edm", "Beta sigmas"): 240, ("edm", "Bong tangent"): 180}.get(
        (name, schedule_type), 60
    )
    if entry.name.removesuffix(" CFG++") in SLOWLY:
        steps = 5 * steps // 3
    if entry.solver.function in (euler.function, gradient_estimation.function, ud10_ab.function):
        return 3 * steps  # of first order
    return 5 * steps // 2 if entry.name.startswith(("DPM++ 2M SDE Heun", "RES multistep a")) else steps


SLOWLY = ("DPM++ 2M SDE", "DPM++ 3M", "DDPM", "Dance SDE", "Euler a", "Flow SDE", "Heun++ 2", "RES 3M", "TCD")
"""Samplers that take more steps for the same accuracy, or for an error that does not hide a tenth too much noise."""


def predictions_for(made: Sampler, schedule: NoiseSchedule) -> list[str]:
    """All prediction types, but for epsilon where it says nothing."""
    return [name for name in OUTPUTS if name != "epsilon" or made.grid(schedule, 20)[0].alpha > 0]


def best_for(entry: Entry) -> Callable[[Array, float, float], Array]:
    """What a network for this sampler predicts: LCM is for consistency models."""
    return consistency_function if entry.solver.function is lcm.function else posterior_mean


WITHOUT_DISTILLATION = {"TCD": {"eta": 0.0}}
"""Options without which a sampler is right only of networks that were distilled for it."""

PLANNABLE = [entry for entry in CATALOG.values() if not entry.solver.adaptive]


def ways(name: str, schedule_type: str) -> list[tuple[Entry, Sampler]]:
    """The samplers that are possible there; of the others it is checked that they say why they are not."""
    made = [
        (entry, sampler(f"{entry.name} {schedule_type}", **WITHOUT_DISTILLATION.get(entry.name, {})))
        for entry in PLANNABLE
    ]
    possible = []
    for entry, one in made:
        # A sampler that spaces its steps itself makes them equal in log sigma whatever the schedule type.
        refused = REFUSED.get((name, "Exponential" if entry.spaces_itself else schedule_type))
        if refused is None:
            possible.append((entry, one))
            continue
        for prediction_type in OUTPUTS:
            with pytest.raises(ValueError, match=refused):
                one.plan(SCHEDULES[name], prediction_type, 20)
    return possible


def same_steps(made: Sampler, name: str, steps: int) -> tuple[object, ...]:
    """What tells a sampler from those of other names and schedule types that take the same steps."""
    levels = np.round(made.grid(SCHEDULES[name], steps).sigmas, 12)
    return made.solver, name, levels.tobytes()


def without_guidance(made: Sampler) -> Sampler:
    """The sampler that a CFG++ sampler is if guidance changes nothing."""
    plain = {"cfg_pp": False} if dict(made.solver.options).get("cfg_pp") else {}
    return replace(made, solver=made.solver.with_options(**plain))


def in_turn(names: Sequence[str], entry: Entry, schedule_type: str) -> str:
    """The one of the noise schedules `names`, of those that have the schedule type, on which a sampler is run on it."""
    possible = [name for name in names if (name, schedule_type) not in REFUSED]
    return possible[(PLANNABLE.index(entry) + list(SCHEDULE_TYPES).index(schedule_type)) % len(possible)]


MADE: dict[tuple[object, ...], Distances] = {}
AGREED: set[tuple[object, ...]] = set()

NEW_IN = {"cosine": ("Uniform", "Trailing")}
"""One variance preserving schedule on all schedule types; of the other what is new, starts from pure noise."""

WHOLE = [name for name in SCHEDULES if name not in NEW_IN]
HALVES = [WHOLE[:2], [*NEW_IN, *WHOLE[2:]]]
"""Two noise schedules of which a sampler's prediction types are compared on one, and two more."""


@pytest.mark.parametrize("name", SCHEDULES)
@for_each("schedule_type", SCHEDULE_TYPES)
def test_samples_have_the_distribution_of_the_data(name: str, schedule_type: str) -> None:
    """Each sampler on every other schedule type, on one noise schedule or another with one prediction type or another.

    Which half it is goes by pairs in the catalog. That prediction types agree is the next test, and that CFG++ samplers
    agree with others where guidance changes nothing.
    """
    if schedule_type not in NEW_IN.get(name, SCHEDULE_TYPES):
        return
    schedule, wrong = SCHEDULES[name], []
    turn = EVERYWHERE.index((name, schedule_type))
    for number, (entry, made) in enumerate(ways(name, schedule_type)):
        if name not in NEW_IN and name != in_turn(WHOLE, entry, schedule_type):
            continue
        if (PLANNABLE.index(entry) // 2 + list(SCHEDULE_TYPES).index(schedule_type)) % 2:
            continue
        made, steps = without_guidance(made), steps_of(entry, name, schedule_type)
        key = same_steps(made, name, steps)
        if key not in MADE:
            choice = predictions_for(made, schedule)
            prediction_type = choice[(number + turn) % len(choice)]
            plan = made.plan(schedule, prediction_type, steps)
            MADE[key] = distances(run(plan, schedule, prediction_type, best=best_for(entry)))
        if not MADE[key].are_within(BOUNDS):
            wrong.append(f"{entry.name} in {steps} steps: {MADE[key]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", SCHEDULES)
@for_each("schedule_type", SCHEDULE_TYPES)
def test_all_prediction_types_make_the_same_samples(name: str, schedule_type: str) -> None:
    """But epsilon, where nothing of the data is left at the start, is refused.

    Each sampler on each schedule type runs on two of the noise schedules, and has a plan on the others. There each type
    is compared with that of the data in every other schedule type: what it is at a point does not depend on where the
    next one is. With a network whose guided and unguided outputs are the same CFG++ samplers make what others make.
    """
    schedule, steps = SCHEDULES[name], 7
    # The table of Align Your Steps begins a little above the noisiest level that the network was trained on.
    within = 1e-5 if (name, schedule_type) == ("sd15", "Align Your Steps") else 1e-9
    turn = EVERYWHERE.index((name, schedule_type))
    (half,) = (half for half in HALVES if name in half)
    for number, (entry, made) in enumerate(ways(name, schedule_type)):
        key = same_steps(made, name, steps)
        if key in AGREED:
            continue
        results = {}
        possible = predictions_for(made, schedule)
        if name != in_turn(half, entry, schedule_type):
            made.plan(schedule, possible[(number + turn) % len(possible)], steps)  # all of its numbers are finite
            continue
        for place, prediction_type in enumerate(OUTPUTS):
            if prediction_type not in possible:
                with pytest.raises(SingularPointError, match=NO_EPSILON):
                    made.plan(schedule, prediction_type, steps)
            if prediction_type not in possible or (prediction_type != "sample" and (place + number + turn) % 2):
                continue
            plan = made.plan(schedule, prediction_type, steps)
            results[prediction_type] = run(plan, schedule, prediction_type, best=best_for(entry), count=16)
        if plan.reads_unguided:
            plain = without_guidance(made).plan(schedule, "sample", steps)
            assert not plain.reads_unguided
            results["without guidance"] = run(plain, schedule, "sample", count=16)
        for way, x in results.items():
            assert np.isfinite(x).all(), f"{entry.name}, {way}"
            np.testing.assert_allclose(x, results["sample"], rtol=0, atol=within, err_msg=f"{entry.name}, {way}")
        AGREED.add(key)


def test_every_prediction_type_is_in_the_grid() -> None:
    assert set(OUTPUTS) == set(PREDICTIONS)
    assert [(schedule, where) for schedule, where in REFUSED if (schedule, where) not in EVERYWHERE] == []


# Samplers that choose their steps by the data

ADAPTIVE = [entry for entry in CATALOG.values() if entry.solver.adaptive]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("entry", ADAPTIVE, ids=lambda entry: entry.name)
def test_adaptive_samplers_have_no_plan_and_make_the_data_wherever_log_snr_is_finite(entry: Entry, name: str) -> None:
    schedule = SCHEDULES[name]
    named = [sampler(f"{entry.name} {schedule_type}", rtol=0.01) for schedule_type in SCHEDULE_TYPES]
    assert len({made.spacing for made in named}) == 1, "only the ends matter, which are the schedule's own"
    made = named[0]
    with pytest.raises(NotPlannableError, match=r"chooses its steps by looking at the data.* diffusolve\.sample"):
        made.plan(schedule, "sample", 1)
    highest = {"sd3": 0.999, "cosine": 80.0}.get(name)
    if highest is not None:
        with pytest.raises(SingularPointError, match=r"infinite .*sigma_max"):
            adapted(made, schedule)
        made = sampler(f"{entry.name} Karras", rtol=0.01, sigma_max=highest)
    found = distances(adapted(made, schedule))
    assert found.are_within(BOUNDS), found


def adapted(made: Sampler, schedule: NoiseSchedule) -> Array:
    """Samples made by `made`, from samples at its start."""
    first, (data, noise) = made.grid(schedule, 1)[0], draws(COUNT)

    def network(x: Array, timestep: Array) -> Array:
        alpha, sigma = (float(value) for value in schedule.alpha_sigma(timestep[0]))
        return posterior_mean(x, alpha, sigma)

    x = first.alpha * data + first.sigma * noise[0]
    return np.asarray(sample(network, x, made, noise_schedule=schedule, prediction_type="sample", noise=0))


# What is wrong does not pass


def test_the_network_is_the_best_one() -> None:
    for name, schedule in SCHEDULES.items():
        network = GaussianMixtureDenoiser(schedule, MEANS[:, None], STDS, WEIGHTS)
        for point in sampler("Euler").grid(schedule, 7)[:-1]:
            x = 2 * (point.alpha + point.sigma) * np.linspace(-1, 1, 9)
            expected = network(x[:, None], np.full(9, point.timestep))[:, 0]
            np.testing.assert_allclose(posterior_mean(x, point.alpha, point.sigma), expected, rtol=1e-9, err_msg=name)


def test_the_data_themselves_pass() -> None:
    found = distances(np.interp(np.random.default_rng(0).random(20 * COUNT), ON_LINE, LINE))
    assert found.are_within(BOUNDS), "the distribution function is that of the data"
    assert max(distances(np.interp((np.arange(COUNT) + 0.5) / COUNT, ON_LINE, LINE))) < 1e-3


@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_a_tenth_too_much_noise_does_not_pass(name: str) -> None:
    schedule, tried, passed = SCHEDULES[name], [], []
    for entry, made in ways(name, "Karras"):
        plan = made.plan(schedule, "sample", steps_of(entry, name, "Karras"))
        if plan.is_stochastic:
            # LCM, which takes more noise for that of a higher level, and ER-SDE keep less; Dance SDE adds little.
            factor = {"LCM": 1.2, "ER-SDE": 1.2, "Dance SDE": 2.0}.get(entry.name, 1.1)
            louder = sampler(f"{entry.name} Karras", s_noise=factor)
            plan = louder.plan(schedule, "sample", steps_of(entry, name, "Karras"))
            tried.append(entry.name)
            if distances(run(plan, schedule, "sample", best=best_for(entry))).are_within(BOUNDS):
                passed.append(entry.name)
    assert len(tried) >= 15
    assert not passed


def biased(x: Array, alpha: float, sigma: float) -> Array:
    """Of data that are moved by a twentieth of their standard deviation."""
    return posterior_mean(x - alpha * STD / 20, alpha, sigma) + STD / 20


def unbalanced(x: Array, alpha: float, sigma: float) -> Array:
    """Of data whose first mode has 0.45 of them."""
    return posterior_mean(x, alpha, sigma, np.array([0.45, 0.55]))


@for_each("best", [biased, unbalanced], ids=["biased", "unbalanced"])
@for_each("sampler_name", ["Euler a", "DPM++ 2M", "Restart"])
@for_each("name", SCHEDULES)
def test_other_data_do_not_pass(best: Callable[..., Array], sampler_name: str, name: str) -> None:
    plan = sampler(f"{sampler_name} Trailing").plan(SCHEDULES[name], "sample", 100)
    found = distances(run(plan, SCHEDULES[name], "sample", best=best))
    assert abs(found.mean if best is biased else found.weight) > 0.03
    assert not found.are_within(BOUNDS)


def test_a_network_that_is_no_consistency_function_is_not_for_lcm() -> None:
    plan = sampler("LCM Karras").plan(SCHEDULES["sd15"], "sample", 100)
    assert not distances(run(plan, SCHEDULES["sd15"], "sample")).are_within(BOUNDS)


@solver(paper="Karras et al. 2022, algorithm 2, whose noise schedule is variance exploding")
def ancestral_for_alpha_1(grid: Grid, x: Value) -> SolverRun:
    """Euler ancestral as if alpha were 1 everywhere."""
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        up = t.sigma * math.sqrt(1 - (t.sigma / s.sigma) ** 2)
        down = math.sqrt(t.sigma**2 - up**2)
        x = x + (down - s.sigma) / s.sigma * (x - data)
        if up > 0:
            x = x + up * (yield Noise(s, t))
    return x


def test_ancestral_noise_of_another_space_does_not_pass() -> None:
    for made, passes in ((ancestral_for_alpha_1, False), (euler.with_options(eta=1.0), True)):
        plan = Sampler(made, Karras()).plan(SCHEDULES["sd3"], "flow", 200)
        assert distances(run(plan, SCHEDULES["sd3"], "flow")).are_within(BOUNDS) == passes
    plan = Sampler(ancestral_for_alpha_1, Karras()).plan(SCHEDULES["edm"], "sample", 200)
    assert distances(run(plan, SCHEDULES["edm"], "sample")).are_within(BOUNDS), "there it is right"
