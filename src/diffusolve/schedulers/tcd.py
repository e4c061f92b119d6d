"""TCDScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from diffusolve.backends import Transform
from diffusolve.config import register_to_config
from diffusolve.noise import Grid, Point
from diffusolve.schedulers.consistency import DistilledScheduler
from diffusolve.schedulers.one_step import variance_between
from diffusolve.schedulers.outputs import SchedulerOutputWithNoised
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.words import BetaSchedule, PredictionType, TimestepSpacing
from diffusolve.solvers import Solver
from diffusolve.solvers.tcd import landing, tcd

__all__ = ["TCDScheduler"]


class TCDScheduler(DistilledScheduler):
    """Strategic stochastic sampling of trajectory consistency models, TCD and Hyper-SD (A1111: "TCD").

    Zheng et al. 2024, Trajectory Consistency Distillation, algorithm 4. Linear in the sample. As in diffusers the last
    step leads to the first training timestep.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        original_inference_steps: the number of timesteps that the network was distilled on.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        clip_sample, clip_sample_range, thresholding, dynamic_thresholding_ratio, sample_max_value, set_alpha_to_one,
            steps_offset, timestep_spacing, timestep_scaling: kept for other classes: as in diffusers no data prediction
            is clipped here, and the timesteps are those of the distillation.
        rescale_betas_zero_snr: leave no signal at the last timestep.
    """

    output = SchedulerOutputWithNoised

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: BetaSchedule = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        original_inference_steps: int = 50,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: PredictionType = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        timestep_spacing: TimestepSpacing = "leading",
        timestep_scaling: float = 10.0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        self._configured()

    @property
    def _end_power(self) -> float:
        return self._tables.noise_schedule.signal[0]

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.3,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutputWithNoised | Fields:
        """The sample one step on, and as `pred_noised_sample` the one that the fresh noise was added to.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: one of ``scheduler.timesteps``.
            eta: the share of the next timestep that a step goes too far before it adds noise, 0 to 1 (gamma).
            generator: of the noise.
        """
        options = () if eta == 0.3 else (("eta", float(eta)),)
        previous, run = self._advance(model_output, timestep, sample, generator, options)
        stage = run.last_stage
        s, u = _points(self._generation_of(timestep).prepared.grid, stage.point.timestep, eta)
        kept = u.sigma / s.sigma
        data = u.alpha - s.alpha * kept
        noised = stage._replace(a=kept + data * stage.a, b=data * stage.b)
        return self._result(previous, run, model_output, sample, return_dict, noised)

    def _clipping(self) -> Transform | None:
        return None

    def _distilled_on(self, original_inference_steps: int | None) -> int:
        # A number given here makes all training timesteps those of the distillation, as in diffusers.
        return len(self) if original_inference_steps else super()._distilled_on(None)

    _get_variance = variance_between

    def _solver(self, steps: int, **options: Any) -> Solver:
        return tcd.with_options(**options)


def _points(grid: Grid, timestep: float, eta: float) -> tuple[Point, Point]:
    """The point of `grid` at `timestep`, and the one that a step from there first leads to."""
    place = next(place for place, point in enumerate(grid) if point.timestep == timestep)
    t = grid[place + 1]
    return grid[place], t if place + 1 == grid.steps else landing(grid, t, eta)
