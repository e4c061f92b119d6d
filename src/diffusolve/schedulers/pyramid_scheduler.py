"""The base of schedulers of pyramidal flow matching (Helios)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import sqrt
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch import from_numpy as tensor_of

from diffusolve.noise import FlowMatching, NoiseSchedule, shifted
from diffusolve.prediction import CONFIGURED, Prediction, prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.flow_sigmas import FlowSigmas, ShiftsTime
from diffusolve.schedulers.generation import Prepared, check_options_of
from diffusolve.schedulers.members import unreachable
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.steps import Array, Steps
from diffusolve.spacing.flow import shift_from_mu

__all__ = ["PyramidScheduler"]


class PyramidScheduler(ShiftsTime, Scheduler):
    """A run for each stage of a pyramid of resolutions; in between the caller enlarges the sample and adds noise.

    Jin et al. 2024, Pyramidal Flow Matching. A stage has sigmas of its own, from nearly 1 to 0 as the stage's end, and
    timesteps from a part of those of the whole. The numbers of the stages are attributes, dictionaries by stage.

    Attributes:
        ori_start_sigmas, end_sigmas: the whole's sigma where a stage starts and ends.
        start_sigmas: the sigma where it starts once the sample is enlarged, its noise being correlated by `gamma`.
        timestep_ratios: the parts of the whole's timesteps that it takes, as (start, end) from 0 to 1.
        timesteps_per_stage, sigmas_per_stage: all training timesteps and sigmas of a stage, shape
            (num_train_timesteps,).
        sigma_max, sigma_min: the whole's.
        drops_last: whether of the timesteps asked for the last is where the last step ends.
    """

    _compatibles: ClassVar[list[str]] = []
    timestep_dtype: ClassVar[type] = np.float64
    init_noise_sigma: float = 1.0
    drops_last: ClassVar[bool] = False
    fixed: ClassVar[frozenset[str]] = Scheduler.fixed | {
        "_sigma_to_alpha_sigma_t",
        "_sigma_to_t",
        "_time_shift_exponential",
        "_time_shift_linear",
        "convert_model_output",
        "init_sigmas",
        "init_sigmas_for_each_stage",
        "multistep_uni_c_bh_update",
        "multistep_uni_p_bh_update",
        "step_euler",
        "step_unipc",
        "time_shift",
    }
    members = unreachable(
        "a run holds what the solver needs of it in registers that plan names; reset_scheduler_history forgets it",
        "last_sample",
        "lower_order_nums",
        "model_outputs",
        "timestep_list",
    )

    def _configured(self) -> None:
        config, stages = self.config, int(self.config["stages"])
        bounds = list(config["stage_range"])
        if len(bounds) != stages + 1 or any(b <= a for a, b in pairwise(bounds)) or (bounds[0], bounds[-1]) != (0, 1):
            raise ValueError(
                f"stage_range is {bounds}: expected {stages + 1} numbers for stages={stages}, strictly rising from 0 "
                "to 1."
            )
        self.gamma = config["gamma"]
        self._divide(bounds)
        super()._configured()

    def _divide(self, bounds: list[float]) -> None:
        """Work out the numbers of the stages, which end at `bounds`."""
        count, sigmas = len(self), self._training_sigmas
        self.sigma_max, self.sigma_min = float(sigmas[0]), float(sigmas[-1])
        places = [max(int(bound * count), 0) for bound in bounds]
        if any(b <= a for a, b in pairwise(places)):
            raise ValueError(f"num_train_timesteps is {count}: expected some in each of the {len(places) - 1} stages.")
        starts = [float(sigmas[place]) for place in places[:-1]]
        ends = [*starts[1:], 0.0]
        self.ori_start_sigmas, self.end_sigmas = dict(enumerate(starts)), dict(enumerate(ends))
        first, *later = starts
        self.start_sigmas = {0: first, **{k: self._enlarged(sigma) for k, sigma in enumerate(later, 1)}}
        lengths = [self.start_sigmas[k] - end for k, end in enumerate(ends)]
        parts = [sum(lengths[:k]) / sum(lengths) for k in range(len(lengths))]
        self.timestep_ratios = dict(enumerate(pairwise([*parts, np.nextafter(1.0, 0.0)])))
        self.timesteps_per_stage: dict[int, Tensor] = {}
        self.sigmas_per_stage: dict[int, Tensor] = {}
        for k, (start, end) in self.timestep_ratios.items():
            high, low = (sigmas[min(int(ratio * count), count - 1)] * count for ratio in (start, end))
            timesteps = np.linspace(min(high, 999.0), low, count + 1)[:-1]
            self.timesteps_per_stage[k] = tensor_of(timesteps)
            self.sigmas_per_stage[k] = tensor_of(np.linspace(0.999, 0.0, count + 1)[:-1])

    def _enlarged(self, sigma: float) -> float:
        """The sigma of a sample that was at `sigma`, once it is enlarged and renoised (appendix A of the paper)."""
        data = 1.0 - sigma
        return 1.0 - data / (sqrt(1.0 + 1.0 / self.gamma) * sigma + data)

    @property
    def _training_sigmas(self) -> Array:
        """The whole's sigma at each training timestep, the noisiest first."""
        rising = (1.0 - np.linspace(1.0, 1.0 / len(self), len(self) + 1))[1:]
        return shifted(rising[::-1], self.config["shift"])

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Flow matching, in each stage for itself."""
        return FlowMatching(num_train_timesteps=len(self))

    @property
    def _prediction(self) -> Prediction:
        name = self.config["prediction_type"]
        return prediction(CONFIGURED.get(name, name))

    @property
    def sigmas(self) -> Tensor:
        """The sigmas of the stage's steps and of its end; the whole's before `set_timesteps`."""
        return self._current.sigmas_for_users()

    def set_timesteps(
        self,
        num_inference_steps: int,
        stage_index: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        is_amplify_first_chunk: bool = False,
    ) -> None:
        """Begin the run of a stage, in `num_inference_steps` steps.

        Args:
            num_inference_steps: how many steps.
            stage_index: the stage, from 0; may be left out where there is one only.
            device: for the timesteps.
            sigmas: of the steps of the only stage, before `mu` shifts them, falling from 1 to above 0, shape (steps,).
                Several stages, and distilled networks, choose them.
            mu: how far sigmas are shifted, with `use_dynamic_shifting`.
            is_amplify_first_chunk: take twice as many steps, where the class is one for distilled networks.

        Raises:
            ValueError: no such stage; `sigmas` are given where the class chooses them, or do not fall from 1, or are
                not as many as steps; `mu` is missing.
        """
        asked, stages = asked_for(num_inference_steps, None, sigmas), int(self.config["stages"])
        steps = asked.steps
        if sigmas is not None and (stages > 1 or self.drops_last):
            raise ValueError(f"sigmas are given, but {type(self).__name__} chooses them by stages: leave them out.")
        if stage_index not in range(stages) and not (stage_index is None and stages == 1):
            raise ValueError(f"stage_index is {stage_index}: expected 0 to {stages - 1}, as there are stages.")
        if self.config["use_dynamic_shifting"] and mu is None:
            raise FlowSigmas.of(self.config).without_mu()
        points = steps
        if self.drops_last:
            points = (2 * steps if is_amplify_first_chunk else steps) + 1
        timesteps, chosen = (
            self._whole(points, asked.sigmas, mu) if stages == 1 else self._of_stage(int(stage_index or 0), points, mu)
        )
        if self.drops_last:
            timesteps, chosen = timesteps[:-1], chosen[:-1]
        self._begin(Asked(points, tuple(timesteps.tolist()), tuple(chosen.tolist())), device)

    def _whole(self, points: int, given: Sequence[float] | None, mu: float | None) -> tuple[Array, Array]:
        """Timesteps and sigmas of the only stage: plain flow matching."""
        if given is None:
            sigmas = shifted(np.linspace(1.0, 1.0 / len(self), points + 1)[:-1], self._shift_of_whole)
        else:
            sigmas = np.array(given)
            if sigmas[0] > 1.0:
                raise ValueError(f"sigmas are {list(given)}: expected numbers from 1 down to above 0.")
        sigmas = self._dynamically(sigmas, mu)
        return sigmas * len(self), sigmas

    @property
    def _shift_of_whole(self) -> float:
        """The shift of sigmas that the only stage chooses."""
        return float(self.config["shift"])

    def _of_stage(self, stage: int, points: int, mu: float | None) -> tuple[Array, Array]:
        timesteps, sigmas = self.timesteps_per_stage[stage].numpy(), self.sigmas_per_stage[stage].numpy()
        chosen = np.linspace(sigmas[0], sigmas[-1], points)
        if not self.config["use_dynamic_shifting"]:
            return np.linspace(timesteps[0], timesteps[-1], points), chosen
        chosen = self._dynamically(chosen, mu)
        return timesteps[-1] + chosen * (timesteps[0] - timesteps[-1]), chosen

    def _dynamically(self, sigmas: Array, mu: float | None) -> Array:
        config = self.config
        if not config["use_dynamic_shifting"] or mu is None:
            return sigmas
        return shifted(sigmas, shift_from_mu(mu, config["time_shift_type"]))

    def _steps(self, asked: Asked) -> Steps:
        return Steps(np.array(asked.timesteps), np.append(np.array(asked.sigmas), 0.0))

    def _prepare(self, asked: Asked) -> Prepared:
        return self._prepared_as(self._steps(asked), np.float32 if self.config["stages"] == 1 else np.float64)

    def _standing(self) -> Prepared:
        sigmas = self._training_sigmas
        standing = self._prepared_as(Steps(sigmas * len(self), np.append(sigmas, 0.0)), np.float64)
        standing.sigmas = standing.sigmas[:-1]  # a run over all of them leads to 0, which is not shown
        return standing

    def _prepared_as(self, steps: Steps, dtype: type) -> Prepared:
        walked, solver = steps._replace(sigmas=np.append(steps.sigmas[:-1], self._end)), self._solver(len(steps[0]))
        check_options_of(solver, len(steps.timesteps))
        return Prepared(
            partial(walked.grid, self.noise_schedule, self.scaling),
            solver,
            self._prediction,
            steps.timesteps.astype(dtype),
            steps.sigmas.astype(dtype),
        )

    @property
    def _end(self) -> float:
        """The sigma where the last step of a stage leads."""
        return 0.0

    def reset_scheduler_history(self) -> None:
        """Begin the stage's run anew."""
        generation = self._current
        generation.run = generation.step_index = None
