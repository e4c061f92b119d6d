"""The question whether something must see each operation on tensors, so that none may be done out of its sight."""

from __future__ import annotations

import torch
from torch.compiler import is_dynamo_compiling

__all__ = ["is_dynamo_compiling", "is_tracing", "is_transformed", "is_watched", "modes"]

is_transformed = torch._C._are_functorch_transforms_active
modes, is_tracing = torch._C._len_torch_dispatch_stack, torch._C._is_tracing


def is_watched() -> bool:
    """True if something must see each operation: torch.func, a dispatch mode, torch.jit.trace or torch.compile."""
    return is_transformed() or modes() > 0 or is_tracing() or is_dynamo_compiling()
