"""LMSDiscreteScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.noise import Grid
from diffusolve.schedulers import members
from diffusolve.schedulers.as_in_diffusers import lms_after
from diffusolve.schedulers.generation import Options
from diffusolve.schedulers.outputs import SchedulerOutputWithData
from diffusolve.schedulers.sigma_scheduler import SigmaScheduler
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.words import BetaSchedule, PredictionTypeOrFlow, TimestepSpacing
from diffusolve.solvers import Solver, lms
from diffusolve.solvers.linear_multistep import adams_weights

__all__ = ["LMSDiscreteScheduler"]


class LMSDiscreteScheduler(SigmaScheduler):
    """The linear multistep method for the probability-flow ODE, in samples scaled to alpha = 1 (A1111: "LMS").

    Adams-Bashforth with variable steps, over sigma. In a run that begins in the middle the first steps count on slopes
    that are not there, as in diffusers, which makes them wrong.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
    """

    begun_when_made: ClassVar[bool] = True

    fixed: ClassVar[frozenset[str]] = SigmaScheduler.fixed | {"get_lms_coefficient"}
    kept = members.KEPT_BY_LMS
    members = members.LMS

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        prediction_type: PredictionTypeOrFlow = "epsilon",
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
    ) -> None:
        self._configured()

    @by_return_dict
    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, order: int = 4, return_dict: bool = True
    ) -> SchedulerOutputWithData | Fields:
        """The sample one step on; `order` is how many of the last slopes count."""
        options = () if order == 4 else (("order", order),)
        previous, run = self._advance(model_output, timestep, sample, None, options)
        return self._result(previous, run, model_output, sample, return_dict)

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        """The weight of the slope `current_order` steps back in step number `t` of the run, of order `order`.

        Raises:
            IndexError: there are not as many steps before `t`, or not as many slopes in that order.
        """
        sigmas = self.sigmas.tolist()
        if not 0 <= current_order < order <= t + 1 < len(sigmas):
            raise IndexError(f"step {t} of {len(sigmas) - 1} has no slope {current_order} back in order {order}.")
        return adams_weights(sigmas[t - order + 1 : t + 1][::-1], sigmas[t + 1])[current_order]

    def _solver(self, steps: int, **options: Any) -> Solver:
        return lms.with_options(**options)

    def _solver_from(self, grid: Grid, step: int, options: Options) -> Solver:
        before = tuple(grid.sigmas[:step][::-1].tolist())
        return lms_after.with_options(**dict(options), sigmas_before=before)
