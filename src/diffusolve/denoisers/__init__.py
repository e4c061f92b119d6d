"""Denoisers: exact ones in closed form, wrappers for networks, and the small digits network."""

from diffusolve.denoisers.digits import load_digits_data
from diffusolve.denoisers.exact import DatasetDenoiser, GaussianDenoiser, GaussianMixtureDenoiser, Predicting
from diffusolve.denoisers.wrap import ClassifierFreeGuidance, Denoiser

__all__ = [
    "ClassifierFreeGuidance",
    "DatasetDenoiser",
    "Denoiser",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "Predicting",
    "load_digits_data",
]
