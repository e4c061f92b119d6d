"""Sampling: the loop, for any model and any array library."""

from diffusolve.sampling.denoiser import GuidedNetwork, Network, ScheduledNetwork, trained_for
from diffusolve.sampling.direct import run_directly
from diffusolve.sampling.sample import Progress, Report, noise_between_steps, sample, sample_with_report, start
from diffusolve.sampling.sampler import Sampler

__all__ = [
    "GuidedNetwork",
    "Network",
    "Progress",
    "Report",
    "Sampler",
    "ScheduledNetwork",
    "noise_between_steps",
    "run_directly",
    "sample",
    "sample_with_report",
    "start",
    "trained_for",
]
