"""A second, slow way of running plans, written from the plan's definition and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusolve.plan import Plan, Update

Array = npt.NDArray[np.float64]


@dataclass
class Interpreter:
    """Runs a plan on float64 arrays, checking that no register is read before it is written or after it is freed.

    Attributes:
        network: called with samples and a timestep; where the plan reads the unguided output, its method
            `guided_and_unguided` is.
        registers: what holds a value.
        held: for each stage, the names of the registers that held a value while the network ran.
        scale: the largest term of any sum so far; rounding errors are in proportion to it.
        noise_intervals: for each noise drawn, its two sigmas.
    """

    plan: Plan
    network: Any
    draw_noise: Callable[[Array, float, float], Array]
    registers: dict[str, Array] = field(default_factory=dict)
    held: list[frozenset[str]] = field(default_factory=list)
    scale: float = 0.0
    noise_intervals: list[tuple[float, float]] = field(default_factory=list)

    def run(self, x: Array) -> Array:
        plan, registers = self.plan, self.registers
        registers[plan.initial] = x
        self._update(plan.opening, x)
        for stage in plan.stages:
            self.held.append(frozenset(registers))
            sample = registers[stage.sample]
            shown, timestep = stage.scale * sample, stage.point.timestep
            outputs = {}
            if any(source == "unguided" for write in stage.update.writes for source, _ in write.terms):
                outputs["output"], outputs["unguided"] = self.network.guided_and_unguided(shown, timestep)
            else:
                outputs["output"] = self.network(shown, timestep)
            assert stage.data not in registers
            registers[stage.data] = self._sum([(stage.a, sample), (stage.b, outputs["output"])], x)
            registers |= outputs
            self._update(stage.update, x)
            for name in outputs:
                del registers[name]
        assert set(registers) == {plan.result}, "something was never freed"
        return registers[plan.result]

    def _update(self, update: Update, like: Array) -> None:
        for noise in update.noises:
            assert noise.register not in self.registers
            self.registers[noise.register] = self.draw_noise(like, noise.sigma_from, noise.sigma_to)
            self.noise_intervals.append((noise.sigma_from, noise.sigma_to))
        for write in update.writes:
            assert write.register not in self.registers
            terms = [(coefficient, self.registers[source]) for source, coefficient in write.terms]
            self.registers[write.register] = self._sum(terms, like)
        for register in update.frees:
            del self.registers[register]

    def _sum(self, terms: list[tuple[float, Array]], like: Array) -> Array:
        products = [coefficient * value for coefficient, value in terms]
        self.scale = max(self.scale, *(float(np.abs(product).max()) for product in products), 0.0)
        return sum(products, np.zeros_like(like))
