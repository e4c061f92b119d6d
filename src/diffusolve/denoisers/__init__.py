"""Denoisers: exact ones in closed form, wrappers for networks, and two small networks with their data."""

from diffusolve.denoisers.as_flow import AsFlow
from diffusolve.denoisers.digits import load_digits_data
from diffusolve.denoisers.emoji import EmojiData, load_emoji_data
from diffusolve.denoisers.exact import DatasetDenoiser, GaussianDenoiser, GaussianMixtureDenoiser, Predicting
from diffusolve.denoisers.wrap import ClassifierFreeGuidance, Denoiser

__all__ = [
    "AsFlow",
    "ClassifierFreeGuidance",
    "DatasetDenoiser",
    "Denoiser",
    "EmojiData",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "Predicting",
    "load_digits_data",
    "load_emoji_data",
]
