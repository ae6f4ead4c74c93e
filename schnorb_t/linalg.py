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


def lowest_relative_eigenvalue(change, metric, enough: float) -> float:
    """The lowest eigenvalue of M^-1 A for sparse symmetric A and positive definite M, at a cost linear in their size.

    Lanczos iterations (ARPACK) with conjugate gradients in place of M^-1.

    Args:
        change: A, SciPy sparse [m, m].
        metric: M, likewise.
        enough: where the eigenvalue lies well above this, it is given to 1e-3 only.
    """
    m = change.shape[0]
    if m < 200:
        return float(scipy.linalg.eigh(change.toarray(), metric.toarray(), eigvals_only=True)[0])
    from scipy.sparse.linalg import LinearOperator, cg, eigsh

    diagonal = metric.diagonal()
    scale = LinearOperator((m, m), matvec=lambda v: v / diagonal, dtype=np.float64)
    solve = LinearOperator((m, m), matvec=lambda v: cg(metric, v, rtol=1e-13, M=scale)[0], dtype=np.float64)
    start = np.random.default_rng(0).normal(size=m)

    def lowest(tolerance: float) -> float:
        found = eigsh(change, 1, M=metric, Minv=solve, which="SA", tol=tolerance, v0=start, return_eigenvectors=False)
        return float(found[0])

    rough = lowest(1e-3)
    return rough if rough > enough + 0.02 * abs(enough) else lowest(1e-11)
