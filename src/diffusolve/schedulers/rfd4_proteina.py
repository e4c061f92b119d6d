"""RFD4ProteinaScheduler."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.config import register_to_config
from diffusolve.noise import FlowMatching, NoiseSchedule
from diffusolve.prediction import Prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.flow_sigmas import ReversedFlow
from diffusolve.schedulers.outputs import SchedulerOutput
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.steps import Array, Steps
from diffusolve.solvers import Solver
from diffusolve.solvers.rescaled_flow import rescaled_flow

__all__ = ["RFD4ProteinaScheduler"]

FIRST_TIME = 0.001

FINER = 100
"""The factor by which a run is finer, by which the share of the steps after a time is measured."""


class RFD4ProteinaScheduler(Scheduler):
    """Flow matching of protein structures at a lower temperature: RFD4-Proteina.

    Xu et al. 2025, Temporal Score Rescaling (arXiv 2510.01184); Geffner et al. 2025, Proteina. Time runs from 0, noise,
    to 1, the data; the network outputs ``x0 - noise``. Linear in the sample.

    Args:
        schedule_mode: the times are "log", equally spaced in log(1 - t), or "power", squares of equally spaced ones.
        noise_mode: how much noise a step adds: "1/t" or "tan".
        tsr_k: the factor of the score at the data: larger is a lower temperature.
        tsr_sigma: how early it is reached: larger is earlier.
        tail_steps: how many of the last intervals are divided.
        tail_step_multiplier: into how many each.
        t_lim_ode, t_lim_ode_below: above and below these times no noise is added.
    """

    _compatibles: ClassVar[list[str]] = []
    timestep_dtype: ClassVar[type] = np.float32
    init_noise_sigma: float = 1.0

    changes_samples: ClassVar[str] = "a mask takes out tokens"

    @register_to_config
    def __init__(
        self,
        schedule_mode: Literal["log", "power"],
        noise_mode: Literal["1/t", "tan"],
        tsr_k: float,
        tsr_sigma: float,
        tail_steps: int = 10,
        tail_step_multiplier: int = 2,
        t_lim_ode: float = 0.95,
        t_lim_ode_below: float = 0.02,
    ) -> None:
        self._configured()

    def __len__(self) -> int:
        return 1  # the time at the end of training, which is no number of timesteps here

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Flow matching."""
        return FlowMatching()

    @property
    def _prediction(self) -> Prediction:
        return ReversedFlow()

    def set_timesteps(self, num_inference_steps: int, device: Any = None, start_time: float | None = None) -> None:
        """Begin a run of `num_inference_steps` steps.

        Args:
            num_inference_steps: how many steps, at least `tail_steps` times `tail_step_multiplier`.
            device: for the timesteps.
            start_time: about where they begin, from 0 to below 1; the start of the times when missing.

        Raises:
            ValueError: too few steps; a time outside the range.
        """
        steps = asked_for(num_inference_steps).steps
        least = int(self.config["tail_steps"] * self.config["tail_step_multiplier"])
        if steps < least:
            raise ValueError(
                f"num_inference_steps is {steps}: expected at least {least}, tail_steps times tail_step_multiplier."
            )
        if start_time is not None and not 0.0 <= start_time < 1.0:
            raise ValueError(f"start_time is {start_time:g}: expected a time from 0, noise, to below 1, the data.")
        count = steps
        if start_time is not None:
            after = np.count_nonzero(self._times(FINER * steps) >= start_time) - 1
            count = round(steps * FINER * steps / max(after, 1))
        self._begin(Asked(steps, timesteps=tuple(self._times(count)[-steps - 1 :].tolist())), device)

    def _times(self, steps: int) -> Array:
        """The times of a whole run, from :data:`FIRST_TIME` to 1, shape (steps + 1,)."""
        config = self.config
        tail, fine = int(config["tail_steps"]), int(config["tail_step_multiplier"])
        coarse = steps - tail * (fine - 1)
        if config["schedule_mode"] == "log":
            rising = 1.0 - np.logspace(-2.0, 0.001, coarse * fine + 1)[::-1]
            times = rising - rising[0] + FIRST_TIME
            times /= times[-1]
        else:
            times = np.linspace(FIRST_TIME**0.5, 1.0, coarse * fine + 1) ** 2
        return np.append(times[: (coarse - tail) * fine : fine], times[(coarse - tail) * fine :])

    def _steps(self, asked: Asked) -> Steps:
        times = np.array(asked.timesteps)
        return Steps(times[:-1], 1.0 - times)

    @property
    def timesteps(self) -> Tensor:
        """The times that the network is told, from 0 up; None before `set_timesteps`."""
        return None if self._generation is None else super().timesteps  # type: ignore[return-value]

    @property
    def step_index(self) -> int | None:
        """The number of the step that comes next; None before `set_timesteps`."""
        generation = self._generation
        return None if generation is None else generation.step_index or 0

    def _sigma_at(self, like: Tensor, timesteps: Tensor) -> Tensor:
        times: Tensor = moved(torch.as_tensor(timesteps), like.device).to(like.dtype)
        return (1 - times).reshape(-1, *[1] * (like.ndim - 1))

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        emit_mask: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | Fields:
        """The sample one step on, with zeros for the tokens that are left out.

        Args:
            model_output, sample: shape (batch, tokens, channels).
            timestep: one of ``scheduler.timesteps``.
            emit_mask: True for the tokens that are sampled, shape (batch, tokens).
            generator: of the noise, or a list with one per sample.
            return_dict: an object with fields, or a tuple.

        Raises:
            ValueError: `emit_mask` has another shape.
        """
        if emit_mask.shape != sample.shape[:2]:
            raise ValueError(
                f"emit_mask has shape {tuple(emit_mask.shape)}: expected one entry per token, "
                f"{tuple(sample.shape[:2])}."
            )
        previous, _ = self._advance(model_output, timestep, sample, generator)
        previous = previous * moved(emit_mask, previous.device).unsqueeze(-1)
        return SchedulerOutput(previous) if return_dict else (previous,)

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return rescaled_flow.with_options(
            temperature=config["tsr_k"],
            width=config["tsr_sigma"],
            noise=config["noise_mode"],
            noisy_from=config["t_lim_ode_below"],
            noisy_to=config["t_lim_ode"],
        )
