"""LTXEulerAncestralRFScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.flow_as_in_diffusers import euler_ancestral_rf
from diffusolve.schedulers.flow_scheduler import FlowScheduler
from diffusolve.schedulers.flow_sigmas import FlowSigmas
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.steps import Steps
from diffusolve.solvers import Solver

__all__ = ["LTXEulerAncestralRFScheduler"]


class LTXEulerAncestralRFScheduler(FlowScheduler):
    """Euler's method with ancestral noise for rectified flow, as ComfyUI's ``euler_ancestral`` has it (LTX-Video).

    Each step goes down to less noise than asked for, by flow matching's own measure, and comes back with fresh noise.
    With ``eta=1`` that is more noise than the posterior of the forward process holds, of which "Euler a" on flow
    matching has exactly as much. Linear in the sample.

    Args:
        num_train_timesteps: the timestep at sigma = 1.
        eta: how far below the next sigma a step goes, from 0 (Euler's method) to 1.
        s_noise: multiplies the fresh noise.
    """

    _compatibles: ClassVar[list[str]] = ["FlowMatchEulerDiscreteScheduler"]

    fixed: ClassVar[frozenset[str]] = FlowScheduler.fixed | {"_sigma_broadcast"}

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, eta: float = 1.0, s_noise: float = 1.0) -> None:
        self._configured()

    def _configured(self) -> None:
        vars(self).pop("_shift", None)  # it may be among the keys that another class's configuration has left here
        super()._configured()

    def set_timesteps(  # type: ignore[override]  # the order of diffusers
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | Tensor | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        mu: float | None = None,
        **kwargs: object,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `sigmas`, or over the `timesteps`.

        Args:
            num_inference_steps: how many steps, placed as FlowMatchEuler places them with this configuration.
            device: for the timesteps.
            sigmas: where the steps begin and where the last one ends, shape (steps + 1,). Nothing shifts them. As many
                `timesteps` are shown; a step at the last of them leaves the sample as it is.
            timesteps: another name for `sigmas`, as in diffusers, where these are not given.
            mu: how far sigmas that are not given are shifted, with `use_dynamic_shifting`.
            kwargs: without effect, as in diffusers.

        Raises:
            ValueError: none of them is given, or sigmas that do not fall from 1 to 0; `mu` is missing.
        """
        given = timesteps if sigmas is None else sigmas
        if given is None:
            self._begin(asked_for(num_inference_steps, mu=mu), device)
        else:
            chosen = np.asarray(given, np.float64).tolist()
            self._begin(asked_for(None, None, chosen, ends_with_last=True), device)

    @declared_as(WithGenerator[float | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on, with noise from `generator`."""
        previous, run = self._advance(model_output, timestep, sample, generator)
        return self._result(previous.to(sample.dtype), run, model_output, sample, return_dict)

    @property
    def step_index(self) -> int | None:
        """The number of the evaluation that comes next; None before the first. The last one leaves it as it is."""
        generation = self._generation
        if generation is None or generation.step_index is None:
            return None
        return min(generation.step_index, len(generation.values) - 1)

    def _steps(self, asked: Asked) -> Steps:
        if asked.end is None:
            return super()._steps(asked)
        steps = FlowSigmas(count=len(self)).steps(asked, np.empty(0))
        sigmas = np.append(steps.sigmas[:-1], (asked.end, asked.end))
        return Steps(sigmas[:-1] * len(self), sigmas)

    def _prepare(self, asked: Asked) -> Prepared:
        prepared = super()._prepare(asked)
        if asked.end is not None:
            prepared.sigmas = prepared.sigmas[:-1]  # those that were given
        return prepared

    def _solver(self, steps: int, **options: Any) -> Solver:
        return euler_ancestral_rf.with_options(eta=float(self.config["eta"]), s_noise=float(self.config["s_noise"]))
