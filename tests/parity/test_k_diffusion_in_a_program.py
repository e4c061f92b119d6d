"""A music program of others', stable-audio-tools, on our k-diffusion and on the original."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

import diffusolve.k_diffusion as ours

from . import k_diffusion_reference as theirs
from .test_k_diffusion_face import difference

pytestmark = pytest.mark.filterwarnings("ignore")  # the program's, and those of k-diffusion's paths
PROGRAM = "stable_audio_tools.inference.sampling"
if importlib.util.find_spec("stable_audio_tools") is None:
    pytest.skip("the program stable-audio-tools is not installed", allow_module_level=True)
pytest.importorskip("torchsde", reason="the SDE samplers need torchsde")

SAMPLERS = {
    "k-heun": 1e-5,
    "k-lms": 1e-5,
    "k-dpmpp-2s-ancestral": 1e-5,
    "k-dpm-2": 1e-5,
    "k-dpm-fast": 1e-4,
    "k-dpm-adaptive": 4e-3,  # its controller amplifies rounding
    "dpmpp-2m-sde": 1e-5,
    "dpmpp-3m-sde": 1e-5,
}
"""Samplers by the program's names -> how far both may be apart, relative to the samples."""


def program_on(k_diffusion: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program's module, loaded anew with `k_diffusion` in place."""
    monkeypatch.setitem(sys.modules, "k_diffusion", k_diffusion)
    for name in ("sampling", "external", "utils"):
        monkeypatch.setitem(sys.modules, f"k_diffusion.{name}", getattr(k_diffusion, name))
    for name in [name for name in sys.modules if name.partition(".")[0] == "stable_audio_tools"]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module(PROGRAM)


def network(x: torch.Tensor, t: torch.Tensor, **_: Any) -> torch.Tensor:
    """A stand-in for the program's, which predicts v at times from 0 to 1."""
    return torch.tanh(0.7 * x + 0.2 * x.roll(1, -1)) - 0.3 * t[:, None, None] * x


def test_the_program_makes_the_same_music_with_the_same_callbacks_and_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = ModuleType("k_diffusion")
    original.sampling, original.external = theirs.sampling, theirs.external
    original.utils = theirs.sampling.utils
    results: dict[str, list[Any]] = {name: [] for name in SAMPLERS}
    for module in (ours, original):
        program = program_on(module, monkeypatch)
        assert inspect.getmodule(program.K.sampling.sample_heun).__name__.startswith(module.__name__.split(".")[0])
        for name in SAMPLERS:
            torch.manual_seed(3)
            told: list[tuple[int, float]] = []

            def callback(step: dict[str, Any], told: list[tuple[int, float]] = told) -> None:
                told.append((step["i"], float(step["sigma"])))

            made = program.sample_k(
                network,
                torch.randn(2, 8, 16),
                steps=12,
                sampler_type=name,
                sigma_min=0.3,
                sigma_max=50.0,
                device="cpu",
                callback=callback,
            )
            results[name].append((made, told, torch.get_rng_state()))
    wrong = []
    for name, ((mine, told, state), (reference, told_there, state_there)) in results.items():
        apart = difference(mine, reference)
        within = 0.05 if name == "k-dpm-adaptive" else 1e-5  # its first errors are rounding, which sets the next step
        if len(told) != len(told_there) or not torch.allclose(torch.tensor(told), torch.tensor(told_there), within):
            wrong.append((name, "callbacks", told, told_there))
        if not torch.equal(state, state_there) or not apart <= SAMPLERS[name]:
            wrong.append((name, apart, torch.equal(state, state_there)))
    assert not wrong
