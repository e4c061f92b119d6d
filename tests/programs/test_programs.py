"""Programs of users, run with diffusers' classes and with ours: the same results, or a difference that is listed."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve
from tests.programs import (  # noqa: F401 - they register programs
    histories,
    other_loops,
    outputs_and_places,
    precision_and_order,
    resumed,
    subclasses,
    values,
    writing,
    writing_in_runs,
    written_late,
)
from tests.programs.registry import PROGRAMS, Program

diffusers = pytest.importorskip("diffusers", reason="these tests compare with diffusers, which is not installed")

WITHIN = 1e-4
"""The largest relative error of a tensor or number."""

HALF_WITHIN = 0.01
"""The same in half precision, where a sum made in another order is rounded otherwise."""

READ_LATE = "a prediction that is read late raises where the tensors it follows from were written to since"
BY_VIEW = "a view of timesteps counts at every step, not at the first one only"
AFTER_THE_END = "a step after the last one of a run is an error where diffusers goes on with what it remembers"
MID_STEP = "a class of two evaluations a step begins where a step does"
HISTORY = "a run holds its whole history where somebody has asked the scheduler for it before"

HALF_INSIDE = (
    "half_output_and_full_sample",
    "autocast_loop_with_latents_kept_in_float32",
    "previews_the_data_of_a_half_precision_run",
    "previews_the_data_that_a_half_precision_network_predicts",
)
"""Programs whose float32 results diffusers rounds to half precision on the way, which ours do not."""

HALF_INSIDE_WITHIN = 0.02
"""The largest relative error of these."""

DIFFERENCES: dict[str, str] = {
    **{
        f"reads_the_history_of_outputs[{name}]": HISTORY
        for name in ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep")
    },
    "chronoedit_drops_frames_from_the_history[UniPCMultistep]": HISTORY,
    "reads_pndm_timesteps_and_history[PNDM]": HISTORY,
    "steps_again_at_the_last_timestep[PNDM]": AFTER_THE_END,
    "resets_the_step_index_to_walk_again[HeunDiscrete]": AFTER_THE_END,
    "scales_input_before_timesteps_are_set[KDPM2Discrete]": MID_STEP,
    "steps_before_timesteps_are_set[KDPM2Discrete]": MID_STEP,
    **{f"static_buffers_are_written_after_a_step[{name}]": READ_LATE for name in ("DDIM", "EulerDiscrete", "DDPM")},
    **{
        f"fastai_course_steps_twice_for_one_image[{name}]": BY_VIEW
        for name in ("EulerDiscrete", "EulerAncestralDiscrete", "LMSDiscrete")
    },
}
"""Programs whose results differ on purpose, each with the reason; documented for users too."""


def allowed(name: str) -> float:
    """The largest relative error of a program's float32 results."""
    return HALF_INSIDE_WITHIN if name.split("[")[0] in HALF_INSIDE else WITHIN


def difference(mine: Any, reference: Any, largest_error: float = WITHIN) -> str | None:
    """What differs in one value of a program's results."""
    if isinstance(reference, Tensor):
        if not isinstance(mine, Tensor) or mine.shape != reference.shape or mine.dtype != reference.dtype:
            form = (mine.dtype, tuple(mine.shape)) if isinstance(mine, Tensor) else repr(mine)[:80]
            return f"{form}, not {(reference.dtype, tuple(reference.shape))}"
        largest = reference.double().abs().max().clamp(min=1e-12) if reference.numel() else torch.ones(())
        error = float((mine.double() - reference.double()).abs().max() / largest) if reference.numel() else 0.0
        within = HALF_WITHIN if reference.dtype in (torch.half, torch.bfloat16) else largest_error
        return None if error <= within else f"off by {error:.1e}"
    if isinstance(reference, float) and isinstance(mine, float):
        return None if math.isclose(mine, reference, rel_tol=WITHIN) else f"{mine}, not {reference}"
    same = type(mine) is type(reference) and mine == reference
    return None if same else f"{mine!r}"[:90] + ", not " + f"{reference!r}"[:90]


def outcome(program: Program, reference: list[Any], largest_error: float = WITHIN) -> str | None:
    """What is wrong with a program's results with our classes; nothing is None."""
    try:
        mine = program(diffusolve)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:160]
    if len(mine) != len(reference):
        return f"{len(mine)} results, not {len(reference)}"
    found = ((place, difference(a, b, largest_error)) for place, (a, b) in enumerate(zip(mine, reference, strict=True)))
    return next((f"result {place} is {text}" for place, text in found if text), None)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str | None]:
    """What is wrong with each program."""
    verbosity = diffusers.logging.get_verbosity()
    diffusers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {name: outcome(program, program(diffusers), allowed(name)) for name, program in PROGRAMS.items()}
    finally:
        diffusers.logging.set_verbosity(verbosity)


def test_programs_of_users_have_the_same_results(outcomes: dict[str, str | None]) -> None:
    known = DIFFERENCES.keys()
    failures = [f"{name}: {text}" for name, text in outcomes.items() if text and name not in known]
    assert not failures, "\n".join([f"{len(failures)} of {len(outcomes)} programs differ:", *failures])


def test_the_list_of_different_programs_is_true(outcomes: dict[str, str | None]) -> None:
    stale = [name for name in DIFFERENCES if not outcomes.get(name)]
    assert not stale, "\n".join(["these pass, or are no programs: take them off the list", *stale])


def test_there_are_programs_enough() -> None:
    assert len({name.split("[")[0] for name in PROGRAMS}) >= 70
