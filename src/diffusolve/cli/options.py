"""The option `--option` of the commands that take samplers. Needs no torch."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffusolve.catalog import sampler

if TYPE_CHECKING:
    from diffusolve.sampling import Sampler

__all__ = ["OPTION_HELP", "SPACING_HELP", "options_of", "sampler_asked"]

OPTION_HELP = "An option of the sampler or its spacing, NAME=VALUE, for example eta=0.5 or rho=5; any number of times."
SPACING_HELP = "Schedule type, in place of one in the name: Karras, SGM Uniform, Automatic, ..."


def sampler_asked(name: str, spacing: str | None, world: str | None, option: Sequence[str] | None) -> Sampler:
    """The sampler called `name`, with options in texts of the form ``NAME=VALUE``.

    Raises:
        UnknownNameError, ValueError: as :func:`diffusolve.sampler`, and for a value of a type that an option has not.
    """
    options = options_of(option)
    try:
        return sampler(name, spacing, world=world, **options)
    except TypeError as error:  # all that can be of a wrong type here are values that somebody typed
        raise ValueError(str(error)) from None


def options_of(given: Sequence[str] | None) -> dict[str, Any]:
    """The options in texts of the form ``NAME=VALUE``. Values that are no numbers, True, False or None are text.

    Raises:
        ValueError: a text without ``=``, or a name that is there twice.
    """
    options: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ValueError(f"--option is {text!r}: expected NAME=VALUE, for example eta=0.5.")
        if name in options:
            raise ValueError(f"--option {name} is there twice: leave one of them out.")
        options[name] = _value(value.strip())
    if "world" in options:
        raise ValueError("--option world: the world of a name is --world.")
    return options


def _value(text: str) -> Any:
    """The number, truth value or None that `text` is written as; else the text."""
    plain = {"true": True, "false": False, "none": None}
    if text.lower() in plain:
        return plain[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (bool, int, float, str)) else text
