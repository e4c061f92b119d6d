"""Samplers side by side on one model: samples, errors, evaluations, time."""

from diffusolve.comparing.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
