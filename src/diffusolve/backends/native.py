"""Executing a stage of a plan in one pass over memory, with the compiled module ``_combine``.

For plain tensors in the processor's memory. Where the package was installed without a compiler there is no such module,
and everything is left to :mod:`diffusolve.backends.torch_eager`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache
from math import inf
from operator import itemgetter
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from diffusolve.backends import _combine
from diffusolve.backends.backend import UpdateRegisters
from diffusolve.backends.program import Instruction, inputs_of, is_simple
from diffusolve.backends.torch_eager import HALF, TorchBackend
from diffusolve.plan import OUTPUT, UNGUIDED

__all__ = ["LARGE", "MOST_ARRAYS", "NativeBackend", "in_order", "is_transformed", "is_watched"]

Source = TypeVar("Source")

is_transformed = torch._C._are_functorch_transforms_active
_modes, _tracer = torch._C._len_torch_dispatch_stack, torch._C._get_tracing_state


def is_watched() -> bool:
    """Whether something must see each operation: torch.func, a dispatch mode, torch.jit.trace or torch.compile."""
    return is_transformed() or _modes() > 0 or _tracer() is not None or is_dynamo_compiling()


LARGE = 1 << 16
"""Arrays with this many elements are shared out to threads."""

MOST_ARRAYS, MOST_NARROW = 60, 12
"""Stages with more inputs and outputs, or more of half precision, are left to PyTorch."""

MOST_PASSING = 4
"""So many outputs that are read in their stage only need no memory."""

KINDS = {torch.float32: 0, torch.float64: 0, torch.bfloat16: 1, torch.float16: 2}
"""What the compiled module calls arrays; those of kind 0 have the precision of the sums."""


class NativeBackend(TorchBackend):
    """Updates of contiguous CPU tensors that need no gradients. Sums of half-precision numbers are of single precision.

    Args:
        sample, output: the precisions of the samples and of what the network says of them, both float64 or neither.
    """

    def __init__(self, sample: torch.dtype, output: torch.dtype) -> None:
        self.sample, self.output = sample, output
        self.sums = torch.promote_types(torch.promote_types(sample, output), torch.float32)
        self._narrow = HALF if self.sums is torch.float32 else ()
        super().__init__(self.sums if sample is output is self.sums else None)

    def suits(self, x: Tensor, output: Tensor, simple: bool) -> bool:
        """Whether this is the fastest for a program that is `simple` or not."""
        return not (simple and self.plain) and self.takes(x, output)

    def takes(self, x: Tensor, output: Tensor) -> bool:
        """Whether what is bound here can be run on these tensors."""
        return (
            x.dtype is self.sample
            and output.dtype is self.output
            and type(x) is type(output) is Tensor
            and x.is_cpu
            and output.is_cpu
            and x.is_contiguous()
            and output.is_contiguous()
            and not (x.requires_grad or output.requires_grad)
            and forward_ad._current_level < 0
            and not is_watched()
        )

    def combine(self, sources: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
        """See :meth:`TorchBackend.combine`."""
        first, dtype, number = sources[0], self.sums, len(sources)
        if number >= MOST_ARRAYS or is_watched() or forward_ad._current_level >= 0:
            return super().combine(sources, coefficients)
        shape = first.shape
        for source in sources:
            if not _is_plain(source, dtype) or source.shape != shape:
                return super().combine(sources, coefficients)
        terms = tuple(in_order(range(number), coefficients))
        return _made(_combine.program(dtype is torch.float64, number, ((inf, terms),)), sources)

    def scaled(self, factor: float) -> Callable[[Tensor], Tensor]:
        """See :meth:`TorchBackend.scaled`. PyTorch takes longer with numbers times half-precision tensors."""
        multiply = super().scaled(factor)
        if self.sample not in HALF:
            return multiply
        program = _combine.program(False, 1, ((inf, ((0, factor),)),), None, bytes(2 * [KINDS[self.sample]]))

        def scale(x: Tensor) -> Tensor:
            return _made(program, (x,)) if self.takes(x, x) else multiply(x)

        return scale

    def update(
        self, instructions: Sequence[Instruction], samples: Collection[str] = (), foreign: Collection[str] = ()
    ) -> UpdateRegisters:
        """See :meth:`TorchBackend.update`."""
        eager = super().update(instructions)
        names = [made.register for made in instructions]
        inputs = sorted(inputs_of(instructions), key=lambda name: name in foreign)
        empty = not all(made.sources for made in instructions)
        held = {name: self._dtype(name, samples) for name in (*inputs, *names)}
        targets = [(name, held[name]) for name in names]

        def leave(registers: dict[str, Tensor]) -> None:
            eager(registers)
            for name, dtype in targets:  # so that later stages can read it
                if not _is_plain(registers[name], dtype):
                    registers[name] = registers[name].to(dtype).contiguous()

        if self.plain and is_simple(instructions) and not any(name in foreign for name in inputs):
            return eager
        if empty or inputs[0] in foreign or len(inputs) + len(names) > MOST_ARRAYS:
            return leave
        place = {name: index for index, name in enumerate((*inputs, *names))}
        outputs = tuple(
            (made.limit, tuple((place[source], c) for source, c in in_order(made.sources, made.coefficients)))
            for made in instructions
        )

        @cache
        def program_for(*given: torch.dtype) -> object | None:
            """For foreign arrays of these precisions; None if the compiled module cannot read them."""
            dtypes = [*held.values()]
            dtypes[len(inputs) - len(given) : len(inputs)] = given
            narrow = sum(dtype in HALF for dtype in dtypes)
            if narrow > MOST_NARROW or not all(dtype is self.sums or dtype in self._narrow for dtype in dtypes):
                return None
            kinds = bytes(KINDS[dtype] for dtype in dtypes)
            return _combine.program(self.sums is torch.float64, len(inputs), outputs, None, kinds)

        strangers = [name for name in inputs if name in foreign]
        usual = program_for(*(self.sample for _ in strangers))
        if usual is None:
            return leave
        passing = {made.register for made in instructions if made.passing}
        if len(passing) > MOST_PASSING:
            passing = set()
        made_of = [
            (name, next((spent for spent in made.spent if held[spent] is dtype and spent not in passing), None), dtype)
            if name not in passing
            else (name, None, None)
            for made, (name, dtype) in zip(instructions, targets, strict=True)
        ]
        combine, empty_like, address, first = _combine.combine, torch.empty_like, Tensor.data_ptr, inputs[0]
        read = itemgetter(*inputs) if len(inputs) > 1 else lambda registers: (registers[first],)

        def update(registers: dict[str, Tensor]) -> None:
            like, program = registers[first], usual
            if strangers:
                given = [registers[name] for name in strangers]
                program, shape = program_for(*[x.dtype for x in given]), like.shape
                for x in given:
                    if program is None or x.shape != shape or not _is_plain(x, x.dtype):
                        return leave(registers)
            addresses = [*map(address, read(registers))]
            for register, spent, dtype in made_of:
                if dtype is None:
                    registers[register] = like  # nothing reads it
                    addresses.append(0)
                    continue
                if spent is not None:
                    made = registers[spent]
                else:
                    made = empty_like(like) if dtype is like.dtype else empty_like(like, dtype=dtype)
                registers[register] = made
                addresses.append(address(made))
            count = like.numel()
            combine(program, count, 1 if count < LARGE else torch.get_num_threads(), *addresses)
            return None

        return update

    def _dtype(self, register: str, samples: Collection[str]) -> torch.dtype:
        """What a register of the run's own holds: of half precision are only samples and outputs."""
        if register in (OUTPUT, UNGUIDED):
            return self.output
        return self.sample if register in samples else self.sums


def _made(program: object, sources: Sequence[Tensor]) -> Tensor:
    """What a program with one output makes of `sources`, in their precision."""
    made, count = torch.empty_like(sources[0]), sources[0].numel()
    addresses = map(Tensor.data_ptr, (*sources, made))
    _combine.combine(program, count, 1 if count < LARGE else torch.get_num_threads(), *addresses)
    return made


def _is_plain(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the compiled module can read `x`."""
    return x.dtype is dtype and type(x) is Tensor and x.is_cpu and x.is_contiguous() and not x.requires_grad


def in_order(sources: Sequence[Source], coefficients: Sequence[float]) -> list[tuple[Source, float]]:
    """The terms, large ones last, so that the rounding errors of their sum do not count."""
    terms = zip(sources, coefficients, strict=True)
    return sorted(terms, key=lambda term: (term[1] == 1.0, abs(term[1])))
