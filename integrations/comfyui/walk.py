"""Functions that ComfyUI's KSAMPLER calls to sample: a sampler by its name, and a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import diffusolve
from diffusolve import Plan, Sampler
from diffusolve.k_diffusion.loop import Unguided
from diffusolve.noise import Grid, Scaling
from diffusolve.plan import PlanPoint, plan_for
from diffusolve.prediction import Sample
from diffusolve.sampling import Progress
from diffusolve.solvers import dpm_fast
from diffusolve.spacing import Sigmas, TwoEnds

from .levels import AnySigma, any_sigma, is_flow
from .noise import between_steps, with_middles

Model = Callable[..., Tensor]
"""Called with samples (batch, ...) and sigma (batch,), predicts x0."""

Callback = Callable[[dict[str, Any]], object] | None

SAME_SIGMA = 1e-4
"""Relative; SIGMAS are in single precision."""


class Network:
    """A model of ComfyUI as diffusolve asks for it: it predicts x0, and on request also without guidance."""

    def __init__(self, model: Model, extra_args: Mapping[str, Any] | None, cfg_pp: bool = False) -> None:
        self.unguided = Unguided()
        self.model = model
        self.extra_args = self.unguided.watched(extra_args) if cfg_pp else dict(extra_args or {})

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.model(x, sigma, **self.extra_args)

    def guided_and_unguided(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return self(x, sigma), self.unguided.taken()


class PlannedNetwork:
    """A model of ComfyUI in the place of the network that a plan was made for.

    It is asked at the plan's points one after the other, in ComfyUI's scaling; its prediction of x0 becomes the output
    of which the plan's network would have made the same one.
    """

    def __init__(self, network: Network, plan: Plan, flow: bool) -> None:
        self.network, self.flow = network, flow
        self.stages = iter(plan.stages)

    def __call__(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self._outputs(x, timestep, self.network)[0]

    def guided_and_unguided(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        guided, unguided = self._outputs(x, timestep, self.network.guided_and_unguided)
        return guided, unguided

    def _outputs(self, x: Tensor, timestep: Tensor, ask: Callable[..., Any]) -> list[Tensor]:
        stage = next(self.stages)
        if stage.b == 0:
            raise ValueError(
                f"step {stage.step} of the plan makes its data prediction of the sample alone (b = 0), so that what a "
                "model of ComfyUI predicts has no place in it: make the plan for another prediction type."
            )
        sample, size = x / stage.scale, norm(stage.point, self.flow)
        answer = ask(sample / size, torch.full_like(timestep, stage.point.sigma / size, dtype=x.dtype))
        data = answer if isinstance(answer, tuple) else (answer,)
        return [(one - stage.a * sample) / stage.b for one in data]


@dataclass(frozen=True)
class BySampler:
    """The function that samples with the solver of `sampler`, on the sigmas that it is given.

    Args:
        sampler: a sampler of diffusolve; its spacing does not count.
        on_cpu: noise along a Brownian path is made on the CPU, wherever the samples are.
    """

    sampler: Sampler
    on_cpu: bool = True

    def __call__(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callback = None,
        disable: bool | None = None,
    ) -> Tensor:
        levels = tuple(sigmas.tolist())
        if len(levels) < 2:
            return x
        device = "cpu" if self.sampler.brownian and self.on_cpu else x.device
        schedule = any_sigma(sampling_of(model))
        flow = schedule.scaling is Scaling.FLOW
        plan = None if self.sampler.solver.adaptive else self.plan(schedule, levels)
        first = levels[0] if plan is None else plan.stages[0].point.sigma
        known = with_middles((first, *levels[1:]), flow) if self.sampler.brownian else ()
        draw = between_steps((extra_args or {}).get("seed"), x, levels, self.sampler.brownian, device, known)
        around: dict[str, Any] = {"noise": draw, "callback": told(callback, flow), "progress": not disable}
        if plan is None:
            network, ends = Network(model, extra_args), Sampler(self.sampler.solver, two_ends(levels))
            return diffusolve.sample(network, x, ends, noise_schedule=schedule, prediction_type="sample", **around)
        result = diffusolve.sample(Network(model, extra_args, plan.reads_unguided), x, plan, **around)
        return result / self._left_of_data(schedule, levels)

    def _left_of_data(self, schedule: AnySigma, levels: tuple[float, ...]) -> float:
        """The number that ComfyUI divides samples by after a solver that ends above 0 where the sigmas end at 0.

        There it is flow matching's alpha at that end; UniPC is such a solver.
        """
        ends_above = "end_sigma" in self.sampler.solver.defaults and levels[-1] == 0
        end = dict(self.sampler.solver.options).get("end_sigma", 0.0) if ends_above else 0.0
        return float(1 - end) if schedule.scaling is Scaling.FLOW else 1.0

    def plan(self, schedule: AnySigma, levels: tuple[float, ...]) -> Plan:
        """The plan over `levels` of `schedule`.

        Raises:
            NotPlannableError: the solver chooses its steps by the data.
        """
        solver = self.sampler.solver
        if solver.function is dpm_fast.function:  # divides the way itself
            grid = TwoEnds(inner=Sigmas(levels)).grid(schedule)
        else:
            sigmas = torch.tensor(levels, dtype=torch.float64).numpy()
            grid = Grid.through(schedule, sigmas, sigmas)
        return plan_for(solver, grid, Sample())


@dataclass(frozen=True)
class ByPlan:
    """The function that samples by `plan`."""

    plan: Plan

    def __call__(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callback = None,
        disable: bool | None = None,
    ) -> Tensor:
        plan, flow = self.plan, is_flow(sampling_of(model))
        self.check(sigmas, flow)
        network = PlannedNetwork(Network(model, extra_args, plan.reads_unguided), plan, flow)
        draw = between_steps((extra_args or {}).get("seed"), x, self.sigmas(flow), False, x.device)
        begin = x * norm(plan.start, flow)
        result = diffusolve.sample(
            network, begin, plan, noise=draw, callback=told(callback, flow), progress=not disable
        )
        return result / norm(plan.end, flow)

    @property
    def is_flow(self) -> bool:
        """True if the plan's samples are ``(1 - sigma) * x0 + sigma * noise``."""
        points = [self.plan.start, *(stage.point for stage in self.plan.stages), self.plan.end]
        return all(abs(point.alpha + point.sigma - 1) < 1e-9 for point in points)

    def sigmas(self, flow: bool) -> list[float]:
        """What ComfyUI calls sigma at the beginning of each step, and at the end."""
        points = [stage.point for stage in self.plan.stages if stage.stage == 0]
        return [point.sigma / norm(point, flow) for point in (self.plan.start, *points[1:], self.plan.end)]

    def check(self, sigmas: Tensor, flow: bool) -> None:
        """Raise unless the plan is for models of this kind and walks these `sigmas`."""
        if flow is not self.is_flow:
            kinds = {True: "flow matching", False: "samples x0 + sigma * noise (epsilon, v or EDM)"}
            raise ValueError(
                f"the plan was made for {kinds[self.is_flow]} and this model has {kinds[flow]}: make the plan for a "
                "noise schedule of the model's kind, for example diffusolve plan NAME "
                f"--schedule {'sd3' if flow else 'sd15'} --json plan.json."
            )
        own = torch.tensor(self.sigmas(flow))
        given = sigmas.to(own)
        if given.shape != own.shape or not torch.allclose(given, own, rtol=SAME_SIGMA, atol=1e-6):
            raise ValueError(
                f"a plan has sigmas of its own, {len(own)} from {own[0]:g} to {own[-1]:g}, and was given {len(given)} "
                f"from {float(given[0]) if len(given) else 0:g}: connect the SIGMAS of the same node, all of them."
            )


def sampling_of(model: Any) -> Any:
    """The ``model_sampling`` of the model that KSAMPLER hands to a sampler function."""
    return model.inner_model.model_patcher.get_model_object("model_sampling")


def two_ends(levels: Sequence[float]) -> Sigmas:
    """The first of `levels` and the last above 0, between which a sampler chooses its steps by the data."""
    return Sigmas((levels[0], [level for level in levels if level > 0][-1]))


def norm(point: PlanPoint, flow: bool) -> float:
    """The number that a sample at `point` is divided by to have ComfyUI's scaling.

    Raises:
        ValueError: nothing of the data is left there, so that ComfyUI's sigma is infinite.
    """
    size = point.alpha + point.sigma if flow else point.alpha
    if size == 0:
        raise ValueError(
            "the plan has a point with alpha = 0, where sigma / alpha is infinite: there is no such place among "
            "ComfyUI's samples x0 + sigma * noise. Make the plan for a noise schedule without zero terminal SNR."
        )
    return size


def told(callback: Callback, flow: bool) -> Callable[[Progress], None] | None:
    """`callback` as diffusolve calls it; it is told of what ComfyUI's own samplers tell."""
    if callback is None:
        return None

    def call(progress: Progress) -> None:
        point = progress.point
        size = norm(PlanPoint(point.timestep, point.alpha, point.sigma), flow)
        sigma = torch.tensor(point.sigma / size)
        at = {"sigma": sigma, "sigma_hat": sigma, "x": progress.sample / size, "denoised": progress.data}
        callback({"i": progress.step, **at})

    return call
