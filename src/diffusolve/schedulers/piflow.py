"""PiflowScheduler."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.noise import FlowMatching, NoiseSchedule, shifted
from diffusolve.prediction import Flow, Prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.given import number_of
from diffusolve.schedulers.members import unreachable
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.scheduler import Scheduler, index_of
from diffusolve.schedulers.step_types import Plain, declared_as
from diffusolve.schedulers.steps import Steps
from diffusolve.solvers import Solver
from diffusolve.solvers.policy_flow import policy_flow, policy_sigmas

__all__ = ["PiflowScheduler"]


class PiflowScheduler(Scheduler):
    """Few-step sampling along a policy that one evaluation predicts: distilled Kandinsky 6.

    Chen et al. 2025, pi-Flow (arXiv 2510.14974). The network outputs the velocities for several times at once, between
    which the scheduler integrates on its own. Linear in the sample and in all these outputs: a step is one sum of them.

    Args:
        num_train_timesteps: the timestep at sigma = 1.
        shift: moves sigmas towards noise.
        n_grid: how many velocities the network outputs for each channel of the sample; channels come last.
        eps: the time where the last step's policy ends, and the least distance of two times.
        final_step_size_scale: the length of the last step, in units of the others.
        num_policy_substeps: how many short steps a time from 1 to 0 would take.
    """

    _compatibles: ClassVar[list[str]] = []
    timestep_dtype: ClassVar[type] = np.float32
    init_noise_sigma: float = 1.0

    fixed: ClassVar[frozenset[str]] = Scheduler.fixed | {"_policy_step", "_step_index_for", "_to_grid"}
    members = unreachable("timesteps and sigmas show where the steps fall", "_piflow_raw_timesteps")
    only_read = frozenset({"eps", "final_step_size_scale", "n_grid", "num_policy_substeps"})

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 5.0,
        n_grid: int = 10,
        eps: float = 1e-6,
        final_step_size_scale: float = 0.5,
        num_policy_substeps: int = 128,
    ) -> None:
        self.n_grid, self.eps, self.final_step_size_scale = n_grid, eps, final_step_size_scale
        self.num_policy_substeps = num_policy_substeps
        self._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Flow matching. The shift is in the sigmas of a run."""
        return FlowMatching(num_train_timesteps=len(self))

    @property
    def _prediction(self) -> Prediction:
        return Flow()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: None = None,
        mu: None = None,
        timesteps: None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, of equal length in time but for the last.

        Args:
            num_inference_steps: how many steps.
            device: for the timesteps.
            sigmas, mu, timesteps: not to be given: the network was distilled for the timesteps of the configuration.

        Raises:
            ValueError: one of these is given; fewer than one step.
        """
        for name, given in (("sigmas", sigmas), ("mu", mu), ("timesteps", timesteps)):
            if given is not None:
                raise ValueError(
                    f"{name} is given, but the network was distilled for the timesteps that PiflowScheduler chooses: "
                    "give num_inference_steps only."
                )
        self._begin(asked_for(num_inference_steps), device)

    @property
    def timesteps(self) -> Tensor:
        """The timesteps that the network is told, one per evaluation; none before `set_timesteps`."""
        return torch.empty(0) if self._generation is None else super().timesteps

    @property
    def sigmas(self) -> Tensor:
        """The sigmas of the run's steps and of its end; none before `set_timesteps`."""
        generation = self._generation
        return torch.empty(0) if generation is None else generation.sigmas

    def _steps(self, asked: Asked) -> Steps:
        length = 1.0 / (asked.steps - 1 + self.config["final_step_size_scale"])
        sigmas = shifted(1.0 - length * np.arange(asked.steps), self.config["shift"])
        return Steps(sigmas * len(self), np.append(sigmas, 0.0))

    def _prepare(self, asked: Asked) -> Prepared:
        prepared, steps = super()._prepare(asked), self._steps(asked)
        walked = steps._replace(sigmas=np.append(steps.sigmas[:-1], shifted(self.config["eps"], self.config["shift"])))
        grid = partial(walked.grid, self.noise_schedule, self.scaling)
        return Prepared(grid, prepared.solver, prepared.prediction, prepared.timesteps, prepared.sigmas)

    @declared_as(Plain[float | Tensor, SchedulerOutput].step)
    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> StepResult:
        """The sample one step on.

        Args:
            model_output: `n_grid` velocities side by side in the last dimension, that for the time of the sample last;
                shape (batch, ..., n_grid * channels).
            timestep: one of ``scheduler.timesteps``.
            sample: shape (batch, ..., channels).
            return_dict: an object with fields, or a tuple.

        Raises:
            ValueError: `model_output` is not as wide.
        """
        count = int(self.config["n_grid"])
        if model_output.shape != (*sample.shape[:-1], count * sample.shape[-1]):
            raise ValueError(
                f"the network's output has shape {tuple(model_output.shape)}: expected {count} velocities (n_grid) for "
                f"each of the sample's channels, which come last: {(*sample.shape[:-1], count * sample.shape[-1])}."
            )
        *others, own = model_output.chunk(count, dim=-1)
        generation, place = self._registry.of(timestep)
        if generation is None:
            self._none_begun()
        if place is None:
            place = generation.step_index
        if place is None:
            place = generation.begin_index
        if place is None:
            place = index_of(number_of(timestep), generation.values)
        handed = {}
        if place + 1 < len(generation.prepared.grid):  # else the run is over, which the next line says
            start, end = generation.prepared.grid[place].sigma, generation.prepared.grid[place + 1].sigma
            sigmas = policy_sigmas(start, end, count, self.config["shift"])
            handed = {(start, sigma): each for sigma, each in zip(sigmas, others, strict=False)}
        with generation.noise.drawn_from(None, handed=handed):
            previous, run = self._advance(own.contiguous(), timestep, sample)
        return self._result(previous, run, own, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return policy_flow.with_options(
            predictions=config["n_grid"],
            substeps=config["num_policy_substeps"],
            shift=config["shift"],
            least=config["eps"],
        )
