"""Attributes of a model that `sample()` needs to know."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from diffusolve.arrays import Array
from diffusolve.errors import shown
from diffusolve.noise import NoiseSchedule
from diffusolve.noise import noise_schedule as schedule_called
from diffusolve.prediction import Prediction, PredictionOrName
from diffusolve.prediction import prediction as prediction_called

__all__ = [
    "GuidedNetwork",
    "Network",
    "ScheduledNetwork",
    "calls_explained",
    "check_network",
    "trained_for",
    "two_outputs",
]


class Network(Protocol):
    """A model: takes samples (batch, ...) and timesteps (batch,) and returns an output of the samples' shape."""

    def __call__(self, x: Any, timestep: Any, /) -> Any: ...


@runtime_checkable
class ScheduledNetwork(Protocol):
    """A model that knows what it was trained for."""

    noise_schedule: NoiseSchedule
    prediction: Prediction

    def __call__(self, x: Any, timestep: Any, /) -> Any: ...


@runtime_checkable
class GuidedNetwork(Protocol):
    """A model with guidance that also says what it would without: what solvers with ``cfg_pp=True`` need."""

    def __call__(self, x: Any, timestep: Any, /) -> Any: ...

    def guided_and_unguided(self, x: Any, timestep: Any, /) -> tuple[Any, Any]:
        """The output with guidance and the one without, of the samples' shape each; the first is what calls return."""
        ...


def check_network(network: object) -> None:
    """Raise TypeError unless `network` can be called, as a network and not as a class, which makes one."""
    if isinstance(network, type):
        raise TypeError(f"network is the class {network.__name__}: expected an instance, {network.__name__}(...).")
    if not callable(network):
        given = f"a {type(network).__name__}" if hasattr(network, "shape") else shown(network)
        raise TypeError(
            f"network is {given}: expected something to call with samples (batch, ...) and timesteps (batch,), as the "
            "first argument, before the samples."
        )


@contextmanager
def calls_explained(network: Any) -> Iterator[None]:
    """A context in which a TypeError is said in words where it comes from the arguments that `network` takes."""
    try:
        yield
    except TypeError as error:
        if "argument" not in str(error):
            raise
        name = getattr(network, "__name__", type(network).__name__)
        for called in (network, getattr(network, "forward", None)):  # a torch module's own call takes anything
            if called is not None and (takes := _refusal(called)) is not None:
                raise TypeError(
                    f"network {name}{takes} was called with samples and timesteps, network(x, timestep): wrap it in a "
                    "function of these two, for example lambda x, timestep: network(x, ...)."
                ) from error
        raise


def _refusal(called: Any) -> str | None:
    """The signature of `called`, if it is one that two arguments do not fit."""
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # it has none that Python can read
        return None
    try:
        signature.bind(None, None)
    except TypeError:
        nothing = inspect.Parameter.empty
        bare = [parameter.replace(annotation=nothing) for parameter in signature.parameters.values()]
        return str(inspect.Signature(bare))
    return None


def trained_for(
    network: Any, noise_schedule: str | NoiseSchedule | None, prediction_type: PredictionOrName | None
) -> tuple[NoiseSchedule, Prediction]:
    """The noise schedule and the prediction that are given for `network`, or else those that it knows of itself.

    Raises:
        ValueError: neither says one of the two.
    """
    schedule = noise_schedule or getattr(network, "noise_schedule", None)
    predicts = prediction_type or getattr(network, "prediction", None)
    if schedule is None or predicts is None:
        missing = "noise_schedule" if schedule is None else "prediction_type"
        raise ValueError(
            f"{missing} is missing: give it, or wrap the network in diffusolve.denoisers.Denoiser, which knows."
        )
    return schedule_called(schedule), prediction_called(predicts)


def two_outputs(network: Network, solver: str) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The method `guided_and_unguided` of `network`, which `solver` asks for.

    Raises:
        TypeError: it has none; or, when called, what it returns is no pair.
    """
    method = getattr(network, "guided_and_unguided", None)
    if method is None:
        raise TypeError(
            f"{solver} needs the network's output with guidance and the one without, but {type(network).__name__} has "
            "no method guided_and_unguided(x, timestep) -> (guided, unguided): wrap the network in "
            "diffusolve.denoisers.ClassifierFreeGuidance, which has it, or leave cfg_pp out."
        )

    def both(x: Array, timestep: Array) -> tuple[Array, Array]:
        outputs = method(x, timestep)
        if not isinstance(outputs, tuple | list) or len(outputs) != 2:
            got = f"{len(outputs)} outputs" if isinstance(outputs, tuple | list) else f"a {type(outputs).__name__}"
            raise TypeError(f"guided_and_unguided returned {got}: expected two, (guided, unguided).")
        return outputs[0], outputs[1]

    return both
