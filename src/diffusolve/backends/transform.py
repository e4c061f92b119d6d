"""Changes that runs make to data predictions before they use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diffusolve.arrays import Array, namespace
from diffusolve.plan import Stage

__all__ = ["Clip", "Transform"]

Transform = Callable[[Array, Stage], Array]
"""Changes a data prediction (clips it, say) before it is used."""


@dataclass(frozen=True)
class Clip:
    """The transform that clips data predictions to plus and minus `limit`, which is a part of the sums of a run."""

    limit: float

    def __post_init__(self) -> None:
        if not self.limit >= 0.0:  # NaN too
            raise ValueError(f"limit is {self.limit!r}: expected at least 0.")

    def __call__(self, data: Array, stage: Stage) -> Array:
        return namespace(data).clip(data, -self.limit, self.limit)
