"""Every sampler by the name that people know."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

from diffusolve.errors import unknown_name
from diffusolve.sampling.sampler import Sampler
from diffusolve.solvers import Solver, dpm_2, dpm_adaptive, dpmpp_multistep, dpmpp_sde, euler, heun, lms, unipc
from diffusolve.spacing import SPACINGS, Linspace, Spacing, spacing

__all__ = ["ALIASES", "CATALOG", "SCHEDULE_TYPES", "sampler"]

CATALOG: dict[str, Solver] = {
    "Euler": euler,
    "Euler a": euler.with_options(eta=1.0),
    "DDIM": euler,
    "Heun": heun,
    "DPM2": dpm_2,
    "DPM2 a": dpm_2.with_options(eta=1.0),
    "LMS": lms,
    "DPM++ 2M": dpmpp_multistep.with_options(lower_order_final=False),
    "DPM++ 3M": dpmpp_multistep.with_options(order=3),
    "DPM++ 2M SDE": dpmpp_multistep.with_options(eta=1.0, lower_order_final=False),
    "DPM++ 2M SDE Heun": dpmpp_multistep.with_options(eta=1.0, solver_type="heun", lower_order_final=False),
    "DPM++ 3M SDE": dpmpp_multistep.with_options(
        eta=1.0, order=3, solver_type="heun", third_order="authors", lower_order_final=False
    ),
    "DPM++ SDE": dpmpp_sde,
    "UniPC": unipc.with_options(order=3),
    "DPM adaptive": dpm_adaptive,
}
"""Name -> solver with its options. The names of k-diffusion's functions have those functions' numbers."""

ALIASES: dict[str, str] = {
    "k_euler": "Euler",
    "euler_ancestral": "Euler a",
    "k_euler_a": "Euler a",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "k_dpm_2_a": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_3m": "DPM++ 3M",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "uni_pc": "UniPC",
}
"""Other spellings -> the name in :data:`CATALOG`."""

SCHEDULE_TYPES: dict[str, str] = {
    "Uniform": "linspace",
    "Karras": "karras",
    "Exponential": "exponential",
    "Polyexponential": "polyexponential",
    "SGM Uniform": "sgm_uniform",
    "Beta": "beta",
    "Uniform log-SNR": "uniform_log_snr",
    "Leading": "leading",
    "Trailing": "trailing",
}
"""What may follow a sampler's name -> the spacing that it stands for."""


def sampler(name: str, spacing: str | Spacing | None = None, **options: object) -> Sampler:
    """The sampler called `name`, for example ``"DPM++ 2M Karras"``.

    Args:
        name: a name of :data:`CATALOG` or :data:`ALIASES`, in any case and spacing, with or without a schedule type of
            :data:`SCHEDULE_TYPES` at its end.
        spacing: where the steps fall, in place of a schedule type: a name or a
            :class:`~diffusolve.spacing.Spacing`.
        options: of the solver, for example ``eta=0.5``.

    Raises:
        UnknownNameError: no such sampler, spacing or option; the nearest names are offered.
        ValueError: a schedule type in the name and a spacing besides.
    """
    found, schedule_type = _find(name)
    if schedule_type is not None and spacing is not None:
        raise ValueError(f"{name!r} names the schedule type {schedule_type!r} already: leave spacing={spacing!r} out.")
    solver = CATALOG[found].with_options(**options)
    full_name = found if schedule_type is None else f"{found} {schedule_type}"
    return Sampler(solver, _spacing(spacing or schedule_type, solver), name=full_name)


def _spacing(wanted: str | Spacing | None, solver: Solver) -> Spacing:
    if wanted is None:
        made: Spacing = Linspace()
    elif isinstance(wanted, Spacing):
        made = wanted
    else:
        by_type = {_fold(schedule_type): name for schedule_type, name in SCHEDULE_TYPES.items()}
        made = spacing(by_type.get(_fold(wanted), wanted))
    if solver.adaptive and made.final_sigma == "zero":  # the controller steps in log-SNR, which is infinite at 0
        made = dataclasses.replace(made, final_sigma="sigma_min")
    return made


def _find(name: str) -> tuple[str, str | None]:
    """The catalog's name and the schedule type in `name`."""
    table, folded = _folded_names(), _fold(name)
    if folded in table:
        return table[folded], None
    for schedule_type in SCHEDULE_TYPES:
        suffix = _fold(schedule_type)
        if folded.endswith(suffix) and folded.removesuffix(suffix) in table:
            return table[folded.removesuffix(suffix)], schedule_type
    with_types = [f"{known} {schedule_type}" for known in CATALOG for schedule_type in SCHEDULE_TYPES]
    raise unknown_name("sampler", name, [*CATALOG, *with_types])


def _fold(name: str) -> str:
    """`name` without what people spell differently."""
    kept = name.casefold().replace("++", "pp")
    return "".join(character for character in kept if character.isalnum())


@lru_cache(maxsize=1)
def _folded_names() -> dict[str, str]:
    names = {name: name for name in CATALOG} | ALIASES
    return {_fold(spelling): name for spelling, name in names.items()}


assert set(SCHEDULE_TYPES.values()) <= set(SPACINGS)
