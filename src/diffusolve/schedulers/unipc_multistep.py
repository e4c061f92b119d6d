"""UniPCMultistepScheduler."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from diffusolve.backends import Run, Transform
from diffusolve.config import register_to_config
from diffusolve.noise import Grid
from diffusolve.schedulers import members
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.flow_sigmas import FlowSigmas, ShiftsTime
from diffusolve.schedulers.generation import Generation, Options
from diffusolve.schedulers.log_snr_scheduler import LogSNRScheduler
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import Plain, declared_as
from diffusolve.schedulers.steps import Array, Steps, curve_asked_for
from diffusolve.schedulers.words import (
    BetaSchedule,
    FinalSigmasType,
    PredictionTypeOrFlow,
    TimeShiftType,
    TimestepSpacing,
    UniPCSolverType,
)
from diffusolve.solvers import Solver, unipc

__all__ = ["UniPCMultistepScheduler"]


class UniPCMultistepScheduler(ShiftsTime, LogSNRScheduler):
    """Multistep predictor with a corrector that costs no evaluation of the network (A1111: "UniPC").

    Zhao et al. 2023, UniPC: A Unified Predictor-Corrector Framework.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        solver_order: of the predictor, at least 1; the corrector adds one.
        prediction_type: what the network predicts: "epsilon", "sample", "v_prediction" or "flow_prediction".
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of the data prediction; without
            effect unless `predict_x0`, as in diffusers.
        predict_x0: extrapolate data predictions, otherwise noise predictions.
        solver_type: the paper's B(h), "bh1" or "bh2"; those of DPM-Solver and DEIS become "bh2".
        lower_order_final: the last steps fall back to lower orders.
        disable_corrector: numbers of steps, from 0, whose result is not corrected.
        solver_p: a scheduler whose `step` takes the place of the predictor; it must know the timesteps of this one.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        use_flow_sigmas, flow_shift: flow matching's noise levels, shifted; also along `use_karras_sigmas`.
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
        final_sigmas_type: the last step leads to "zero" or to "sigma_min", which is the last noise level itself with
            `use_flow_sigmas` and along a curve, so that the step changes nothing.
        rescale_betas_zero_snr: leave (almost) no signal at the last timestep; sigma is 4096 there.
        use_dynamic_shifting, time_shift_type: `set_timesteps` takes `mu`, the flow shift's logarithm ("exponential")
            or the flow shift itself ("linear").
        sigma_min, sigma_max: the ends of the curves; those of the training noise schedule when missing.
        shift_terminal: stretch flow matching's noise levels to end at this one.
    """

    curves_of_flow: ClassVar[tuple[str, ...]] = ("use_karras_sigmas",)
    fixed: ClassVar[frozenset[str]] = LogSNRScheduler.fixed | {
        "_time_shift_exponential",
        "_time_shift_linear",
        "stretch_shift_to_terminal",
        "time_shift",
    }
    precision = "sample"

    kept = members.KEPT_WITH_CORRECTOR
    members = members.UNIPC
    plans_follow_from = LogSNRScheduler.plans_follow_from | {"disable_corrector", "predict_x0", "solver_p"}
    clears = frozenset({"last_sample", "lower_order_nums"})

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        solver_order: int = 2,
        prediction_type: PredictionTypeOrFlow = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        predict_x0: bool = True,
        solver_type: UniPCSolverType = "bh2",
        lower_order_final: bool = True,
        disable_corrector: Sequence[int] = [],
        solver_p: Any = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
        final_sigmas_type: FinalSigmasType = "zero",
        rescale_betas_zero_snr: bool = False,
        use_dynamic_shifting: bool = False,
        time_shift_type: TimeShiftType | None = "exponential",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        shift_terminal: float | None = None,
    ) -> None:
        self._configured()

    def _configured(self) -> None:
        config = self.config
        self._check_flow_prediction("predict_x0=True")
        if config["shift_terminal"] is not None and not config["use_flow_sigmas"]:
            raise ValueError("shift_terminal is given, but only the noise levels of use_flow_sigmas are stretched.")
        if "solver_p" not in vars(self):  # which only the constructor reads in diffusers
            self.predict_x0, self.solver_p = config["predict_x0"], config["solver_p"]
            self.disable_corrector = config["disable_corrector"]
        super()._configured()

    def _clipping(self) -> Transform | None:
        return None if self._extrapolates_noise else super()._clipping()

    @property
    def _extrapolates_noise(self) -> bool:
        return not vars(self).get("predict_x0", self.config["predict_x0"])

    def set_timesteps(  # type: ignore[override]  # the order of diffusers
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `sigmas`, or over the `timesteps`.

        Arguments and errors are those of :meth:`LogSNRScheduler.set_timesteps
        <diffusolve.schedulers.log_snr_scheduler.LogSNRScheduler.set_timesteps>`, in the order of diffusers.
        """
        if self.config["use_dynamic_shifting"] and mu is None:
            raise FlowSigmas.of(self.config).without_mu()
        generation = self._begin(asked_for(num_inference_steps, timesteps, sigmas, mu), device)
        if self.solver_p is not None:
            generation.predictor = copy.deepcopy(self.solver_p)  # which may be one that no two runs can share
            generation.predictor.set_timesteps(generation.steps, device=device)

    @declared_as(Plain[int | Tensor, SchedulerOutput].step)
    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> StepResult:
        """The sample one step on."""
        if self.solver_p is None:
            previous, run = self._advance(model_output, timestep, sample)
        else:
            generation = self._generation_of(timestep)
            corrected, run = self._advance(model_output, timestep, sample)
            previous = generation.predicting.step(model_output, timestep, corrected, return_dict=False)[0]
        return self._result(previous, run, model_output, sample, return_dict)

    def _started(self, generation: Generation, place: int | None, timestep: Any, options: Options) -> Run:
        run = super()._started(generation, place, timestep, options)
        if self.solver_p is not None:
            generation.predicting = copy.deepcopy(generation.predictor)
        return run

    def _begun_with_history(self, generation: Generation, index: int, options: Options) -> Run | None:
        run, told = super()._begun_with_history(generation, index, options), members.written(self, "this_order")
        if run is not None and told:
            order = members.order_of_last_step(self, run.position, run.plan.nfe - run.position)
            if told[0] != order:
                raise ValueError(
                    f"this_order is {told[0]}, but a run with {run.position} outputs comes to evaluation {index} by a "
                    f"step of order {order}: write {order}, or lower_order_nums."
                )
        return run

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return unipc.with_options(
            order=config["solver_order"],
            variant=config["solver_type"],
            form="data" if self.predict_x0 else "noise",
            predictor=self.solver_p is None,
            uncorrected=tuple(sorted(self.disable_corrector)),
            lower_order_final=config["lower_order_final"],
        )

    def _solver_from(self, grid: Grid, step: int, options: Options) -> Solver:
        whole = self._solver(grid.steps)
        uncorrected = sorted(number - step for number in self.disable_corrector if number >= step)
        return whole.with_options(uncorrected=tuple(uncorrected))

    def _steps(self, asked: Asked) -> Steps:
        curve = curve_asked_for(self._own_config)
        if curve is None or not self.config["use_flow_sigmas"]:
            return super()._steps(asked)
        self._check_given(asked, curve)
        sigmas = self._along(curve, asked.steps)
        return self._at_flow_sigmas(sigmas / (1 + sigmas))

    def _unshifted(self, steps: int) -> Array:
        return np.linspace(1.0, 1.0 / len(self), steps + 1)[:-1]

    def _final_sigma(self, sigmas: Array) -> float:
        if self.config["final_sigmas_type"] == "zero":
            return 0.0
        ends_itself = self.config["use_flow_sigmas"] or curve_asked_for(self.config)
        return float(sigmas[-1] if ends_itself else self._sigma_table[0])
