"""Objects made of a configuration."""

from __future__ import annotations

import inspect
import json
import os
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from diffusolve.config.files import ConfigFileError, local_config_file, read_config_file
from diffusolve.config.frozen import FrozenConfig
from diffusolve.config.reports import listed, nearest, report_once
from diffusolve.config.values import check_no_nan, plain, same_value
from diffusolve.errors import shown
from diffusolve.files import write_atomically
from diffusolve.hub import commit_of, download, push_files

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DEFAULTED", "REGISTERS", "ConfigMixin", "config_keys", "outermost", "registered_keys"]

REGISTERS = "_registers_to_config"
"""The attribute that marks a constructor whose arguments become the configuration."""

DIFFUSERS_VERSION = "0.42.1"
"""The version of diffusers whose names of classes and keys our files use; written into them."""

DEFAULTED = "_use_default_values"
"""The key of a configuration in memory that lists the keys which nobody chose a value for."""


class ConfigMixin:
    """An object whose constructor's arguments are a configuration.

    Attributes:
        config_name: of the file that the configuration is saved in.
        has_compatibles: the class has others that its configuration can be carried to.
        ignore_for_config: constructor arguments that do not belong to the configuration.
    """

    config_name: ClassVar[str | None] = None
    has_compatibles: ClassVar[bool] = False
    ignore_for_config: ClassVar[list[str]] = []

    @property
    def config(self) -> FrozenConfig:
        """The configuration; a changed copy of the object is ``from_config(config, name=value)``."""
        config: FrozenConfig | None = self.__dict__.get("_config")
        if config is None:
            return FrozenConfig()
        owner = config.owner
        if owner is not None and owner() is self:
            return config
        if owner is not None:  # an object that this one is a copy of
            config = self.__dict__["_config"] = FrozenConfig(config)
        config.belong_to(self)
        return config

    def _configuration_written(self, key: str) -> None:
        """Take note that `key` of the configuration was written to in place."""
        config = self._internal_dict
        defaulted = config.get(DEFAULTED, [])
        if key in defaulted:
            defaulted.remove(key)

    # Pipelines of diffusers replace the configuration of a scheduler that they find outdated through this name.
    @property
    def _internal_dict(self) -> FrozenConfig:
        config = self.__dict__.get("_config")
        return FrozenConfig() if config is None else config

    @_internal_dict.setter
    def _internal_dict(self, values: Mapping[str, Any]) -> None:
        old = self.__dict__.get("_config", {})
        defaulted = [
            key for key in values.get(DEFAULTED, ()) if key not in old or same_value(old[key], values.get(key))
        ]
        kept = self._checked({key: value for key, value in values.items() if key != DEFAULTED})
        if defaulted:
            kept[DEFAULTED] = defaulted
        self.__dict__["_config"] = FrozenConfig(kept)

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` as the configuration keeps them, whatever way they come into it.

        Raises:
            ValueError, TypeError: one is no value for its key, or not a number (NaN); the message names the key.
        """
        check_no_nan(values, cls.__name__)
        return dict(values)

    def register_to_config(self, /, **kwargs: Any) -> None:
        """Store `kwargs` in the configuration, over the values that these keys have.

        Raises:
            ValueError, TypeError: one is no value for its key, or not a number (NaN); the message names the key.
        """
        chosen = [key for key in self.config.get(DEFAULTED, ()) if key not in kwargs] + [*kwargs.get(DEFAULTED, ())]
        self._internal_dict = {**self.config, **kwargs, DEFAULTED: chosen}

    def __getattr__(self, name: str) -> Any:
        config = self.__dict__.get("_config", {})
        if name in config:
            warnings.warn(
                f"{type(self).__name__}.{name} is deprecated: read it from the configuration, .config.{name}.",
                FutureWarning,
                stacklevel=2,
            )
            return config[name]
        inherited = getattr(super(), "__getattr__", None)
        if inherited is not None:
            return inherited(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    # To another class and back ---------------------------------------------------------------------------------------

    @overload
    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | str | os.PathLike[str],
        return_unused_kwargs: Literal[False] = ...,
        **kwargs: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | str | os.PathLike[str], return_unused_kwargs: Literal[True], **kwargs: Any
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Make an object with the configuration of another, of this class or of another one.

        Keys that nobody chose a value for get this class's own defaults. Keys that this class does not know are kept in
        the configuration, so that carrying it back restores them.

        Args:
            config: a configuration, ours or one of diffusers, or any mapping.
            return_unused_kwargs: also return what the constructor had no use for, of `kwargs` and of `config`.
            kwargs: values that replace those of `config`.

        Raises:
            TypeError, ValueError: `config` is not a mapping, or a value is none for its key; the message names the key.
        """
        if isinstance(config, (str, os.PathLike)):
            warnings.warn(
                f"a path or repository id as the configuration is deprecated: use {cls.__name__}.from_pretrained(...), "
                f"or pass {cls.__name__}.load_config(...).",
                FutureWarning,
                stacklevel=2,
            )
            config, kwargs = cls.load_config(config, return_unused_kwargs=True, **kwargs)
        if isinstance(config, ConfigMixin):
            raise TypeError(f"{type(config).__name__} is not a configuration: pass its .config.")
        if not isinstance(config, Mapping):
            raise TypeError(f"the configuration for {cls.__name__} must be a mapping, not {type(config).__name__}.")
        known = config_keys(cls)
        defaulted = {DEFAULTED, *_names(DEFAULTED, config.get(DEFAULTED) or ())}
        stored = {key: value for key, value in config.items() if key not in defaulted}
        stored, later = cls._carried(stored, kwargs, config)
        given = {key: kwargs.pop(key) for key in list(kwargs) if key in known or key in cls.ignore_for_config}
        chosen = {key: stored.pop(key) for key in known if key in stored}
        configured = cls(**{**chosen, **given})
        if "_class_name" in stored:
            cls._report_class(shown(stored["_class_name"]).strip("'"))
            stored["_class_name"] = cls.__name__
        cls._report_unknown(stored)
        configured.register_to_config(**stored, **later)
        if return_unused_kwargs:
            return configured, {**kwargs, **stored}
        if kwargs:
            report_once(f"{cls.__name__} has no option {listed(kwargs)}: ignored.{nearest(kwargs, known)}")
        return configured

    @classmethod
    def _carried(
        cls, config: dict[str, Any], given: dict[str, Any], whole: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """`config` in this class's words, and keys to store when the object is made, which its constructor is not told.

        Args:
            config: of this class or another one, without the keys that nobody chose a value for.
            given: values that replace those of `config`; those that it takes care of are to be taken out.
            whole: `config` with these keys.
        """
        return config, {}

    @classmethod
    def _keys_of_compatibles(cls) -> set[str]:
        """The configuration keys that mean something to a class that the configuration can be carried to."""
        return set()

    @classmethod
    def _names_of_compatibles(cls) -> set[str]:
        """The names of these classes."""
        return set()

    @classmethod
    def _report_unknown(cls, stored: Mapping[str, Any]) -> None:
        unknown = [key for key in stored if not key.startswith("_")]
        if cls.has_compatibles and unknown:
            elsewhere = cls._keys_of_compatibles()
            unknown = [key for key in unknown if key not in elsewhere]
        if unknown:
            report_once(
                f"{cls.__name__} does not know {listed(unknown)} in its configuration: kept, without effect."
                + nearest(unknown, config_keys(cls))
            )

    @classmethod
    def _report_class(cls, name: str) -> None:
        name = without_flax(name)
        if cls.has_compatibles and name != cls.__name__ and name not in cls._names_of_compatibles():
            report_once(
                f"{cls.__name__} was given the configuration of {name}, which is not known to be compatible: "
                "only keys that both have take effect."
            )

    # Files -----------------------------------------------------------------------------------------------------------

    @classmethod
    def load_config(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        return_unused_kwargs: bool = False,
        return_commit_hash: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        resume_download: bool | None = None,
        proxies: Mapping[str, str] | None = None,
        token: str | bool | None = None,
        use_auth_token: str | bool | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """The configuration in a file, a folder or a repository on the Hub, as a dictionary.

        Args:
            pretrained_model_name_or_path: a folder with the file `config_name`, that file, or the id of a repository.
            return_unused_kwargs: return (configuration, `kwargs`).
            return_commit_hash: append the commit that a file of the Hub is from, otherwise None, to what is returned.
            cache_dir: where files of the Hub are kept, instead of huggingface_hub's own place.
            force_download: download although the file is there.
            resume_download: without effect, downloads are always resumed.
            proxies: scheme -> address; only for versions of huggingface_hub that take it.
            token: for private repositories; True or None for the stored login.
            use_auth_token: the former name of `token`.
            local_files_only: what is not there is an error.
            revision: a branch, tag or commit of the repository.
            subfolder: of the folder or repository.

        Raises:
            ConfigFileError: no such file, or one that is not a JSON object.
            HubError: the Hub has no such repository, revision or file, does not allow it, or cannot be reached.
            ImportError: a repository id, and huggingface_hub is not installed.
        """
        if resume_download is not None:
            report_once("resume_download has no effect: downloads are always resumed.", FutureWarning)
        if use_auth_token is not None:
            warnings.warn("use_auth_token is deprecated: pass token.", FutureWarning, stacklevel=2)
            token = use_auth_token if token is None else token
        if cls.config_name is None:
            raise ConfigFileError(f"{cls.__name__} says no config_name, so that its configuration has no file.")
        path = local_config_file(pretrained_model_name_or_path, cls.config_name, subfolder)
        if path is None:
            path = download(
                str(pretrained_model_name_or_path),
                cls.config_name,
                subfolder=subfolder,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                proxies=proxies,
                token=token,
                local_files_only=local_files_only,
            )
        config = read_config_file(path)
        if isinstance(config.get("_class_name"), str):
            config["_class_name"] = without_flax(config["_class_name"])
        extras = ((kwargs,) if return_unused_kwargs else ()) + ((commit_of(path),) if return_commit_hash else ())
        return (config, *extras) if extras else config

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the configuration to the file `config_name` in `save_directory`, which is made if need be.

        Afterwards the configuration says itself what the file says besides it, the class and the version of diffusers:
        it then equals that of an object made of the file.

        Args:
            push_to_hub: also push this file to the Hub.
            kwargs: for :func:`diffusolve.hub.push_files`; `repo_id` is the name of the folder if left out.

        Raises:
            OSError: the folder cannot be made or the file not written; an old file stays as it was.
            TypeError: a value has no JSON form.
        """
        if self.config_name is None:
            raise ConfigFileError(f"{type(self).__name__} says no config_name, so that it cannot be saved.")
        content = self.to_json_string().encode()
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"cannot save in {folder}: it is a file, not a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / self.config_name, content)
        dict.update(self.config, self._written_besides())  # the same object: nothing that follows from it changes
        if push_to_hub:
            repo_id = kwargs.pop("repo_id", None) or folder.resolve()
            push_files({self.config_name: content}, repo_id, **kwargs)

    def to_json_string(self) -> str:
        """The configuration as it is saved.

        Raises:
            TypeError: a value has no JSON form.
        """
        values = {key: plain(value, key) for key, value in self.config.items() if key != DEFAULTED}
        return json.dumps({**values, **self._written_besides()}, indent=2, sort_keys=True) + "\n"

    def _written_besides(self) -> dict[str, str]:
        """The entries of files besides the configuration."""
        return {"_class_name": type(self).__name__, "_diffusers_version": DIFFUSERS_VERSION}

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the configuration to a file; an old one stays as it was if that fails."""
        write_atomically(Path(json_file_path), self.to_json_string().encode())


def _names(key: str, given: Any) -> list[str]:
    """The names that are `given` in a configuration for `key`; TypeError if they are none."""
    if isinstance(given, (list, tuple, set, frozenset)) and all(isinstance(name, str) for name in given):
        return list(given)
    raise TypeError(f"{key} is {shown(given)}: expected a list of keys.")


def config_keys(cls: type[ConfigMixin]) -> list[str]:
    """The names of the constructor arguments of `cls` that belong to its configuration.

    Raises:
        TypeError: the class has no constructor of its own.
    """
    if cls.__init__ is object.__init__:
        raise TypeError(f"{cls.__name__} has no constructor with a configuration: use a class derived from it.")
    names: list[str] = []
    for constructor in _constructors(cls):
        names += _named(constructor)
        if hasattr(constructor, REGISTERS) or not _takes_any(constructor):
            break
    return [name for name in dict.fromkeys(names) if not name.startswith("_") and name not in cls.ignore_for_config]


@lru_cache(maxsize=256)
def registered_keys(cls: type[ConfigMixin]) -> list[str]:
    """The configuration keys of `cls` and of the classes that it comes from, up to the first one of the package."""
    names: dict[str, None] = {}
    for base in cls.__mro__[:-1]:
        constructor = vars(base).get("__init__")
        if hasattr(constructor, REGISTERS):
            names |= dict.fromkeys(_named(constructor))
            if base.__module__.startswith("diffusolve."):
                break
    return [name for name in names if not name.startswith("_") and name not in cls.ignore_for_config]


def outermost(cls: type) -> Callable[..., None] | None:
    """The first constructor that makes its arguments a configuration, ours or of diffusers, from `cls` upwards."""
    return next((found for found in _constructors(cls) if hasattr(found, "__wrapped__")), None)


def _constructors(cls: type) -> list[Callable[..., None]]:
    return [vars(base)["__init__"] for base in cls.__mro__[:-1] if "__init__" in vars(base)]


def _takes_any(constructor: Callable[..., None]) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(constructor).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


@lru_cache(maxsize=256)
def _named(constructor: Callable[..., None]) -> list[str]:
    """The arguments of `constructor` that have a name."""
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    return [given.name for given in parameters if given.kind not in (given.VAR_POSITIONAL, given.VAR_KEYWORD)]


def without_flax(class_name: str) -> str:
    """The name of the class that takes the place of the one for Flax, which diffusers had once."""
    return class_name.removeprefix("Flax")
