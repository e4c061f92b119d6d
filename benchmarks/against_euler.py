"""Deterministic samplers that are worse than Euler in as many evaluations: ``python -m benchmarks.against_euler``.

It writes `catalog/against_euler.py`, which says so; `tests/test_against_euler.py` measures again and compares. The data
are normally distributed or a mixture of two normal distributions, whose denoisers are exact, so that all errors are the
sampler's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from diffusolve.catalog import CATALOG, SCHEDULE_TYPES, sampler
from diffusolve.noise import NOISE_SCHEDULES, NoiseSchedule, Scaling
from diffusolve.prediction import Sample
from diffusolve.sampling import Sampler, sample
from diffusolve.spacing import Karras, Linspace

PAGE = Path(__file__).parent.parent / "src" / "diffusolve" / "catalog" / "against_euler.py"

MODELS = ("sd15", "sd3", "flux", "edm")
"""Noise schedules of each kind. What the network predicts changes nothing about an exact denoiser."""

STEPS = (5, 10, 20)
MEANS = {"normal": 0.0, "mixture": 0.9}
"""Data -> the mean of one component, the other's being minus that."""

WORSE, MUCH = 1.1, 0.005
"""Errors count as larger from this factor on, if they are larger by this much of samples of size 1, too."""

START = np.linspace(-2.2, 2.2, 45)[None]
"""Standard normal numbers without their tails."""


class Denoiser:
    """The posterior mean of two normal distributions around `mean` and -`mean`, both moved by 0.1."""

    prediction = Sample()

    def __init__(self, noise_schedule: NoiseSchedule, mean: float) -> None:
        self.noise_schedule, self.mean = noise_schedule, mean

    def __call__(self, x: Any, timestep: Any) -> Any:
        alpha, sigma = (float(each) for each in self.noise_schedule.alpha_sigma(timestep[0]))
        variance = 0.05 if self.mean else 0.25
        y, d = x - alpha * 0.1, alpha**2 * variance + sigma**2
        return 0.1 + (variance * alpha * y + sigma**2 * self.mean * np.tanh(self.mean * alpha * y / d)) / d


def ended(made: Sampler, network: Denoiser, steps: int) -> Any:
    """The samples that `made` makes of :data:`START`."""
    return sample(network, made.grid(network.noise_schedule, steps)[0].sigma * START, made, steps=steps)


@lru_cache(maxsize=64)
def exact(network: Denoiser) -> Any:
    """The samples that the differential equation makes of them."""
    flow = network.noise_schedule.scaling is Scaling.FLOW
    return ended(sampler("Heun", Linspace(to_first=False) if flow else Karras()), network, 800)


@lru_cache(maxsize=4096)
def eulers_error(kind: str, network: Denoiser, evaluations: int) -> float:
    """The root mean square error of Euler on a schedule type."""
    return error(sampler("Euler", kind), network, evaluations)


def error(made: Sampler, network: Denoiser, steps: int) -> float:
    """The root mean square error of `made`."""
    return float(np.sqrt(np.mean((ended(made, network, steps) - exact(network)) ** 2)))


def deterministic() -> Iterator[str]:
    """The samplers that are one, without those that need guidance."""
    for name, entry in CATALOG.items():
        if entry.solver.adaptive or dict(entry.solver.options).get("cfg_pp") or name in ("Euler", "DDIM"):
            continue
        if not sampler(name).plan(NOISE_SCHEDULES["sd15"], "sample", 6).is_stochastic:
            yield name


def worse_than_euler() -> dict[str, tuple[str, ...]]:
    """Sampler -> the schedule types on which it is worse than Euler, on some model, data and number of steps."""
    networks = [Denoiser(NOISE_SCHEDULES[model], mean) for model in MODELS for mean in MEANS.values()]
    found: dict[str, tuple[str, ...]] = {}
    for name in deterministic():
        kinds = [kind for kind in SCHEDULE_TYPES if any(is_worse(name, kind, network) for network in networks)]
        if kinds:
            found[name] = tuple(kinds)
    return found


def is_worse(name: str, kind: str, network: Denoiser) -> bool:
    """True if a sampler is worse than Euler for some number of steps; False where the schedule refuses the type."""
    made, schedule = sampler(f"{name} {kind}"), network.noise_schedule
    for steps in STEPS:
        try:
            evaluations = made.plan(schedule, "sample", steps).nfe
            eulers = eulers_error(kind, network, evaluations)
        except ValueError:
            return False
        own = error(made, network, steps)
        if own > WORSE * eulers and own > eulers + MUCH:
            return True
    return False


def said(kinds: tuple[str, ...]) -> str:
    """`kinds` as the module has them: those that are there, or those that are missing, whichever are fewer."""
    missing = tuple(kind for kind in SCHEDULE_TYPES if kind not in kinds)
    return f"everywhere_but({', '.join(map(repr, missing))})" if len(missing) < len(kinds) else repr(kinds)


def page(found: dict[str, tuple[str, ...]]) -> str:
    """The module."""
    rows = "".join(f"        {name!r}: {said(kinds)},\n" for name, kinds in found.items())
    return f'''"""Samplers that are worse than Euler in as many evaluations, as `benchmarks.against_euler` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from diffusolve.catalog.schedule_types import SCHEDULE_TYPES

__all__ = ["WORSE_THAN_EULER"]



def everywhere_but(*kinds: str) -> tuple[str, ...]:
    """All schedule types without these."""
    return tuple(kind for kind in SCHEDULE_TYPES if kind not in kinds)


WORSE_THAN_EULER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {{
{rows}    }}
)
"""Deterministic sampler -> the schedule types on which there is a model (Stable Diffusion, SD3, Flux, EDM), a
distribution of data (normal, mixture of two) and a number of steps (5, 10, 20) where its error is more than a tenth
larger than that of Euler in as many evaluations.

Two evaluations a step leave half as many steps, which do not pay at 5 or 10; and polynomials through earlier steps are
worth nothing over a long last one.
"""
'''


if __name__ == "__main__":
    PAGE.write_text(page(worse_than_euler()), encoding="utf-8")
