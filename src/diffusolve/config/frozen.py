"""A mapping that only its owner changes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import ReferenceType, ref

if TYPE_CHECKING:
    from diffusolve.config.mixin import ConfigMixin as Owner

__all__ = ["FrozenConfig", "FrozenConfigError"]


class FrozenConfigError(TypeError):
    """An attempt to change a configuration."""


class FrozenConfig(dict[str, Any]):
    """A configuration: a mapping whose keys can also be read as attributes.

    `dict(config)`, `config.copy()` and `{**config, ...}` give a dictionary that can be changed. That of a living object
    can be written to as well, ``scheduler.config.key = value``, as old programs do: it is deprecated, and the object is
    told.
    """

    owner: ReferenceType[Owner] | None

    def __init__(self, values: Any = ()) -> None:
        super().__init__(values)
        self.__dict__["owner"] = None

    def belong_to(self, owner: Owner) -> None:
        """Tell `owner` from now on when something is written here."""
        self.__dict__["owner"] = ref(owner)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no key {name!r}.", name=name, obj=self) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()})"

    def __reduce__(self) -> tuple[type[FrozenConfig], tuple[dict[str, Any]]]:
        return type(self), (dict(self),)

    def __setitem__(self, key: str, value: Any) -> None:
        owner = None if self.owner is None else self.owner()
        if owner is None:
            self._refuse(key)
        value = owner._checked({**self, key: value})[key]
        warnings.warn(
            f"writing to a configuration is deprecated: register_to_config({key}=value) does the same.",
            FutureWarning,
            stacklevel=2,
        )
        super().__setitem__(key, value)
        owner._configuration_written(key)

    __setattr__ = __setitem__

    def _refuse(self, *args: Any, **values: Any) -> NoReturn:
        key = next((key for key in (*values, *args[:1]) if isinstance(key, str) and key in self), "name")
        raise FrozenConfigError(
            f"a configuration cannot be changed: make a changed copy with from_config(config, {key}=value)."
        )

    __delattr__ = __delitem__ = _refuse
    clear = pop = popitem = setdefault = update = __ior__ = _refuse
