"""Files of weights."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from diffusolve.files import replacing

if TYPE_CHECKING:
    from torch import nn

__all__ = ["add_variant", "save_weights"]

WEIGHTS = "diffusion_pytorch_model"
"""The name of a file with a network's weights, before the variant and the ending."""


def add_variant(weights_name: str, variant: str | None) -> str:
    """The name of a file of weights in a variant: pytorch_model.bin and fp16 give pytorch_model.fp16.bin.

    One file of several has the variant before its number, as diffusers saves them.
    """
    if variant is None:
        return weights_name
    ending = r"((-\d{5}-of-\d{5})?(\.\w+)?)$"
    return re.sub(ending, lambda match: f".{variant}{match[1]}", weights_name, count=1)


def save_weights(
    network: nn.Module,
    save_directory: str | os.PathLike[str],
    *,
    safe_serialization: bool = True,
    variant: str | None = None,
) -> Path:
    """Write the weights of a network where diffusers looks for them: what a network's `save_pretrained` needs.

    Returns:
        The path of the file: diffusion_pytorch_model.safetensors or .bin, with the variant.

    Raises:
        OSError: the folder cannot be made or the file not written; an old file stays as it was.
    """
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / add_variant(f"{WEIGHTS}.{'safetensors' if safe_serialization else 'bin'}", variant)
    with replacing(path) as partial:
        if safe_serialization:
            from safetensors.torch import save_model

            save_model(network, str(partial), metadata={"format": "pt"})
        else:
            import torch

            torch.save(network.state_dict(), partial)
    return path
