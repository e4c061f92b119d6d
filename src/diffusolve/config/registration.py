"""Keeping a constructor's arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from diffusolve.config.mixin import DEFAULTED, REGISTERS, ConfigMixin, outermost
from diffusolve.errors import unknown_name

__all__ = ["register_to_config"]

Init = TypeVar("Init", bound=Callable[..., None])


def register_to_config(init: Init) -> Init:
    """Decorate the constructor of a :class:`ConfigMixin` class: its arguments become the object's `config`.

    All of them do, given or default, except those whose names begin with an underscore or stand in the class's
    `ignore_for_config`. `self.config` can be read in the constructor already.

    Raises:
        TypeError: the constructor takes ``*args``: a value in a configuration needs a name.
    """
    signature = inspect.signature(init)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
        raise TypeError(f"{init.__qualname__} takes *args: every value in a configuration needs a name.")

    @functools.wraps(init)
    def registering_init(self: ConfigMixin, *args: Any, **kwargs: Any) -> None:
        if not isinstance(self, ConfigMixin):
            raise TypeError(f"{type(self).__name__} must derive from ConfigMixin for register_to_config.")
        cls = type(self)
        check_known_options(cls, signature, kwargs)
        bound = signature.bind(self, *args, **kwargs)
        values, defaulted = arguments(bound)
        kept = {key: value for key, value in values.items() if key[0] != "_" and key not in cls.ignore_for_config}
        defaulted = [key for key in defaulted if key in kept]
        if outermost(cls) is registering_init:
            self.__dict__.pop("_config", None)
        else:
            # Called by the constructor of a subclass, whose own arguments stand.
            kept = {key: value for key, value in kept.items() if key not in self.config}
            defaulted = [*self.config.get(DEFAULTED, ()), *(key for key in defaulted if key in kept)]
            kept = {**self.config, **kept}
        self._internal_dict = {**kept, DEFAULTED: defaulted}
        for key in kept.keys() & bound.arguments.keys():  # in the words and types that the configuration keeps
            if bound.arguments[key] is kept[key]:
                bound.arguments[key] = self._internal_dict[key]
        init(*bound.args, **bound.kwargs)

    setattr(registering_init, REGISTERS, True)
    return registering_init  # type: ignore[return-value]


def check_known_options(cls: type, signature: inspect.Signature, kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError if `kwargs` holds an argument that the constructor of `cls` does not have."""
    parameters = signature.parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in kwargs:
        if name not in parameters:
            raise TypeError(str(unknown_name(f"argument of {cls.__name__}", name, list(parameters)[1:])))


def arguments(bound: inspect.BoundArguments) -> tuple[dict[str, Any], list[str]]:
    """All arguments of a constructor's call by name, and which of them were left at their defaults, now filled in."""
    signature, given = bound.signature, set(bound.arguments)
    bound.apply_defaults()
    values: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            values.update(value)
        else:
            values[name] = value
    return values, [name for name in values if name in signature.parameters and name not in given]
