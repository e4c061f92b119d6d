"""MiniMaxH3Scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.noise import FlowMatching, NoiseSchedule, shifted
from diffusolve.prediction import Prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.flow_sigmas import ReversedFlow
from diffusolve.schedulers.generation import Generation
from diffusolve.schedulers.given import timesteps_on
from diffusolve.schedulers.keys import KEYS
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.step_types import Plain, declared_as
from diffusolve.schedulers.steps import Array, Steps
from diffusolve.solvers import Solver, euler

__all__ = ["MiniMaxH3Scheduler"]


class MiniMaxH3Scheduler(Scheduler):
    """Euler's method for flow matching whose time runs from 0, noise, to 1, the data: MiniMax H3.

    Samples are ``(1 - sigma) * x0 + sigma * noise``; the network is told ``1 - sigma`` and outputs ``x0 - noise``.
    Linear in the sample.

    Args:
        shift: moves sigmas towards noise.
    """

    _compatibles: ClassVar[list[str]] = []
    timestep_dtype: ClassVar[type] = np.float32
    init_noise_sigma: float = 1.0
    precision = "sample"
    plans_follow_from = Scheduler.plans_follow_from | {"_shift"}

    @register_to_config
    def __init__(self, shift: float = 12.0) -> None:
        self._configured()

    def _configured(self) -> None:
        if "_shift" not in vars(self):
            self._shift = float(self.config["shift"])
        super()._configured()

    def __len__(self) -> int:
        return 1  # the time at the end of training, which is no number of timesteps here

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Flow matching; the shift is in the sigmas of a run."""
        return FlowMatching()

    @property
    def _prediction(self) -> Prediction:
        return ReversedFlow()

    @property
    def shift(self) -> float:
        """The shift of the sigmas."""
        return self._shift

    def set_shift(self, shift: float) -> None:
        """Shift the sigmas of the runs that begin from now on so far.

        Raises:
            ValueError: not a positive number.
        """
        KEYS["shift"].kept("shift", shift)
        with self._registry.lock:
            self._shift = float(shift)
            self._prepared_runs.clear()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | Tensor | None = None,
    ) -> None:
        """Begin a run over `num_inference_steps` sigmas, which is one step less, or over the `sigmas`.

        Args:
            num_inference_steps: how many sigmas, at least 2, equally spaced from 1 to 0 before they are shifted.
            device: for the timesteps.
            sigmas: from at most 1 to 0, strictly decreasing, shape (steps + 1,), in place of these; not shifted.

        Raises:
            ValueError: neither is given; fewer than two sigmas; sigmas that do not fall to 0.
        """
        if sigmas is not None:
            values = tuple(float(sigma) for sigma in sigmas)
            if len(values) < 2 or values[-1] != 0.0 or values[0] > 1.0:
                raise ValueError(f"sigmas are {list(values)}: expected two or more from at most 1 down to 0, the end.")
            asked = asked_for(None, None, values)
        elif num_inference_steps is None or num_inference_steps < 2:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}: expected at least 2, the number of sigmas with the "
                "last, 0; or give sigmas."
            )
        else:
            asked = Asked(int(num_inference_steps) - 1)
        self._begin(asked, device)

    def _steps_of_shown(self, generation: Generation, timesteps: Array, sigmas: Array, shown: Array | None) -> Steps:
        steps = super()._steps_of_shown(generation, timesteps, sigmas, shown)
        if not np.allclose(steps.timesteps, 1.0 - steps.sigmas[:-1], atol=1e-3):
            raise ValueError(
                "timesteps or sigmas were written alone, of which each is 1 minus the other: write both, or call "
                "set_timesteps(sigmas=...)."
            )
        return steps

    def _steps(self, asked: Asked) -> Steps:
        if asked.sigmas is None:
            sigmas = shifted(np.linspace(1.0, 0.0, asked.steps + 1), self._shift)
        else:
            sigmas = np.append(np.array(asked.sigmas, np.float64), 0.0)
        return Steps(1.0 - sigmas[:-1], sigmas)

    @property
    def timesteps(self) -> Tensor:
        """The times that the network is told, from 0 up; None before `set_timesteps`."""
        return None if self._generation is None else super().timesteps  # type: ignore[return-value]

    @property
    def sigmas(self) -> Tensor | None:
        """The sigmas of the run's steps and of its end; None before `set_timesteps`."""
        generation = self._generation
        return None if generation is None else generation.sigmas

    def scale_noise(self, sample: Tensor, timestep: float | Tensor, noise: Tensor) -> Tensor:
        """``timestep * sample + (1 - timestep) * noise``, the sample at any time between 0 and 1.

        Args:
            sample, noise: shape (batch, ...).
            timestep: shape (batch,), (1,) or ().
        """
        return self.add_noise(sample, noise, torch.as_tensor(timestep))

    def _sigma_at(self, like: Tensor, timesteps: Tensor) -> Tensor:
        sigma: Tensor = 1 - timesteps_on(timesteps, like).to(like.dtype)
        return sigma.reshape(-1, *[1] * (like.ndim - 1))

    @declared_as(Plain[float | Tensor, SchedulerOutput].step)
    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> StepResult:
        """The sample one step on.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: one of ``scheduler.timesteps``.
            return_dict: an object with fields, or a tuple.
        """
        previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return euler
