"""Saving, loading and pushing schedulers."""

from __future__ import annotations

import os
from abc import ABCMeta
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, overload

from diffusolve import diffusers_bridge
from diffusolve.config import ConfigMixin, config_keys
from diffusolve.errors import UnknownNameError
from diffusolve.hub import PushToHubMixin
from diffusolve.schedulers import scheduler_class
from diffusolve.schedulers.flow_config import check_no_flow
from diffusolve.schedulers.import_paths import in_both
from diffusolve.schedulers.keys import kept_values

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SchedulerMixin", "check_no_plans", "keys_of"]


class SchedulerMixin(ConfigMixin, PushToHubMixin, metaclass=ABCMeta):
    """A scheduler: an object that is no more than its configuration until `set_timesteps` begins a run.

    Pipelines of diffusers take it for a scheduler of theirs (:mod:`diffusolve.diffusers_bridge`).

    Attributes:
        _compatibles: names of classes in `diffusolve` that its configuration can be carried to.
        refuses_flow: the configuration of a flow-matching model is an error, which says what can sample it.
    """

    config_name: ClassVar[str | None] = "scheduler_config.json"
    has_compatibles: ClassVar[bool] = True
    _compatibles: ClassVar[list[str]] = []
    refuses_flow: ClassVar[bool] = False
    _module_in_diffusers: ClassVar[str | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        here, there = in_both().get(cls.__name__, ("", None))
        cls._module_in_diffusers = there if cls.__module__ == here else None

    @classmethod
    def _carried(
        cls, config: dict[str, Any], given: dict[str, Any], whole: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        check_no_plans(cls, whole)
        if cls.refuses_flow:
            check_no_flow(cls.__name__, whole)
        return super()._carried(config, given, whole)

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return kept_values(cls, super()._checked(values))

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """A new object, which says that it is of the module where diffusers has the class of the same name.

        Pipelines that are saved write down whose classes their parts are of; others can then load them without us.
        """
        scheduler = super().__new__(cls)
        if cls._module_in_diffusers is not None:
            vars(scheduler)["__module__"] = cls._module_in_diffusers
        return scheduler

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = ...,
        return_unused_kwargs: Literal[False] = ...,
        **kwargs: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = ...,
        *,
        return_unused_kwargs: Literal[True],
        **kwargs: Any,
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        resume_download: bool | None = None,
        proxies: Mapping[str, str] | None = None,
        output_loading_info: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        use_auth_token: str | bool | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Make a scheduler with the configuration in a folder or in a repository on the Hub.

        The file may be one that another class has saved, ours or of diffusers.

        Args:
            pretrained_model_name_or_path: a folder with a scheduler_config.json, or the id of a repository.
            subfolder: of the folder or repository; "scheduler" in those of pipelines.
            return_unused_kwargs: also return what the constructor had no use for.
            output_loading_info: without effect: a scheduler has no weights that could be missing.
            kwargs: values that replace those in the file.
            cache_dir, force_download, resume_download, proxies, local_files_only, token, use_auth_token, revision: as
                in :meth:`~diffusolve.config.ConfigMixin.load_config`.

        Raises:
            as `load_config` and `from_config` of :class:`~diffusolve.config.ConfigMixin`.
        """
        if pretrained_model_name_or_path is None:
            raise TypeError(f"{cls.__name__}.from_pretrained needs a folder or the id of a repository.")
        config: dict[str, Any] = cls.load_config(
            pretrained_model_name_or_path,
            subfolder=subfolder,
            cache_dir=cache_dir,
            force_download=force_download,
            resume_download=resume_download,
            proxies=proxies,
            local_files_only=local_files_only,
            token=token,
            use_auth_token=use_auth_token,
            revision=revision,
        )
        if return_unused_kwargs:
            return cls.from_config(config, return_unused_kwargs=True, **kwargs)
        return cls.from_config(config, return_unused_kwargs=False, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write scheduler_config.json to a folder, which is made if need be.

        Arguments and errors are those of :meth:`~diffusolve.config.ConfigMixin.save_config`.
        """
        self.save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    @property
    def compatibles(self) -> list[type[ConfigMixin]]:
        """The classes that this scheduler's configuration can be carried to, its own among them."""
        return self._get_compatibles()

    @classmethod
    def _get_compatibles(cls) -> list[type[ConfigMixin]]:
        own = cls if cls.__module__.startswith("diffusolve.") else class_named(cls.__name__)
        found = [own, *(class_named(name) for name in cls._compatibles)]
        return list(dict.fromkeys(compatible for compatible in found if compatible is not None))

    @classmethod
    def _keys_of_compatibles(cls) -> set[str]:
        return {key for compatible in cls._get_compatibles() for key in config_keys(compatible)}

    @classmethod
    def _names_of_compatibles(cls) -> set[str]:
        return set(cls._compatibles)


def check_no_plans(cls: type[ConfigMixin], config: Mapping[str, Any]) -> None:
    """Raise ValueError if `config` is that of a PlanScheduler, whose plans the class would not walk."""
    if config.get("plans") and "plans" not in config_keys(cls):
        own = config.get("trained_with") or {}
        there = f"{own['_class_name']}.from_config(config['trained_with'])" if "_class_name" in own else ""
        raise ValueError(
            f"{cls.__name__} walks no plans, and this is the configuration of a PlanScheduler: load it with "
            "diffusolve.PlanScheduler.from_pretrained or from_config"
            + (f"; the pipeline's own scheduler is {there}." if there else ".")
        )


def keys_of(names: Iterable[str]) -> set[str]:
    """The configuration keys of the classes called so, as far as they can be imported."""
    return {key for cls in map(class_named, names) if cls is not None for key in config_keys(cls)}


def class_named(name: str) -> type[ConfigMixin] | None:
    """The scheduler class of this name; None if there is none, or it lacks a package that is not installed."""
    try:
        return cast("type[ConfigMixin]", scheduler_class(name))
    except (UnknownNameError, ImportError):
        return None


diffusers_bridge.watch()
