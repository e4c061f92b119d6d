"""Files to the Hub, in one commit."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusolve.hub.download import is_path
from diffusolve.hub.errors import check_inside, client_for, explained

__all__ = ["PushToHubMixin", "push_files", "push_folder", "push_object"]


class PushToHubMixin:
    """Gives :meth:`push_to_hub` to a class that has `save_pretrained`."""

    def push_to_hub(
        self,
        repo_id: str | os.PathLike[str],
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Push what `save_pretrained` writes to the Hub; :func:`push_object` says how."""
        return push_object(
            self,
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            create_pr=create_pr,
            safe_serialization=safe_serialization,
            variant=variant,
            subfolder=subfolder,
            revision=revision,
        )


def push_object(
    saveable: Any,
    repo_id: str | os.PathLike[str],
    *,
    safe_serialization: bool = True,
    variant: str | None = None,
    **options: Any,
) -> str:
    """Push what `saveable.save_pretrained` writes to the Hub, in one commit.

    Args:
        saveable: a scheduler, a network, a pipeline: anything with `save_pretrained`.
        repo_id: as in :func:`push_files`.
        safe_serialization: of weights: as safetensors, or else as torch pickles them.
        variant: of weights: "fp16" makes model.fp16.safetensors of model.safetensors.
        options: those of :func:`push_files`.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        as :func:`push_files`; TypeError: `saveable` has no `save_pretrained`.
    """
    save = getattr(saveable, "save_pretrained", None)
    if save is None:
        raise TypeError(f"{type(saveable).__name__} cannot be pushed: it has no save_pretrained.")
    options["commit_message"] = options.get("commit_message") or f"Upload {type(saveable).__name__}"
    with tempfile.TemporaryDirectory() as folder:
        save(folder, **_accepted(save, {"safe_serialization": safe_serialization, "variant": variant}))
        return push_folder(folder, repo_id, **options)


def push_folder(folder: str | os.PathLike[str], repo_id: str | os.PathLike[str] | None = None, **options: Any) -> str:
    """Push the files of a folder, of a pipeline for instance, to the Hub in one commit.

    Args:
        folder: all of its files are pushed, except those in .git and .cache.
        repo_id: as in :func:`push_files`; the folder's name if left out.
        options: those of :func:`push_files`.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        as :func:`push_files`; NotADirectoryError: no such folder. ValueError: nothing in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"cannot push {folder}: there is no such folder.")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    kept = {name: path for name, path in files.items() if not {".git", ".cache"} & set(name.split("/"))}
    if not kept:
        raise ValueError(f"cannot push {folder}: there are no files in it.")
    return push_files(kept, folder.resolve() if repo_id is None else repo_id, **options)


def push_files(
    files: Mapping[str, bytes | Path],
    repo_id: str | os.PathLike[str],
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
    subfolder: str | None = None,
    revision: str | None = None,
) -> str:
    """Push `files` to the Hub in one commit: all of them arrive, or none.

    The repository is made if it is not there. If it has no model card, the commit brings a short one.

    Args:
        files: name in the repository -> content, or the file that has it.
        repo_id: ``name`` (in the namespace of the user), ``organisation/name``, or the path of a folder, whose last
            part is taken as the name. A text with one slash in it is never a path; a `Path` always is.
        commit_message: "Upload" and the files' names if left out.
        private: the repository, if it is made now.
        token: True or None for the stored login.
        create_pr: open a pull request instead of changing the branch.
        subfolder: of the repository, that the names are in.
        revision: the branch to change; "main" if left out.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        HubError: of the kinds above; each names the repository.
        ImportError: huggingface_hub is not installed.
    """
    check_inside(subfolder)
    client = client_for(f"pushing to {os.fspath(repo_id)!r} on the Hub")
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    content = {prefix + name: value for name, value in files.items()}
    message = commit_message or "Upload " + ", ".join(content)[:72]
    api = client.HfApi()
    name = repository_name(repo_id)
    with explained(client, "push", name, revision, token):
        client.utils.validate_repo_id(name)
    if "/" not in name:
        with explained(client, "push", name, revision, token):
            name = f"{api.whoami(token=token)['name']}/{name}"
    with explained(client, "push", name, revision, token):
        api.create_repo(name, private=private, token=token, exist_ok=True)
        if "README.md" not in content and not api.file_exists(name, "README.md", revision=revision, token=token):
            content["README.md"] = model_card(content).encode()
        commit = api.create_commit(
            name,
            [client.CommitOperationAdd(path, value) for path, value in content.items()],
            commit_message=message,
            token=token,
            revision=revision,
            create_pr=create_pr,
        )
    return str(commit.pr_url or commit.commit_url)


def repository_name(repo_id: str | os.PathLike[str]) -> str:
    """``name`` or ``organisation/name``; of a path its last part.

    Raises:
        ValueError: a path that ends in nothing which could be a name.
    """
    if isinstance(repo_id, str) and not is_path(repo_id):
        return repo_id
    name = Path(repo_id).expanduser().resolve().name
    if is_path(name):
        raise ValueError(f"{os.fspath(repo_id)!r} is no name for a repository: expected name or organisation/name.")
    return name


def model_card(files: Mapping[str, Any]) -> str:
    """A short model card for a repository with these files."""
    if "model_index.json" in files:
        library, what = "diffusers", "A pipeline of diffusers, with a scheduler of diffusolve."
    elif any(name.endswith("scheduler_config.json") for name in files):
        library, what = "diffusolve", "The configuration of a scheduler of diffusolve; diffusers can load it too."
    else:
        library, what = "diffusolve", "A network for sampling with diffusolve."
    return f"---\nlibrary_name: {library}\ntags:\n- diffusion\n- diffusolve\n---\n\n{what}\n"


def _accepted(function: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The `options` that `function` takes."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return options
    return {name: value for name, value in options.items() if name in parameters}
