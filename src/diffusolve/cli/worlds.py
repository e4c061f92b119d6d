"""The option `--world` of the commands that take names."""

from __future__ import annotations

__all__ = ["WORLD_HELP"]

WORLD_HELP = "Take names as this program does, slips included: a1111, comfyui, k-diffusion or diffusers."
