"""FlowMatchSDEDiscreteScheduler."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.flow_scheduler import FlowScheduler
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.words import TimeShiftType
from diffusolve.solvers import Solver, flow_sde
from diffusolve.solvers.flow_sde import check_flow_sde

__all__ = ["FlowMatchSDEDiscreteScheduler"]


class FlowMatchSDEDiscreteScheduler(FlowScheduler):
    """Flow matching as an SDE with the marginals of its ODE, for training by reinforcement (Flow-GRPO, DanceGRPO).

    Liu et al. 2025, Flow-GRPO; Xue et al. 2025, DanceGRPO; Wang & Yu 2025, Coefficients-Preserving Sampling. Linear in
    the sample. :meth:`step_log_prob` says how probable a step is. Made of a pipeline's scheduler, its steps fall where
    those of that do: ``FlowMatchSDEDiscreteScheduler.from_config(pipe.scheduler.config, noise_level=0.7)``.

    Args:
        num_train_timesteps: the timestep at sigma = 1.
        shift: moves sigmas towards noise; 3 for Stable Diffusion 3.
        use_dynamic_shifting, time_shift_type: `set_timesteps` takes `mu`, the shift's logarithm ("exponential") or the
            shift itself ("linear").
        base_shift, max_shift, base_image_seq_len, max_image_seq_len: what pipelines compute `mu` from.
        invert_sigmas: time runs from noise to data.
        shift_terminal: stretch the sigmas to end at this one; 0.1 for LTX-Video.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        sde: "flow" (Flow-GRPO), "dance" (DanceGRPO) or "cps" (Flow-CPS), how much noise there is at each sigma.
        noise_level: how much in all; 0 is Euler's method. Flow-GRPO has 0.7, DanceGRPO 0.3 ("dance").
        discretization: "authors", Euler-Maruyama steps, the last of which adds noise to the data; or "exact".
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        invert_sigmas: bool = False,
        shift_terminal: float | None = None,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        time_shift_type: TimeShiftType | None = "exponential",
        sde: Literal["flow", "dance", "cps"] = "flow",
        noise_level: float = 0.7,
        discretization: Literal["authors", "exact"] = "authors",
    ) -> None:
        self._configured()

    def _configured(self) -> None:
        check_flow_sde(self.config["sde"], self.config["noise_level"], self.config["discretization"])
        super()._configured()

    @declared_as(WithGenerator[float | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on, with noise from `generator`.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: one of ``scheduler.timesteps``.
            generator: of the noise, float32.
            return_dict: an object with a field `prev_sample`, or a tuple.
        """
        previous, run = self._advance(model_output, timestep, sample, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return flow_sde.with_options(
            sde=config["sde"], noise_level=config["noise_level"], discretization=config["discretization"]
        )
