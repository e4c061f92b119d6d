"""Backends: executing plans on arrays."""

from diffusolve.backends.backend import Backend, backend_of
from diffusolve.backends.run import Clip, DrawNoise, Run, Transform

__all__ = ["Backend", "Clip", "DrawNoise", "Run", "Transform", "backend_of"]
