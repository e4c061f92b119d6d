"""Endings of requests without a sample. A fault of the request itself is a ValueError or a TypeError."""

from __future__ import annotations

__all__ = ["BatcherClosed", "QueueFull", "RequestFailed", "RequestTimeout"]


class QueueFull(RuntimeError):
    """As many requests wait as the batcher lets wait; the request was not taken. Try again later."""


class BatcherClosed(RuntimeError):
    """The batcher takes no requests: it is closed, or was never entered."""


class RequestFailed(RuntimeError):
    """The request was taken and ended before its sample was there; ``__cause__`` is the exception behind it, if any."""


class RequestTimeout(TimeoutError):
    """The request took longer than its `timeout`."""
