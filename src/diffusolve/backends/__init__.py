"""Backends: executing plans on arrays."""

from diffusolve.backends.backend import Backend
from diffusolve.backends.choice import backend_of, fastest
from diffusolve.backends.run import BackendName, DrawNoise, Run, data_prediction
from diffusolve.backends.transform import Clip, Transform

__all__ = [
    "Backend",
    "BackendName",
    "Clip",
    "DrawNoise",
    "Run",
    "Transform",
    "backend_of",
    "data_prediction",
    "fastest",
]
