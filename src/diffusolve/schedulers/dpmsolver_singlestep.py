"""DPMSolverSinglestepScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from diffusolve.backends import Run
from diffusolve.config import register_to_config
from diffusolve.noise import Grid
from diffusolve.schedulers import members
from diffusolve.schedulers.asked import Asked
from diffusolve.schedulers.generation import Generation, Options, Prepared
from diffusolve.schedulers.log_snr_scheduler import LogSNRScheduler
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.steps import Steps
from diffusolve.schedulers.words import (
    BetaSchedule,
    FinalSigmasType,
    PredictionTypeOrFlow,
    SolverType,
    TimeShiftType,
    VarianceType,
)
from diffusolve.solvers import Solver
from diffusolve.solvers.dpm_singlestep import dpm_singlestep, dpmpp_singlestep

__all__ = ["DPMSolverSinglestepScheduler"]


class DPMSolverSinglestepScheduler(LogSNRScheduler):
    """Singlestep DPM-Solver and DPM-Solver++, as ODE and SDE (A1111: "DPM++ 2S").

    Lu et al. 2022, DPM-Solver and DPM-Solver++. The network is asked once a step; `solver_order` steps make one of the
    papers' steps, the inner ones leading to its intermediate points.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        solver_order: 1, 2 or 3. Order 3 with "sde-dpmsolver++" and "heun" is of first order: diffusers weighs the
            second derivative wrongly there.
        prediction_type: what the network predicts: "epsilon", "sample", "v_prediction" or "flow_prediction".
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of the data prediction.
        algorithm_type: "dpmsolver++", "dpmsolver" or "sde-dpmsolver++".
        solver_type: how orders 2 and 3 interpolate: "midpoint" or "heun".
        lower_order_final: the last steps fall back to lower orders. Becomes True, for good, in runs whose steps are no
            multiple of `solver_order` or which lead to "zero".
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        use_flow_sigmas, flow_shift: flow matching's noise levels, shifted; of given `timesteps` only the number counts.
        final_sigmas_type: the last step leads to "zero", not with "dpmsolver", or to "sigma_min".
        lambda_min_clipped: leave out timesteps with a smaller log(alpha / sigma).
        variance_type: "learned" or "learned_range" if the network also outputs a variance, which is then ignored.
        use_dynamic_shifting, time_shift_type: `set_timesteps` takes `mu`, the logarithm of the flow shift.
    """

    kept = members.KEPT_BY_MULTISTEP
    members = members.SINGLESTEP

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
        algorithm_type: Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++"] = "dpmsolver++",
        solver_type: SolverType = "midpoint",
        lower_order_final: bool = False,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        final_sigmas_type: FinalSigmasType = "zero",
        lambda_min_clipped: float = -float("inf"),
        variance_type: VarianceType | None = None,
        use_dynamic_shifting: bool = False,
        time_shift_type: TimeShiftType | None = "exponential",
    ) -> None:
        self._configured()

    def _configured(self) -> None:
        self._check_end()
        super()._configured()

    @property
    def _extrapolates_noise(self) -> bool:
        return not self.config["algorithm_type"].endswith("++")

    @declared_as(WithGenerator[int | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on; the SDE form draws noise from `generator`."""
        model_output = self._without_variance(model_output, sample)
        previous, run = self._advance(model_output, timestep, sample, generator)
        if self.config["algorithm_type"] == "sde-dpmsolver++":
            self._draw_last(run, model_output, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    @property
    def order_list(self) -> list[int]:
        """The order of each step of the run."""
        return self.get_order_list(len(self) if self.num_inference_steps is None else len(self.timesteps))

    def get_order_list(self, num_inference_steps: int) -> list[int]:
        """The order of each step of a run of `num_inference_steps`: 1, 2, 3, 1, 2, 3 and so on up to `solver_order`."""
        config, order = self.config, self.config["solver_order"]
        orders = [1 + step % order for step in range(num_inference_steps)]
        if config["final_sigmas_type"] == "zero" or (config["lower_order_final"] and orders[-1] == order):
            orders[-1] = 1
        return orders

    def _begun_with_history(self, generation: Generation, index: int, options: Options) -> Run | None:
        brought, orders = generation.brought, self.get_order_list(len(generation.values))
        if brought is not None and brought.run is not None and not brought.written and orders[index] > 1:
            raise ValueError(
                f"_step_index of this {type(self).__name__} was set in a run that comes to evaluation {index} next, in "
                "the middle of steps that go together: call set_timesteps to begin anew, or set model_outputs to "
                f"{[None] * self.config['solver_order']}."
            )
        return None

    def _prepared_again(self, generation: Generation) -> Prepared:
        solver = generation.prepared.solver
        begun, order = {**solver.defaults, **dict(solver.options)}["order"], self.config["solver_order"]
        if begun != order:
            raise ValueError(
                f"solver_order is {order}, written in a run that began with {begun}, whose steps go together: call "
                "set_timesteps after writing."
            )
        orders, prepared = self.get_order_list(len(generation.prepared.timesteps)), super()._prepared_again(generation)
        count = len(prepared.timesteps)
        if orders[:count] != self.get_order_list(count):
            raise ValueError(
                f"{count} timesteps are written in place of {len(orders)}, of a run whose steps go together: give them "
                "to set_timesteps."
            )
        return prepared

    def _solver(self, steps: int, **options: Any) -> Solver:
        return self._solver_with(self.get_order_list(steps))

    def _solver_from(self, grid: Grid, step: int, options: Options) -> Solver:
        orders: list[int] = []
        for order in self.get_order_list(grid.steps)[step:]:  # a group that is begun in its middle is shorter
            orders.append(min(order, 1 + (orders[-1] if orders else 0)))
        return self._solver_with(orders)

    def _solver_with(self, orders: list[int]) -> Solver:
        config = self.config
        common = {"order": config["solver_order"], "orders": tuple(orders), "solver_type": config["solver_type"]}
        if self._extrapolates_noise:
            return dpm_singlestep.with_options(**common, earliest_midpoint=0.0)  # diffusers sets no limit
        if config["algorithm_type"] == "sde-dpmsolver++":
            common |= {"eta": 1.0, "noise": "path", "third_order": "diffusers_sde"}
        return dpmpp_singlestep.with_options(**common)

    def _steps(self, asked: Asked) -> Steps:
        config = self.config
        if not config["lower_order_final"] and (
            asked.steps % config["solver_order"] or config["final_sigmas_type"] == "zero"
        ):
            self.register_to_config(lower_order_final=True)
        return super()._steps(asked)
