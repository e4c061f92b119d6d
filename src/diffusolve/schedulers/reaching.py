"""Members that programs reach for although diffusers' names for them begin with an underscore.

All are worked out of the run when they are asked for, so that runs which nobody looks into pay nothing for them. What
writing has an effect on in diffusers can be written here, with the same effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from diffusolve.noise import Scaling
from diffusolve.schedulers.clipping import dynamic_threshold
from diffusolve.schedulers.members import Kept, Members, begun_with_history, bring
from diffusolve.schedulers.steps import curve_named

if TYPE_CHECKING:
    from typing_extensions import Self

    from diffusolve.backends import Run
    from diffusolve.schedulers.generation import Generation, Options

__all__ = [
    "FIXED_IN_DPM_SOLVER",
    "ReachesIntoRuns",
    "ReachesIntoSigmas",
    "check_beta",
    "is_scale_input_called",
]


FIXED_IN_DPM_SOLVER = frozenset(
    {
        "_sigma_to_alpha_sigma_t",
        "_sigma_to_t",
        "convert_model_output",
        "dpm_solver_first_order_update",
        "multistep_dpm_solver_second_order_update",
        "multistep_dpm_solver_third_order_update",
    }
)
"""Methods that steps of diffusers' DPM-Solvers for EDM networks call."""


class ReachesIntoRuns:
    """The state of a run, and the limits of its data predictions.

    Attributes:
        replaceable: methods that a subclass may override because steps then call them, as those of diffusers do.
        fixed: methods that diffusers' steps call, and ours have no use for: overriding them would have no effect.
        members: of the history of a run, see :mod:`~diffusolve.schedulers.members`.
        kept: what the class remembers of a run, if a run can begin with such a history.
        clears: the members that are cleared together when a history is to be forgotten.
        _replaced: those of `replaceable` that are overridden: in a subclass or one of its bases, or set on the class.
        _noticed: the methods called `replaceable` and `fixed`, as they were when this was last looked at.
    """

    replaceable: ClassVar[frozenset[str]] = frozenset()
    fixed: ClassVar[frozenset[str]] = frozenset({"_init_step_index", "index_for_timestep"})
    members: ClassVar[Members] = {}
    kept: ClassVar[Kept | None] = None
    clears: ClassVar[frozenset[str]] = frozenset()
    _replaced: ClassVar[frozenset[str]] = frozenset()
    _noticed: ClassVar[list[Any]] = []

    if TYPE_CHECKING:

        @property
        def _generation(self) -> Generation | None: ...

        @property
        def _current(self) -> Generation: ...

        @property
        def config(self) -> Any: ...

        def index_for_timestep(self, timestep: Any) -> int: ...

    def __getattr__(self, name: str) -> Any:
        member = type(self).members.get(name)
        if member is None and name in type(self).fixed:
            raise AttributeError(
                f"{type(self).__name__} has no {name}: the coefficients of its steps are worked out once for the whole "
                "run. step makes a step with them, and plan shows them."
            )
        if member is None:
            return super().__getattr__(name)  # type: ignore[misc]  # of ConfigMixin
        if member.read is None:
            raise AttributeError(f"{type(self).__name__} has no {name}: {member.instead}.")
        return member.read(self)

    def _write_member(self, name: str, value: Any) -> bool:
        """Write to what only seems to be an attribute; False if `name` is one.

        Raises:
            AttributeError: writing to it can have no effect here.
        """
        cls = type(self)
        member = cls.members.get(name)
        if member is not None and member.write is not None:
            member.write(self, value)
        elif member is not None:
            raise AttributeError(f"{cls.__name__}.{name} cannot be written to: {member.instead}.")
        elif name in cls.fixed or (name in cls.replaceable and callable(getattr(cls, name, None))):
            raise AttributeError(
                f"{name} is assigned to one object of {cls.__name__}, whose steps would not call it: override it in a "
                "subclass, which says whether steps call it."
            )
        else:
            return False
        return True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if _is_outside(cls, BOTH[0]):
            cls._notice_overridden()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        cls._notice_overridden()
        return super().__new__(cls, *args, **kwargs)

    @classmethod
    def _notice_overridden(cls) -> None:
        """Let steps call the methods that are overridden by now. Methods may be set on a class at any time.

        Raises:
            TypeError: steps would never call one of them.
        """
        methods = [getattr(cls, name, None) for names in (cls.replaceable, cls.fixed) for name in names]
        if methods == cls._noticed:
            return
        for name in sorted(cls.fixed):
            if _is_outside(getattr(cls, name, None), *BOTH):
                raise TypeError(
                    f"{cls.__name__} overrides {name}, which steps here do not call: their coefficients are worked out "
                    "once for the whole run. Override set_timesteps or step"
                    + (f", or {', '.join(sorted(cls.replaceable))}, which are called" if cls.replaceable else "")
                    + "; or derive the class from that of diffusers."
                )
        cls._take_overridden(
            frozenset(name for name in cls.replaceable if _is_outside(getattr(cls, name, None), BOTH[0]))
        )
        cls._noticed = methods

    @classmethod
    def _take_overridden(cls, names: frozenset[str]) -> None:
        """Let steps call the methods called `names`, which are overridden."""
        cls._replaced = names

    def _begun_with_history(self, generation: Generation, index: int, options: Options) -> Run | None:
        """A run that goes on at evaluation `index` with the history that `generation` brings; None to begin anew.

        Raises:
            ValueError: that history has no meaning there.
        """
        return None if self.kept is None else begun_with_history(self, generation, index, options)

    @property
    def _step_index(self) -> int | None:
        """The number of the next evaluation; None before the first. Written to, the run goes on from there."""
        generation = self._generation
        return None if generation is None else generation.step_index

    @_step_index.setter
    def _step_index(self, index: int | None) -> None:
        generation = self._current
        if index is not None and not 0 <= index <= len(generation.values):
            raise IndexError(f"_step_index is {index}: expected None, or 0 to {len(generation.values)}.")
        if index == generation.step_index:
            return
        if self._would_outlive(generation):
            bring(generation)
        generation.step_index, generation.run = index, None

    def _would_outlive(self, generation: Generation) -> bool:
        """True where something that diffusers remembers of a run outlives a change of its place."""
        return self.kept is not None and generation.run is not None

    @property
    def _begin_index(self) -> int | None:
        """The evaluation that the run begins with, as `set_begin_index` said."""
        generation = self._generation
        return None if generation is None else generation.begin_index

    @_begin_index.setter
    def _begin_index(self, index: int | None) -> None:
        self._current.begin_index = index

    def _init_step_index(self, timestep: Any) -> None:
        """Let the run begin at `timestep`, or where `set_begin_index` said."""
        generation = self._current
        begin = generation.begin_index
        self._step_index = self.index_for_timestep(timestep) if begin is None else begin

    @property
    def _has_begun(self) -> bool:
        """True once the run was begun, by `scale_model_input` or a step."""
        generation = self._generation
        return generation is not None and generation.run is not None

    def _threshold_sample(self, sample: Tensor) -> Tensor:
        """`sample`, a prediction of the data, limited as `thresholding` of the configuration does it.

        Raises:
            AttributeError: the class has no such configuration.
        """
        config = self.config
        if "dynamic_thresholding_ratio" not in config:
            raise AttributeError(f"{type(self).__name__} has no _threshold_sample: its configuration limits no data.")
        return dynamic_threshold(sample, config["dynamic_thresholding_ratio"], config["sample_max_value"])


def _turn_no_warning_off(scheduler: Any, value: bool) -> None:
    """Nothing: in diffusers this turns a warning off that there is none of here."""


is_scale_input_called = property(
    lambda scheduler: scheduler._has_begun,
    _turn_no_warning_off,
    doc="True once the run was begun, by `scale_model_input` or a step.",
)
"""For classes that scale the network's input."""


BOTH = "diffusolve", "diffusers"
"""The packages whose methods do not override each other's."""


def _is_outside(method: Any, *packages: str) -> bool:
    """True for a method, or class, that is there and was defined in none of the `packages`."""
    function = getattr(method, "fget", getattr(method, "__func__", method))
    return function is not None and str(getattr(function, "__module__", "")).split(".")[0] not in packages


def check_beta(alpha: float, beta: float) -> None:
    """Raise ValueError unless these are the parameters of the beta distribution that sigmas are taken from."""
    if (alpha, beta) != (0.6, 0.6):
        raise ValueError(f"alpha and beta are {alpha} and {beta}: only 0.6 and 0.6 are known here.")


class ReachesIntoSigmas(ReachesIntoRuns):
    """The sigmas of training, and the curves that a run's can follow."""

    replaceable: ClassVar[frozenset[str]] = frozenset({"_sigma_to_t"})
    fixed: ClassVar[frozenset[str]] = ReachesIntoRuns.fixed | {
        "_convert_to_beta",
        "_convert_to_exponential",
        "_convert_to_karras",
        "_sigma_to_alpha_sigma_t",
    }

    if TYPE_CHECKING:

        @property
        def _sigma_table(self) -> np.ndarray[Any, Any]: ...

    def _sigma_to_t(self, sigma: Any, log_sigmas: Any) -> np.ndarray[Any, Any]:
        """Training timesteps between whole ones, linear in log sigma; `log_sigmas` are those of the whole ones."""
        logs = np.asarray(log_sigmas, np.float64)
        return np.asarray(np.interp(np.log(np.maximum(np.asarray(sigma), 1e-10)), logs, np.arange(len(logs))))

    def _timesteps_replaced(self, sigmas: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Timesteps of `sigmas` by a subclass's own ``_sigma_to_t``."""
        log_sigmas = np.log(self._sigma_table.astype(np.float32))
        return np.array([float(self._sigma_to_t(sigma, log_sigmas)) for sigma in sigmas])

    def _convert_to_karras(self, in_sigmas: Any, num_inference_steps: int) -> np.ndarray[Any, Any]:
        """Sigmas along the curve of Karras et al. 2022, equation 5, between the ends configured or of `in_sigmas`."""
        return self._converted("use_karras_sigmas", in_sigmas, num_inference_steps)

    def _convert_to_exponential(self, in_sigmas: Any, num_inference_steps: int) -> np.ndarray[Any, Any]:
        """Sigmas with equal ratios, between the ends configured or of `in_sigmas`."""
        return self._converted("use_exponential_sigmas", in_sigmas, num_inference_steps)

    def _convert_to_beta(self, in_sigmas: Any, num_inference_steps: int, alpha: float = 0.6, beta: float = 0.6) -> Any:
        """Sigmas at quantiles of a beta distribution, between the ends configured or of `in_sigmas`."""
        check_beta(alpha, beta)
        return self._converted("use_beta_sigmas", in_sigmas, num_inference_steps)

    def _converted(self, curve: str, in_sigmas: Any, steps: int) -> np.ndarray[Any, Any]:
        low, high = self.config.get("sigma_min"), self.config.get("sigma_max")
        ends = float(in_sigmas[0] if high is None else high), float(in_sigmas[-1] if low is None else low)
        sigmas = curve_named(curve).between(*ends, steps, Scaling.VARIANCE_EXPLODING)
        return np.asarray(sigmas, np.float64)
