"""Linear algebra that several rooms need."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor


def matrix_power(matrix: np.ndarray, power: float) -> np.ndarray:
    """Power of a symmetric positive definite matrix, [m, m] -> [m, m]."""
    values, vectors = scipy.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T


def padded_matrix_power(matrix: Tensor, mask: Tensor, power: float) -> Tensor:
    """Power of a batch of symmetric matrices, as ``padded_matrix_powers``, [B, M, M] float64."""
    return padded_matrix_powers(matrix, mask, power)[0]


def padded_matrix_powers(matrix: Tensor, mask: Tensor, *powers: float) -> list[Tensor]:
    """Powers of a batch of symmetric matrices, positive definite where they are real; taken as constants.

    Args:
        matrix: [B, M, M].
        mask: [B, M] bool, real rows and columns.
        powers: any; one eigenproblem serves all.

    Returns:
        of each power [B, M, M] float64, 0 in padding.
    """
    real = mask[:, :, None] & mask[:, None]
    with torch.no_grad():
        padded = torch.where(real, matrix.double(), torch.diag_embed((~mask).double()))
        values, vectors = torch.linalg.eigh(padded)
        return [torch.where(real, (vectors * values[:, None] ** power) @ vectors.mT, 0.0) for power in powers]


def ridge_regression(normal: Tensor, right: Tensor, ridge: float) -> Tensor:
    """Solutions of (normal + ridge mean(diagonal) 1) x = right, batched over the first axis; 0 where nothing was seen.

    Args:
        normal: [T, n, n], sums of products of functions.
        right: [T, n, c], sums of the functions times what they shall make.
        ridge: relative to the mean diagonal of each normal matrix.
    """
    size = normal.diagonal(dim1=1, dim2=2).mean(1)
    shift = ridge * size + (size == 0).to(size)
    eye = torch.eye(normal.shape[1], dtype=normal.dtype, device=normal.device)
    return torch.linalg.solve(normal + shift[:, None, None] * eye, right)
