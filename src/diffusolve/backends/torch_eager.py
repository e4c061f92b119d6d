"""Executing a plan with PyTorch, one library call per term."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

import torch
from torch import Tensor

from diffusolve.backends.backend import Combine, Update, one_by_one
from diffusolve.backends.lowered import NEXT, OUTPUT, SAMPLE, UNGUIDED, LoweredStage, Sum, numbered

__all__ = ["HALF", "TorchBackend", "check_memory", "memory_checked"]

HALF = (torch.float16, torch.bfloat16)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF else x


def _unchanged(x: Tensor) -> Tensor:
    return x


class TorchBackend:
    """Linear combinations of tensors, on whatever device they are.

    Half-precision tensors are combined in float32. Nothing that the caller owns is written to.

    Args:
        plain: all tensors will be of this precision, float32 or float64, and of no subclass. Constants are then
            tensors, which PyTorch multiplies with in little more than half the time that a number takes.
    """

    sees_gradients = True

    def __init__(self, plain: torch.dtype | None = None) -> None:
        self.plain = plain
        self._wide = _wide if plain is None else _unchanged

    def suits(self, simple: bool) -> bool:
        """True if no other backend that takes the tensors is faster, for a plan that is `simple` or not."""
        return True

    def takes(self, x: Tensor, output: Tensor) -> bool:
        """True if what is bound here can be run on these tensors."""
        plain = self.plain
        return plain is None or (x.dtype is plain and output.dtype is plain and type(x) is type(output) is Tensor)

    def combine(self, sources: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
        """The sum of ``coefficient * source`` as a new tensor."""
        result: Tensor = self.bind(Sum(NEXT, tuple(range(len(sources))), tuple(coefficients)))([*sources])
        return result

    def bind(self, total: Sum) -> Combine:
        """The sum `total` (but for its limit), for the least work when it is computed.

        It may be accumulated in the tensor of a source that is reusable. A term with coefficient 1 is added last: it is
        the sample, and large against the rest, whose rounding errors then do not count.
        """
        reusable = total.reusable
        terms = [*total.terms.items()]
        terms.sort(key=lambda term: (term[0] not in reusable, abs(term[1])))
        if not terms:
            return lambda places: torch.zeros_like(places[SAMPLE])
        whole = next((source for source, coefficient in terms if coefficient == 1.0), None)
        if whole is None or len(terms) == 1:
            return _sum(self._scaled(*terms[0], terms[0][0] in reusable), terms[1:])
        parts = [term for term in terms if term[0] != whole]
        largest = max(abs(coefficient) for _, coefficient in parts)
        unit, factor = next(part for part in parts if abs(part[1]) >= largest / 100)
        rest = [(source, coefficient / factor) for source, coefficient in parts if source != unit]
        if unit in reusable or not rest:
            others = _sum(itemgetter(unit), rest)
        else:
            others = _sum(self._added(unit, itemgetter(rest[0][0]), rest[0][1]), rest[1:])
        if whole in reusable:
            return lambda places: places[whole].add_(others(places), alpha=factor)
        return self._added(whole, others, factor)

    def _scaled(self, source: int, factor: float, reusable: bool) -> Combine:
        """``factor * source``."""
        wide, multiply = self._wide, torch.mul
        if self.plain is None:
            return lambda places: multiply(wide(places[source]), factor)
        constant = self._constant(factor)
        if reusable:
            return lambda places: places[source].mul_(constant)
        return lambda places: multiply(places[source], constant)

    def _constant(self, factor: float) -> Tensor:
        state = torch._C._get_tracing_state()
        if state is not None:  # a trace that sees it made is not one of a run that has made it before
            torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            with torch.inference_mode(False):
                return torch.tensor(factor, dtype=self.plain)
        finally:
            if state is not None:
                torch._C._set_tracing_state(state)  # type: ignore[attr-defined]

    def _added(self, source: int, other: Combine, factor: float) -> Combine:
        """``source + factor * other``."""
        wide, add = self._wide, torch.add
        if self.plain is None:
            return lambda places: add(wide(places[source]), other(places), alpha=factor)
        return lambda places: add(places[source], other(places), alpha=factor)

    def scaled(self, factor: float) -> Callable[[Tensor], Tensor]:
        """The function that multiplies by `factor`, in the precision of what it is given."""
        multiply = torch.mul
        if self.plain is None:
            return lambda x: multiply(x, factor)  # one rounding, in half precision too
        constant = self._constant(factor)
        return lambda x: multiply(x, constant)

    def update(self, stage: LoweredStage) -> Update:
        """All sums of `stage`."""
        sums: Sequence[Sum] = stage.sums
        given = {SAMPLE, OUTPUT, UNGUIDED, *stage.samples}
        if self.plain is None:  # sums may be of another precision than samples and outputs
            sums = [
                each._replace(reusable=tuple(place for place in each.reusable if place not in given)) for each in sums
            ]
        exact = self.plain is not None and given.issuperset(numbered(sums)[0])
        return memory_checked(stage, one_by_one(self, sums, casts=not exact))

    def clip(self, x: Tensor, limit: float) -> Tensor:
        """`x`, which nobody else has, within plus and minus `limit`."""
        return x.clamp_(-limit, limit)


def _sum(first: Combine, rest: Sequence[tuple[int, float]]) -> Combine:
    """`first`, with ``coefficient * source`` accumulated in it for each of the `rest`."""
    if not rest:
        return first
    if len(rest) == 1:
        ((source, coefficient),) = rest
        return lambda places: first(places).add_(places[source], alpha=coefficient)

    def accumulated(places: list[Tensor]) -> Tensor:
        result: Tensor = first(places)
        for source, coefficient in rest:
            result.add_(places[source], alpha=coefficient)
        return result

    return accumulated


def memory_checked(stage: LoweredStage, update: Update) -> Update:
    """`update`, once what is remembered of the caller's is seen to be as it was.

    Others may hold and resize such tensors; PyTorch would spread a smaller one over the whole, and reads without a look
    at the memory that is left.
    """
    inputs, _ = numbered(stage.sums)
    remembered = [place for place in inputs if place in stage.remembers]
    if not remembered:
        return update

    def checked(places: list[Tensor]) -> Tensor:
        now = places[SAMPLE]
        size = now.nbytes
        for place in remembered:
            array = places[place]
            try:
                if array.untyped_storage().nbytes() < size or array.nbytes != size or array.storage_offset():
                    check_memory(array, now if place in stage.samples else None)
            except NotImplementedError:  # nothing that could be resized, as in torch.func
                continue
        following: Tensor = update(places)
        return following

    return checked


def check_memory(array: Tensor, now: Tensor | None = None) -> None:
    """Raise ValueError unless `array`, which others may hold, still has its memory, and as many numbers as `now`."""
    if now is not None and array.numel() != now.numel():
        raise ValueError(
            f"the sample of shape {tuple(now.shape)} that this run remembers from an earlier step has been resized to "
            f"{tuple(array.shape)} since: give the run tensors that stay as they are."
        )
    left, end = array.untyped_storage().nbytes(), array.nbytes + array.storage_offset() * array.itemsize
    if left < end:
        raise ValueError(
            f"a tensor that this run remembers from an earlier step (a sample or noise) has lost its memory since: "
            f"{left} bytes are left of {end}. Give the run tensors that stay as they are."
        )
