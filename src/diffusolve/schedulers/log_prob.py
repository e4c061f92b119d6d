"""Steps of schedulers with their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from diffusolve.backends import Run
from diffusolve.backends.log_prob import LogProbArguments, LogProbStep
from diffusolve.errors import NoDensityError, check_options

if TYPE_CHECKING:
    from diffusolve.schedulers.generation import Options

__all__ = ["HasLogProbs"]

CLASSES_WITH_DENSITY = (
    "EulerAncestralDiscreteScheduler, DDIMScheduler with eta above 0, DPMSolverMultistepScheduler with "
    "algorithm_type='sde-dpmsolver++' and, on flow matching, FlowMatchSDEDiscreteScheduler"
)


NOT_OPTIONS = {"self", "model_output", "timestep", "sample", "return_dict"}
"""Arguments of `step` that are not handed on."""


class HasLogProbs:
    """A scheduler whose steps tell the log-probability of where they lead.

    Attributes:
        options_with_density: of the solver whose steps are those of the class and have a density.
        changes_samples: a reason why the result of a step is not what its noise makes of the sample.
    """

    options_with_density: ClassVar[Options] = ()
    changes_samples: ClassVar[str] = ""

    if TYPE_CHECKING:
        precision: ClassVar[Any]

        def step(self, *args: Any, **kwargs: Any) -> Any: ...

    def step_log_prob(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        prev_sample: Tensor | None = None,
        *,
        dims: int | Sequence[int] | None = None,
        reduction: str = "mean",
        **options: Any,
    ) -> LogProbStep:
        """A :meth:`step` that tells the density of the sample that it leads to, given those before it.

        It draws what `step` draws and moves the run as that does. With `prev_sample` nothing is drawn, and the run goes
        on from that: for the ratio of PPO, hand over the samples of an earlier run and the outputs of another network.

        Args:
            model_output, timestep, sample: as for :meth:`step`.
            prev_sample: the sample to take for the one that the step leads to, shape of `sample`; drawn when missing.
            dims: the dimensions to reduce over; all but the first when missing.
            reduction: "mean", the average over these dimensions as in Flow-GRPO and DDPO, or "sum", the density.
            options: everything else that :meth:`step` takes: `generator`, `eta`, `s_noise`.

        Returns:
            (prev_sample, log_prob, mean, std). Gradients flow from `log_prob` and `mean` (and `std`, where a network
            predicts it) to `model_output`, not through a sample that is drawn.

        Raises:
            NoDensityError: the step adds no noise, or none of its own. The run is left where it was.
            ValueError: as of :meth:`step`; `prev_sample` of another shape, `dims` that the sample does not have.
        """
        kind: Any = type(self)
        name = kind.__name__
        if self.changes_samples:
            raise NoDensityError(f"a step of {name} has no density: {self.changes_samples}. Take another class.")
        rounds = sample.dtype is not model_output.dtype and self.precision == "output"
        asked = LogProbArguments(prev_sample, dims, reduction, model_output if rounds else None)
        walker = object.__new__(_walker_of(kind))
        object.__setattr__(walker, "__dict__", vars(self))
        recorded: list[LogProbStep] = []
        object.__setattr__(walker, "_recording", (asked, recorded))
        try:
            result = walker.step(
                model_output=model_output, timestep=timestep, sample=sample, return_dict=False, **options
            )
        except TypeError:
            known = signature(kind.step).parameters
            if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in known.values()):
                check_options(f"{name}.step_log_prob", options, known.keys() - NOT_OPTIONS)
            raise
        except NoDensityError as error:
            raise NoDensityError(f"{name}: {error} Classes: {CLASSES_WITH_DENSITY}.") from None
        if not recorded:
            raise NoDensityError(f"{name} makes this step element by element, without a plan that has a density.")
        (step,) = recorded
        if result[0] is not step.next_sample and result[0].dtype is step.next_sample.dtype:
            raise NoDensityError(
                f"{name}.step changes the sample after its noise was added, so that it has no density."
            )
        return step._replace(next_sample=result[0] if prev_sample is None else prev_sample)

    def _walk(self, run: Run, output: Tensor, sample: Tensor) -> Tensor:
        """The next sample of `run`."""
        following: Tensor = run.step(output, sample)
        return following


class _Recorder(HasLogProbs):
    """A scheduler by another class: it has the attributes of the scheduler, and its own record of one step."""

    __slots__ = ()

    def _walk(self, run: Run, output: Tensor, sample: Tensor) -> Tensor:
        asked, recorded = object.__getattribute__(self, "_recording")
        step = run._step_asked(output, sample, asked)
        recorded.append(step)
        following: Tensor = step.next_sample
        return following

    def _advance(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        options: Options = (),
        variance_noise: Tensor | None = None,
    ) -> tuple[Tensor, Run]:
        options = (*options, *self.options_with_density)
        advanced: tuple[Tensor, Run] = super()._advance(  # type: ignore[misc]  # of Scheduler
            model_output, timestep, sample, generator, options, variance_noise
        )
        return advanced


@lru_cache(maxsize=256)
def _walker_of(kind: Any) -> type[Any]:
    """`kind` with steps that record. Its objects share the attributes of a scheduler, so that steps move its runs."""
    inside = {"__slots__": ("_recording",), "__module__": __name__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (_Recorder, kind), inside)
