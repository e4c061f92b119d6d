"""Spacings by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from diffusolve.errors import check_options, shown, unknown_name
from diffusolve.spacing.align_your_steps import AlignYourSteps
from diffusolve.spacing.base import Spacing
from diffusolve.spacing.by_sigma import (
    BetaSigmas,
    BongTangent,
    Exponential,
    Karras,
    KLOptimal,
    LinearQuadratic,
    Polyexponential,
    UniformLogSNR,
)
from diffusolve.spacing.by_timestep import Beta, Leading, Linspace, Simple, Trailing

__all__ = ["SPACINGS", "spacing"]

SPACINGS: dict[str, Callable[..., Spacing]] = {
    "linspace": Linspace,
    "leading": Leading,
    "trailing": Trailing,
    "sgm_uniform": partial(Linspace, to_first=False),
    "karras": Karras,
    "exponential": Exponential,
    "polyexponential": Polyexponential,
    "beta": Beta,
    "beta_sigmas": BetaSigmas,
    "uniform_log_snr": UniformLogSNR,
    "uniform": Linspace,
    "normal": Linspace,
    "simple": Simple,
    "ddim_uniform": partial(Leading, steps_offset=1),
    "kl_optimal": KLOptimal,
    "align_your_steps": AlignYourSteps,
    "linear_quadratic": LinearQuadratic,
    "beta57": partial(Beta, alpha=0.5, beta=0.7),
    "bong_tangent": BongTangent,
}
"""Name -> constructor."""


def spacing(name: str, **options: object) -> Spacing:
    """The spacing called `name` (see :data:`SPACINGS`), for example ``spacing("karras", rho=5)``.

    Raises:
        UnknownNameError: no such spacing or option; the nearest names are offered.
        TypeError: `name` is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"{shown(name)} is no name of a spacing: expected text, for example 'karras'.")
    try:
        make = SPACINGS[name.casefold().replace(" ", "_").replace("-", "_")]
    except KeyError:
        raise unknown_name("spacing", name, SPACINGS) from None
    check_options(name, options, inspect.signature(make).parameters)
    return make(**options)
