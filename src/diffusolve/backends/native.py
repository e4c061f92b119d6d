"""Executing a stage of a plan in one pass over memory, with the compiled module ``_combine``.

For plain tensors in the processor's memory. Where the package was installed without a compiler there is no such module,
and everything is left to :mod:`diffusolve.backends.torch_eager`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from diffusolve.backends import _combine
from diffusolve.backends.backend import UpdateRegisters
from diffusolve.backends.program import Instruction, is_simple
from diffusolve.backends.torch_eager import TorchBackend

__all__ = ["NativeBackend"]

is_compiling, is_watched = torch.compiler.is_compiling, torch._C._are_functorch_transforms_active

LARGE = 1 << 20
"""Arrays with this many elements are shared out to threads."""

MOST_ARRAYS = 60
"""Stages with more inputs and outputs are left to PyTorch."""


class NativeBackend(TorchBackend):
    """Updates of contiguous CPU tensors of one precision that need no gradients.

    Args:
        plain: the precision, float32 or float64.
    """

    fuses: ClassVar[bool] = True

    def takes(self, x: Tensor, output: Tensor) -> bool:
        """Whether what is bound here can be run on these tensors."""
        plain = self.plain
        return (
            x.dtype is plain
            and output.dtype is plain
            and type(x) is type(output) is Tensor
            and x.is_cpu
            and output.is_cpu
            and x.is_contiguous()
            and output.is_contiguous()
            and not (x.requires_grad or output.requires_grad)
            and not is_watched()
            and forward_ad._current_level < 0
            and not is_compiling()
        )

    def update(self, instructions: Sequence[Instruction], foreign: Sequence[str] = ()) -> UpdateRegisters:
        """All `instructions`, where the registers `foreign` hold tensors that the run has not made."""
        eager = super().update(instructions)
        names = [made.register for made in instructions]
        inputs = sorted(_inputs(instructions), key=lambda name: name in foreign)
        empty = not all(made.sources for made in instructions)
        if empty or inputs[0] in foreign or len(inputs) + len(names) > MOST_ARRAYS or is_simple(instructions):
            return eager
        place = {name: index for index, name in enumerate((*inputs, *names))}
        outputs = tuple(
            (made.limit, tuple((place[source], c) for source, c in _in_order(made))) for made in instructions
        )
        program = _combine.program(self.plain is torch.float64, len(inputs), outputs)
        targets = [(made.register, next(iter(made.spent), None)) for made in instructions]
        checked = [name for name in foreign if name in inputs]
        combine, empty_like, address, first = _combine.combine, torch.empty_like, Tensor.data_ptr, inputs[0]
        read = itemgetter(*inputs) if len(inputs) > 1 else lambda registers: (registers[first],)

        def update(registers: dict[str, Tensor]) -> None:
            like = registers[first]
            for name in checked:
                if registers[name].shape != like.shape or not self.takes(registers[name], like):
                    return eager(registers)
            addresses = [*map(address, read(registers))]
            for register, spent in targets:
                registers[register] = made = empty_like(like) if spent is None else registers[spent]
                addresses.append(address(made))
            count = like.numel()
            combine(program, count, 1 if count < LARGE else torch.get_num_threads(), *addresses)
            return None

        return update


def _inputs(instructions: Sequence[Instruction]) -> list[str]:
    """The registers that the instructions read and do not write before."""
    inputs: dict[str, None] = {}
    written: set[str] = set()
    for made in instructions:
        inputs |= dict.fromkeys(source for source in made.sources if source not in written)
        written.add(made.register)
    return list(inputs)


def _in_order(made: Instruction) -> list[tuple[str, float]]:
    """The terms, large ones last, so that the rounding errors of their sum do not count."""
    terms = zip(made.sources, made.coefficients, strict=True)
    return sorted(terms, key=lambda term: (term[1] == 1.0, abs(term[1])))
