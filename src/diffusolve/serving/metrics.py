"""Counters, gauges and histograms in the text format of Prometheus.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

__all__ = ["Histogram", "counter_lines", "gauge_lines"]


class Histogram:
    """Counts of values at or below each of some bounds.

    Args:
        bounds: the upper bounds, ascending; one more, infinity, is added.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one `value`."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, text: str) -> Iterator[str]:
        """The histogram as the metric `name`, described by `text`."""
        yield from _head(name, text, "histogram")
        limits = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        for limit, count in zip(limits, accumulate(self.counts), strict=True):
            yield f'{name}_bucket{{le="{limit}"}} {count}'
        yield f"{name}_sum {self.sum:.9g}"
        yield f"{name}_count {sum(self.counts)}"


def counter_lines(name: str, text: str, counts: int | Counter[str], label: str = "") -> Iterator[str]:
    """A counter, or one for each value of a `label`."""
    yield from _head(name, text, "counter")
    if isinstance(counts, int):
        yield f"{name} {counts}"
        return
    for value, count in counts.items():
        yield f'{name}{{{label}="{value}"}} {count}'


def gauge_lines(name: str, text: str, value: float) -> Iterator[str]:
    """A number that goes up and down."""
    yield from _head(name, text, "gauge")
    yield f"{name} {value:.9g}"


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
