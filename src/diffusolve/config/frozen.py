"""A mapping that cannot be changed."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["FrozenConfig", "FrozenConfigError"]


class FrozenConfigError(TypeError):
    """An attempt to change a configuration."""


class FrozenConfig(dict[str, Any]):
    """A configuration: a mapping that cannot be changed, whose keys can also be read as attributes.

    `dict(config)`, `config.copy()` and `{**config, ...}` give a dictionary that can be changed.
    """

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

    def _refuse(self, *args: Any, **values: Any) -> NoReturn:
        key = next((key for key in (*values, *args[:1]) if isinstance(key, str) and key in self), "name")
        raise FrozenConfigError(
            f"a configuration cannot be changed: make a changed copy with from_config(config, {key}=value)."
        )

    __setattr__ = __delattr__ = __setitem__ = __delitem__ = _refuse
    clear = pop = popitem = setdefault = update = __ior__ = _refuse
