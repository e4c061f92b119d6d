"""The tables that a diffusers scheduler keeps: betas and what follows from them, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusolve.errors import shown
from diffusolve.noise import TabulatedSignal
from diffusolve.noise.betas import betas as named_betas
from diffusolve.noise.betas import rescale_zero_terminal_snr

__all__ = ["NEARLY_ZERO", "Tables", "check_entries", "check_signal", "tables_of"]

NEARLY_ZERO = 2.0**-24
"""The last alphas_cumprod of schedulers that divide by alpha, in place of zero; sigma is then 4096."""

LEAST_SIGNAL = 1e-30
"""The least alphas_cumprod before the last one; one over its root is what network outputs are multiplied by."""

NAMED_BY = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")
SHAPED_BY = ("rescale_betas_zero_snr", "snr_shift_scale")


class Tables(NamedTuple):
    """Betas and what follows from them, shared between schedulers, so not to be written to.

    The tables are computed in float32 step by step, as the models' training code did: the noise schedule then has the
    very numbers that users of diffusers get.

    Attributes:
        first_without_signal: the first timestep where there is less of it than :data:`LEAST_SIGNAL`.
    """

    betas: Tensor
    alphas: Tensor
    alphas_cumprod: Tensor
    noise_schedule: TabulatedSignal
    first_without_signal: int | None = None


def tables_of(config: Mapping[str, Any], floor: float = 0.0) -> Tables:
    """The tables that `config` describes.

    Args:
        config: with num_train_timesteps, beta_schedule and, where these are asked for, beta_start, beta_end,
            trained_betas and rescale_betas_zero_snr; with snr_shift_scale, which divides the signal-to-noise ratio
            (CogVideoX), the tables are of double precision, and the betas those of before.
        floor: takes the place of a last alphas_cumprod of zero.

    Raises:
        ValueError: the signal does not fall.
    """
    trained = config.get("trained_betas")
    try:
        return _tables(
            config["beta_schedule"],
            float(config.get("beta_start", 0.0)),
            float(config.get("beta_end", 0.0)),
            int(config["num_train_timesteps"]),
            None if trained is None else tuple(float(beta) for beta in trained),
            bool(config.get("rescale_betas_zero_snr", False)),
            floor,
            float(config["snr_shift_scale"]) if "snr_shift_scale" in config else None,
        )
    except ValueError as error:
        raise ValueError(f"no noise schedule follows from {_said(config)}: {error}") from None


def check_entries(config: Mapping[str, Any], tables: Tables) -> None:
    """Raise ValueError if the `tables` that `config` describes lack timesteps, or noise at the first of them."""
    signal = tables.noise_schedule.signal
    if len(signal) < config["num_train_timesteps"]:
        raise ValueError(
            f"trained_betas has {len(signal)} entries: expected {config['num_train_timesteps']}, as there are "
            "num_train_timesteps."
        )
    if signal[0] == 1.0:
        raise ValueError(
            f"no steps can be made of {_said(config)}: alphas_cumprod is 1 at timestep 0, expected some noise."
        )


def check_signal(config: Mapping[str, Any], tables: Tables, noisiest: int) -> None:
    """Raise ValueError if single precision cannot divide by the signal at the timestep `noisiest`.

    A last signal of zero may be asked for.
    """
    signal, place = tables.noise_schedule.signal, tables.first_without_signal
    if place is None or noisiest < place:
        return
    may_end = config.get("rescale_betas_zero_snr") or config.get("trained_betas") is not None
    if not (may_end and place == len(signal) - 1 and signal[place] == 0.0):
        raise ValueError(
            f"no steps can be made of {_said(config)}: alphas_cumprod is {signal[noisiest]:g} at timestep {noisiest}, "
            f"expected at least {LEAST_SIGNAL:g}, as there is up to timestep {place - 1}."
        )


def _said(config: Mapping[str, Any]) -> str:
    """The keys and values of `config` that betas follow from."""
    named = NAMED_BY if config.get("trained_betas") is None else ("trained_betas",)
    keys = [*(key for key in named if key in config), *(key for key in SHAPED_BY if config.get(key))]
    return ", ".join(f"{key} = {shown(config[key])}" for key in keys)


@lru_cache(maxsize=128)
def _tables(
    beta_schedule: str,
    beta_start: float,
    beta_end: float,
    count: int,
    trained: tuple[float, ...] | None,
    zero_snr: bool,
    floor: float,
    snr_shift: float | None,
) -> Tables:
    if snr_shift is not None:
        return _shifted_tables(beta_schedule, beta_start, beta_end, count, trained, zero_snr, snr_shift)
    if trained is None:
        betas = _named(beta_schedule, beta_start, beta_end, count)
    else:
        betas = torch.tensor(trained, dtype=torch.float32)
    if zero_snr:
        signal = rescale_zero_terminal_snr(torch.cumprod(1.0 - betas, dim=0).numpy())
        betas = torch.from_numpy(1.0 - np.append(signal[:1], signal[1:] / signal[:-1]))
    alphas = 1.0 - betas
    cumprod = torch.cumprod(alphas, dim=0)
    if zero_snr and floor:
        cumprod[-1] = floor
    return _with_signal(betas, alphas, cumprod)


def _shifted_tables(
    beta_schedule: str,
    beta_start: float,
    beta_end: float,
    count: int,
    trained: tuple[float, ...] | None,
    zero_snr: bool,
    snr_shift: float,
) -> Tables:
    """The tables of a schedule whose signal-to-noise ratio is divided by `snr_shift` (Yang et al. 2024, CogVideoX)."""
    if trained is not None:
        betas = torch.tensor(trained, dtype=torch.float32)
    else:
        precision = torch.float64 if beta_schedule == "scaled_linear" else torch.float32
        betas = _named(beta_schedule, beta_start, beta_end, count, precision)
    alphas = 1.0 - betas
    cumprod = torch.cumprod(alphas, dim=0)
    cumprod = cumprod / (snr_shift + (1.0 - snr_shift) * cumprod)
    if zero_snr:
        cumprod = torch.from_numpy(rescale_zero_terminal_snr(cumprod.numpy()))
    return _with_signal(betas, alphas, cumprod)


def _with_signal(betas: Tensor, alphas: Tensor, cumprod: Tensor) -> Tables:
    """The tables, with what follows from the signal."""
    signal = tuple(cumprod.double().tolist())
    short = next((place for place, power in enumerate(signal) if not power >= LEAST_SIGNAL), None)
    return Tables(betas, alphas, cumprod, TabulatedSignal(signal), short)


def _named(
    beta_schedule: str, beta_start: float, beta_end: float, count: int, precision: torch.dtype = torch.float32
) -> Tensor:
    """The betas of `beta_schedule`, computed in the `precision` that training code has: equal to the last bit."""
    if beta_schedule == "linear":
        return torch.linspace(beta_start, beta_end, count, dtype=precision)
    if beta_schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, count, dtype=precision) ** 2
    return torch.tensor(named_betas(beta_schedule, beta_start, beta_end, count), dtype=torch.float32)
