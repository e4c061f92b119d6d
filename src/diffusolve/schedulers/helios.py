"""HeliosScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor

from diffusolve.backends import Transform
from diffusolve.config import register_to_config
from diffusolve.noise import Cosine, Grid, NoiseSchedule
from diffusolve.plan import Stage
from diffusolve.prediction import Prediction
from diffusolve.schedulers.clipping import dynamic_threshold
from diffusolve.schedulers.generation import Options
from diffusolve.schedulers.outputs import SchedulerOutput
from diffusolve.schedulers.pyramid_scheduler import PyramidScheduler
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.words import PredictionTypeOrFlow, TimeShiftType, UniPCSolverType
from diffusolve.solvers import Solver, euler, unipc
from diffusolve.spacing.flow import shift_from_mu

__all__ = ["HeliosScheduler"]


NEARLY_DATA = 1e-8
"""The sigma that stands for 0 in logarithms."""


@dataclass(frozen=True)
class FlowByRatio(Prediction):
    """A velocity whose sigma is taken for sigma / alpha."""

    name: ClassVar[str] = "flow_by_ratio"

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        return 1.0, -sigma / alpha


class HeliosScheduler(PyramidScheduler):
    """UniPC, or Euler's method, in the stages of a pyramid of resolutions: Helios (A1111: "UniPC").

    Zhao et al. 2023, UniPC, on Jin et al. 2024, Pyramidal Flow Matching. Linear in the sample, but for `thresholding`;
    a stage is a run of its own. With a single stage, which starts at sigma = 1, nothing is corrected over the first
    step, infinitely long in log-SNR, where diffusers adds half the difference of the data predictions.

    Args:
        num_train_timesteps: the timestep at sigma = 1.
        shift: moves the whole's sigmas towards noise; those of a single stage as `mu` would, as in diffusers.
        stages, stage_range: how many stages there are, and the parts of the training timesteps where they begin and
            end, from 0 to 1.
        gamma: how strongly the noise of a stage is correlated where it begins.
        thresholding: dynamic thresholding of the data prediction.
        prediction_type: what the network predicts: "flow_prediction".
        solver_order: 1, 2 or 3.
        predict_x0: extrapolate data predictions; if not, noise.
        solver_type: "bh1" or "bh2".
        lower_order_final: the last steps fall back to lower orders.
        disable_corrector: numbers of steps after which nothing is corrected.
        solver_p: not supported: another scheduler that predicts.
        use_flow_sigmas: if not, UniPC takes the sigmas for sigma / alpha of samples with alpha^2 + sigma^2 = 1, as in
            diffusers.
        scheduler_type: "unipc" or "euler".
        use_dynamic_shifting, time_shift_type: `set_timesteps` takes `mu`, the shift's logarithm ("exponential") or the
            shift itself ("linear").
    """

    only_read = frozenset(
        {
            "disable_corrector",
            "last_sample",
            "lower_order_nums",
            "model_outputs",
            "predict_x0",
            "solver_p",
            "timestep_list",
        }
    )

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        stages: int = 3,
        stage_range: Sequence[float] = [0, 1 / 3, 2 / 3, 1],
        gamma: float = 1 / 3,
        thresholding: bool = False,
        prediction_type: PredictionTypeOrFlow = "flow_prediction",
        solver_order: int = 2,
        predict_x0: bool = True,
        solver_type: UniPCSolverType = "bh2",
        lower_order_final: bool = True,
        disable_corrector: Sequence[int] = [],
        solver_p: Any = None,
        use_flow_sigmas: bool = True,
        scheduler_type: Literal["unipc", "euler"] = "unipc",
        use_dynamic_shifting: bool = False,
        time_shift_type: TimeShiftType | None = "exponential",
    ) -> None:
        self._configured()

    def _configured(self) -> None:
        if self.config["solver_p"] is not None:
            raise ValueError("solver_p is given, which is not supported here: leave it out.")
        if "predict_x0" not in vars(self):
            self.predict_x0, self.disable_corrector = self.config["predict_x0"], self.config["disable_corrector"]
        super()._configured()

    @property
    def _end(self) -> float:
        # In UniPC of diffusers the end counts as nearly 0, so that a step of higher order can lead there.
        return 0.0 if self.config["scheduler_type"] == "euler" else NEARLY_DATA

    @property
    def _shift_of_whole(self) -> float:
        # As in diffusers, which takes a shift other than 1 for a mu here: "exponential" makes exp(3) of 3.
        shift = float(self.config["shift"])
        return shift if shift == 1.0 else shift_from_mu(shift, self.config["time_shift_type"])

    @property
    def _is_a_ratio(self) -> bool:
        return not self.config["use_flow_sigmas"] and bool(self.config["scheduler_type"] == "unipc")

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Flow matching, in each stage for itself."""
        return Cosine(num_train_timesteps=len(self)) if self._is_a_ratio else super().noise_schedule

    @property
    def _prediction(self) -> Prediction:
        return FlowByRatio() if self._is_a_ratio else super()._prediction

    def _clipping(self) -> Transform | None:
        if not self.config["thresholding"] or not self.config["predict_x0"]:
            return None
        return partial(_thresholded, 0.995, 1.0)  # its configuration has no numbers for it: those of the other classes

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor | None = None,
        sample: Tensor | None = None,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | Fields:
        """The sample one step on.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: one of ``scheduler.timesteps``.
            generator: without effect: no noise is added.
            return_dict: an object with fields, or a tuple.

        Raises:
            ValueError: `sample` is missing.
        """
        if sample is None:
            raise ValueError("sample is missing: expected the tensor that the network's output was made for.")
        previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        if config["scheduler_type"] == "euler":
            return euler
        return unipc.with_options(
            order=config["solver_order"],
            variant=config["solver_type"],
            form="data" if config["predict_x0"] else "noise",
            uncorrected=tuple(sorted(config["disable_corrector"])),
            lower_order_final=config["lower_order_final"],
        )

    def _solver_from(self, grid: Grid, step: int, options: Options) -> Solver:
        whole = self._solver(grid.steps)
        if whole.name != "unipc":
            return whole
        return whole.with_options(uncorrected=tuple(sorted(n - step for n in self.disable_corrector if n >= step)))


def _thresholded(ratio: float, most: float, data: Tensor, _: Stage) -> Tensor:
    return dynamic_threshold(data, ratio, most)
