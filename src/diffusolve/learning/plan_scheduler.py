"""A scheduler that walks plans: learned ones, or any without noise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isclose
from typing import TYPE_CHECKING, Any

from diffusolve.backends import Run
from diffusolve.config import register_to_config
from diffusolve.errors import shown
from diffusolve.noise import NoiseSchedule
from diffusolve.noise.from_config import noise_schedule_from_config
from diffusolve.plan import Plan, check_noise_schedule
from diffusolve.prediction import prediction_from_config
from diffusolve.schedulers.given import number_of
from diffusolve.schedulers.mixin import SchedulerMixin
from diffusolve.schedulers.outputs import SchedulerOutput
from diffusolve.schedulers.step_types import WithGenerator, declared_as

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PlanScheduler"]


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
        for told in _listed(plans or []):
            if isinstance(told, Plan):
                raise TypeError(
                    "plans holds a Plan: expected plans as JSON has them. PlanScheduler.for_scheduler(plans, "
                    "scheduler) takes plans, and checks that they are for the scheduler's network."
                )
            plan = Plan.from_json(json.dumps(told))
            if plan.is_stochastic or plan.reads_unguided:
                raise ValueError(
                    f"{plan.solver} adds noise or takes an unguided output: use one of the other schedulers."
                )
            if plan.nfe in self._plans:
                raise ValueError(f"two plans take {plan.nfe} evaluations: leave one of them out.")
            if schedule is not None:
                check_noise_schedule(plan, schedule)
                _check_start(plan, schedule)
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
        """The scheduler of `plans` that takes the place of a pipeline's own `scheduler`, or of one of other plans.

        Raises:
            ValueError: a plan was made for another noise schedule or prediction type.
            TypeError: something else than plans.
        """
        told = [_as_json(plan) for plan in _listed(plans)]
        if isinstance(scheduler, cls):
            known = scheduler.config
            return cls(told, known["trained_with"], known["num_train_timesteps"], known["predicts"])
        own = getattr(scheduler, "config", None)
        if isinstance(scheduler, type) or not isinstance(own, Mapping):
            raise TypeError(f"scheduler is {shown(scheduler)}: expected the pipeline's own, pipe.scheduler.")
        config = {key: value for key, value in own.items() if not key.startswith("_")}
        config["_class_name"] = type(scheduler).__name__
        return cls(
            told,
            {key: value for key, value in config.items() if _is_plain(value)},
            config.get("num_train_timesteps", 1000),
            prediction_from_config(config).name,
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
            sigmas: how many there are is the number, where pipelines of flow-matching models say it so; the sigmas are
                the plan's own.
            mu: the shift by resolution that such pipelines ask for; a plan has its sigmas already.

        Raises:
            ValueError: there is no plan for that number; those that there are are named.
        """
        import torch

        count = num_inference_steps if sigmas is None else len(sigmas)
        if count not in self._plans:
            known = ", ".join(map(str, sorted(self._plans))) or "none"
            raise ValueError(f"num_inference_steps is {shown(count)}: there are plans for {known}.")
        self._plan = self._plans[count]
        self._run = Run(self._plan)
        self._timesteps = torch.tensor(self._plan.timesteps, dtype=torch.float32, device=device)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as the network takes it."""
        scaled: Tensor = self._begun().model_input(sample)
        return scaled.to(sample.dtype)

    @declared_as(WithGenerator[Any, SchedulerOutput].step)
    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample after the next evaluation of the plan.

        Args:
            model_output: of the network, at `timestep`.
            timestep: the next of `timesteps`.
            sample: the sample that the last step led to.
            generator: nothing is drawn from it; some pipelines hand one to every scheduler.
            return_dict: whether the result is an object with `prev_sample`, or a tuple.

        Raises:
            ValueError: `timestep` is not the next one: plans are walked from their beginning to their end.
        """
        run = self._begun()
        expected = run.stage.point.timestep
        given = number_of(timestep)
        if not isclose(given, expected, rel_tol=1e-5, abs_tol=1e-4):
            raise ValueError(
                f"timestep {given:g} is not the one that comes next, {expected:g}: a plan is walked from its "
                "beginning to its end."
            )
        previous = run.step(model_output, sample)
        return SchedulerOutput(previous) if return_dict else (previous,)

    def _begun(self) -> Run:
        if self._run is None:
            raise ValueError("PlanScheduler has no timesteps yet: call set_timesteps(num_inference_steps) first.")
        return self._run


def _check_start(plan: Plan, schedule: NoiseSchedule) -> None:
    """Raise ValueError unless `plan` begins at the noisiest level of `schedule`, where pipelines begin."""
    first = float(schedule.scaling.log_snr(schedule.sigma_max))
    if plan.start.log_snr != first and not abs(plan.start.log_snr - first) < 0.02:
        raise ValueError(
            f"the plan begins at log-SNR {plan.start.log_snr:.3f}, but {schedule} at {first:.3f}: it was made for "
            "another noise schedule, or begins in the middle."
        )


def _listed(plans: Any) -> Iterable[Any]:
    """`plans`. Raises TypeError if it is one plan."""
    if isinstance(plans, Plan):
        raise TypeError("plans is a Plan: expected a list of them, [plan] for one.")
    if not isinstance(plans, Iterable) or isinstance(plans, str):
        raise TypeError(f"plans is {shown(plans)}: expected a list of them.")
    listed: Iterable[Any] = plans
    return listed


def _as_json(plan: Any) -> dict[str, Any]:
    """`plan` as JSON has it. Raises TypeError if it is none."""
    if not isinstance(plan, Plan):
        raise TypeError(
            f"plans holds {shown(plan)}: expected a Plan; Plan.from_json makes one of the text of a plan file."
        )
    told: dict[str, Any] = json.loads(plan.to_json())
    return told


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | tuple)
