"""Errors that say what was given, what was expected and what would have worked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite, isnan
from numbers import Integral, Real

__all__ = [
    "NoDensityError",
    "NotPlannableError",
    "PlanFormatError",
    "SingularPointError",
    "UnknownNameError",
    "check_finite",
    "check_numbers",
    "check_options",
    "check_whole",
    "needs_torch",
    "shown",
    "unknown_name",
]

LONGEST = 80
"""The most characters of a value that an error shows; no name that anything has is longer."""

MOST_SHOWN = 20
"""The most choices that an error shows where none looks like what was given."""


class UnknownNameError(ValueError):
    """A sampler, spacing, noise schedule, prediction type or option name that does not exist."""


class SingularPointError(ValueError):
    """A quantity that has no finite value at a point where alpha or sigma is zero."""


class NotPlannableError(ValueError):
    """A solver that looks at the data (an adaptive one) was asked for a table of coefficients."""


class NoDensityError(ValueError):
    """The probability of a step was asked for that has no density: it adds no noise, or none of its own."""


class PlanFormatError(ValueError):
    """Text that is not a plan."""


def shown(value: object) -> str:
    """The representation of `value`, with the middle left out where it is long."""
    try:
        text = repr(value)
    except Exception:  # of the user's own, or an integer of more digits than Python writes out
        return f"a value of {type(value).__name__} that cannot be shown"
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}...{text[-half:]} ({len(text)} characters)"


def needs_torch(purpose: str, error: ModuleNotFoundError) -> ImportError:
    """The error to raise in place of `error`, which importing something for `purpose` has raised.

    Where it is torch that is missing it says how to get it; else it is `error`.
    """
    if error.name != "torch":
        return error
    return ImportError(f"{purpose} needs PyTorch, which is not installed: pip install 'diffusolve[torch]'.")


def unknown_name(kind: str, name: object, choices: Iterable[str]) -> UnknownNameError:
    """The error for a `name` that is none of `choices`, offering the three that look most like it, or the first."""
    from difflib import get_close_matches  # here: `import diffusolve` imports this file

    choices = list(choices)
    if not choices:
        return UnknownNameError(f"unknown {kind} {name!r}: there are none.")
    by_folded = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(str(name)[:LONGEST].casefold(), by_folded, n=3, cutoff=0.4)
    nearest = ", ".join(repr(by_folded[match]) for match in close)
    others = f" and {len(choices) - MOST_SHOWN} more" if len(choices) > MOST_SHOWN else ""
    first = ", ".join(map(repr, choices[:MOST_SHOWN]))
    hint = f"did you mean {nearest}?" if nearest else f"choose one of {first}{others}."
    return UnknownNameError(f"unknown {kind} {shown(name)}: {hint}")


SET_ELSEWHERE = {
    "steps": "give it where a plan is made or samples are, steps=20",
    "seed": "start and sample take seeds, noise=0",
    "guidance": "wrap the network in diffusolve.denoisers.ClassifierFreeGuidance",
    "strength": "start in the middle of a plan: docs/recipes.md, image to image",
    "scheduler": "a schedule is the second argument, or the end of the name",
    "model": "samplers know no model: sample takes the network",
}
"""Settings that programs have beside a sampler's name -> where they are said here."""

SET_ELSEWHERE |= {
    **dict.fromkeys(("num_inference_steps", "num_steps"), SET_ELSEWHERE["steps"]),
    **dict.fromkeys(("noise_seed", "generator"), SET_ELSEWHERE["seed"]),
    **dict.fromkeys(("cfg", "cfg_scale", "guidance_scale"), SET_ELSEWHERE["guidance"]),
    **dict.fromkeys(("denoise", "denoising_strength"), SET_ELSEWHERE["strength"]),
    **dict.fromkeys(("schedule", "schedule_type"), SET_ELSEWHERE["scheduler"]),
    "clip_skip": SET_ELSEWHERE["model"],
}


def check_options(owner: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownNameError unless each of the `options` given is `known` to its `owner`."""
    known = list(known)
    for option in options:
        if option in known:
            continue
        if option in SET_ELSEWHERE:
            raise UnknownNameError(f"{option!r} is no option of {owner}: {SET_ELSEWHERE[option]}.")
        raise unknown_name(f"option of {owner}", option, known)


def check_numbers(
    owner: str, values: Mapping[str, object], whole: Iterable[str] = (), no_text: Iterable[str] = ()
) -> None:
    """Raise ValueError, naming it, for one of the `values` that is not a number (NaN) or beyond what a float can hold.

    Infinity is a number: whoever cannot use it says so. Values that are of other types pass, but for text where there
    is to be `no_text`. Numbers that are to be `whole` are whole.

    Raises:
        TypeError: text where there is to be none.
    """
    whole, no_text = set(whole), set(no_text)
    for name, value in values.items():
        if isinstance(value, str) and name in no_text:
            raise TypeError(f"{name} is {shown(value)}: expected a number for {owner}, not text.")
        if isinstance(value, bool) or not isinstance(value, Real):
            continue
        try:
            number = float(value)
        except OverflowError:
            raise ValueError(
                f"{name} is {shown(value)}: expected a number for {owner} that a float can hold."
            ) from None
        if isnan(number):
            raise ValueError(f"{name} is nan: expected a number for {owner} (NaN is none).")
        if name in whole and not (isinstance(value, Integral) or number.is_integer()):
            raise ValueError(f"{name} is {shown(value)}: expected a whole number for {owner}.")


def check_finite(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a number, and not NaN or an infinity."""
    try:
        finite = isinstance(value, Real) and isfinite(value)
    except OverflowError:  # an integer beyond all floats
        finite = False
    if not finite:
        raise ValueError(f"{name} is {shown(value)}: expected a finite number.")


def check_whole(name: str, value: object, least: int | None = None) -> None:
    """Raise TypeError unless `value` is a whole number, and ValueError if it is less than the `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"{name} is {shown(value)}: expected a whole number{'' if least is None else f', at least {least}'}."
        )
    if least is not None and value < least:
        raise ValueError(f"{name} is {shown(value)}: expected at least {least}.")
