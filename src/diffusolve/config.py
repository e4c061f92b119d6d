"""Constructor arguments as a frozen configuration that can be saved, loaded and carried to another class."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeVar, overload

from diffusolve import hub
from diffusolve.errors import unknown_name
from diffusolve.files import write_atomically

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ConfigFileError", "ConfigMixin", "FrozenConfig", "FrozenConfigError", "register_to_config"]

logger = logging.getLogger("diffusolve")

DIFFUSERS_VERSION = "0.42.1"
"""The version of diffusers whose names of classes and keys our files use; written into them."""

DEFAULTED = "_use_default_values"
"""The key of a configuration in memory that lists the keys which nobody chose a value for."""

Init = TypeVar("Init", bound=Callable[..., None])

_reported: set[tuple[str, ...]] = set()


class ConfigFileError(OSError, ValueError):
    """A configuration file that is missing or cannot be read as one."""


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
    clear = pop = popitem = setdefault = update = __ior__ = _refuse  # type: ignore[assignment]


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
        values, defaulted = arguments(signature, self, args, kwargs)
        kept = {key: value for key, value in values.items() if key[0] != "_" and key not in cls.ignore_for_config}
        defaulted = [key for key in defaulted if key in kept]
        if cls.__init__ is not registering_init and "_config" in self.__dict__:
            # Called by the constructor of a subclass, whose own arguments stand.
            kept = {key: value for key, value in kept.items() if key not in self.config}
            defaulted = [*self.config.get(DEFAULTED, ()), *(key for key in defaulted if key in kept)]
            kept = {**self.config, **kept}
        self._internal_dict = {**kept, DEFAULTED: defaulted}
        init(self, *args, **kwargs)

    return registering_init  # type: ignore[return-value]


def check_known_options(cls: type, signature: inspect.Signature, kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError if `kwargs` holds an argument that the constructor of `cls` does not have."""
    parameters = signature.parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in kwargs:
        if name not in parameters:
            raise TypeError(str(unknown_name(f"argument of {cls.__name__}", name, list(parameters)[1:])))


def arguments(
    signature: inspect.Signature, self: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """All arguments of a constructor's call by name, and which of them were left at their defaults."""
    bound = signature.bind(self, *args, **kwargs)
    given = set(bound.arguments)
    bound.apply_defaults()
    values: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            values.update(value)
        else:
            values[name] = value
    return values, [name for name in values if name in signature.parameters and name not in given]


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
        """The configuration, frozen; a changed copy of the object is ``from_config(config, name=value)``."""
        config: FrozenConfig = self._internal_dict
        return config

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
        kept = {key: value for key, value in values.items() if key != DEFAULTED}
        check_no_nan(kept, type(self).__name__)
        if defaulted:
            kept[DEFAULTED] = defaulted
        self.__dict__["_config"] = FrozenConfig(kept)

    def register_to_config(self, **kwargs: Any) -> None:
        """Store `kwargs` in the configuration, over the values that these keys have.

        Raises:
            ValueError: a value is not a number (NaN).
        """
        chosen = [key for key in self.config.get(DEFAULTED, ()) if key not in kwargs]
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

    # To another class and back -----------------------------------------------------------------------------------------

    @overload
    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | str | os.PathLike[str], return_unused_kwargs: Literal[False] = ..., **kwargs: Any
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
            TypeError: `config` is not a mapping.
            ValueError: a value is not a number (NaN), or one that the constructor refuses.
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
        stored = {key: value for key, value in config.items() if key not in config.get(DEFAULTED, ())}
        stored.pop(DEFAULTED, None)
        given = {key: kwargs.pop(key) for key in list(kwargs) if key in known or key in cls.ignore_for_config}
        chosen = {key: stored.pop(key) for key in known if key in stored}
        made = cls(**{**chosen, **given})
        if "_class_name" in stored:
            cls._report_class(str(stored["_class_name"]))
            stored["_class_name"] = cls.__name__
        cls._report_unknown(stored)
        made.register_to_config(**stored)
        if return_unused_kwargs:
            return made, {**kwargs, **stored}
        if kwargs:
            report_once(
                cls.__name__,
                f"{cls.__name__} has no option {_listed(kwargs)}: ignored.{_nearest(kwargs, known)}",
            )
        return made

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
                cls.__name__,
                f"{cls.__name__} does not know {_listed(unknown)} in its configuration: kept, without effect."
                + _nearest(unknown, config_keys(cls)),
            )

    @classmethod
    def _report_class(cls, name: str) -> None:
        name = without_flax(name)
        if cls.has_compatibles and name != cls.__name__ and name not in cls._names_of_compatibles():
            report_once(
                cls.__name__,
                f"{cls.__name__} was given the configuration of {name}, which is not known to be compatible: "
                "only keys that both have take effect.",
            )

    # Files -------------------------------------------------------------------------------------------------------------

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
            report_once(cls.__name__, "resume_download has no effect: downloads are always resumed.", FutureWarning)
        if use_auth_token is not None:
            warnings.warn("use_auth_token is deprecated: pass token.", FutureWarning, stacklevel=2)
            token = use_auth_token if token is None else token
        if cls.config_name is None:
            raise ConfigFileError(f"{cls.__name__} says no config_name, so that its configuration has no file.")
        path = local_config_file(pretrained_model_name_or_path, cls.config_name, subfolder)
        if path is None:
            path = hub.download(
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
        extras = ((kwargs,) if return_unused_kwargs else ()) + (
            (hub.commit_of(path),) if return_commit_hash else ()
        )
        return (config, *extras) if extras else config

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the configuration to the file `config_name` in `save_directory`, which is made if need be.

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
        if push_to_hub:
            repo_id = kwargs.pop("repo_id", None) or folder.resolve()
            hub.push_files({self.config_name: content}, repo_id, **kwargs)

    def to_json_string(self) -> str:
        """The configuration as it is saved.

        Raises:
            TypeError: a value has no JSON form.
        """
        from diffusolve import __version__

        values = {key: plain(value, key) for key, value in self.config.items() if key != DEFAULTED}
        values["_class_name"] = type(self).__name__
        values["_diffusers_version"] = DIFFUSERS_VERSION
        values["_diffusolve_version"] = __version__
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the configuration to a file; an old one stays as it was if that fails."""
        write_atomically(Path(json_file_path), self.to_json_string().encode())


# What configurations are made of ---------------------------------------------------------------------------------------


def config_keys(cls: type[ConfigMixin]) -> list[str]:
    """The names of the constructor arguments of `cls` that belong to its configuration.

    Raises:
        TypeError: the class has no constructor of its own.
    """
    if cls.__init__ is object.__init__:
        raise TypeError(f"{cls.__name__} has no constructor with a configuration: use a class derived from it.")
    named = [
        parameter.name
        for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return [name for name in named if not name.startswith("_") and name not in cls.ignore_for_config]


def plain(value: Any, key: str) -> Any:
    """`value` in the types that JSON has.

    Raises:
        TypeError: it has no such form; the message names `key`.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return Path(value).as_posix()
    if isinstance(value, Mapping):
        return {str(name): plain(entry, f"{key}[{name!r}]") for name, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(entry, key) for entry in value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Iterable):
        return [plain(entry, key) for entry in value]
    raise TypeError(f"the value of {key} cannot be saved: {type(value).__name__} {value!r} has no JSON form.")


def check_no_nan(values: Mapping[str, Any], owner: str) -> None:
    """Raise ValueError if a number in `values` is not one."""
    for key, value in values.items():
        if has_nan(value):
            raise ValueError(f"{key} of {owner} is not a number (NaN): give a number, or leave the key out.")


def has_nan(value: Any) -> bool:
    """Whether `value`, or a number in it, is not a number."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, (str, bytes, int)) or value is None:
        return False
    if isinstance(value, Mapping):
        return any(map(has_nan, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(has_nan, value))
    return has_nan(value.tolist()) if hasattr(value, "tolist") else False


def same_value(a: Any, b: Any) -> bool:
    """Whether two values of a key are the same once saved."""
    try:
        return a is b or bool(plain(a, "") == plain(b, ""))
    except TypeError:
        return False


def without_flax(class_name: str) -> str:
    """The name of the class that takes the place of the one for Flax, which diffusers had once."""
    return class_name.removeprefix("Flax")


def report_once(owner: str, message: str, category: type[Warning] | None = None) -> None:
    """Log a warning, or warn with `category`, unless the same was said of `owner` already."""
    if (owner, message) in _reported:
        return
    _reported.add((owner, message))
    if category is None:
        logger.warning(message)
    else:
        warnings.warn(message, category, stacklevel=3)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


def _nearest(names: Iterable[str], choices: Iterable[str]) -> str:
    from difflib import get_close_matches

    choices = list(choices)
    close = [match for name in names for match in get_close_matches(name, choices, n=1, cutoff=0.75)]
    return f" Did you mean {_listed(close)}?" if close else ""


# Files -----------------------------------------------------------------------------------------------------------------


def local_config_file(place: str | os.PathLike[str], name: str, subfolder: str | None) -> Path | None:
    """The file `name` in folder `place`, or `place` itself if it is a file; None if it can only be the id of a repository.

    Raises:
        ConfigFileError: the folder is not there or has no such file.
    """
    path = Path(place)
    if path.is_file():
        return path
    if path.is_dir():
        folder = path / subfolder if subfolder else path
        if (folder / name).is_file():
            return folder / name
        raise ConfigFileError(_missing_file(path, folder, name))
    if isinstance(place, os.PathLike) or hub.is_path(place):
        raise ConfigFileError(f"there is no folder {place} to load {name} from.")
    return None


def _missing_file(path: Path, folder: Path, name: str) -> str:
    if not folder.is_dir():
        there = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        return f"{path} has no folder {folder.relative_to(path)}: its folders are {_some(there)}."
    there = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    message = f"there is no file {name} in {folder}, only {_some(there)}."
    nested = sorted(found.parent.relative_to(path).as_posix() for found in path.glob(f"*/{name}"))
    if nested:
        return f'{message} One is in {nested[0]}: pass subfolder="{nested[0]}".'
    if folder != path and (path / name).is_file():
        return f"{message} One is in {path}: leave out subfolder."
    return message


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def read_config_file(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`.

    Raises:
        ConfigFileError: it cannot be read, is not JSON (with line and column), or no object.
        ValueError: a number in it is not one (NaN).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"{path} is not text in UTF-8 (byte {error.start}), so it is no JSON.") from None
    if not text.strip():
        raise ConfigFileError(f"{path} is empty: a JSON object was expected.")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        conflict = re.search(r"^(<{7}|={7}|>{7})(?= |$)", text, re.MULTILINE)
        if conflict:
            line = text.count("\n", 0, conflict.start()) + 1
            raise ConfigFileError(
                f"{path} has an unresolved merge conflict: {conflict[0]!r} in line {line}. Choose one side, and delete "
                "the lines that begin with <<<<<<<, ======= and >>>>>>>."
            ) from None
        raise ConfigFileError(
            f"{path} is not JSON: {error.msg}, line {error.lineno}, column {error.colno}."
        ) from None
    if not isinstance(config, dict):
        kind = "a list" if isinstance(config, list) else f"the single value {text.strip()[:40]}"
        raise ConfigFileError(f"{path} holds {kind}: a JSON object was expected.")
    check_no_nan(config, str(path))
    return config
