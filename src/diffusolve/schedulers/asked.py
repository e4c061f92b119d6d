"""The arguments of `set_timesteps` as one value."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from diffusolve.errors import shown

__all__ = ["Asked", "asked_for"]


class Asked(NamedTuple):
    """The arguments of `set_timesteps` as one value, by all of which a prepared run is remembered.

    Attributes:
        steps: how many; as many as timesteps or sigmas, where these are given.
        timesteps: what the network is to be told.
        sigmas: where steps begin, without the last one's end.
        end: where the last step is to lead, where that was given as the last of the sigmas.
        mu: how far pipelines ask flow matching's sigmas to be shifted.
    """

    steps: int
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    end: float | None = None
    mu: float | None = None


def asked_for(
    num_inference_steps: int | None,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
    *,
    ends_with_last: bool = False,
) -> Asked:
    """The arguments of a call, checked against each other.

    Args:
        num_inference_steps: how many; may be left out where timesteps or sigmas are given.
        timesteps, sigmas: numbers, shape (steps,), the noisiest first; arrays and tensors too.
        mu: how far flow matching's sigmas are shifted.
        ends_with_last: the last of the sigmas is where the last step leads. If not, that is so of a last 0 only, or of
            one that repeats the one before, as schedulers with a `final_sigmas_type` of "sigma_min" show theirs.

    Raises:
        ValueError: nothing says how many steps there are, or two arguments say so differently; sigmas that do not
            strictly decrease.
    """
    shift = None if mu is None else float(mu)
    if timesteps is None is sigmas:
        return Asked(_checked_steps(num_inference_steps), mu=shift)
    at, chosen, end = _numbers(timesteps), _numbers(sigmas), None
    if chosen is not None:
        _check_falling(chosen, 2 if ends_with_last else 1)
        if ends_with_last or (len(chosen) > 1 and chosen[-1] in (0.0, chosen[-2])):
            chosen, end = chosen[:-1], chosen[-1]
    counts = {name: len(values) for name, values in (("timesteps", at), ("sigmas", chosen)) if values is not None}
    for name, count in counts.items():
        if num_inference_steps not in (None, count):
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}, but {name} are given for {count} steps: leave one of "
                "them out."
            )
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"{counts['timesteps']} timesteps are given and sigmas for {counts['sigmas']} steps: expected as many of "
            "both, since each timestep is what the network is told at the sigma of the same place."
        )
    return Asked(_checked_steps(next(iter(counts.values()))), at, chosen, end, shift)


def _checked_steps(steps: int | None) -> int:
    if steps is None:
        raise ValueError("num_inference_steps is missing: give the number of steps, timesteps or sigmas.")
    try:
        whole = int(steps)
        is_whole = bool(whole == steps)
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise TypeError(f"num_inference_steps is {shown(steps)}: expected a whole number.")
    if whole < 1:
        raise ValueError(f"num_inference_steps is {steps}: expected at least 1.")
    return whole


def _numbers(given: Any) -> tuple[float, ...] | None:
    return None if given is None else tuple(np.asarray(given).tolist())


def _check_falling(sigmas: tuple[float, ...], least: int) -> None:
    falls = all(following < sigma for sigma, following in pairwise(sigmas[:-1]))
    falls = falls and (len(sigmas) < 2 or sigmas[-1] <= sigmas[-2])
    if len(sigmas) < least or not falls or not sigmas[-1] >= 0.0 or sigmas[0] == 0.0:
        expected = "two or more, the last of which is where the run ends" if least > 1 else "one or more, above 0"
        raise ValueError(f"sigmas are {list(sigmas)}: expected {expected}, strictly decreasing.")
