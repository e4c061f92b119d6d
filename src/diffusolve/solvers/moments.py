"""Quadrature: weights of function values by what they must make of powers."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["GAUSS_LEGENDRE", "weights_of"]

GAUSS_LEGENDRE = tuple(
    ((1 + sign * node) / 2, weight / 2)
    for node, weight in (
        (0.1834346424956498, 0.3626837833783620),
        (0.5255324099163290, 0.3137066458778873),
        (0.7966664774136267, 0.2223810344533745),
        (0.9602898564975363, 0.1012285362903763),
    )
    for sign in (-1, 1)
)
"""Nodes in (0, 1) and weights of the quadrature with eight nodes."""


def weights_of(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The weights w of `nodes`, which differ, with ``sum(w * node**k) == moments[k]``: as many moments as nodes.

    With the integrals of the powers for moments, the weighted sum of a function's values integrates the polynomial
    through them. Bjorck & Pereyra 1970, Solution of Vandermonde systems of equations, section 3.
    """
    weights, last = list(moments), len(nodes) - 1
    for k in range(last):
        for i in range(last, k, -1):
            weights[i] -= nodes[k] * weights[i - 1]
    for k in range(last - 1, -1, -1):
        for i in range(k + 1, last + 1):
            weights[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, last):
            weights[i] -= weights[i + 1]
    return weights
