"""The loop that all samplers of :mod:`diffusolve.k_diffusion.sampling` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from math import inf
from sys import float_info
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm, trange

from diffusolve.arrays import moved, widen
from diffusolve.backends import Run
from diffusolve.k_diffusion.noise import BrownianTreeNoiseSampler
from diffusolve.noise import FlowMatching, Grid, VarianceExploding
from diffusolve.plan import Plan, Stage, trace
from diffusolve.prediction import Sample
from diffusolve.sampling import run_directly
from diffusolve.solvers import Evaluate, Solver, StepEnded
from diffusolve.spacing import UniformLogSNR

__all__ = [
    "AFTER_PURE_NOISE",
    "AdaptiveRun",
    "Callback",
    "ExtraArgs",
    "Model",
    "NoiseSampler",
    "StepNoise",
    "Unguided",
    "after_each_evaluation",
    "after_each_step",
    "as_the_run_does",
    "before_each_step",
    "fast_plan",
    "follow",
    "is_of_comfyui",
    "is_on_flow",
    "part_and_whole",
    "parts",
    "run_solver",
    "sampling_of",
    "two_ends",
    "whole_steps",
    "with_numbers",
]

Model: TypeAlias = Callable[..., Tensor]
ExtraArgs: TypeAlias = Mapping[str, Any] | None
Callback: TypeAlias = Callable[[dict[str, Any]], object] | None
NoiseSampler: TypeAlias = Callable[[Any, Any], Tensor]

Intervals: TypeAlias = Callable[[Tensor, bool], list[tuple[Tensor, Tensor]]]
"""The pairs of sigmas between which noise is drawn, in order, of all sigmas and whether they are flow matching's."""

Due: TypeAlias = Callable[[Plan], Sequence[int]]
"""The number of draws that k-diffusion has made before each evaluation of a plan, and at its end."""

EVERY_SIGMA = VarianceExploding(float_info.min, float_info.max / 2, conditioning="sigma")
"""Denoisers are told sigma itself, and decide on their own what they make of it."""


FLOW = FlowMatching()
"""For samples ``(1 - sigma) * x0 + sigma * noise``; what it says of timesteps is not asked for."""

AFTER_PURE_NOISE: Mapping[str, Any] = MappingProxyType({"start_percent": 1e-4})
"""The option of solvers whose first step on a flow model of ComfyUI's begins a little after pure noise."""

LARGEST_ON_FLOW = 1.001
"""Of sigmas, those that were rounded up included; they count as 1."""


def run_solver(
    solver: Solver,
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: ExtraArgs,
    callback: Callback,
    disable: bool | None,
    noise_sampler: NoiseSampler | None = None,
    due: Due | None = None,
    intervals: Intervals | None = None,
    flow: bool | None = False,
) -> Tensor:
    """Run `solver` over `sigmas`.

    On flow matching a solver with `start_percent` (:data:`AFTER_PURE_NOISE`) that is given sigma = 1 to begin with
    begins at the sigma that the model has at this part of its training time, and asks and draws there.

    Args:
        noise_sampler: where its noise comes from; a Brownian path when missing.
        due: how much noise is drawn, and when; None for solvers without noise.
        intervals: between which sigmas noise is drawn; whole steps when missing.
        flow: samples are ``(1 - sigma) * x0 + sigma * noise``, not ``x0 + sigma * noise``; None if the model tells
            which (:func:`is_on_flow`).
    """
    values = _values_of(sigmas, may_rise=due is not as_the_run_does)
    if len(values) < 2:
        return x
    on_flow = is_on_flow(model) if flow is None else flow
    low, high = min(value for value in values if value > 0), max(values)
    if on_flow:
        sigmas, values = _on_flow(sigmas, values, solver, model)
    plan = _plan(solver, values, on_flow)
    if noise_sampler is None and due is not None:
        noise_sampler = BrownianTreeNoiseSampler(x, low, high)
    noise = StepNoise(noise_sampler, lambda: (intervals or whole_steps)(sigmas, on_flow))

    def describe(stage: Stage) -> dict[str, Any]:
        sigma, hat = sigmas[stage.step], stage.point.sigma
        return {"sigma": sigma, "sigma_hat": sigma if hat == values[stage.step] else sigmas.new_tensor(hat)}

    ends = [e for e, stage in enumerate(plan.stages) if stage.stage == 0 and e > 0]
    drawn = (due or as_the_run_does)(plan)
    if plan.reads_unguided:
        unguided = Unguided()
        options = unguided.watched(extra_args)
        return follow(plan, model, x, options, callback, disable, noise, drawn, describe, [*ends, plan.nfe], unguided)
    return follow(plan, model, x, extra_args, callback, disable, noise, drawn, describe, [*ends, plan.nfe])


def sampling_of(model: Model) -> Any:
    """The `model_sampling` of a model of ComfyUI's, which knows its noise levels; AttributeError for others."""
    return model.inner_model.model_patcher.get_model_object("model_sampling")  # type: ignore[attr-defined]


def is_of_comfyui(model: Model) -> bool:
    """True if `model` knows its noise levels as ComfyUI's do."""
    try:
        sampling_of(model)
    except AttributeError:
        return False
    return True


def is_on_flow(model: Model) -> bool:
    """True if `model` tells, as ComfyUI's do, that its samples are ``(1 - sigma) * x0 + sigma * noise``.

    Of data 1 and noise 0 it makes the sample at sigma = 1/2, which is 1/2 on flow matching and 1 elsewhere.
    """
    try:
        answer = sampling_of(model).noise_scaling(torch.full((1,), 0.5), torch.zeros(1), torch.ones(1))
    except AttributeError:
        return False
    return float(answer) == 0.5


class Unguided:
    """The model's last prediction without guidance, as ComfyUI's models tell it.

    They call the functions of ``extra_args["model_options"]["sampler_post_cfg_function"]`` with a dictionary that has
    it as ``"uncond_denoised"`` and the guided one as ``"denoised"``, and go on with what comes back.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def watched(self, extra_args: ExtraArgs) -> dict[str, Any]:
        """`extra_args` with :meth:`tell` among those functions."""
        extra = dict(extra_args or {})
        options = dict(extra.get("model_options", {}))
        options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", []), self.tell]
        options["disable_cfg1_optimization"] = True
        return {**extra, "model_options": options}

    def tell(self, predictions: Mapping[str, Any]) -> Any:
        self.value = predictions["uncond_denoised"]
        return predictions["denoised"]

    def taken(self) -> Tensor:
        """The prediction of the evaluation just made.

        Raises:
            ValueError: the model did not tell it.
        """
        value, self.value = self.value, None
        if value is None:
            raise ValueError(
                "the model told nothing of its prediction without guidance, which CFG++ needs: expected it to call the "
                "functions in model_options['sampler_post_cfg_function'] with a dictionary that has 'uncond_denoised' "
                "and 'denoised', as ComfyUI's models do. Use the sampler without _cfg_pp, or such a model."
            )
        return value


def follow(
    plan: Plan,
    model: Model,
    x: Tensor,
    extra_args: ExtraArgs,
    callback: Callback,
    disable: bool | None,
    noise: StepNoise,
    due: Sequence[int],
    describe: Callable[[Stage], dict[str, Any]],
    ends: Sequence[int],
    unguided: Unguided | None = None,
) -> Tensor:
    """Run `plan`.

    Args:
        due: how often noise has been drawn before each evaluation, and at the end.
        describe: the place of an evaluation, as the callback is told.
        ends: the progress bar moves on when as many evaluations are done.
    """
    like, extra = x, extra_args or {}
    values = moved(torch.tensor([stage.point.sigma for stage in plan.stages], dtype=x.dtype), x.device)
    asked = values[:, None].expand(-1, len(x)).contiguous().unbind()
    run = Run(plan, noise)
    x = run.begin(widen(x))
    widened = x.dtype is not like.dtype
    evaluations = zip(plan.stages, asked, due, strict=False)  # due goes on to the end
    for i in trange(len(ends), disable=disable):
        for stage, sigma, drawn in islice(evaluations, ends[i] - run.position):
            at = x.to(like.dtype) if widened else x
            if noise.drawn < drawn:
                noise.catch_up(drawn)
            denoised = model(at, sigma, **extra)
            if callback is not None and stage.stage == 0:
                callback({"x": at, "i": stage.step, **describe(stage), "denoised": denoised})
            x = run.step(denoised, x, unguided.taken()) if unguided and stage.reads_unguided else run.step(denoised, x)
    noise.catch_up(due[-1])
    return x.to(like.dtype)


class StepNoise:
    """Draws a run's noise, and what k-diffusion draws without using it, in its order.

    Args:
        draw: called with the sigmas of an interval; None where no noise is drawn.
        intervals: makes the list of pairs of sigmas between which it is drawn, in order.
    """

    def __init__(self, draw: NoiseSampler | None, intervals: Callable[[], list[tuple[Tensor, Tensor]]]) -> None:
        self.draw = draw or _no_noise
        self._intervals = intervals
        self.drawn = 0

    @cached_property
    def intervals(self) -> list[tuple[Tensor, Tensor]]:
        """The sigmas between which it is drawn, in order."""
        return self._intervals()

    def __call__(self, like: object, sigma_from: float, sigma_to: float) -> Tensor:
        i, self.drawn = self.drawn, self.drawn + 1
        return self.draw(*self.intervals[i])

    def catch_up(self, due: int) -> None:
        while self.drawn < due:
            self(None, 0.0, 0.0)


@dataclass
class AdaptiveRun:
    """An adaptive run with what k-diffusion does around it: counting, drawing noise, telling the callback."""

    model: Model
    x: Tensor
    extra_args: Mapping[str, Any]
    callback: Callback
    draw: NoiseSampler
    denoised: Tensor = field(init=False)
    drawn: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: {"steps": 0, "nfe": 0, "n_accept": 0, "n_reject": 0},
    )

    def follow(self, solver: Solver, grid: Grid, disable: bool | None) -> Tensor:
        """Run `solver` from the first point of `grid` to its last."""
        with tqdm(disable=disable) as bar:

            def denoise(x: Tensor, sigma: Tensor) -> Tensor:
                bar.update()
                self.counts["nfe"] += 1
                return self.model(x, sigma.to(x.dtype), **self.extra_args)

            told: dict[str, Any] = {"on_evaluation": self._evaluated, "on_step": self._ended}
            result: Tensor = run_directly(solver, grid, Sample(), denoise, self.x, self._noise, **told)
        return result

    def _noise(self, like: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        self.drawn += 1
        return self.draw(self._number(sigma_from), self._number(sigma_to))

    def _evaluated(self, request: Evaluate, data: Tensor) -> None:
        if request.stage == 0:
            self.denoised = data

    def _ended(self, step: StepEnded) -> None:
        counts, x = self.counts, self.x
        counts["steps"] += 1
        counts["n_accept" if step.accepted else "n_reject"] += 1
        if self.drawn < counts["n_accept"]:  # the solver had no use for it
            self._noise(x, step.s.sigma, step.t.sigma)
        if self.callback is None:
            return
        at, sample = step.t if step.accepted else step.s, cast(Tensor, step.x)
        sigma, t = self._number(at.sigma), self._number(at.log_snr)
        place = {"sigma": sigma, "sigma_hat": sigma, "t": t, "t_up": t}
        error = {"error": self._number(step.error), "h": step.h}
        told = {"x": sample.to(x.dtype), "i": counts["steps"] - 1, "denoised": self.denoised}
        self.callback({**told, **place, **error, **counts})

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, device=self.x.device)


def _no_noise(sigma: Any, sigma_next: Any) -> Tensor:
    raise AssertionError("a solver without noise drew some")


def before_each_step(plan: Plan) -> Sequence[int]:
    """A draw for each step, before its evaluations (:data:`Due`)."""
    return [*(stage.step + 1 for stage in plan.stages), plan.steps]


def after_each_step(plan: Plan) -> Sequence[int]:
    """A draw for each step, after its evaluations, but for a last one to sigma = 0 (:data:`Due`)."""
    return [*(stage.step for stage in plan.stages), plan.steps - (plan.end.sigma == 0)]


def after_each_evaluation(plan: Plan) -> Sequence[int]:
    """A draw after each evaluation, but for the last one of a way to sigma = 0 (:data:`Due`)."""
    return [*range(plan.nfe), plan.nfe - (plan.end.sigma == 0)]


def as_the_run_does(plan: Plan) -> Sequence[int]:
    """No draws but those that the plan asks for (:data:`Due`)."""
    return [0] * (plan.nfe + 1)


def _values_of(sigmas: Tensor, may_rise: bool) -> tuple[float, ...]:
    """`sigmas` as numbers, read from their device at once.

    Raises:
        TypeError: they are no tensor.
        ValueError: they are not finite sigmas above 0, or rise where k-diffusion gives NaN.
    """
    if not isinstance(sigmas, Tensor):
        raise TypeError(f"sigmas is a {type(sigmas).__name__}: expected a tensor of shape (steps + 1,).")
    if sigmas.ndim != 1:
        raise ValueError(f"sigmas has shape {tuple(sigmas.shape)}: expected (steps + 1,).")
    values = tuple(sigmas.tolist())
    for i, value in enumerate(values):
        if not 0.0 <= value < inf or (value == 0.0 and 0 < i + 1 < len(values)):
            raise ValueError(f"sigmas[{i}] is {value:g}: expected a finite number above 0 (0 only at the end).")
    for i, (value, following) in enumerate(pairwise(values)):
        if value < following and not may_rise:
            raise ValueError(
                f"sigmas[{i}] is {value:g} and sigmas[{i + 1}] is {following:g}: expected sigmas that do not rise, "
                "since the SDE has no noise to add on the way up."
            )
    return values


def _on_flow(
    sigmas: Tensor, values: tuple[float, ...], solver: Solver, model: Model
) -> tuple[Tensor, tuple[float, ...]]:
    """The sigmas at which a flow model is sampled, and these as numbers.

    Raises:
        ValueError: a sigma above 1, or a model that does not tell where the solver begins.
    """
    for i, value in enumerate(values):
        if value > LARGEST_ON_FLOW:
            raise ValueError(
                f"sigmas[{i}] is {value:g}: expected at most 1, since the model is on flow matching "
                "(samples (1 - sigma) * x0 + sigma * noise)."
            )
    values = tuple(min(value, 1.0) for value in values)
    percent = dict(solver.options).get("start_percent", 0.0)
    if not percent or values[0] < 1:
        return sigmas, values
    try:
        told = float(sampling_of(model).percent_to_sigma(percent))
    except AttributeError:
        raise ValueError(
            f"the model does not tell its sigma at the part {percent:g} of its training time, where {solver.name} "
            "begins on flow matching: expected model_sampling.percent_to_sigma, as ComfyUI's models have it. Begin "
            "below sigma = 1, or use such a model."
        ) from None
    first = torch.tensor([told], dtype=sigmas.dtype)  # on the CPU: reading it waits for no device
    return torch.cat([moved(first, sigmas.device), sigmas[1:]]), (first.item(), *values[1:])


def whole_steps(sigmas: Tensor, flow: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Each step."""
    return list(pairwise(sigmas.unbind()))


def part_and_whole(sigmas: Tensor, flow: bool, *, r: float) -> list[tuple[Tensor, Tensor]]:
    """For each step the part `r` of it in log-SNR, and the whole step, rounded as in k-diffusion.

    A Brownian path differs even between neighbouring numbers.
    """
    ends = sigmas if flow else torch.exp(sigmas.log())
    steps = zip(pairwise(ends.unbind()), _on_the_way(sigmas, flow, r).unbind(), strict=True)
    return [interval for (s, u), middle in steps for interval in ((s, middle), (s, u))]


def parts(*r: float) -> Intervals:
    """Each step in parts that end at the parts `r` of it in log-SNR, as in ComfyUI's SEEDS samplers."""

    def intervals(sigmas: Tensor, flow: bool) -> list[tuple[Tensor, Tensor]]:
        between = [_on_the_way(sigmas, flow, part).unbind() for part in r]
        return [
            interval
            for i, (s, u) in enumerate(pairwise(sigmas.unbind()))
            for interval in pairwise((s, *(middles[i] for middles in between), u))
        ]

    return intervals


def _on_the_way(sigmas: Tensor, flow: bool, r: float) -> Tensor:
    """The sigmas at the part `r` of each step in log-SNR, which is minus log sigma where alpha is 1."""
    t = -(sigmas.logit() if flow else sigmas.log())
    middles = -(t[:-1] + t.diff() * r)
    return middles.sigmoid() if flow else middles.exp()


def with_numbers(solver: Solver, **options: float) -> Solver:
    """`solver` with options that may be tensors of shape ()."""
    return _with_options(solver, tuple([(name, float(value)) for name, value in options.items()]))


@lru_cache(maxsize=256)
def _with_options(solver: Solver, options: tuple[tuple[str, float], ...]) -> Solver:
    return solver.with_options(**dict(options))


@lru_cache(maxsize=256)
def _plan(solver: Solver, sigmas: tuple[float, ...], flow: bool) -> Plan:
    values, schedule = np.array(sigmas), FLOW if flow else EVERY_SIGMA
    try:
        return trace(solver, Grid.through(schedule, values, values), Sample())
    except ZeroDivisionError:
        raise ValueError(
            f"{solver.name} extrapolates along a polynomial in sigma, and the sigmas come back to one that they had "
            "a few steps before, where no polynomial goes through both: leave one of them out, or use a lower order."
        ) from None


@lru_cache(maxsize=256)
def fast_plan(solver: Solver, sigma_min: float, sigma_max: float, n: int) -> Plan:
    return trace(solver, two_ends(sigma_min, sigma_max, n), Sample())


def two_ends(sigma_min: float, sigma_max: float, n: int) -> Grid:
    """The grid of `n` equal steps in log sigma from `sigma_max` down to `sigma_min`."""
    return UniformLogSNR(sigma_min=sigma_min, sigma_max=sigma_max, final_sigma="sigma_min").grid(EVERY_SIGMA, n)
