"""Files from the Hub."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from diffusolve.hub.errors import HubError, MissingFileError, check_inside, client_for, explained

__all__ = ["commit_of", "download", "is_path"]


def is_path(place: str) -> bool:
    """True if `place` can only be meant as a path: it is no ``name`` and no ``organisation/name``."""
    return re.fullmatch(r"[\w\-][\w\-.]*(/[\w\-][\w\-.]*)?", place) is None


def download(
    repo_id: str,
    filename: str,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
    proxies: Mapping[str, str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The path of a file of a repository, downloaded unless it is in the cache.

    Args:
        repo_id: ``name`` or ``organisation/name``.
        revision: a branch, tag or commit.
        proxies: scheme -> address; an error with versions of huggingface_hub that read HTTPS_PROXY instead.
        token: True or None for the stored login, False for none.

    Raises:
        HubError: of the kinds above; each names the repository.
        ImportError: huggingface_hub is not installed.
    """
    check_inside(subfolder)
    client = client_for(f"loading {filename} of {repo_id!r} from the Hub")
    options: dict[str, Any] = {}
    if proxies:
        if "proxies" not in inspect.signature(client.hf_hub_download).parameters:
            raise TypeError(
                "this version of huggingface_hub takes no proxies: set the environment variables HTTP_PROXY and "
                f"HTTPS_PROXY instead, for {', '.join(map(str, proxies))}."  # their addresses may hold passwords
            )
        options["proxies"] = dict(proxies)
    wanted = f"{subfolder}/{filename}" if subfolder else filename
    try:
        with explained(client, f"load {wanted}", repo_id, revision, token):
            path = client.hf_hub_download(
                repo_id,
                wanted,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
                library_name="diffusolve",
                **options,
            )
    except MissingFileError as error:
        raise MissingFileError(f"{error}{_elsewhere(client, repo_id, filename, revision, token)}") from error.__cause__
    return Path(path)


def _elsewhere(client: ModuleType, repo_id: str, filename: str, revision: str | None, token: str | bool | None) -> str:
    """The hint at another place in the repository where the Hub has a file of this name."""
    try:
        with explained(client, "list", repo_id, revision, token):
            files = [
                file.rfilename for file in client.HfApi().model_info(repo_id, revision=revision, token=token).siblings
            ]
    except HubError:
        return ""
    folders = sorted(name.rpartition("/")[0] for name in files if name.rpartition("/")[2] == filename)
    if not folders:
        return ""
    return (
        f' One is in {folders[0]}: pass subfolder="{folders[0]}".'
        if folders[0]
        else " One is at its top: leave out subfolder."
    )


def commit_of(path: Path) -> str | None:
    """The commit that a file in huggingface_hub's cache is from; None for any other file."""
    match = re.search(r"/models--[^/]+/snapshots/([0-9a-f]{40})/", path.as_posix())
    return match[1] if match else None
