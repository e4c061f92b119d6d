"""Meanings of a network's output, as two numbers: ``x0 = a * x + b * output``.

Each prediction type is a small frozen value. The numbers are those of Salimans & Ho 2022 (epsilon, sample, v), Lipman
et al. 2022 (flow) and Karras et al. 2022, table 1 (EDM), for samples ``alpha * x0 + sigma * noise``.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from diffusolve.errors import SingularPointError, check_options, unknown_name
from diffusolve.noise import Point

__all__ = [
    "CONFIGURED",
    "EDM",
    "Conversion",
    "Epsilon",
    "Flow",
    "Prediction",
    "PredictionOrName",
    "Sample",
    "VPrediction",
    "prediction",
    "prediction_from_config",
]


class Conversion(NamedTuple):
    """The use of a network at one point.

    The network sees ``scale * x``; the data prediction is ``x0 = a * x + b * output``.
    """

    scale: float
    a: float
    b: float


class Prediction(ABC):
    """A meaning of the network's output."""

    name: ClassVar[str]

    @property
    def description(self) -> str:
        """The name, with the parameters if there are any."""
        return self.name

    @abstractmethod
    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        """(a, b) for a sample with (`alpha`, `sigma`) in the network's own scaling."""

    def input_scale(self, alpha: float, sigma: float) -> float:
        """The factor of the sample, beyond the change of scaling, before the network sees it."""
        return 1.0

    def conversion(self, point: Point) -> Conversion:
        """The use of the network for a sample at `point`, in the scaling of the point's grid.

        Raises:
            SingularPointError: the output says nothing about the data there.
        """
        alpha, sigma = point.alpha * point.scale, point.sigma * point.scale
        a, b = self.data(alpha, sigma)
        return Conversion(point.scale * self.input_scale(alpha, sigma), a * point.scale, b)


@dataclass(frozen=True)
class Epsilon(Prediction):
    """The output is the noise."""

    name: ClassVar[str] = "epsilon"

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        if alpha == 0.0:
            raise SingularPointError(
                "an epsilon prediction says nothing about the data where alpha is 0 (zero terminal SNR, as "
                "rescale_betas_zero_snr makes it, or flow matching at sigma = 1): such models are trained with "
                "v_prediction, sample or flow. Use one of them, or start at a smaller timestep."
            )
        return 1.0 / alpha, -sigma / alpha


@dataclass(frozen=True)
class Sample(Prediction):
    """The output is the data, x0."""

    name: ClassVar[str] = "sample"

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        return 0.0, 1.0


@dataclass(frozen=True)
class VPrediction(Prediction):
    """The output is ``v = alpha * noise - sigma * x0``, on samples with alpha^2 + sigma^2 = 1.

    Elsewhere (alpha^2 + sigma^2 = c^2) it is the same v of the sample divided by c.
    """

    name: ClassVar[str] = "v_prediction"

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        power = alpha * alpha + sigma * sigma
        return alpha / power, -sigma / power**0.5


@dataclass(frozen=True)
class Flow(Prediction):
    """The output is the velocity ``noise - x0``."""

    name: ClassVar[str] = "flow"

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        total = alpha + sigma
        return 1.0 / total, -sigma / total


@dataclass(frozen=True)
class EDM(Prediction):
    """The output is F of EDM's preconditioned denoiser ``c_skip * x + c_out * F(c_in * x)``.

    Args:
        sigma_data: standard deviation of the training data; 0.5 in the paper, 1 for Playground v2.5 and SVD.
    """

    name: ClassVar[str] = "edm"

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0.0:
            raise ValueError(f"sigma_data is {self.sigma_data:g}: expected the data's standard deviation, above 0.")

    @property
    def description(self) -> str:
        return f"{self.name}(sigma_data={self.sigma_data:g})"

    def input_scale(self, alpha: float, sigma: float) -> float:
        return float((sigma * sigma + (alpha * self.sigma_data) ** 2) ** -0.5)

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        power = sigma * sigma + (alpha * self.sigma_data) ** 2
        return alpha * self.sigma_data**2 / power, sigma * self.sigma_data * power**-0.5


PredictionOrName: TypeAlias = (
    Prediction | Literal["epsilon", "sample", "v_prediction", "flow", "edm", "flow_prediction"]
)
"""A prediction type, or the name of one."""

PREDICTIONS: dict[str, type[Prediction]] = {kind.name: kind for kind in (Epsilon, Sample, VPrediction, Flow, EDM)}
"""Name -> class. Diffusers' ``flow_prediction`` is also understood by :func:`prediction`."""


def prediction(name: str | Prediction, **options: float) -> Prediction:
    """The prediction type called `name`, for example ``prediction("edm", sigma_data=1.0)``; one given is returned.

    Raises:
        UnknownNameError: no such type or option; the nearest names are offered.
    """
    if isinstance(name, Prediction):
        if options:
            raise ValueError(f"{name} has its options already: leave {', '.join(options)} out.")
        return name
    kind = PREDICTIONS.get("flow" if name == "flow_prediction" else name)
    if kind is None:
        raise unknown_name("prediction type", name, PREDICTIONS)
    if options:
        check_options(kind.name, options, inspect.signature(kind).parameters)
    return kind(**options)


CONFIGURED = {"flow_prediction": "flow", "original_sample": "sample"}
"""Names in configurations of diffusers -> ours, where they differ."""


def prediction_from_config(config: Mapping[str, Any]) -> Prediction:
    """The prediction type in `config`, the content of a ``scheduler_config.json``.

    Raises:
        UnknownNameError: no such type.
    """
    name, told = str(config.get("_class_name", "")), config.get("prediction_type", "epsilon")
    if name.startswith("EDM"):
        return EDM(config.get("sigma_data", 0.5))
    return Flow() if name.startswith("FlowMatch") else prediction(CONFIGURED.get(told, told))
