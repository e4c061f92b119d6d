"""A scheduler that walks plans: learned ones, or any without noise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isclose, isfinite
from typing import TYPE_CHECKING, Any

from diffusolve.backends import Run
from diffusolve.config import register_to_config
from diffusolve.learning.table import WIDEST_SHIFT
from diffusolve.noise import NoiseSchedule
from diffusolve.noise.from_config import noise_schedule_from_config
from diffusolve.plan import Plan
from diffusolve.schedulers.mixin import SchedulerMixin
from diffusolve.schedulers.outputs import SchedulerOutput

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PlanScheduler", "check_schedule"]


class PlanScheduler(SchedulerMixin):
    """A family of plans as one scheduler of a diffusers pipeline, each for another number of evaluations.

        pipe.scheduler = diffusolve.PlanScheduler.for_scheduler([plan], pipe.scheduler)
        pipe("a cat", num_inference_steps=plan.nfe)

    The configuration holds the plans, so that `save_pretrained`, `from_pretrained` and `push_to_hub` carry them. One
    run at a time: give each thread a scheduler of its own.

    Args:
        plans: plans as JSON has them, ``json.loads(plan.to_json())``.
        trained_with: the configuration of the pipeline's own scheduler, by which plans are checked; its class is under
            "_class_name".
        num_train_timesteps: of the network, for pipelines that ask.
        predicts: the meaning of its output: epsilon, sample, v_prediction, flow or edm.

    Raises:
        ValueError: a plan for another noise schedule or prediction type, with noise, or two for one number.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        plans: list[dict[str, Any]] | None = None,
        trained_with: dict[str, Any] | None = None,
        num_train_timesteps: int = 1000,
        predicts: str = "epsilon",
    ) -> None:
        self._plans: dict[int, Plan] = {}
        schedule = None if trained_with is None else noise_schedule_from_config(trained_with)
        for told in plans or []:
            plan = Plan.from_json(json.dumps(told))
            if plan.is_stochastic or plan.reads_unguided:
                raise ValueError(
                    f"{plan.solver} adds noise or takes an unguided output: use one of the other schedulers."
                )
            if plan.nfe in self._plans:
                raise ValueError(f"two plans take {plan.nfe} evaluations: leave one of them out.")
            if schedule is not None:
                check_schedule(plan, schedule)
                if plan.prediction.partition("(")[0] != predicts:
                    raise ValueError(
                        f"the plan is for {plan.prediction} prediction, but the pipeline's network predicts {predicts}."
                    )
            self._plans[plan.nfe] = plan
        self._plan: Plan | None = None
        self._run: Run | None = None
        self._timesteps: Any = None

    @classmethod
    def for_scheduler(cls, plans: Iterable[Plan], scheduler: Any) -> PlanScheduler:
        """The scheduler of `plans` that takes the place of a pipeline's own `scheduler`.

        Raises:
            ValueError: a plan was made for another noise schedule or prediction type.
        """
        config = {key: value for key, value in dict(scheduler.config).items() if not key.startswith("_")}
        config["_class_name"] = type(scheduler).__name__
        predicts = config.get("prediction_type", "epsilon")
        if config["_class_name"].startswith("FlowMatch"):
            predicts = "flow"
        elif config["_class_name"].startswith("EDM"):
            predicts = "edm"
        return cls(
            [json.loads(plan.to_json()) for plan in plans],
            {key: value for key, value in config.items() if _is_plain(value)},
            config.get("num_train_timesteps", 1000),
            {"flow_prediction": "flow"}.get(predicts, predicts),
        )

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    @property
    def plans(self) -> Mapping[int, Plan]:
        """Number of evaluations -> plan."""
        return self._plans

    @property
    def plan(self) -> Plan:
        """The plan that is walked; before `set_timesteps` the shortest."""
        if self._plan is not None:
            return self._plan
        if not self._plans:
            raise ValueError(
                "this scheduler has no plans: make it with PlanScheduler.for_scheduler([plan], scheduler)."
            )
        return self._plans[min(self._plans)]

    @property
    def init_noise_sigma(self) -> float:
        """The factor that makes standard normal noise a sample to start from."""
        return self.plan.start.sigma

    @property
    def timesteps(self) -> Tensor:
        """The timesteps that the network is told, one for each evaluation."""
        if self._timesteps is None:
            import torch

            return torch.tensor(self.plan.timesteps, dtype=torch.float32)
        timesteps: Tensor = self._timesteps
        return timesteps

    @property
    def sigmas(self) -> Tensor:
        """The sigmas of the samples, and that of the end."""
        import torch

        return torch.tensor(self.plan.sigmas, dtype=torch.float32)

    @property
    def step_index(self) -> int | None:
        """The number of the evaluation that comes next; None before the first run."""
        return None if self._run is None else self._run.position

    begin_index = 0

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Nothing for 0, the beginning; elsewhere no plan begins. Raises ValueError then."""
        if begin_index != 0:
            raise ValueError(f"begin_index is {begin_index}: a plan is walked from its beginning, 0.")

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run of the plan with so many evaluations.

        Args:
            num_inference_steps: one of the numbers of `plans`.
            device: for the timesteps.
            sigmas: how many there are is the number, where pipelines of flow-matching models say it so; the levels are
                the plan's own.
            mu: the shift by resolution that such pipelines ask for; a plan has its levels already.

        Raises:
            ValueError: there is no plan for that number; those that there are are named.
        """
        import torch

        count = num_inference_steps if sigmas is None else len(sigmas)
        if count not in self._plans:
            known = ", ".join(map(str, sorted(self._plans))) or "none"
            raise ValueError(f"num_inference_steps is {count}: there are plans for {known}.")
        self._plan = self._plans[count]
        self._run = Run(self._plan)
        self._timesteps = torch.tensor(self._plan.timesteps, dtype=torch.float32, device=device)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as the network takes it."""
        scaled: Tensor = self._begun().model_input(sample)
        return scaled.to(sample.dtype)

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample after the next evaluation of the plan.

        Raises:
            ValueError: `timestep` is not the next one: plans are walked from their beginning to their end.
        """
        run = self._begun()
        expected = run.stage.point.timestep
        if not isclose(float(timestep), expected, rel_tol=1e-5, abs_tol=1e-4):
            raise ValueError(
                f"timestep {float(timestep):g} is not the one that comes next, {expected:g}: a plan is walked from its "
                "beginning to its end."
            )
        previous = run.step(model_output, sample)
        return SchedulerOutput(previous) if return_dict else (previous,)

    def _begun(self) -> Run:
        if self._run is None:
            raise ValueError("PlanScheduler has no timesteps yet: call set_timesteps(num_inference_steps) first.")
        return self._run


def check_schedule(plan: Plan, schedule: NoiseSchedule) -> None:
    """Raise ValueError unless the timesteps of `plan` are those of its noise levels on `schedule`.

    They may be off by as much as a learned plan may tell its network.
    """
    for stage in plan.stages:
        timestep = stage.point.timestep
        try:
            told = float(schedule.log_snr(timestep))
        except ValueError:
            told = float("nan")
        own = stage.point.log_snr
        apart = abs(told - own) if isfinite(told) and isfinite(own) else (0.0 if told == own else float("inf"))
        if not apart <= WIDEST_SHIFT + 0.05:
            raise ValueError(
                f"the plan was made for another noise schedule: at timestep {timestep:g} its log-SNR is {own:.3f}, but "
                f"{told:.3f} on the pipeline's, {schedule}."
            )
    first = float(schedule.scaling.log_snr(schedule.sigma_max))
    if plan.start.log_snr != first and not abs(plan.start.log_snr - first) < 0.02:
        raise ValueError(
            f"the plan was made for another noise schedule: it begins at log-SNR {plan.start.log_snr:.3f}, but "
            f"{schedule} at {first:.3f}."
        )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | tuple)
