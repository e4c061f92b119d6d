"""Plans judged by their distance from exact samples; the best of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from diffusolve.arrays import Array, to_numpy
from diffusolve.catalog import CATALOG, SCHEDULE_TYPES
from diffusolve.catalog import sampler as sampler_called
from diffusolve.errors import check_whole, shown
from diffusolve.learning.model import Model
from diffusolve.learning.teacher import Pairs, follow, start_point
from diffusolve.noise import NoiseSchedule
from diffusolve.plan import Plan, check_made_for
from diffusolve.prediction import PredictionOrName
from diffusolve.sampling import Sampler
from diffusolve.sampling.denoiser import check_network

__all__ = [
    "Evaluation",
    "Ranked",
    "best_of_catalog",
    "catalog_plans",
    "check_begins",
    "check_conditions",
    "evaluate",
    "judge",
]

TEACHER_STEPS = 64

AFTER_FIRST = 64
"""So many plans of the catalog are left after being judged by a quarter of the screened pairs."""


@dataclass(frozen=True)
class Evaluation:
    """A plan's distance from exact samples.

    Attributes:
        error: root mean square over samples and their elements.
        spread: standard error of `error`, from how samples differ.
        count: of samples.
    """

    error: float
    spread: float
    count: int

    def __str__(self) -> str:
        return f"{self.error:.4f} ± {self.spread:.4f}"


class Ranked(NamedTuple):
    """A plan of the catalog by its name, and what it was judged to be."""

    name: str
    plan: Plan
    error: float


def evaluate(
    network: Any,
    plan: Plan,
    like: Array,
    seeds: Sequence[int],
    conditions: tuple[Array, ...] = (),
    *,
    teacher_steps: int = TEACHER_STEPS,
    noise_schedule: str | NoiseSchedule | None = None,
    prediction_type: PredictionOrName | None = None,
) -> Evaluation:
    """The distance of `plan`'s samples from the exact solution, for the noises of `seeds`.

    Args:
        network: as :func:`diffusolve.learn` takes it.
        plan: learned or not, without noise, beginning where the network's training ends.
        like: an array of the shape (batch, ...), precision and device of the samples.
        seeds: sample i starts from noise of ``seeds[i]``.
        conditions: for each, (len(seeds), ...), what the network is called with besides.
        teacher_steps: of the exact solution.
        noise_schedule, prediction_type: what the network was trained with, where it does not know.

    Raises:
        ValueError: the plan adds noise, does not begin where the teacher does, or is for another kind of network; no
            seeds, or conditions of another number.
        TypeError: something else than a plan, seeds or conditions.
    """
    check_network(network)
    seeds = _checked_seeds(seeds)
    check_whole("teacher_steps", teacher_steps, 1)
    check_conditions(conditions)
    for row in conditions:
        if len(row) != len(seeds):
            raise ValueError(f"conditions have {len(row)} rows for {len(seeds)} seeds: expected one for each seed.")
    model = Model(network, like, noise_schedule, prediction_type)
    check_begins(model, plan)
    return judge(model, plan, follow(model, seeds, conditions, teacher_steps))


def _checked_seeds(seeds: Any) -> list[int]:
    """`seeds` as a list. Raises TypeError or ValueError unless they are whole numbers, one at least."""
    try:
        listed = [int(seed) if isinstance(seed, Integral) else seed for seed in seeds]
    except TypeError:
        raise TypeError(
            f"seeds is {shown(seeds)}: expected whole numbers, range({shown(seeds)}) for example."
        ) from None
    if not listed:
        raise ValueError("seeds is empty: expected one at least.")
    for seed in listed:
        check_whole("a seed", seed, 0)
    return listed


def check_conditions(rows: Any, name: str = "conditions") -> None:
    """Raise TypeError or ValueError unless `rows` are arrays of as many rows each, or of one row for all."""
    if not isinstance(rows, tuple | list):
        raise TypeError(f"{name} are {shown(rows)}: expected a tuple of arrays, (array,) for one.")
    for row in rows:
        if not getattr(row, "shape", ()):
            raise TypeError(f"{name} hold {shown(row)}: expected arrays with a row for each condition.")
        if not len(row):
            raise ValueError(f"{name} are empty: give at least one row, or leave them out.")
    counts = [len(row) for row in rows if len(row) != 1]
    if len(set(counts)) > 1:
        raise ValueError(f"{name} have {counts} rows: expected as many of each, or one row for all.")


def check_begins(model: Model, plan: Plan) -> None:
    """Raise ValueError unless `plan` is for such a network and follows the ODE from its noisiest level.

    Raises TypeError if it is no plan.
    """
    if not isinstance(plan, Plan):
        raise TypeError(
            f"the plan is {shown(plan)}: expected a Plan; Plan.from_json makes one of the text of a plan file, "
            "diffusolve.sampler(name).plan(...) one of a name."
        )
    if plan.is_stochastic or plan.reads_unguided:
        raise ValueError(f"{plan.solver} adds noise or takes an unguided output, so that it follows no ODE.")
    if not begins(model, plan):
        raise ValueError(
            f"the plan begins at log-SNR {plan.start.log_snr:.4g}, but the network's training ends at "
            f"{start_point(model).log_snr:.4g}: it was made for another noise schedule, or begins in the middle."
        )
    check_made_for(plan, model.noise_schedule, model.prediction)


def begins(model: Model, plan: Plan) -> bool:
    """True if `plan` begins at the noisiest level of the model's training."""
    own, first = plan.start.log_snr, start_point(model).log_snr
    return own == first or abs(own - first) < 1e-3


def judge(model: Model, plan: Plan, pairs: Pairs) -> Evaluation:
    """The distance of `plan`'s samples from those of `pairs`, at the plan's end."""
    end = plan.end.sigma / model.scaling.norm(plan.end.alpha, plan.end.sigma)
    apart = to_numpy(model.run(plan, pairs.begun, pairs.rows) - pairs.at(end)).astype(np.float64)
    squares = (apart**2).reshape(len(apart), -1).mean(axis=1)
    error = float(np.sqrt(squares.mean()))
    spread = float(squares.std() / np.sqrt(len(squares)) / (2 * error)) if error else 0.0
    return Evaluation(error, spread, len(squares))


def catalog_plans(model: Model, evaluations: int, names: Sequence[str] | None = None) -> Iterator[tuple[str, Plan]]:
    """Name and plan of every sampler of the catalog on every schedule type that takes at most so many evaluations.

    Those that add noise, choose their steps by the data or begin in the middle are left out, and so is the second of
    two equal plans.
    """
    known: set[Plan] = set()
    for name, recipe in _recipes() if names is None else ((name, sampler_called(name)) for name in names):
        try:
            plan = _plan_within(model, recipe, evaluations)
        except (ValueError, ImportError, TypeError):  # of another kind of model, or SciPy is not there
            continue
        follows = plan is not None and not (plan.is_stochastic or plan.reads_unguided) and begins(model, plan)
        if plan is not None and follows and plan not in known:
            known.add(plan)
            yield name, plan


def _recipes() -> Iterator[tuple[str, Sampler]]:
    for name, entry in CATALOG.items():
        if entry.solver.adaptive:
            continue
        if entry.spaces_itself:
            yield name, sampler_called(name)
            continue
        for kind in SCHEDULE_TYPES:
            yield f"{name} {kind}", sampler_called(name, kind)


def _plan_within(model: Model, recipe: Sampler, evaluations: int) -> Plan | None:
    for steps in range(evaluations, 0, -1):
        plan = recipe.plan(model.noise_schedule, model.prediction, steps)
        if plan.nfe <= evaluations:
            return plan
    return None


def best_of_catalog(
    model: Model,
    evaluations: int,
    pairs: Pairs,
    *,
    names: Sequence[str] | None = None,
    screened: int = 16,
    last: int = 8,
    on_plan: Callable[[], object] | None = None,
) -> list[Ranked]:
    """The best plans of the catalog in at most so many `evaluations`, the best first.

    Args:
        model: the network.
        evaluations: the most.
        pairs: what to judge by, in rounds: all plans by the first quarter of the `screened`, the best 64 by all of
            these, the `last` of them by all pairs.
        names: only these samplers.
        screened: how many pairs the second round takes.
        last: how many plans the third round takes.
        on_plan: called after each plan of the first round.
    """
    screened = min(screened, pairs.count)
    few = pairs.first(max(screened // 4, min(4, screened)))
    ranked = []
    for name, plan in catalog_plans(model, evaluations, names):
        ranked.append(Ranked(name, plan, judge(model, plan, few).error))
        if on_plan is not None:
            on_plan()
    for most, judges in zip((AFTER_FIRST, last), (pairs.first(screened), pairs), strict=True):
        best = _in_order(ranked)[:most]
        ranked = [one._replace(error=judge(model, one.plan, judges).error) for one in best]
    return _in_order(ranked)


def _in_order(ranked: Sequence[Ranked]) -> list[Ranked]:
    """The plans whose samples are finite, the best first."""
    return sorted((one for one in ranked if np.isfinite(one.error)), key=lambda one: one.error)
