"""Files from and to the Hugging Face Hub, or one like it: where huggingface_hub is set to, with the login that it has.

HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and a stored login work as the documentation of huggingface_hub says.
"""

from diffusolve.hub.download import commit_of, download, is_path
from diffusolve.hub.errors import (
    AccessDeniedError,
    HubError,
    HubUnreachableError,
    InvalidNameError,
    MissingFileError,
    UnknownRepositoryError,
    UnknownRevisionError,
    check_inside,
)
from diffusolve.hub.push import PushToHubMixin, push_files, push_folder, push_object
from diffusolve.hub.weights import add_variant, save_weights

__all__ = [
    "AccessDeniedError",
    "HubError",
    "HubUnreachableError",
    "InvalidNameError",
    "MissingFileError",
    "PushToHubMixin",
    "UnknownRepositoryError",
    "UnknownRevisionError",
    "add_variant",
    "check_inside",
    "commit_of",
    "download",
    "is_path",
    "push_files",
    "push_folder",
    "push_object",
    "save_weights",
]
