"""Members that diffusers' schedulers have: ours have them too, or say what to use instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import diffusolve

diffusers = pytest.importorskip("diffusers", reason="diffusers says what its classes have")

NAMES = [name for name in diffusolve.__all__ if name.endswith("Scheduler") and hasattr(diffusers, name)]


def unexplained(name: str, mine: Any, reference: Any) -> list[str]:
    """The members of `reference` that `mine` lacks with Python's own error."""
    missing = []
    for member in (key for key in dir(reference) if not key.startswith(("__", "_abc"))):
        if not hasattr(reference, member):
            continue
        try:
            getattr(mine, member)
        except AttributeError as error:
            if "object has no attribute" in str(error):
                missing.append(f"{name}.{member}")
    return missing


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_member_of_diffusers_is_there_or_its_error_says_what_to_use() -> None:
    missing, walked = [], 0
    for name in NAMES:
        try:
            mine, reference = getattr(diffusolve, name)(), getattr(diffusers, name)()
        except TypeError:  # an argument has no default
            continue
        missing += unexplained(name, mine, reference)
        try:
            reference.set_timesteps(8)
        except (KeyError, ValueError):  # other arguments
            continue
        mine.set_timesteps(8)
        missing += unexplained(name, mine, reference)
        walked += 1
    assert walked > 30
    assert not missing, "\n".join(missing)


@pytest.mark.filterwarnings("ignore")
def test_edm_networks_outputs_are_converted_and_stepped_by_hand_as_in_diffusers() -> None:
    generator = torch.Generator().manual_seed(0)
    x, output = torch.randn(2, 2, 3, 4, 4, generator=generator)
    results = []
    for library in (diffusolve, diffusers):
        scheduler = library.EDMDPMSolverMultistepScheduler()
        scheduler.set_timesteps(8)
        scheduler.step(output, scheduler.timesteps[0], x)
        data = scheduler.convert_model_output(output, x)
        first = scheduler.dpm_solver_first_order_update(data, x)
        second = scheduler.multistep_dpm_solver_second_order_update([0.5 * data, data], x)
        karras = scheduler._compute_karras_sigmas(torch.linspace(0, 1, 5))
        even = scheduler._compute_exponential_sigmas(torch.linspace(0, 1, 5))
        results.append([data, first, second, karras, even])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_variances_and_time_shifts_are_those_of_diffusers() -> None:
    for name in ("CogVideoXDDIMScheduler", "TCDScheduler"):
        mine, reference = getattr(diffusolve, name)(), getattr(diffusers, name)()
        torch.testing.assert_close(
            mine._get_variance(500, 480), reference._get_variance(500, 480), rtol=1e-4, atol=1e-6
        )
    sigmas = torch.linspace(1, 0.1, 5)
    for name in ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"):
        mine, reference = getattr(diffusolve, name)(), getattr(diffusers, name)()
        for kind in ("exponential", "linear"):
            shift = f"_time_shift_{kind}"
            expected = getattr(reference, shift)(1.2, 1.0, sigmas)
            torch.testing.assert_close(getattr(mine, shift)(1.2, 1.0, sigmas), expected)
