"""Backends: executing plans on arrays."""

from diffusolve.backends.backend import Backend, backend_of
from diffusolve.backends.run import DrawNoise, Run, Transform

__all__ = ["Backend", "DrawNoise", "Run", "Transform", "backend_of"]
