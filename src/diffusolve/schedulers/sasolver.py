"""SASolverScheduler."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusolve.backends import Run
from diffusolve.config import register_to_config
from diffusolve.noise import Grid
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers import members
from diffusolve.schedulers.cache import Cache
from diffusolve.schedulers.generation import Generation, Prepared
from diffusolve.schedulers.given import number_of
from diffusolve.schedulers.log_snr_scheduler import LogSNRScheduler
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.scheduler import MOST_PREPARED
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.steps import Array, Steps, curve_asked_for
from diffusolve.schedulers.words import BetaSchedule, PredictionTypeOrFlow, TimestepSpacing, VarianceType
from diffusolve.solvers import Solver, sa_solver

__all__ = ["SASolverScheduler"]

FORMS = {"data_prediction": "data", "noise_prediction": "noise"}
"""The name in diffusers -> the solver's."""


class SASolverScheduler(LogSNRScheduler):
    """Stochastic Adams methods, a multistep predictor and a corrector that shares its noise.

    Xue et al. 2023, SA-Solver. Linear in the sample, unless data predictions are thresholded. The last step leads to
    the noise level of timestep 0. As in diffusers `add_noise` is that of the training noise schedule, with
    `use_flow_sigmas` too.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        predictor_order, corrector_order: 1 to 4; how many predictions each goes through, the corrector's new one
            included.
        prediction_type: what the network predicts: "epsilon", "sample", "v_prediction" or "flow_prediction".
        tau_func: how much noise, from 0 (the ODE) to 1 (the reverse SDE), a step has that begins at a timestep; when
            missing, 1 from timestep 200 to 800 and 0 elsewhere. The attribute of this name can be set before the first
            step of a run.
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of the data prediction.
        algorithm_type: "data_prediction" or "noise_prediction", what the polynomials go through.
        lower_order_final: the last steps fall back to lower orders.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        use_flow_sigmas, flow_shift: flow matching's noise levels, shifted; the last step then has no length.
        lambda_min_clipped: leave out timesteps with a smaller log(alpha / sigma).
        variance_type: "learned" or "learned_range" if the network also outputs a variance, which is then ignored.
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
    """

    plans_follow_from = LogSNRScheduler.plans_follow_from | {"tau_func"}

    precision = "sample"
    kept = members.KEPT_WITH_CORRECTOR
    members = members.SA_SOLVER
    clears = frozenset({"last_sample", "lower_order_nums"})

    fixed: ClassVar[frozenset[str]] = LogSNRScheduler.fixed | {
        "get_coefficients_exponential_negative",
        "get_coefficients_exponential_positive",
        "get_coefficients_fn",
        "lagrange_polynomial_coefficient",
        "stochastic_adams_bashforth_update",
        "stochastic_adams_moulton_update",
    }

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        predictor_order: int = 2,
        corrector_order: int = 2,
        prediction_type: PredictionTypeOrFlow = "epsilon",
        tau_func: Callable[[Any], float] | None = None,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: Literal["data_prediction", "noise_prediction"] = "data_prediction",
        lower_order_final: bool = True,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        lambda_min_clipped: float = -float("inf"),
        variance_type: VarianceType | None = None,
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
    ) -> None:
        self.tau_func = between_200_and_800 if tau_func is None else tau_func
        self._configured()

    def _configured(self) -> None:
        self._check_flow_prediction('algorithm_type="data_prediction"')
        super()._configured()

    @declared_as(WithGenerator[int | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: one of ``scheduler.timesteps``.
            generator: of the noise, of which as in diffusers every step draws some, whether it adds any or not.
        """
        model_output = self._without_variance(model_output, sample)
        previous, run = self._advance(model_output, timestep, sample, generator)
        if not run.last_stage.update.noises:
            draw_normal_with(generator, model_output)
        return self._result(previous, run, model_output, sample, return_dict)

    @property
    def timesteps(self) -> Tensor:
        """The timesteps of the run; all training timesteps before `set_timesteps`."""
        own = super().timesteps
        return own.to(torch.float32) if self._generation is None else own

    @property
    def _extrapolates_noise(self) -> bool:
        return bool(self.config["algorithm_type"] == "noise_prediction")

    def _final_sigma(self, sigmas: Array) -> float:
        config = self._own_config
        of_curve = config["use_flow_sigmas"] or curve_asked_for(config) is not None
        return float(sigmas[-1] if of_curve else self._sigma_table[0])

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return self._trained_signal_and_noise(like, timesteps)

    def _first(self, generation: Generation, place: int | None, timestep: Any) -> int:
        first = super()._first(generation, place, timestep)
        if place is None and generation.begin_index is None:
            told, own = int(number_of(timestep)), int(generation.values[first])
            if self._taus([told]) != self._taus([own]):
                raise ValueError(
                    f"timestep {told} is not one of the run's timesteps, whose last, {own}, would take its place with "
                    "noise that tau_func has at it alone: step with one of scheduler.timesteps."
                )
        return first

    def _begun_with_history(self, generation: Generation, index: int, options: Any) -> Run | None:
        run = super()._begun_with_history(generation, index, options)
        if run is not None:
            last, own = members.read_timestep_list(self)[-1], generation.values[index - 1]
            if last is None:
                raise ValueError(
                    f"the history of this {type(self).__name__} has no timesteps, which tau_func asks for: it was "
                    "written where no step was made. Call set_timesteps to begin anew."
                )
            told = float(last)
            if self._taus([told]) != self._taus([own]):
                raise ValueError(
                    f"the run of this {type(self).__name__} comes to evaluation {index} from timestep {told:g}, at "
                    f"which tau_func is another than at {own:g}, the one before: call set_timesteps to begin anew."
                )
        return run

    def _prepared_over(self, steps: Steps) -> Prepared:
        return self._with_taus(super()._prepared_over(steps))

    def _prepared_again(self, generation: Generation) -> Prepared:
        prepared, before = super()._prepared_again(generation), generation.prepared
        if generation.run is not None and dict(prepared.solver.options)["taus"] != dict(before.solver.options)["taus"]:
            raise ValueError("tau_func was set in the middle of a run: call set_timesteps, or set it before that.")
        return prepared

    def _with_taus(self, prepared: Prepared) -> Prepared:
        """The same with the noise in each step that `tau_func` asks for."""
        noisy = copy.copy(prepared)
        vars(noisy).pop("plan", None)
        noisy.solver = prepared.solver.with_options(taus=self._taus(prepared.values))
        return noisy

    def _taus(self, timesteps: Sequence[float]) -> tuple[float, ...]:
        taus = {int(timestep): float(self.tau_func(int(timestep))) for timestep in timesteps}
        for timestep, tau in taus.items():
            if not 0.0 <= tau < inf:
                raise ValueError(f"tau_func gives {tau:g} at timestep {timestep}: expected 0 (the ODE) or more.")
        return tuple(taus[int(timestep)] for timestep in timesteps)

    def _solver_from(self, grid: Grid, step: int, options: Any) -> Solver:
        solver = self._solver(grid.steps)
        return solver.with_options(taus=self._taus([point.timestep for point in grid[step:-1]]))

    def _follow(self, generation: Generation) -> None:
        self._prepared_runs = Cache(MOST_PREPARED)
        super()._follow(generation)

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return sa_solver.with_options(
            predictor_order=config["predictor_order"],
            corrector_order=config["corrector_order"],
            lower_order_final=config["lower_order_final"],
            form=FORMS[config["algorithm_type"]],
            simple_order_2=not self._extrapolates_noise,
            longest_step=inf,
        )


def between_200_and_800(timestep: Any) -> float:
    """The noise that the authors took for latent diffusion: 1 at timesteps from 200 to 800 and 0 elsewhere."""
    return 1.0 if 200 <= timestep <= 800 else 0.0
