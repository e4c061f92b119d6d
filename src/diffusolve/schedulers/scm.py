"""SCMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.config.rules import OneOf
from diffusolve.noise import Cosine, Grid, NoiseSchedule, Point, Scaling
from diffusolve.prediction import Prediction, VPrediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.given import timesteps_on
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.steps import Steps
from diffusolve.solvers import Solver, lcm

__all__ = ["SCMScheduler"]

TRIGFLOW = OneOf(("trigflow",))
"""The prediction that steps are made of. Configurations of other classes may have another one until a run begins."""

LARGEST = pi / 2 * (1 + 1e-5)
"""The default of `max_timesteps`, 1.5708, is a little more than pi / 2, where no signal is left."""


class SCMScheduler(Scheduler):
    """Multistep sampling of continuous-time consistency models: Sana-Sprint.

    Lu & Song 2024, Simplifying, Stabilizing and Scaling Continuous-time Consistency Models. Samples are
    ``cos(t) * x0 + sin(t) * noise`` (TrigFlow), and the network is told the angle t. Linear in the sample.

    Args:
        num_train_timesteps: without effect.
        prediction_type: "trigflow": the data are ``cos(t) * x - sin(t) * output``.
        sigma_data: standard deviation of the data, and so of the noise that steps add.
    """

    _compatibles: ClassVar[list[str]] = []
    noise_dtype: ClassVar[torch.dtype | None] = torch.float32
    init_noise_sigma: float = 1.0
    output = SchedulerOutputWithData

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction", "trigflow"] = "trigflow",
        sigma_data: float = 0.5,
    ) -> None:
        self._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The cosine schedule, which is TrigFlow's with an angle for a time."""
        return Cosine(num_train_timesteps=len(self))

    @property
    def _prediction(self) -> Prediction:
        TRIGFLOW.kept("prediction_type", self.config["prediction_type"])
        return VPrediction()

    def set_timesteps(
        self,
        num_inference_steps: int,
        timesteps: Sequence[float] | Tensor | None = None,
        device: Any = None,
        max_timesteps: float | None = 1.57080,
        intermediate_timesteps: float | None = 1.3,
    ) -> None:
        """Begin a run of `num_inference_steps` steps. ``scheduler.timesteps`` has the end, too: it is not stepped from.

        Args:
            num_inference_steps: the number of steps.
            timesteps: the angles, in place of `max_timesteps`, strictly decreasing, shape (steps + 1,).
            device: for the timesteps.
            max_timesteps: the first angle; equally spaced ones lead from it to 0.
            intermediate_timesteps: the second angle of two steps; None for other numbers of steps.

        Raises:
            ValueError: neither or both of `timesteps` and `max_timesteps` are given, or angles of another number; an
                intermediate one with other than two steps; angles that do not fall from at most pi / 2 to 0.
        """
        steps = asked_for(num_inference_steps).steps
        if (timesteps is None) is (max_timesteps is None):
            raise ValueError("expected either timesteps or max_timesteps: give one and set the other to None.")
        if intermediate_timesteps is not None and steps != 2:
            raise ValueError(
                f"intermediate_timesteps is {intermediate_timesteps:g}, which is for 2 steps, but num_inference_steps "
                f"is {steps}: set intermediate_timesteps=None."
            )
        if timesteps is not None:
            angles = torch.as_tensor(timesteps).float()
        elif intermediate_timesteps is not None:
            angles = torch.tensor([max_timesteps, intermediate_timesteps, 0.0])
        else:
            angles = torch.linspace(float(max_timesteps or 0.0), 0.0, steps + 1)
        values: list[float] = angles.tolist()
        if len(values) != steps + 1:
            raise ValueError(
                f"timesteps has {len(values)} angles, but {steps} steps have {steps + 1}, the last of which is the end."
            )
        if not values[0] <= LARGEST or not values[-1] >= 0.0 or any(np.diff(values) >= 0.0):
            raise ValueError(f"the angles are {values}: expected numbers from pi / 2 down to 0, strictly decreasing.")
        self._begin(Asked(steps, timesteps=tuple(values)), device)

    def _prepare(self, asked: Asked) -> Prepared:
        angles = asked.timesteps or ()
        points = tuple(Point(angle, max(cos(angle), 0.0), sin(angle)) for angle in angles)
        grid = Grid(points, self.noise_schedule, Scaling.VARIANCE_PRESERVING)
        return Prepared(grid, self._solver(asked.steps), self._prediction, np.array(angles, np.float32))

    def _steps(self, asked: Asked) -> Steps:
        angles = np.array(asked.timesteps)
        return Steps(angles[:-1], np.tan(angles))

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        angle = timesteps_on(timesteps, like).to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
        return torch.cos(angle), torch.sin(angle) * self.config["sigma_data"]

    @declared_as(WithGenerator[float | Tensor, SchedulerOutputWithData].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on, with noise from `generator`, and the data that it was made of.

        Raises:
            IndexError: `timestep` is where the run ends.
        """
        previous, run = self._advance(model_output, timestep, sample, generator)
        self._draw_last(run, torch.empty_like(model_output, dtype=self.noise_dtype), generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return lcm.with_options(s_noise=self.config["sigma_data"])
