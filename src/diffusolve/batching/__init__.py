"""Batches of generations that differ in sampler, steps and position, advanced together."""

from diffusolve.backends.coefficients import Coefficients, coefficients, slots_of
from diffusolve.batching.batch_run import BatchRun
from diffusolve.batching.rows import Inputs, Row

__all__ = ["BatchRun", "Coefficients", "Inputs", "Row", "coefficients", "slots_of"]
