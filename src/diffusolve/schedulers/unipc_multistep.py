"""UniPCMultistepScheduler."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from diffusolve.backends import Run, Transform
from diffusolve.config import register_to_config
from diffusolve.errors import unknown_name
from diffusolve.noise import Grid
from diffusolve.schedulers.generation import Generation, Options
from diffusolve.schedulers.log_snr_space import FINAL_SIGMAS_TYPES, LogSNRScheduler, in_single_precision, shifted
from diffusolve.schedulers.outputs import SchedulerOutput
from diffusolve.schedulers.spacing import Levels, ramp, ramp_asked_for
from diffusolve.solvers import Solver, unipc

__all__ = ["UniPCMultistepScheduler"]

Array = npt.NDArray[np.float64]

TIME_SHIFT_TYPES = ("exponential", "linear")

NEARLY_NOISE = 1e-6
"""How much signal diffusers leaves where flow matching starts from none."""


class UniPCMultistepScheduler(LogSNRScheduler):
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

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        predict_x0: bool = True,
        solver_type: str = "bh2",
        lower_order_final: bool = True,
        disable_corrector: Sequence[int] = [],
        solver_p: Any = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        final_sigmas_type: str = "zero",
        rescale_betas_zero_snr: bool = False,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        shift_terminal: float | None = None,
    ) -> None:
        self._configured()

    def _configured(self) -> None:
        config = self.config
        self._translate("solver_type", ("bh1", "bh2"), dict.fromkeys(("midpoint", "heun", "logrho"), "bh2"))
        self._check_choice("final_sigmas_type", FINAL_SIGMAS_TYPES)
        self._check_flow_prediction("predict_x0=True")
        if config["shift_terminal"] is not None and not config["use_flow_sigmas"]:
            raise ValueError("shift_terminal is given, but only the noise levels of use_flow_sigmas are stretched.")
        super()._configured()
        self.predict_x0, self.solver_p = config["predict_x0"], config["solver_p"]
        self.disable_corrector = config["disable_corrector"]

    def _clipping(self) -> Transform | None:
        return None if self._extrapolates_noise else super()._clipping()

    @property
    def _extrapolates_noise(self) -> bool:
        return not self.config["predict_x0"]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` steps.

        Args:
            num_inference_steps: how many; that of the `sigmas`, if these are given.
            device: for the timesteps.
            sigmas: noise levels of flow matching, before they are shifted; a last 0 may be left out.
            mu: how far the levels are shifted, with `use_dynamic_shifting`.
        """
        config = self.config
        if config["use_dynamic_shifting"] and mu is None:
            raise ValueError("mu is missing: use_dynamic_shifting takes the shift of the noise levels from it.")
        flow = config["use_flow_sigmas"] and not ramp_asked_for(config)
        if sigmas is not None and not flow:
            raise ValueError(
                "sigmas can only be given with use_flow_sigmas=True and no curve of sigmas: give num_inference_steps."
            )
        if flow and (sigmas is not None or num_inference_steps):
            sigmas = self._flow_sigmas(num_inference_steps, sigmas, mu)
        generation = self._set_timesteps(num_inference_steps if sigmas is None else None, device, sigmas=sigmas)
        if self.solver_p is not None:
            generation.predictor = copy.deepcopy(self.solver_p)  # which may be one that no two runs can share
            generation.predictor.set_timesteps(generation.steps, device=device)

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The sample one step on."""
        if self.solver_p is None:
            previous, _ = self._advance(model_output, timestep, sample)
        else:
            generation = self._found(timestep)
            corrected, _ = self._advance(model_output, timestep, sample)
            previous = generation.predicting.step(model_output, timestep, corrected, return_dict=False)[0]
        return self._result(previous, return_dict)

    def _started(self, generation: Generation, place: int | None, timestep: Any, options: Options) -> Run:
        run = super()._started(generation, place, timestep, options)
        if self.solver_p is not None:
            generation.predicting = copy.deepcopy(generation.predictor)
        return run

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return unipc.with_options(
            order=config["solver_order"],
            variant=config["solver_type"],
            form="data" if config["predict_x0"] else "noise",
            predictor=self.solver_p is None,
            uncorrected=tuple(sorted(config["disable_corrector"])),
            lower_order_final=config["lower_order_final"],
        )

    def _solver_from(self, grid: Grid, step: int, options: Options) -> Solver:
        whole = self._solver(grid.steps)
        uncorrected = sorted(number - step for number in self.config["disable_corrector"] if number >= step)
        return whole.with_options(uncorrected=tuple(uncorrected))

    def _levels(self, steps: int, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None) -> Levels:
        if sigmas is not None:
            levels = np.array(sigmas, np.float64)
        elif self.config["use_flow_sigmas"]:
            levels = self._ramp("use_karras_sigmas", steps, self._sigma_table())
            levels = levels / (1 + levels)
        else:
            return self._log_snr_levels(steps, timesteps)
        at, levels = np.floor(levels * len(self)), in_single_precision(levels)
        return Levels(at, np.append(levels, self._final_sigma(levels, levels)))

    def _flow_sigmas(self, steps: int | None, sigmas: Sequence[float] | None, mu: float | None) -> list[float]:
        """The noise levels of flow matching: those given, or equally spaced ones; shifted, and stretched to the end."""
        config = self.config
        if sigmas is None:
            assert steps is not None
            levels = np.linspace(1.0, 1.0 / len(self), steps + 1)[:-1]
        else:
            levels = _checked(sigmas)
        if config["use_dynamic_shifting"]:
            assert mu is not None
            levels = _time_shifted(levels, mu, config["time_shift_type"])
        else:
            levels = shifted(levels, config["flow_shift"])
        if config["shift_terminal"] is not None and len(levels) > 1:
            signal = 1.0 - levels
            levels = 1.0 - signal / (signal[-1] / (1.0 - config["shift_terminal"]))
        if abs(levels[0] - 1.0) < NEARLY_NOISE:
            levels[0] -= NEARLY_NOISE
        return [float(level) for level in levels]

    def _ramp(self, curve: str, steps: int, table: Array) -> Array:
        low, high = self.config["sigma_min"], self.config["sigma_max"]
        low, high = table[0] if low is None else low, table[-1] if high is None else high
        return ramp(curve, steps, low, high, self._tables.noise_schedule)

    def _final_sigma(self, sigmas: Array, table: Array) -> float:
        if self.config["final_sigmas_type"] == "zero":
            return 0.0
        levels_end_there = self.config["use_flow_sigmas"] or ramp_asked_for(self.config)
        return float(sigmas[-1] if levels_end_there else table[0])


def _time_shifted(levels: Array, mu: float, time_shift_type: str) -> Array:
    """Noise levels shifted as Flux does it (Esser et al. 2024, equation 23, for a shift of exp(`mu`) or `mu`)."""
    if time_shift_type not in TIME_SHIFT_TYPES:
        raise unknown_name("time_shift_type", time_shift_type, TIME_SHIFT_TYPES)
    if time_shift_type == "linear" and mu <= 0.0:
        raise ValueError(f'mu is {mu:g}: with time_shift_type="linear" it is the shift itself, above 0 (1 is none).')
    shift = float(np.exp(mu)) if time_shift_type == "exponential" else mu
    return np.asarray(shift / (shift + (1.0 / levels - 1.0)))


def _checked(sigmas: Sequence[float]) -> Array:
    """The noise levels given, without a last 0."""
    levels = np.array(sigmas, np.float64)
    levels = levels[:-1] if len(levels) and levels[-1] == 0.0 else levels
    if not len(levels) or not np.all((levels > 0.0) & (levels <= 1.0)) or not np.all(np.diff(levels) < 0.0):
        raise ValueError(f"sigmas are {list(sigmas)}: expected numbers from 1 down to above 0, strictly decreasing.")
    return levels
