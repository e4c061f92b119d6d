"""DPMSolverFastScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.plan import Plan, plan_for
from diffusolve.schedulers.asked import Asked
from diffusolve.schedulers.flow_sigmas import FlowSigmas
from diffusolve.schedulers.generation import Generation, Options, Prepared
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.sigma_scheduler import SigmaScheduler
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.steps import Steps
from diffusolve.schedulers.words import BetaSchedule, FinalSigmasType, PredictionTypeOrFlow, TimestepSpacing
from diffusolve.solvers import Solver, dpm_fast

__all__ = ["DPMSolverFastScheduler"]


class DPMSolverFastScheduler(SigmaScheduler):
    """DPM-Solver-fast, in samples scaled to alpha = 1 (A1111: "DPM fast").

    The row "DPM fast" of the table of A1111's names in the documentation of diffusers, which has no class for it. Lu et
    al. 2022, DPM-Solver; k-diffusion's ``sample_dpm_fast``. The network is evaluated as often as steps are asked for,
    at sigmas that the method itself chooses: it divides the range of log sigma.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        timestep_spacing, steps_offset: only the first timestep of the spacing counts: "linspace" and "trailing" start
            at the last training timestep, "leading" below it.
        eta: how much noise is replaced in each of the method's steps, as in Euler ancestral; 0 is none.
        s_noise: multiplies that noise.
        final_sigmas_type: the run leads to "sigma_min", as in k-diffusion, or on to "zero", by a last step of first
            order.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: PredictionTypeOrFlow = "epsilon",
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
        eta: float = 0.0,
        s_noise: float = 1.0,
        final_sigmas_type: FinalSigmasType = "sigma_min",
    ) -> None:
        self._configured()

    @declared_as(WithGenerator[float | Tensor, SchedulerOutputWithData].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample to evaluate next, with noise from `generator` at the end of a step of the method's own."""
        previous, run = self._advance(model_output, timestep, sample, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return dpm_fast.with_options(eta=self.config["eta"], s_noise=self.config["s_noise"], **options)

    def _plan_from(self, generation: Generation, index: int, options: Options) -> Plan:
        grid = generation.prepared.grid
        return plan_for(self._solver(grid.steps, skipped=index), grid, self._prediction)

    def _steps(self, asked: Asked) -> Steps:
        """Only their ends and their number matter to the solver."""
        steps, table, schedule = asked.steps, self._sigma_table, self._tables.noise_schedule
        spacing, final = self.config["timestep_spacing"], self.config["final_sigmas_type"]
        spaced = self._spaced(steps)
        start = len(table) - 1 if spacing == "linspace" else float(spaced[0])
        first, last = float(np.interp(start, np.arange(len(table)), table)), float(table[0])
        divided = steps - 1 if final == "zero" else steps
        if divided and start == 0:
            raise ValueError(
                f'with timestep_spacing="{spacing}" and steps_offset=0 a run of {steps} steps starts where it ends, at '
                "the first training timestep: use another spacing, or more steps."
            )
        sigmas = np.geomspace(first, last if divided else first, divided + 1)
        sigmas[-1], sigmas[0] = last, first  # to the bit
        return Steps(schedule.timestep(sigmas)[:steps], np.append(sigmas, 0.0) if final == "zero" else sigmas)

    def _prepared_over(self, steps: Steps) -> Prepared:
        """As for others, but for what is shown of a run: what the solver chose for each evaluation, and the end."""
        prepared = super()._prepared_over(steps)
        if self._flow is not None:
            return self._flow.shown(prepared)
        plan = prepared.plan
        prepared.timesteps = np.array(plan.timesteps).astype(self.timestep_dtype)
        prepared.sigmas = np.array([*(stage.point.sigma for stage in plan.stages), plan.end.sigma], np.float32)
        return prepared

    def set_timesteps(  # nothing else can be chosen
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` evaluations, whose timesteps and sigmas the solver chooses.

        Args:
            num_inference_steps: how many evaluations.
            device: for the timesteps.
            timesteps, sigmas: of a flow-matching model, whose pipelines give them: their ends and their number count.
            mu: how far a flow-matching model's sigmas are shifted, with `use_dynamic_shifting`.

        Raises:
            ValueError: timesteps or sigmas of another model.
        """
        if self._flow is None and not (timesteps is None is sigmas):
            raise ValueError("DPMSolverFastScheduler chooses timesteps and sigmas itself: give num_inference_steps.")
        self._begin(self._asked_for(num_inference_steps, timesteps, sigmas, mu), device)

    def _steps_of_flow(self, flow: FlowSigmas, asked: Asked) -> Steps:
        """Between the ends of FlowMatchEuler's, but for sigma = 1, whose log-SNR is infinite."""
        steps = super()._steps_of_flow(flow, asked)
        sigmas = flow.of_noise(steps).sigmas[:-1]
        first, last = min(float(sigmas[0]), 1.0 - 1.0 / len(self)), float(sigmas[-1])
        to_zero = self.config["final_sigmas_type"] == "zero"
        divided = asked.steps - 1 if to_zero else asked.steps
        ratios = np.geomspace(first / (1 - first), last / (1 - last), divided + 1)
        chosen = np.append(ratios / (1 + ratios), [0.0] * to_zero)
        chosen = 1.0 - chosen if flow.inverted else chosen
        return Steps(chosen[:-1] * len(self), chosen)
