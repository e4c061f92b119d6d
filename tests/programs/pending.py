"""Programs that do not have diffusers' results yet.

The lists only get shorter: a test fails while they hold a program that passes.
"""

from __future__ import annotations

__all__ = ["PENDING"]

_BY_REASON: dict[str, dict[str, tuple[str, ...]]] = {
    "before set_timesteps the class has no timesteps, or others": {
        "scales_input_before_timesteps_are_set": ("KDPM2Discrete",),
        "steps_before_timesteps_are_set": ("KDPM2Discrete",),
    },
    "a step out of turn is refused or does not count": {
        "steps_again_at_the_last_timestep": ("PNDM",),
        "resets_the_step_index_to_walk_again": ("HeunDiscrete",),
        "clears_the_history_of_outputs": ("DPMSolverMultistep", "UniPCMultistep"),
    },
    "a traced loop does not pass its own check": {
        "traces_a_loop": ("DDIM", "DPMSolverMultistep", "EulerDiscrete"),
    },
    "members that users reach for": {
        "reads_the_history_of_outputs": ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"),
        "chronoedit_drops_frames_from_the_history": ("UniPCMultistep",),
        "reads_lms_derivatives": ("LMSDiscrete",),
        "reads_pndm_timesteps_and_history": ("PNDM",),
        "calls_prk_and_plms_itself": ("PNDM",),
        "calls_the_updates_itself": ("DPMSolverMultistep",),
    },
}
"""For each reason its programs, with the classes that they fail for; none where a program names its own."""

PENDING = {
    f"{name}[{entry}]" if entry else name: reason
    for reason, programs in _BY_REASON.items()
    for name, classes in programs.items()
    for entry in (classes or ("",))
}
"""Names of programs as they are registered, each with its reason."""
