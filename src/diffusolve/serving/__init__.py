"""Serving requests from one batch that mixes samplers, steps and conditions; asyncio, no web framework."""

from diffusolve.serving.batcher import ContinuousBatcher
from diffusolve.serving.errors import BatcherClosed, QueueFull, RequestFailed, RequestTimeout
from diffusolve.serving.request import Preview, Request

__all__ = [
    "BatcherClosed",
    "ContinuousBatcher",
    "Preview",
    "QueueFull",
    "Request",
    "RequestFailed",
    "RequestTimeout",
]
