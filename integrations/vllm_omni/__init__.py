"""diffusolve in vLLM-Omni: see README.md."""

from .fused_steps import FusedSteps

__all__ = ["FusedSteps"]
