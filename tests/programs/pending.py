"""Programs that do not have diffusers' results yet.

The lists only get shorter: a test fails while they hold a program that passes.
"""

from __future__ import annotations

__all__ = ["PENDING"]

_BY_REASON: dict[str, dict[str, tuple[str, ...]]] = {
    "a traced loop does not pass its own check": {
        "traces_a_loop": ("DDIM", "DPMSolverMultistep", "EulerDiscrete"),
    },
    "members that users reach for": {
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
