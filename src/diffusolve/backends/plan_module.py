"""A plan as a torch module: for ``torch.compile``, ``torch.export`` and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from diffusolve.backends.coefficients import coefficients, slots_of
from diffusolve.errors import shown
from diffusolve.plan import Plan

__all__ = ["PlanModule"]


class PlanModule(torch.nn.Module):
    """The steps of a plan as one function of tensors, the position in the plan among them.

        steps = PlanModule(scheduler.plan).to(x.device)
        state = steps.begin(x)
        for index in steps.indices:  # 0-d tensors
            output = unet(steps.model_input(x, index), steps.timestep(index))
            x, state = steps(output, x, state, index)

    There is no Python state and nothing is read from a tensor, so that the body of this loop compiles to one graph,
    once for all steps, can be exported, and can be captured in a CUDA graph. What it costs: all steps have the form of
    the one with the most terms, and what is remembered is written anew in each.

    Args:
        plan: what to do.
        transform: applied to every prediction of x0 before it is used, for example ``lambda x0: x0.clamp(-1, 1)``.
        dtype: the precision of sums and of what is remembered.

    Raises:
        ValueError: a plan that adds noise before it first asks the network and remembers more than its sample then.
    """

    table: Tensor
    scales: Tensor
    conversion: Tensor
    timesteps: Tensor
    indices: Tensor
    placed: Tensor

    def __init__(
        self, plan: Plan, transform: Callable[[Tensor], Tensor] | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        if not isinstance(plan, Plan):
            raise TypeError(
                f"PlanModule is made of a Plan, not {shown(plan)}: diffusolve.sampler(...).plan(...) makes one."
            )
        super().__init__()
        self.plan = plan
        self.transform = transform
        self.reads_unguided = plan.reads_unguided
        self.slots = slots_of(plan)
        steps = coefficients([(plan, position) for position in range(plan.nfe)])
        names = [f"slot{slot}" for slot in range(self.slots)]
        # A target's terms, the sample last: it is the largest, and the rounding errors of the others then do not count.
        self.sums = {
            target: [
                (source, column)
                for source, column in sorted(
                    ((source, column) for column, (other, source) in enumerate(steps.terms) if other == target),
                    key=lambda term: term[0] == "sample",
                )
            ]
            for target in ["sample", *names]
        }
        self.noises = max(map(len, steps.noises))
        placed = np.zeros((plan.nfe, self.slots, self.noises), bool)
        for position, drawn in enumerate(steps.noises):
            for number, (slot, _, _) in enumerate(drawn):
                placed[position, names.index(slot), number] = True
        self.noisy = [bool(placed[:, slot].any()) for slot in range(self.slots)]
        whole = all(isinstance(timestep, int) for timestep in plan.timesteps)
        conversion = [(stage.a, stage.b) for stage in plan.stages]
        for name, buffer in {
            "table": torch.from_numpy(steps.table).to(dtype),
            "scales": torch.from_numpy(steps.scales).to(dtype),
            "conversion": torch.tensor(conversion, dtype=dtype),
            "timesteps": torch.tensor(plan.timesteps, dtype=torch.int64 if whole else torch.float32),
            "indices": torch.arange(plan.nfe),
            "placed": torch.from_numpy(placed),
        }.items():
            self.register_buffer(name, buffer, persistent=False)

    def begin(self, x: Tensor) -> tuple[Tensor, ...]:
        """The state before the first step, for samples like `x`."""
        return tuple(torch.zeros_like(x, dtype=self.table.dtype) for _ in range(self.slots))

    def timestep(self, index: Tensor) -> Tensor:
        """The timestep that conditions the network at evaluation number `index`, a 0-d tensor."""
        return _at(self.timesteps, index)

    def model_input(self, sample: Tensor, index: Tensor) -> Tensor:
        """The `sample` as the network sees it at evaluation number `index`."""
        return (_at(self.scales, index) * sample).to(sample.dtype)

    def forward(
        self,
        output: Tensor,
        sample: Tensor,
        state: tuple[Tensor, ...],
        index: Tensor,
        noise: tuple[Tensor, ...] | None = None,
        unguided: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The next sample, and what is remembered then.

        Args:
            output: what the network says of ``model_input(sample, index)``, the shape of `sample`.
            sample: the current sample, shape (batch, ...).
            state: what :meth:`begin` or the last step returned.
            index: the number of the evaluation, a 0-d tensor of whole numbers.
            noise: standard normal noise, as many tensors as `noises` says; drawn if missing.
            unguided: the network's output without guidance, if the plan reads it (CFG++).

        Raises:
            ValueError: another number of noises, or an unguided output missing.
        """
        values = {"sample": sample.to(self.table.dtype), "output": output.to(self.table.dtype)}
        if self.reads_unguided:
            if unguided is None:
                raise ValueError(f"{self.plan.solver} needs the network's output without guidance as well: unguided.")
            values["unguided"] = unguided.to(self.table.dtype)
        if self.transform is not None:
            a, b = _at(self.conversion, index)
            data = self.transform(a * values["sample"] + b * values["output"])
            values["output"] = (data - a * values["sample"]) / b  # what a network would say that predicts these data
        values |= self._remembered(state, values["sample"], index, noise)
        row = _at(self.table, index)
        following = {
            target: reduce(add, [row[column] * values[source] for source, column in terms]) if terms else values[target]
            for target, terms in self.sums.items()
        }
        return following.pop("sample").to(sample.dtype), tuple(following.values())

    def _remembered(
        self, state: tuple[Tensor, ...], like: Tensor, index: Tensor, noise: tuple[Tensor, ...] | None
    ) -> dict[str, Tensor]:
        """The slots' values, with this step's noise in its places."""
        if noise is None:
            noise = tuple(torch.randn_like(like) for _ in range(self.noises))
        if len(noise) != self.noises:
            raise ValueError(f"{len(noise)} tensors of noise: {self.plan.solver} takes {self.noises} in each step.")
        placed = _at(self.placed, index)
        values = {}
        for slot, held in enumerate(state):
            if self.noisy[slot]:
                for number, drawn in enumerate(noise):
                    held = torch.where(placed[slot, number], drawn.to(held.dtype), held)
            values[f"slot{slot}"] = held
        return values


def _at(table: Tensor, index: Tensor) -> Tensor:
    """Row `index`, which is not read."""
    return torch.index_select(table, 0, index.reshape(1)).squeeze(0)
