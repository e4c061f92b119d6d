"""The loop: from noise to data, for any model."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import hypot, inf
from numbers import Integral
from typing import Any, Literal, NamedTuple, TypeVar, overload

import numpy as np
from tqdm import TqdmWarning

from diffusolve.arrays import Array, cast_like, concatenate, is_floating, is_torch, no_gradients, timesteps_like, widen
from diffusolve.backends import BackendName, Run
from diffusolve.errors import shown
from diffusolve.noise import Grid, NoiseSchedule, Point
from diffusolve.plan import Plan, PlanPoint, Stage, check_noise_schedule, check_prediction
from diffusolve.prediction import Prediction, PredictionOrName, prediction
from diffusolve.randomness import BrownianPath, NoiseLike, draw_normal, noise_source
from diffusolve.sampling.denoiser import Network, calls_explained, check_network, trained_for, two_outputs
from diffusolve.sampling.direct import run_directly
from diffusolve.sampling.sampler import Sampler
from diffusolve.solvers import Evaluate, StepEnded
from diffusolve.spacing import TwoEnds

with warnings.catch_warnings():
    # In a notebook without ipywidgets it warns when it is imported; its bar is then one of text.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

__all__ = ["Progress", "Report", "noise_between_steps", "sample", "sample_with_report", "start"]


class Progress(NamedTuple):
    """The argument of a callback, once per step, after the step's first evaluation of the network."""

    step: int
    """The number of the step, from 0."""
    steps: int | None
    """The number of steps; None for adaptive samplers, which do not know."""
    point: PlanPoint | Point
    """The place of the sample: timestep, alpha, sigma."""
    sample: Array
    """The sample that the network has just seen (before the model's own scaling)."""
    data: Array
    """The network's prediction of x0."""


@dataclass(frozen=True)
class Report:
    """A record of the way to a sample.

    Attributes:
        nfe: number of function evaluations.
        accepted: steps taken.
        rejected: steps that an adaptive solver tried and gave up.
        calls: of the network, fewer than evaluations where it was asked for several at once.
    """

    nfe: int
    accepted: int
    rejected: int
    calls: int


X = TypeVar("X")
"""The kind of array that a user has; what is made of one is of the same kind."""

Callback = Callable[[Progress], object]
ClipData = Callable[[Array], Array]


@overload
def start(
    plan_or_grid: Plan | Grid,
    like: tuple[int, ...],
    noise: NoiseLike = None,
    data: Array | None = None,
    data_std: float = 0.0,
) -> Array: ...
@overload
def start(
    plan_or_grid: Plan | Grid, like: X, noise: NoiseLike = None, data: Array | None = None, data_std: float = 0.0
) -> X: ...
def start(
    plan_or_grid: Plan | Grid, like: Any, noise: NoiseLike = None, data: Array | None = None, data_std: float = 0.0
) -> Any:
    """The sample to start from: ``sigma * noise`` at the first point, or ``alpha * data + sigma * noise``.

    >>> grid = diffusolve.sampler("Euler Karras").grid("sd15", 20)
    >>> diffusolve.start(grid, (2, 4, 8, 8), noise=[0, 1]).shape
    torch.Size([2, 4, 8, 8])

    Args:
        plan_or_grid: where sampling starts.
        like: an array with the shape (batch, ...), precision and device wanted; or the shape alone, for float32 on the
            CPU: a torch tensor, or where torch is not installed a NumPy array.
        noise: seeds or generators, see :mod:`diffusolve.randomness`.
        data: an image to start from, for a plan that starts in the middle.
        data_std: the standard deviation of data that are taken to be in the sample, where none are given: the noise is
            multiplied by ``sqrt(sigma^2 + (alpha * data_std)^2)``. With 1 a sample of Stable Diffusion is the noise
            itself, as ComfyUI begins, and A1111 with DDIM, PLMS and UniPC.

    Raises:
        ValueError: a shape with a length below 1 or without dimensions; not one seed per sample; a negative or infinite
            `data_std`, or one beside `data`.
        TypeError: `plan_or_grid` or `like` is something else.
    """
    if not isinstance(plan_or_grid, (Plan, Grid)):
        raise TypeError(
            f"start takes the plan or the grid to start on, got {plan_or_grid!r}: make one with "
            'diffusolve.sampler("Euler").grid("sd15", steps=20).'
        )
    if isinstance(like, (tuple, list)):
        like = _empty(like)
    if not 0.0 <= data_std < inf:
        raise ValueError(f"data_std is {data_std:g}: expected at least 0 (1 for data of standard deviation 1).")
    if data is not None and data_std:
        raise ValueError(f"data are given, and data_std={data_std:g} is for a start without: leave one of them out.")
    first = plan_or_grid.start if isinstance(plan_or_grid, Plan) else plan_or_grid[0]
    x = hypot(first.sigma, first.alpha * data_std) * draw_normal(noise, like)
    return x if data is None else x + first.alpha * data


def _empty(shape: Sequence[Any]) -> Array:
    """An array of `shape`, of the library that is there."""
    if not shape or not all(isinstance(length, Integral) and int(length) > 0 for length in shape):
        raise ValueError(f"like is {shape!r}: expected an array, or a shape (batch, ...) of whole numbers above 0.")
    try:
        import torch
    except ImportError:
        return np.empty(tuple(shape), np.float32)
    return torch.empty(tuple(shape))


def sample(
    network: Network,
    x: X,
    sampler: Plan | Sampler,
    *,
    steps: int | None = None,
    noise_schedule: str | NoiseSchedule | None = None,
    prediction_type: PredictionOrName | None = None,
    noise: NoiseLike = None,
    callback: Callback | None = None,
    progress: bool = False,
    gradients: bool = False,
    clip: ClipData | None = None,
    donate: bool = False,
    backend: BackendName = "auto",
    at_once: bool = False,
) -> X:
    """Walk `x` from noise to data and return the result, an array like `x`.

    Args:
        network: called with samples (batch, ...) and timesteps (batch,), returns an output of the samples' shape. A
            sampler with ``cfg_pp=True`` also calls its `guided_and_unguided`, see :class:`GuidedNetwork
            <diffusolve.sampling.GuidedNetwork>`.
        x: the sample at the sampler's first point, see :func:`start`. Not written to.
        sampler: a plan, or a sampler with the arguments below to plan with.
        steps: how many steps; with a :class:`Sampler` only. Adaptive ones take none, but for those of programs that
            end at the last sigma above 0 of so many steps.
        noise_schedule, prediction_type: what the network was trained with, by name if it has one (``"flux"``,
            ``"flow"``); only with a :class:`Sampler`, and only if the network does not know (see
            :mod:`diffusolve.denoisers`).
        noise: where a stochastic sampler's noise comes from, see :mod:`diffusolve.randomness`.
        callback: called once per step with a :class:`Progress`. An exception that it raises ends the run.
        progress: show a progress bar.
        gradients: let gradients flow through the whole run; memory then grows with every evaluation.
        clip: applied to each prediction of x0 before it is used, for example ``lambda x0: x0.clip(-1, 1)``.
        donate: `x`, each sample and each output of the network may be overwritten once it has been used. What a run
            takes of memory beyond them is then what its sampler remembers of earlier steps.
        backend: "auto", or "fused" for kernels that torch.compile makes, see :class:`~diffusolve.backends.Run`.
        at_once: ask the network in one call for evaluations that do not need each other's outputs
            (:attr:`Plan.rounds <diffusolve.Plan.rounds>`), as those inside a step of `epd` do not: it is then called
            with so many batches, one after the other in one array, and their timesteps.

    Raises:
        ValueError: arguments that are missing or contradict each other, shapes that differ.
        TypeError: `network` cannot be called with samples and timesteps; `x` is no array of floating point numbers; the
            network has no output without guidance to give.
    """
    return sample_with_report(
        network,
        x,
        sampler,
        steps=steps,
        noise_schedule=noise_schedule,
        prediction_type=prediction_type,
        noise=noise,
        callback=callback,
        progress=progress,
        gradients=gradients,
        clip=clip,
        donate=donate,
        backend=backend,
        at_once=at_once,
    )[0]


def sample_with_report(
    network: Network,
    x: X,
    sampler: Plan | Sampler,
    *,
    steps: int | None = None,
    noise_schedule: str | NoiseSchedule | None = None,
    prediction_type: PredictionOrName | None = None,
    noise: NoiseLike = None,
    callback: Callback | None = None,
    progress: bool = False,
    gradients: bool = False,
    clip: ClipData | None = None,
    donate: bool = False,
    backend: BackendName = "auto",
    at_once: bool = False,
) -> tuple[X, Report]:
    """As :func:`sample`, and how many evaluations and steps it took."""
    check_network(network)
    _check_sample(x)
    for name, given, example in (("callback", callback, "print"), ("clip", clip, "lambda x0: x0.clip(-1, 1)")):
        if given is not None and not callable(given):
            raise TypeError(f"{name} is {shown(given)}: expected a function, for example {example}.")
    if donate and gradients:
        raise ValueError("gradients need the samples that donate=True lets a run overwrite: leave one of them out.")
    if donate and at_once:
        raise ValueError("at_once looks ahead from samples that donate=True may overwrite: leave one of them out.")
    with _gradient_mode(x, gradients), calls_explained(network):
        if isinstance(sampler, Plan):
            if steps is not None or noise_schedule is not None:
                raise ValueError("a plan has its steps and noise schedule already: give them with a Sampler only.")
            _check_plan(network, sampler, prediction_type)
            named = progress and sampler.solver
            return _run_plan(network, x, sampler, noise, callback, named, clip, donate, backend, at_once)
        if not isinstance(sampler, Sampler):
            hint = f"; diffusolve.sampler({sampler!r}) finds one by its name" if isinstance(sampler, str) else ""
            raise TypeError(f"sampler is {sampler!r}: expected a Plan or a Sampler{hint}.")
        noise_schedule, predicts = trained_for(network, noise_schedule, prediction_type)
        if sampler.solver.adaptive:
            if at_once:
                raise ValueError(f"{sampler} needs every output before it asks again: leave at_once out.")
            ends_follow = isinstance(sampler.spacing, TwoEnds) and sampler.spacing.ends_follow_steps
            if steps is not None and not ends_follow:
                raise ValueError(f"steps is {steps}, but {sampler} chooses its steps by the data: leave steps out.")
            grid = sampler.grid(noise_schedule, steps if ends_follow else 1)  # where to start and where to end
            noise = noise_between_steps(sampler, grid, noise)
            return _run_adaptive(network, x, sampler, grid, predicts, noise, callback, progress, clip)
        plan = sampler.plan(noise_schedule, predicts, steps)
        if plan.is_stochastic:
            noise = noise_between_steps(sampler, sampler.grid(noise_schedule, steps), noise)
        return _run_plan(network, x, plan, noise, callback, progress and str(sampler), clip, donate, backend, at_once)


def noise_between_steps(sampler: Sampler, grid: Grid, noise: NoiseLike) -> NoiseLike:
    """The noise that `sampler` adds, from the seeds given; a callable knows itself what noise between two sigmas is."""
    if not sampler.seed_offset and (not sampler.brownian or callable(noise)):
        return noise
    seeds = list(noise) if isinstance(noise, Sequence) else [noise]
    if not all(isinstance(seed, Integral) or (seed is None and not sampler.seed_offset) for seed in seeds):
        wants = f"a seed offset of {sampler.seed_offset}" if sampler.seed_offset else "noise along a Brownian path"
        raise TypeError(f"{sampler} has {wants}, which needs seeds; noise is {noise!r}.")
    offset = [None if seed is None else int(seed) + sampler.seed_offset for seed in seeds]
    shifted: Any = offset if isinstance(noise, Sequence) else offset[0]
    if not sampler.brownian:
        return shifted
    sigmas = [point.sigma for point in grid if point.sigma > 0]
    return BrownianPath(min(sigmas), max(sigmas), shifted)


def _run_plan(
    network: Network,
    x: Array,
    plan: Plan,
    noise: NoiseLike,
    callback: Callback | None,
    progress: str | Literal[False],
    clip: ClipData | None,
    donate: bool,
    backend: BackendName,
    at_once: bool,
) -> tuple[Array, Report]:
    draw_noise = noise_source(noise, x) if plan.is_stochastic else None
    transform = None if clip is None else lambda data, stage: _clipped(clip, data)
    run = Run(plan, draw_noise, transform, donate, backend)
    both = two_outputs(network, plan.solver) if plan.reads_unguided else None
    like, timesteps = x, timesteps_like(plan.timesteps, x)
    x = run.begin(widen(x))
    with tqdm(total=plan.nfe, disable=not progress, desc=progress or None, unit="eval") as bar:
        rounds = plan.rounds if at_once else tuple(range(place, place + 1) for place in range(plan.nfe))
        for places in rounds:
            inputs = [cast_like(seen, like) for seen in _seen_ahead(run, x, len(places))]
            stages = plan.stages[places.start : places.stop]
            asked = both if any(stage.reads_unguided for stage in stages) else None
            outputs = _outputs(network, asked, inputs, timesteps[places.start : places.stop])
            for stage, (output, unguided) in zip(stages, outputs, strict=True):
                if callback is not None and stage.stage == 0:
                    callback(_progress_of(stage, plan, run, x, output))
                x = run.step(output, x, unguided if stage.reads_unguided else None)
                bar.update()
    return cast_like(x, like), Report(plan.nfe, plan.steps, 0, len(rounds))


def _seen_ahead(run: Run, x: Array, count: int) -> Iterator[Array]:
    """The input of the network in each of the next `count` evaluations, which need no output of each other."""
    yield run.model_input(x)
    if count == 1:
        return
    ahead, nothing = run.copied(), 0.0 * x
    if ahead.transform is not None:
        ahead.transform = lambda data, stage: data
    for _ in range(count - 1):
        x = ahead.step(nothing, x, nothing if ahead.stage.reads_unguided else None)
        yield ahead.model_input(x)


def _outputs(
    network: Network,
    both: Callable[[Array, Array], tuple[Array, Array]] | None,
    inputs: Sequence[Array],
    timesteps: Sequence[Array],
) -> Iterator[tuple[Array, Array | None]]:
    """The network's output for each of the batches `inputs`, asked for in one call, and that without guidance."""
    x, timestep = (inputs[0], timesteps[0]) if len(inputs) == 1 else (concatenate(inputs), concatenate(timesteps))
    output, unguided = (network(x, timestep), None) if both is None else both(x, timestep)
    check_output(output, x)
    if unguided is not None:
        check_output(unguided, x)
    if len(inputs) == 1:
        yield output, unguided
        return
    rows = inputs[0].shape[0]
    for first in range(0, x.shape[0], rows):
        of_batch = slice(first, first + rows)
        yield output[of_batch], None if unguided is None else unguided[of_batch]


def _progress_of(stage: Stage, plan: Plan, run: Run, x: Array, output: Array) -> Progress:
    return Progress(stage.step, plan.steps, stage.point, x, run.data(output, x))


def _run_adaptive(
    network: Network,
    x: Array,
    sampler: Sampler,
    grid: Grid,
    predicts: Prediction,
    noise: NoiseLike,
    callback: Callback | None,
    progress: bool,
    clip: ClipData | None,
) -> tuple[Array, Report]:
    done = {"nfe": 0, True: 0, False: 0}
    span = grid[-1].log_snr - grid[0].log_snr

    def on_evaluation(request: Evaluate, data: Array) -> None:
        done["nfe"] += 1
        if callback is not None and request.stage == 0:
            callback(Progress(done[True], None, request.point, request.x, data))

    with tqdm(total=1.0, disable=not progress, desc=str(sampler), bar_format=ADAPTIVE_BAR) as bar:

        def on_step(step: StepEnded) -> None:
            done[step.accepted] += 1
            bar.set_postfix(steps=done[True], rejected=done[False], refresh=False)
            if step.accepted:
                bar.update((step.t.log_snr - grid[0].log_snr) / span - bar.n)

        transform = None if clip is None else lambda data, point: _clipped(clip, data)
        result = run_directly(
            sampler.solver,
            grid,
            predicts,
            lambda x, timestep: _checked(network(x, timestep), x),
            x,
            noise_source(noise, x),
            transform=transform,
            on_evaluation=on_evaluation,
            on_step=on_step,
        )
    return result, Report(done["nfe"], done[True], done[False], done["nfe"])


ADAPTIVE_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def _checked(output: Array, like: Array) -> Array:
    check_output(output, like)
    return output


def check_output(output: Array, like: Array) -> None:
    """Raise unless a network's `output` has the shape of the samples and is an array of their library."""
    _check_shape("the network", output, "samples", like)
    if is_torch(output) != is_torch(like):
        raise TypeError(
            f"the network returned a {_kind(output)} for samples in a {_kind(like)}: expected the same kind of array."
        )
    if not is_floating(output):
        raise TypeError(f"the network returned {output.dtype}: expected floating point numbers, as of the samples.")


def _clipped(clip: ClipData, data: Array) -> Array:
    """The data prediction that `clip` makes of another. Raises ValueError if it has another shape."""
    clipped = clip(data)
    _check_shape("clip", clipped, "data", data)
    return clipped


def _check_shape(who: str, returned: Array, what: str, like: Array) -> None:
    """Raise ValueError unless what somebody `returned` for an array is of the shape of that."""
    shape = getattr(returned, "shape", None)
    if shape != like.shape:
        got = f"shape {tuple(shape)}" if shape is not None else f"a {type(returned).__name__}"
        raise ValueError(f"{who} returned {got} for {what} of shape {tuple(like.shape)}: expected the same shape.")


def _kind(x: Array) -> str:
    return f"{type(x).__module__.partition('.')[0]} {type(x).__name__}"


def _check_sample(x: Array) -> None:
    if not is_floating(x):
        raise TypeError(f"x has dtype {x.dtype}: expected floating point numbers.")
    if len(x.shape) == 0:
        raise ValueError("x has no dimensions: expected a batch of samples, shape (batch, ...).")


def _check_plan(network: Network, plan: Plan, prediction_type: PredictionOrName | None) -> None:
    """Raise if the network is known to have been trained for something else than the plan was made for."""
    known = prediction_type or getattr(network, "prediction", None)
    if known is not None:
        check_prediction(plan, prediction(known))
    schedule = getattr(network, "noise_schedule", None)
    if isinstance(schedule, NoiseSchedule):
        check_noise_schedule(plan, schedule)


def _gradient_mode(x: Array, gradients: bool) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if gradients else no_gradients(x)
