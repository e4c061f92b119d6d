"""IPNDMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.noise import Cosine, Grid, NoiseSchedule, Point
from diffusolve.plan import Plan, plan_for
from diffusolve.prediction import Prediction, prediction
from diffusolve.schedulers import members
from diffusolve.schedulers.as_in_diffusers import ipndm_of_noise
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.flow_sigmas import FlowSigmas
from diffusolve.schedulers.generation import Generation, Options, Prepared
from diffusolve.schedulers.given import timesteps_on
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.step_types import Plain, declared_as
from diffusolve.schedulers.steps import Steps
from diffusolve.solvers import Solver, ipndm

__all__ = ["IPNDMScheduler"]


class IPNDMScheduler(Scheduler):
    """Adams-Bashforth of fourth order on noise predictions, for networks of v-diffusion (Dance Diffusion).

    Liu et al. 2022, Pseudo Numerical Methods for Diffusion Models on Manifolds; Crowson's v-diffusion. Linear in the
    sample. Networks predict v, and are told ``2 / pi * atan2(sigma, alpha)``, which is 1 at pure noise.

    Of a flow-matching model (`from_config` of such a scheduler's configuration) it samples as Zhang & Chen 2022 have
    iPNDM, with the weights of equal steps on velocities, over the steps of FlowMatchEuler.

    Args:
        num_train_timesteps: the number of steps before `set_timesteps`.
        trained_betas: sigma at each timestep and at the end, from 0 to 1, in place of those of the number of steps;
            falling, for a run that denoises.
    """

    _compatibles = []  # noqa: RUF012
    timestep_dtype = np.float32
    samples_flow = True
    init_noise_sigma: float = 1.0
    pndm_order: int = 4

    kept = members.KEPT_BY_IPNDM
    members = members.IPNDM
    fixed: ClassVar[frozenset[str]] = Scheduler.fixed | {"_get_prev_sample"}

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, trained_betas: Sequence[float] | None = None) -> None:
        self._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the configuration describes; flow matching's if it is that of such a model."""
        flow = self._flow
        return Cosine(num_train_timesteps=len(self)) if flow is None else flow.noise_schedule

    @property
    def _flow(self) -> FlowSigmas | None:
        """The rule of flow matching's sigmas, if the configuration is that of such a model."""
        return FlowSigmas.of(self.config) if self.config.get("prediction_type") == "flow_prediction" else None

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `timesteps`, or over the `sigmas`.

        Args:
            num_inference_steps: how many steps; may be left out where timesteps or sigmas are given.
            device: for the timesteps.
            timesteps: what the network is told, falling, shape (steps,): from 1 down, or a flow-matching model's.
            sigmas: where the steps begin, from 1 down, shape (steps,), possibly with a last 0; of a flow-matching model
                before they are shifted.
            mu: how far a flow-matching model's sigmas are shifted, with `use_dynamic_shifting`; without effect
                otherwise, since pipelines offer it to every scheduler.

        Raises:
            ValueError: none of them is given, or two that contradict each other; `mu` is missing; sigmas or timesteps
                that do not fall or are out of range.
        """
        self._begin(asked_for(num_inference_steps, timesteps, sigmas, mu), device)

    @declared_as(Plain[int | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on."""
        previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, return_dict)

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The sample as the network takes it: the sample itself."""
        return sample

    @property
    def num_inference_steps(self) -> int:
        """The number of steps of the run; before `set_timesteps` that of training."""
        return super().num_inference_steps or len(self)

    @property
    def betas(self) -> Tensor:
        """sigma at each timestep of the run and at its end, shape (steps + 1,)."""
        return torch.tensor([point.sigma for point in self.grid])

    @property
    def alphas(self) -> Tensor:
        """alpha at each timestep of the run and at its end, shape (steps + 1,)."""
        return torch.tensor([point.alpha for point in self.grid])

    @property
    def sigmas(self) -> Tensor:
        """The share of the noise at each timestep of the run and at its end, shape (steps + 1,)."""
        return self._current.sigmas

    @property
    def _prediction(self) -> Prediction:
        flow = self._flow
        return prediction("v_prediction") if flow is None else flow.prediction

    def _configured(self) -> None:
        self._sigmas_of(Asked(len(self)))  # which checks trained_betas
        super()._configured()

    @classmethod
    def _keys_of_compatibles(cls) -> set[str]:
        return super()._keys_of_compatibles() | {"prediction_type"}  # which makes it one of flow matching

    def _standing(self) -> Prepared:
        flow = self._flow
        return self._prepared_over(self._steps(Asked(len(self))) if flow is None else flow.steps_of_training)

    def _prepared_over(self, steps: Steps) -> Prepared:
        flow = self._flow
        if flow is not None:
            return flow.walked(steps, ipndm)
        shown, sigmas = steps.timesteps.astype(np.float32), steps.sigmas.astype(np.float32)
        return Prepared(partial(self._points, steps), ipndm_of_noise, self._prediction, shown, sigmas)

    def _plan_from(self, generation: Generation, index: int, options: Options) -> Plan:
        """As for others. Evaluations before the first one stand for what a run was given to remember: the weights are
        those of equal steps, wherever it comes from."""
        if index >= 0:
            return super()._plan_from(generation, index, options)
        prepared = generation.prepared
        first, *others = prepared.grid.points
        grid = Grid((*[first] * (1 - index), *others), prepared.grid.noise_schedule, prepared.grid.scaling)
        return plan_for(prepared.solver, grid, prepared.prediction)

    def _steps(self, asked: Asked) -> Steps:
        flow = self._flow
        if flow is not None:
            return flow.steps(asked, flow.equally_spaced(asked.steps))
        sigmas = self._sigmas_of(asked)
        timesteps = torch.atan2(sigmas, (1 - sigmas**2) ** 0.5) / torch.pi * 2
        at = timesteps[:-1].double().numpy() if asked.timesteps is None else np.array(asked.timesteps, np.float64)
        return Steps(at, sigmas.double().numpy())

    def _sigmas_of(self, asked: Asked) -> Tensor:
        """The sigmas of the steps and of the end, without flow matching.

        They are in single precision, in which timesteps are far from those of double precision near pure noise.
        """
        name, given, end = "trained_betas", self.config["trained_betas"], list[float]()
        if asked.timesteps is not None:
            name, given, end = "timesteps", asked.timesteps, [0.0]
        if asked.sigmas is not None:
            name, given, end = "sigmas", asked.sigmas, [asked.end or 0.0]
        if given is None:
            return torch.sin(torch.linspace(1, 0, asked.steps + 1) * torch.pi / 2) ** 2
        chosen = [*given, *end]
        # A table of trained betas may rise, as those of other classes do: then so does the noise of the run.
        # A step from no noise at all leads nowhere.
        falls = min(chosen[:-1]) > 0.0 if name == "trained_betas" else all(b < a for a, b in pairwise(chosen))
        if not (falls and all(0.0 <= value <= 1.0 for value in chosen)):
            expected = "above 0 to 1" if name == "trained_betas" else "1 down to 0, decreasing"
            raise ValueError(f"{name} are {list(given)}: expected numbers from {expected}.")
        sigmas = torch.tensor(chosen, dtype=torch.float32)
        return torch.sin(sigmas * torch.pi / 2) if name == "timesteps" else sigmas

    def _points(self, steps: Steps) -> Grid:
        alphas = np.sqrt(1.0 - steps.sigmas**2).tolist()
        points = map(Point, [*steps.timesteps.tolist(), 0.0], alphas, steps.sigmas.tolist())
        schedule = self.noise_schedule
        return Grid(tuple(points), schedule, schedule.scaling)

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Any, Tensor]:
        if self._flow is not None:
            return super()._signal_and_noise(like, timesteps)
        angle = timesteps_on(timesteps, like).to(like.dtype).reshape(-1, *[1] * (like.ndim - 1)) * torch.pi / 2
        return torch.cos(angle), torch.sin(angle)

    def _training_sigma(self, timesteps: Tensor) -> Tensor:
        return timesteps.float() / len(self)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """``(1 - sigma) * sample + sigma * noise`` at each sample's timestep, for flow-matching models.

        Args:
            sample, noise: shape (batch, ...).
            timestep: of the run, or training timesteps before `set_timesteps`, shape (batch,) or ().

        Raises:
            ValueError: the configuration is not that of such a model; :meth:`add_noise` is for others.
        """
        if self._flow is None:
            raise ValueError(
                "scale_noise is for flow-matching models, and this IPNDMScheduler's is none: use add_noise."
            )
        return self.add_noise(sample, noise, timestep)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return ipndm_of_noise if self._flow is None else ipndm
