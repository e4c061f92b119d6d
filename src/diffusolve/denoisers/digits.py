"""The UCI handwritten digits: 1,797 grey images of 8x8 pixels, a real data set small enough to ship."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import numpy.typing as npt

__all__ = ["load_digits_data"]


def load_digits_data() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Load the 1,797 handwritten digits that ship with the package (needs NumPy only).

    Returns:
        images: float32, shape (1797, 1, 8, 8), in [-1, 1]: paper is -1, full ink is 1. The data set
            counts ink from 0 to 16, so 8 * (images + 1) gives back its whole numbers exactly.
        labels: int64, shape (1797,), the digit each image shows, 0 to 9.

    Raises:
        FileNotFoundError: the installed package lacks its data file.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0.
    """
    data = files("diffusolve.denoisers") / "data" / "digits.npz"
    with data.open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    return images[:, None].astype(np.float32) / 8 - 1, labels.astype(np.int64)
