"""The three scalings of a noisy sample that the field uses.

A noisy sample is ``x = alpha * x0 + sigma * noise``. Multiplying it by a number changes alpha and sigma but not
what is known about ``x0``; what stays is their ratio. Each scaling fixes the number in its own way.
"""

from __future__ import annotations

import enum
import math

import numpy as np
import numpy.typing as npt

__all__ = ["Scaling"]

Array = npt.NDArray[np.float64]


class Scaling(enum.Enum):
    """The scale of samples, and with it the meaning of "sigma" alone.

    ==================== ======================= ================================
    scaling              alpha, sigma            the field's "sigma"
    ==================== ======================= ================================
    VARIANCE_PRESERVING  alpha^2 + sigma^2 = 1   sigma / alpha, in [0, inf]
    VARIANCE_EXPLODING   alpha = 1               sigma (the same ratio)
    FLOW                 alpha = 1 - sigma       sigma, in [0, 1]
    ==================== ======================= ================================
    """

    VARIANCE_PRESERVING = "variance_preserving"
    VARIANCE_EXPLODING = "variance_exploding"
    FLOW = "flow"

    @property
    def is_linear_in_sigma(self) -> bool:
        """True if ``dx/dsigma = (x - x0) / sigma`` is the probability-flow ODE as it stands.

        True where alpha is 1 or 1 - sigma: derivative-style solvers (Heun, LMS) need such a scaling.
        """
        return self is not Scaling.VARIANCE_PRESERVING

    def alpha_sigma(self, sigma: npt.ArrayLike) -> tuple[Array, Array]:
        """(alpha, sigma) of samples in this scaling at the field's `sigma`, element by element."""
        s = np.asarray(sigma, np.float64)
        if self is Scaling.VARIANCE_EXPLODING:
            return np.ones_like(s), s
        if self is Scaling.FLOW:
            return 1.0 - s, s
        alpha = 1.0 / np.hypot(1.0, s)
        with np.errstate(invalid="ignore"):
            return alpha, np.where(np.isinf(s), 1.0, s * alpha)

    def scales(self, sigma: float) -> tuple[float, float]:
        """:meth:`alpha_sigma` of one number, in a fraction of the time."""
        if self is Scaling.VARIANCE_EXPLODING:
            return 1.0, sigma
        if self is Scaling.FLOW:
            return 1.0 - sigma, sigma
        alpha = 1.0 / math.hypot(1.0, sigma)
        return alpha, sigma * alpha if alpha else 1.0

    def sigma_from_log_snr(self, log_snr: npt.ArrayLike) -> Array:
        """The field's sigma where ``log(alpha / sigma)`` is `log_snr`."""
        with np.errstate(over="ignore"):
            if self is Scaling.FLOW:
                return np.asarray(1.0 / (1.0 + np.exp(np.asarray(log_snr, np.float64))))
            return np.asarray(np.exp(-np.asarray(log_snr, np.float64)))

    def log_snr(self, sigma: npt.ArrayLike) -> Array:
        """``log(alpha / sigma)`` at the field's `sigma`; infinite at the singular ends."""
        alpha, sigma_ = self.alpha_sigma(sigma)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(alpha) - np.log(sigma_))

    def norm(self, alpha: float, sigma: float) -> float:
        """The number that a sample with (alpha, sigma) is divided by to bring it into this scaling."""
        if self is Scaling.VARIANCE_EXPLODING:
            return alpha
        if self is Scaling.FLOW:
            return alpha + sigma
        return math.hypot(alpha, sigma)
