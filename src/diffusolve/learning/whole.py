"""Learning a plan for a network: pairs, the catalog's best, fit, refine, judgement."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from datetime import datetime, timezone
from inspect import signature
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from tqdm.auto import tqdm

from diffusolve.arrays import Array, is_torch, to_numpy
from diffusolve.errors import check_finite, check_options, check_whole, shown, unknown_name
from diffusolve.learning.fit import Fit, search
from diffusolve.learning.judge import (
    Ranked,
    best_of_catalog,
    catalog_plans,
    check_begins,
    check_conditions,
    judge,
)
from diffusolve.learning.kept import Kept
from diffusolve.learning.model import Model, Rows
from diffusolve.learning.path import check_levels
from diffusolve.learning.report import Candidate, LearningReport
from diffusolve.learning.table import (
    NotALearnersPlanError,
    Table,
    evaluations_of,
    in_rounds,
    plan_of,
    table_of,
    used,
)
from diffusolve.learning.teacher import Pairs, TeacherError, follow, steps_needed
from diffusolve.noise import NoiseSchedule
from diffusolve.plan import Plan
from diffusolve.prediction import PredictionOrName
from diffusolve.sampling.denoiser import check_network

if TYPE_CHECKING:
    from diffusolve.learning.refine import Refining
    from diffusolve.learning.teachers import Teachers

__all__ = ["METHODS", "learn", "learn_with_report", "with_provenance"]

Method: TypeAlias = Literal["fit", "refine"]

METHODS = get_args(Method)
"""Ways of learning, besides the two one after the other."""

Levels: TypeAlias = Literal["search", "path"]

LEVELS = get_args(Levels)
"""Ways to the levels of a fit."""

FIRST_SEED, SEEDS_APART = 10_000_000, {"train": 0, "validation": 3_000_000, "test": 6_000_000, "probe": 9_000_000}
"""Seed n learns from noises of seeds from (n + 1) times the first on; validation, test and probing of the teacher have
theirs this much higher, so that no noise is used twice and none of the small seeds that people use is among them."""

PAIRS = {"fit": (128, 96, 128), "refine": (384, 96, 128)}
"""The most pairs to learn from, to choose by and to test by, where the user does not say."""

MORE_PAIRS, MORE_PART = (256, 1024), 0.6
"""More pairs to choose and to test by, where all pairs take less than this part of the time that there is for them: one
sample that turns into another image may weigh more than a hundred others."""

FEWEST_PAIRS = 32

TEACHER_STEPS = (32, 512)
"""A teacher's number of steps: the first and the last that are tried."""

AGREEMENT = 2e-3
"""A teacher and one of twice its steps differ by no more, as a part of the samples' root mean square..."""

DISAGREEMENT = 2e-2
"""... and a teacher that the user chose by no more than this."""

BATCH = 32
"""Pairs of one step of Adam."""

RATE_OF_FIT = 0.2
"""Step sizes of refining a fit, in units of the usual: it is near already, and its weights cancel each other."""

GAIN = 0.995
"""A plan takes the place of another if its error is less than the other's times this."""

GRADIENT = 3.0
"""Times as long as an evaluation takes one with its gradient, about."""

ENOUGH_ITERATIONS = 120
"""Iterations of a start that are worth while: where time is short, fewer starts are refined."""

WHOLE_CATALOG = 140
"""Evaluations of plans that judging the whole catalog takes for each pair that is screened, about."""

ENOUGH_NUMBERS = 8192
"""Elements of so many samples tell weights and levels apart: a search takes no more of large samples."""

FITS = 50
"""Fits that a search takes at least: where time is short, on fewer pairs."""


def learn(network: Any, like: Array, steps: int = 5, **options: Any) -> Plan:
    """A plan learned for `network`: an ordinary :class:`~diffusolve.Plan` of `steps` rounds, of one evaluation each.

    Arguments and errors as :func:`learn_with_report`. The report is in ``plan.extra["learned"]``.
    """
    check_options("learn", options, [*signature(learn_with_report).parameters][3:])
    return learn_with_report(network, like, steps, **options)[0]


def learn_with_report(
    network: Any,
    like: Array,
    steps: int = 5,
    *,
    method: Method | None = None,
    conditions: Rows = (),
    held_out: Rows | None = None,
    noise_schedule: str | NoiseSchedule | None = None,
    prediction_type: PredictionOrName | None = None,
    start: Plan | None = None,
    pairs: int | None = None,
    teacher_steps: int | None = None,
    seed: int = 0,
    minutes: float = 5.0,
    iterations: int | None = None,
    checkpointing: bool = True,
    relaxed: float = 0.0,
    shifts: bool = True,
    levels: Levels = "search",
    at_once: int = 1,
    keep: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    on_best: Callable[[Plan], object] | None = None,
    progress: bool = False,
    workers: int = 1,
    ray: bool = False,
    ray_address: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Plan, LearningReport]:
    """A plan learned for `network`, and how good it is on noises that were used for nothing else.

    Args:
        network: called with samples (batch, ...), timesteps (batch,) and a batch of each of the `conditions`; returns
            an output of the samples' shape. With guidance, if there is any, inside.
        like: an array of the shape (batch, ...), precision, library and device of the samples; its batch is the most
            samples that the network is asked about at once.
        steps: how many times the network is waited for: the plan's evaluations, if it takes one `at_once`.
        method: "fit": least squares, which needs outputs of the network alone; "refine": gradients alone, from
            `start`; None: fit, and then refine if gradients flow.
        conditions: arrays whose rows are given to the samples in turn: labels, embeddings of prompts.
        held_out: conditions for validation and test; the same when missing.
        noise_schedule, prediction_type: what the network was trained with, where it does not know.
        start: a plan to begin from and to compare with; the best of the catalog when missing.
        pairs: how many pairs of noise and exact sample to learn from; a quarter as many choose, and a third as many
            test. When missing, as many as a quarter of the time pays for, up to 384 (128 to fit alone); 96 choose and
            128 test, or 256 and 1,024 where all of them take a sixth of the time at most.
        teacher_steps: of the exact solution; as many as it takes when missing.
        seed: equal seeds learn equal plans, if both have time enough for all iterations.
        minutes: the time that all of it may take, about.
        iterations: of refining; as many as there is time for, up to 300, when missing.
        checkpointing: refining computes each evaluation again on the way back, so that memory grows with one.
        relaxed: refine for starts anywhere in a ball around the given noise, of this radius in units of the noise.
        shifts: learn the timestep that the network is told, too; not for networks that know whole timesteps only.
        levels: of fit: "search" over curves of several kinds and moves of single levels; "path": those that dynamic
            programming over the teacher's path finds, which asks the network about one fit only.
        at_once: evaluations of each round after the first, none of which waits for another: for hardware that answers
            so many batches as soon as one. The plan takes 1 + at_once * (steps - 1) evaluations; it is compared with
            the catalog's in `steps`.
        keep: a folder where the work is kept, made if need be: the same learning goes on there where it was stopped,
            and other numbers of steps take teacher's pairs from it.
        about: what else the plan says of itself: model, guidance.
        on_best: called with each plan that is better than those before it.
        progress: show a progress bar.
        workers: processes that make the pairs, each with a copy of the network.
        ray: these are actors of Ray: on the cluster that it is connected to, or one started on this machine.
        ray_address: of the cluster; implies `ray`.
        clock: seconds.

    Raises:
        ValueError: fewer pairs than weights, steps or `at_once` below 1, a start for another noise schedule, of another
            number of evaluations or with evaluations that wait for each other where they must not, `keep` of another
            network, or one that cannot be sent to other processes, `workers` that are no number; TeacherError if the
            teacher disagrees with a finer one.
        TypeError: no gradients flow through the network, and `method` is "refine"; conditions that are no arrays.
        ImportError, ConnectionError: Ray is not installed, or there is no cluster at the address.
        UnknownNameError: another method or other levels.
        OSError: `keep` cannot be written to.
    """
    _check(steps, at_once, method, levels, pairs, minutes)
    _check_numbers(seed, teacher_steps, iterations, relaxed, workers)
    _check_told(about, keep, {"on_best": on_best, "clock": clock})
    check_conditions(conditions)
    if held_out is not None:
        _check_held_out(held_out, conditions)
    check_network(network)
    model = Model(network, like, noise_schedule, prediction_type)
    if start is not None:
        check_begins(model, start)
        _check_start(model, start, steps, at_once)
    refines = _refines(model, method, conditions)
    began = clock()
    budget = 60.0 * minutes

    def left(part: float) -> Callable[[], float]:
        """Seconds until `part` of the time is over."""
        return lambda: part * budget - (clock() - began)

    kept = Kept(None if keep is None else Path(keep), model, conditions)
    task = _Task(model, conditions, conditions if held_out is None else held_out, seed, minutes, progress, kept)
    teacher, apart = task.teacher(teacher_steps)
    if levels == "path" and method != "refine":
        check_levels(evaluations_of(steps, at_once), teacher + 1)
    counts = task.counts(pairs, PAIRS["refine" if refines else "fit"], teacher, 0.25 * budget * workers, clock)
    with _teachers(model, workers, ray, ray_address) as teachers:
        train, validation, test = (
            task.pairs(kind, count, teacher, teachers) for kind, count in zip(SEEDS_APART, counts, strict=False)
        )
    ranked = task.ranked(steps, validation, left(0.45))
    if start is not None:
        ranked.insert(0, Ranked("the given start", start, judge(model, start, validation).error))
    if not ranked:
        raise ValueError(f"no sampler of the catalog takes {steps} evaluations or fewer on {model.noise_schedule}.")
    chosen = _Chosen(Candidate(ranked[0].name, ranked[0].plan, ranked[0].error), on_best, about or {}, model)
    stopped = ""
    try:
        if method != "refine":
            begins = _tables(model, ranked, steps, at_once)
            fitted = task.fit(steps, at_once, train, validation, begins, left(0.6 if refines else 0.85), levels)
            chosen.offer("fit", fitted.table, fitted.error)
        if refines:
            stopped = task.refine(
                chosen,
                ranked,
                steps,
                at_once,
                train,
                validation,
                left(0.9),
                300 if iterations is None else iterations,
                checkpointing=checkpointing,
                relaxed=relaxed,
                shifts=shifts,
            )
        chosen.settle(train)
    except KeyboardInterrupt:
        stopped = "interrupted"
    report = _report(
        chosen,
        ranked,
        test,
        task,
        left(1.0),
        stopped,
        pairs=counts[0],
        teacher_steps=teacher,
        teacher_apart=apart,
        seed=seed,
        steps=steps,
    )
    plan = with_provenance(
        chosen.best.plan, {**(about or {}), **report.as_dict(), "seconds": round(clock() - began, 1)}, model
    )
    return plan, replace(report, seconds=clock() - began)


def with_provenance(plan: Plan, told: Mapping[str, Any], model: Model) -> Plan:
    """`plan` that says where it comes from, in ``extra["learned"]``."""
    from diffusolve import __version__

    learned = {
        **told,
        "noise_schedule": str(model.noise_schedule),
        "prediction": model.prediction.description,
        "diffusolve": __version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    return replace(plan, extra={**plan.extra, "learned": learned})


def _check_numbers(seed: int, teacher_steps: int | None, iterations: int | None, relaxed: float, workers: int) -> None:
    check_whole("seed", seed, 0)
    check_whole("workers", workers, 1)
    for name, number in (("teacher_steps", teacher_steps), ("iterations", iterations)):
        if number is not None:
            check_whole(name, number, 1)
    check_finite("relaxed", relaxed)
    if relaxed < 0.0:
        raise ValueError(f"relaxed is {relaxed:g}: expected 0 or more.")


def _check_told(
    about: Mapping[str, Any] | None, keep: str | Path | None, functions: Mapping[str, Callable[..., Any] | None]
) -> None:
    """Raise TypeError or ValueError for what would be noticed at the end of the work."""
    if about is not None and not isinstance(about, Mapping):
        raise TypeError(f"about is {shown(about)}: expected a mapping of what else the plan says of itself.")
    if both := sorted({*(about or ())} & {field.name for field in fields(LearningReport)}):
        raise ValueError(f"about has {both[0]!r}, which the report says: give it another name.")
    try:
        json.dumps(dict(about or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"about is {shown(about)}, which JSON cannot hold: {error}.") from None
    if keep is not None and (not isinstance(keep, str | os.PathLike) or not str(keep)):
        raise TypeError(f"keep is {shown(keep)}: expected the path of a folder.")
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name} is {shown(function)}: expected a function.")


def _check_held_out(held_out: Rows, conditions: Rows) -> None:
    """Raise TypeError or ValueError unless `held_out` are conditions of the same kind."""
    check_conditions(held_out, "held_out")
    shapes, others = ([tuple(row.shape[1:]) for row in rows] for rows in (held_out, conditions))
    if shapes != others:
        raise ValueError(
            f"held_out has rows of shapes {shapes}, but conditions of {others}: expected arrays of the same kinds."
        )


def _check(steps: int, at_once: int, method: str | None, levels: str, pairs: int | None, minutes: float) -> None:
    for name, number in (("steps", steps), ("at_once", at_once)):
        check_whole(name, number, 1)
    if method is not None and method not in METHODS:
        raise unknown_name("method of learning", method, METHODS)
    if levels not in LEVELS:
        raise unknown_name("way to levels", levels, LEVELS)
    check_finite("minutes", minutes)
    if not minutes > 0.0:
        raise ValueError(f"minutes is {minutes:g}: expected more than 0.")
    if pairs is not None:
        check_whole("pairs", pairs)
    evaluations = evaluations_of(steps, at_once)
    weights = int(used(evaluations, at_once).sum())
    if pairs is not None and pairs < weights:
        raise ValueError(
            f"pairs is {pairs}, but a plan of {evaluations} evaluations has {weights} weights, which fewer pairs do "
            f"not tell apart: give at least {weights}."
        )


def _check_start(model: Model, start: Plan, steps: int, at_once: int) -> None:
    check_begins(model, start)
    evaluations = evaluations_of(steps, at_once)
    if start.nfe != evaluations:
        wanted = f"but steps is {steps}" + (
            f" with {at_once} evaluations at once, {evaluations}" if at_once > 1 else ""
        )
        raise ValueError(f"the start takes {start.nfe} evaluations, {wanted}: they must be equal.")
    if start.depth > steps:
        raise ValueError(
            f"the start waits for the network {start.depth} times, but steps is {steps}: leave the start out, or set "
            "at_once=1."
        )


@contextmanager
def _teachers(model: Model, workers: int, ray: bool, ray_address: str | None) -> Iterator[Teachers | None]:
    """Workers that make pairs in the ``with`` block; None if this process makes them."""
    if workers == 1 and not ray and ray_address is None:
        yield None
        return
    from diffusolve.learning.teachers import Teachers

    with closing(Teachers(model, workers, ray, ray_address)) as teachers:
        yield teachers


def _refines(model: Model, method: str | None, conditions: Rows) -> bool:
    """True if gradients are to be used. Raises TypeError if they must and cannot."""
    if method == "fit" or (method is None and not is_torch(model.like)):
        return False
    from diffusolve.learning.refine import check_gradients

    try:
        check_gradients(model, conditions)
    except TypeError:
        if method == "refine":
            raise
        return False
    return True


def _tables(model: Model, ranked: Sequence[Ranked], steps: int, at_once: int) -> list[tuple[str, Table]]:
    """The best plans that have the form and the evaluations of what is learned, as tables; at most three."""
    tables = []
    for name, plan, _ in ((one.name, one.plan, one.error) for one in ranked):
        try:
            table = table_of(plan, model.noise_schedule, model.scaling)
        except NotALearnersPlanError:
            continue
        if table.steps == evaluations_of(steps, at_once):
            tables.append((name, in_rounds(table, at_once)))
    return tables[:3]


class _Chosen:
    """The best plan so far, by the validation pairs, and all that were candidates."""

    def __init__(
        self, start: Candidate, on_best: Callable[[Plan], object] | None, about: Mapping[str, Any], model: Model
    ) -> None:
        self.start = self.best = start
        self.candidates = [start]
        self.tables: dict[str, tuple[Table, float]] = {}
        self.on_best, self.about, self.model = on_best, about, model

    def offer(self, name: str, table: Table, error: float) -> None:
        """Take `table` for the best if it is."""
        if name not in self.tables or error < self.tables[name][1]:
            self.tables[name] = table, error
        if not error < GAIN * self.best.validation:
            return
        plan = plan_of(table, self.model.noise_schedule, self.model.scaling, self.model.prediction)
        self.best = Candidate(name, plan, error)
        self.candidates.append(self.best)
        if self.on_best is not None:
            self.on_best(with_provenance(plan, {**self.about, "validation_error": error}, self.model))

    def settle(self, train: Pairs) -> None:
        """Go back to the last candidate that is nearer than the start on the training pairs too.

        Where one sample that turned into another image weighs more than all others, few pairs to choose by choose what
        is good by luck.
        """
        of_start = judge(self.model, self.start.plan, train).error
        while self.best is not self.start and not judge(self.model, self.best.plan, train).error <= of_start:
            self.candidates.pop()
            self.best = self.candidates[-1]


class _Task:
    """The steps of learning, with their pairs and progress bars."""

    def __init__(
        self,
        model: Model,
        conditions: Rows,
        held_out: Rows,
        seed: int,
        minutes: float,
        progress: bool,
        kept: Kept,
    ) -> None:
        self.model, self.seed, self.progress, self.kept = model, seed, progress, kept
        self.minutes = float(minutes)  # what they decided is kept for as many
        self.judged = 0  # plans of the catalog
        self.seconds_each = 0.0  # of an evaluation of the network for one sample
        self.conditions = dict.fromkeys(SEEDS_APART, held_out) | {"train": conditions}

    def bar(self, total: int | None, what: str) -> Any:
        return tqdm(total=total, desc=what, disable=not self.progress, leave=False)

    def asked_for(self, kind: str, count: int) -> tuple[range, Rows]:
        """Seeds and conditions of `count` samples: conditions in turn."""
        first = (self.seed + 1) * FIRST_SEED + SEEDS_APART[kind]
        rows = tuple(row[np.arange(count) % len(row)] for row in self.conditions[kind])
        return range(first, first + count), rows

    def pairs(self, kind: str, count: int, teacher: int, teachers: Teachers | None = None) -> Pairs:
        """`count` pairs, as they were made before where they are kept.

        Raises TeacherError if one is not finite.
        """
        seeds, rows = self.asked_for(kind, count)

        def make(first: int) -> Pairs:
            of_rest = tuple(row[first:] for row in rows)
            made = follow(self.model, seeds[first:], of_rest, teacher, self.progress, teachers)
            finite = np.isfinite(to_numpy(made.final)).reshape(made.count, -1).all(axis=1)
            if not finite.all():
                which = ", ".join(str(first + i) for i in np.flatnonzero(~finite)[:5])
                raise TeacherError(
                    f"{made.count - finite.sum()} of {made.count} exact samples are not finite ({kind}, number "
                    f"{which}): the network returns NaN or infinity there."
                )
            return made

        return self.kept.pairs(make, rows, count, self.conditions[kind], seeds.start, teacher)

    def key(self, *more: Any) -> list[Any]:
        """Values that say all that follows from pairs: seed, conditions, and `more`."""
        return [self.seed, *self.conditions.values(), *more]

    def teacher(self, asked: int | None) -> tuple[int, float]:
        """A teacher's steps, and its distance from one of twice as many."""
        steps, apart = self.kept.said("teacher", lambda: self._teacher(asked), self.key(asked))
        return steps, apart

    def _teacher(self, asked: int | None) -> tuple[int, float]:
        seeds, rows = self.asked_for("probe", min(8, self.model.batch))
        first, most = TEACHER_STEPS
        wanted = (AGREEMENT, first, most) if asked is None else (inf, asked, asked)
        steps, apart = steps_needed(self.model, seeds, rows, *wanted)
        if not isfinite(apart):
            raise TeacherError("the teacher's samples are not finite: the network returns NaN or infinity.")
        if asked is None:
            return steps, apart
        if apart > DISAGREEMENT:
            needed, then = steps_needed(self.model, seeds, rows, DISAGREEMENT, asked, max(4 * most, 4 * asked))
            hint = f"{needed} steps do" if then <= DISAGREEMENT else f"even {needed} steps do not ({then:.1%})"
            raise TeacherError(
                f"a teacher of {asked} steps is {apart:.1%} of the samples' size away from one of {2 * asked}, more "
                f"than {DISAGREEMENT:.0%}: {hint}; give more teacher_steps, or leave them out."
            )
        return steps, apart

    def counts(
        self, asked: int | None, usual: tuple[int, int, int], teacher: int, seconds: float, clock: Callable[[], float]
    ) -> tuple[int, int, int]:
        """Numbers of pairs to train, validate and test: as asked, or as many as `seconds` pay for."""
        seeds, rows = self.asked_for("probe", self.model.batch)
        begun = clock()
        follow(self.model, seeds, rows, 2)
        self.seconds_each = (clock() - begun) / (3 * len(seeds))
        if asked is not None:
            return asked, max(asked // 4, 8), max(asked // 3, 16)
        each = self.seconds_each * (teacher + 1)
        if each * (usual[0] + sum(MORE_PAIRS)) < MORE_PART * seconds:
            usual = (usual[0], *MORE_PAIRS)
        part = min(1.0, seconds / max(each * sum(usual), 1e-9))
        counts = [max(FEWEST_PAIRS, int(part * count)) for count in usual]
        train, validation, test = self.kept.said("counts", lambda: counts, self.key(usual[0], self.minutes))
        return train, validation, test

    def ranked(self, steps: int, validation: Pairs, time_left: Callable[[], float]) -> list[Ranked]:
        """The best of the catalog in `steps` evaluations, by validation."""
        key = self.key(steps, validation.count, len(validation.sigmas), self.minutes)
        named = self.kept.said("catalog", lambda: self._ranked(steps, validation, time_left), key)
        self.judged = named["judged"]
        errors = dict(named["errors"])
        plans = catalog_plans(self.model, steps, list(errors))
        return [Ranked(name, plan, errors[name]) for name, plan in plans]

    def _ranked(self, steps: int, validation: Pairs, time_left: Callable[[], float]) -> dict[str, Any]:
        """The number of plans judged, and name and error of the best of them, the best first."""
        begun, judged = time_left(), 0
        with self.bar(None, "catalog") as bar:

            def on_plan() -> None:
                nonlocal judged
                judged += 1
                bar.update()

            best = best_of_catalog(self.model, steps, validation.first(8), names=LIKELY, screened=8, on_plan=on_plan)
            each = (begun - time_left()) / max(len(LIKELY) * 18, 1)
            screened = int(0.5 * time_left() / max(each * WHOLE_CATALOG, 1e-9))
            if screened >= 4:  # time for the whole catalog
                judged = 0
                best = best_of_catalog(self.model, steps, validation, screened=min(screened, 16), on_plan=on_plan)
            if judged and not best:
                raise ValueError(
                    f"none of {judged} samplers of the catalog gives finite samples: does the network return finite "
                    "numbers?"
                )
            return {"judged": judged, "errors": [[one.name, one.error] for one in best]}

    def fit(
        self,
        steps: int,
        at_once: int,
        train: Pairs,
        validation: Pairs,
        starts: Sequence[tuple[str, Table]],
        time_left: Callable[[], float],
        levels: str,
    ) -> Fit:
        """The best fit of a search, or of the levels of the teacher's path, and its error on all of `validation`."""
        with self.bar(None, "fit") as bar:

            def on_fit(best: Fit) -> None:
                bar.update()
                bar.set_postfix_str(f"{best.error:.4f} {best.name}", refresh=False)

            # So many pairs that there is time for fifty fits at least, and no more than tell levels apart.
            evaluations = evaluations_of(steps, at_once)
            most = int(time_left() / (FITS * evaluations * self.seconds_each)) if self.seconds_each else train.count
            enough = -(-ENOUGH_NUMBERS // int(np.prod(train.begun.shape[1:])))
            wanted = max(min(most // 2, enough), FEWEST_PAIRS)
            key = self.key(
                steps, levels, train.count, validation.count, len(train.sigmas), *([at_once] if at_once > 1 else [])
            )
            wanted = self.kept.said("fit", lambda: wanted, [key, self.minutes])
            train = train.first(PAIRS["fit"][0])
            return search(
                self.model,
                train,
                validation,
                evaluations,
                few=(min(wanted, train.count), min(wanted, validation.count)),
                starts=starts if levels == "search" else (),
                from_curves=levels == "search",
                at_once=at_once,
                seed=self.seed,
                time_left=time_left,
                on_fit=on_fit,
                known=self.kept.fits(key),
            )

    def refine(
        self,
        chosen: _Chosen,
        ranked: Sequence[Ranked],
        steps: int,
        at_once: int,
        train: Pairs,
        validation: Pairs,
        time_left: Callable[[], float],
        iterations: int,
        *,
        relaxed: float,
        shifts: bool,
        **options: Any,
    ) -> str:
        """Refine the fit, iPNDM on Karras levels and the best of the catalog, and offer each to `chosen`.

        Returns:
            Why it ended early; empty if it did not.
        """
        from diffusolve.learning.refine import refine_table

        starts = [(name, table) for name, (table, _) in chosen.tables.items()]
        evaluations = evaluations_of(steps, at_once)
        starts += _tables(self.model, [*_usual_start(self.model, evaluations), *ranked], steps, at_once)[:2]
        dear = GRADIENT * self.seconds_each * evaluations * BATCH  # an iteration
        starts = starts[: max(1, int(time_left() / dear / ENOUGH_ITERATIONS))] if dear else starts
        if not starts:
            raise ValueError("no plan of the catalog has the form that is refined: give a start.")
        stopped = ""
        with self.bar(iterations * len(starts), "refine") as bar:

            def on_iteration(course: Refining) -> None:
                bar.update()
                bar.set_postfix_str(f"{min(course.error, chosen.best.validation):.4f}", refresh=False)

            for i, (name, table) in enumerate(starts):
                until = time_left() * (1.0 - 1.0 / (len(starts) - i))
                course = refine_table(
                    self.model,
                    train,
                    validation,
                    table,
                    iterations,
                    seed=self.seed,
                    batch=BATCH,
                    rate=RATE_OF_FIT if name == "fit" else 1.0,
                    at_once=at_once,
                    time_left=lambda until=until: time_left() - until,  # type: ignore[misc]
                    on_iteration=on_iteration,
                    keep=self.kept.file(
                        "refining",
                        "pt",
                        self.key(train.count, validation.count, len(train.sigmas), iterations, relaxed, shifts),
                        _told(table, at_once),
                        name,
                    ),
                    relaxed=relaxed,
                    shifts=shifts,
                    **options,
                )
                chosen.offer("refined", course.table, course.error)
                stopped = course.stopped
                if stopped == "interrupted":
                    break
        return stopped


def _told(table: Table, at_once: int) -> list[Any]:
    """A table, and what is learned of it, as JSON has it."""
    told = [table.sigmas.tolist(), table.shifts.tolist(), table.weights.tolist()]
    return told if at_once == 1 else [*told, at_once]


def _usual_start(model: Model, steps: int) -> list[Ranked]:
    """iPNDM on Karras levels, from which refining has come far; nothing where it cannot be."""
    return [Ranked(name, plan, inf) for name, plan in catalog_plans(model, steps, ["iPNDM Karras"])]


LIKELY = (
    "DPM++ 2M Karras",
    "DEIS Karras",
    "UniPC Karras",
    "iPNDM Karras",
    "DPM++ 2M Beta57",
    "UniPC Beta57",
    "UniPC Exponential",
    "iPNDM Exponential",
    "DPM++ 2M Uniform",
    "UniPC SGM Uniform",
    "DPM2 Karras",
    "Gradient estimation Karras",
    "DPM++ 2M Beta",
    "Euler Karras",
)
"""Samplers that stand for the catalog where there is no time for all of it."""

MOST_EVALUATIONS = 3
"""Times as many evaluations: as far as a catalog's plan that is as good as the learned one is looked for."""


def _report(
    chosen: _Chosen,
    ranked: Sequence[Ranked],
    test: Pairs,
    task: _Task,
    time_left: Callable[[], float],
    stopped: str,
    *,
    steps: int,
    **told: Any,
) -> LearningReport:
    """The judgement by the test pairs: of the start, the learned plan, and the catalog in more evaluations."""
    model = task.model
    start, learned = (judge(model, one.plan, test) for one in (chosen.start, chosen.best))
    names = [one.name for one in ranked if one.name != "the given start"]
    catalog: dict[int, tuple[str, float]] = {}
    with task.bar(None, "judging") as bar:
        for evaluations in range(steps, MOST_EVALUATIONS * steps + 1):
            if stopped == "interrupted" or (catalog and time_left() <= 0):
                break
            among = names if evaluations == steps else list(dict.fromkeys([*names, *LIKELY]))
            try:
                best = best_of_catalog(
                    model, evaluations, test, names=among, last=8 if evaluations == steps else 3, on_plan=bar.update
                )
            except KeyboardInterrupt:
                stopped = "interrupted"
                break
            if best:
                catalog[evaluations] = best[0].name, best[0].error
            if best and best[0].error <= learned.error:
                break
    return LearningReport(
        steps=steps,
        evaluations=chosen.best.plan.nfe,
        start=chosen.start.name,
        start_error=start.error,
        way="kept start" if chosen.best is chosen.start else chosen.best.name,
        error=learned.error,
        spread=learned.spread,
        validation={one.name: one.validation for one in chosen.candidates},
        judged=task.judged,
        catalog=catalog,
        test_pairs=test.count,
        start_levels=tuple(stage.point.log_snr for stage in chosen.start.plan.stages),
        stopped=stopped,
        **told,
    )
