"""Noise schedules: how much signal and noise a sample holds at each timestep, in float64."""

from diffusolve.noise.betas import BETA_SCHEDULES
from diffusolve.noise.cosine import Cosine
from diffusolve.noise.flow_matching import FlowMatching, shifted
from diffusolve.noise.points import Grid, Point
from diffusolve.noise.presets import EDM, FLUX, NOISE_SCHEDULES, SD3, SD15, SDXL, noise_schedule
from diffusolve.noise.scaling import Scaling
from diffusolve.noise.schedule import NoiseSchedule
from diffusolve.noise.variance_exploding import VarianceExploding
from diffusolve.noise.variance_preserving import SignalTable, TabulatedSignal, VariancePreserving

__all__ = [
    "BETA_SCHEDULES",
    "EDM",
    "FLUX",
    "NOISE_SCHEDULES",
    "SD3",
    "SD15",
    "SDXL",
    "Cosine",
    "FlowMatching",
    "Grid",
    "NoiseSchedule",
    "Point",
    "Scaling",
    "SignalTable",
    "TabulatedSignal",
    "VarianceExploding",
    "VariancePreserving",
    "noise_schedule",
    "shifted",
]
