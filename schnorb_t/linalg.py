"""Linear algebra in NumPy that several rooms need."""

from __future__ import annotations

import numpy as np
import scipy.linalg


def matrix_power(matrix: np.ndarray, power: float) -> np.ndarray:
    """Power of a symmetric positive definite matrix, [m, m] -> [m, m]."""
    values, vectors = scipy.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T
