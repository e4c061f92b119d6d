"""Names for failures of the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from types import ModuleType

from diffusolve.errors import shown

__all__ = [
    "AccessDeniedError",
    "HubError",
    "HubUnreachableError",
    "InvalidNameError",
    "MissingFileError",
    "UnknownRepositoryError",
    "UnknownRevisionError",
    "check_inside",
    "client_for",
    "explained",
    "without_secrets",
]


class HubError(OSError):
    """Something that the Hub did not do."""


class InvalidNameError(HubError, ValueError):
    """A name that no repository, revision or folder of one can have."""


class UnknownRepositoryError(HubError):
    """A repository that is not on the Hub, or that only others may see."""


class UnknownRevisionError(HubError):
    """A repository has no such branch, tag or commit."""


class MissingFileError(HubError, FileNotFoundError):
    """A repository has no such file."""


class AccessDeniedError(HubError):
    """A repository that is there, and may not be read or written with this login, or without one."""


class HubUnreachableError(HubError):
    """No answer from the Hub, or offline mode, and the file was never downloaded."""


def client_for(purpose: str) -> ModuleType:
    """huggingface_hub, or an ImportError that says what for."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError as error:
        raise ImportError(f"{purpose} needs huggingface_hub: pip install 'diffusolve[hub]'.") from error
    return huggingface_hub


@contextmanager
def explained(
    client: ModuleType, purpose: str, repo_id: str, revision: str | None, token: str | bool | None
) -> Iterator[None]:
    """Turn what huggingface_hub raises into a HubError that names the repository."""
    try:
        yield
    except Exception as error:
        # A forced download that fails raises a ValueError around the reason, a failed upload of a file a RuntimeError.
        for reason in filter(None, (error, error.__cause__)):
            named = _explain(client, reason, f"cannot {purpose}: ", repo_id, revision, token)
            if named is not None:
                raise named from error
        raise


def _explain(
    client: ModuleType,
    error: BaseException,
    purpose: str,
    repo_id: str,
    revision: str | None,
    token: str | bool | None,
) -> HubError | None:
    if isinstance(error, client.utils.HFValidationError):
        return InvalidNameError(f"{purpose}{shown(repo_id)} is no name or organisation/name. ({_brief(error)})")
    errors, where = client.utils, f"{repo_id!r} on {client.constants.ENDPOINT}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    anonymous = token is False or (not isinstance(token, str) and client.get_token() is None)
    login = "log in with `hf auth login`, set HF_TOKEN, or pass token" if anonymous else "check the login or token used"
    at = f"revision {revision!r} of {where}" if revision else where
    if isinstance(error, errors.GatedRepoError):
        return AccessDeniedError(f"{purpose}access to {where} has to be asked for on its page; then {login}.")
    if isinstance(error, errors.RevisionNotFoundError):
        return UnknownRevisionError(f"{purpose}{where} has no branch, tag or commit {revision or 'main'!r}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UnknownRepositoryError(f"{purpose}there is no repository {where}, or it is private: {login}.")
    if isinstance(error, errors.LocalTokenNotFoundError):
        return AccessDeniedError(f"{purpose}nobody is logged in, which {where} asks for: {login}.")
    if isinstance(error, errors.LocalEntryNotFoundError):
        reason = "offline mode is on" if client.constants.HF_HUB_OFFLINE else _brief(error.__cause__ or error)
        return HubUnreachableError(f"{purpose}{at} is not in the cache, and cannot be asked for: {reason}")
    if isinstance(error, errors.EntryNotFoundError):
        return MissingFileError(f"{purpose}there is no such file in {at}.")
    if status in (401, 403):
        return AccessDeniedError(f"{purpose}not allowed for {where}: {login}. ({_brief(error)})")
    if status is not None:
        return HubError(f"{purpose}{at}: the Hub answered {status}. ({_brief(error)})")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubUnreachableError(f"{purpose}offline mode is on, so {at} cannot be reached.")
    if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests", "urllib3"):
        return HubUnreachableError(f"{purpose}{at} cannot be reached. ({_brief(error)})")
    if isinstance(error, OSError):
        hint = " A Hub without Xet storage needs HF_HUB_DISABLE_XET=1." if "xet" in str(error).lower() else ""
        return HubError(f"{purpose}{at}: {_brief(error)}{hint}")
    return None


def _brief(error: BaseException) -> str:
    return without_secrets(" ".join(str(error).split()))[:300]


def without_secrets(text: str) -> str:
    """`text` without the logins that addresses in it have, and without tokens of the Hub."""
    return re.sub(r"\bhf_\w+", "hf_***", re.sub(r"//[^/@\s'\"]+@", "//***@", text))


def check_inside(subfolder: str | None) -> None:
    """Raise InvalidNameError for a folder that is not inside of where it is looked for."""
    if subfolder and (PurePosixPath(subfolder).is_absolute() or ".." in subfolder.replace("\\", "/").split("/")):
        raise InvalidNameError(
            f"subfolder is {shown(subfolder)}, which leads out of the repository or folder: expected a folder in it."
        )
