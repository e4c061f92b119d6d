"""The one function that needs SciPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def beta_quantile(probability: Array, alpha: float, beta: float) -> Array:
    """The quantiles of the Beta(`alpha`, `beta`) distribution.

    Raises:
        ImportError: SciPy is not installed.
    """
    if not (0.0 < alpha <= 1e6 and 0.0 < beta <= 1e6):  # beyond that SciPy has NaN, or all quantiles are one
        raise ValueError(f"alpha is {alpha:g} and beta is {beta:g}: expected two positive numbers (the paper: 0.6).")
    try:
        from scipy.special import betaincinv
    except ImportError as error:
        raise ImportError("the beta spacing needs SciPy: pip install 'diffusolve[scipy]'.") from error
    return np.asarray(betaincinv(alpha, beta, probability), np.float64)
