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
    "timesteps, sigmas and the number of steps cannot be written": {
        "distilled_schedule_written_as_timesteps": ("DDIM", "DDPM", "EulerDiscrete"),
        "moves_timesteps_to_its_device": ("EulerDiscrete", "DPMSolverMultistep", "HeunDiscrete", "DDIM"),
        "writes_its_own_sigmas": ("EulerDiscrete", "LMSDiscrete", "DPMSolverMultistep"),
        "changes_one_sigma_in_place": ("EulerDiscrete", "EulerAncestralDiscrete"),
        "ddim_told_another_number_of_steps": ("DDIM",),
        "truncates_a_schedule": ("EulerDiscrete",),
    },
    "tables that are written have no effect": {
        "replaces_alphas_cumprod": ("DDIM", "DDPM", "PNDM"),
        "another_final_alpha": ("DDIM",),
    },
    "the configuration cannot be written in mid-life": {
        "registers_clipping_in_mid_run": ("DDIM", "DDPM"),
        "kohya_writes_to_the_configuration": ("DDPM", "DDIM"),
        "writes_a_prediction_type_to_the_configuration": ("DDIM", "EulerDiscrete", "DPMSolverMultistep"),
        "ledits_writes_the_algorithm": ("DPMSolverMultistep",),
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
