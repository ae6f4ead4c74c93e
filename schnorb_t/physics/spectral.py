"""Matrix functions of a generalised eigenproblem with exact gradients, at degeneracies too.

Every density matrix is P = C diag(g) C^T with g_i = g(e_i). To first order (Daleckii & Krein, AMS Transl. 47, 1 (1965),
here for H C = S C diag(e), with h = C^T dH C and s = C^T dS C)

    (C^-1 dP C^-T)_ij = g[e_i, e_j] h_ij - (e g)[e_i, e_j] s_ij,
    g[a, b] = (g(a) - g(b)) / (a - b),   g[a, a] = g'(a).

The divided differences are bounded, whereas the derivative of single orbitals is not: no broadening, no error. With
exactly degenerate *fractionally* occupied levels a broadened eigenvector derivative is wrong (it misses g' h_ij).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def divided_differences(energies: Tensor, values: Tensor, slopes: Tensor, resolution: float) -> Tensor:
    """g[e_i, e_j] for all pairs of levels.

    Args:
        energies, values, slopes: [..., M], e_i, g(e_i), g'(e_i).
        resolution: below this distance the mean slope stands for the quotient (wrong by d^2 g''' / 12).

    Returns:
        [..., M, M], symmetric.
    """
    d = energies.unsqueeze(-1) - energies.unsqueeze(-2)
    near = d.abs() < resolution
    quotient = (values.unsqueeze(-1) - values.unsqueeze(-2)) / torch.where(near, 1.0, d)
    return torch.where(near, (slopes.unsqueeze(-1) + slopes.unsqueeze(-2)) / 2, quotient)


class _SpectralMatrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hamiltonian, overlap, parameter, energies, coefficients, values, slopes, sensitivity, resolution):
        ctx.save_for_backward(energies, coefficients, values, slopes, sensitivity)
        ctx.resolution, ctx.dtypes = resolution, (hamiltonian.dtype, overlap.dtype)
        return (coefficients * values.unsqueeze(-2)) @ coefficients.mT

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        e, c, g, slopes, sensitivity = ctx.saved_tensors
        k = c.mT @ ((grad + grad.mT) / 2) @ c
        table = divided_differences(e, g, slopes, ctx.resolution)
        # (e g)[a, b] = (g(a) + g(b)) / 2 + (a + b) / 2 g[a, b]
        weighted = ((g.unsqueeze(-1) + g.unsqueeze(-2)) + (e.unsqueeze(-1) + e.unsqueeze(-2)) * table) / 2
        grad_parameter = (k.diagonal(dim1=-2, dim2=-1) * sensitivity).sum(-1)
        grad_h, grad_s = c @ (table * k) @ c.mT, -c @ (weighted * k) @ c.mT
        return grad_h.to(ctx.dtypes[0]), grad_s.to(ctx.dtypes[1]), grad_parameter, *[None] * 6


def spectral_matrix(
    hamiltonian: Tensor,
    overlap: Tensor,
    energies: Tensor,
    coefficients: Tensor,
    values: Tensor,
    slopes: Tensor,
    resolution: float,
    parameter: Tensor | None = None,
    sensitivity: Tensor | None = None,
) -> Tensor:
    """C diag(g(e)) C^T, differentiable with respect to H, S and one parameter per molecule.

    Args:
        hamiltonian, overlap: [B, M, M]; only the gradient goes to them.
        energies, coefficients: [B, M], [B, M, M], the solution of ``physics.eigen.solve``; taken as constants.
        values, slopes: [B, M], g(e_i) and dg/de at fixed parameter; both 0 in padding. Constants as well.
        resolution: see ``divided_differences``.
        parameter: [B], what else g depends on (the chemical potential), which itself may depend on H and S.
        sensitivity: [B, M], dg_i/dparameter.

    Returns:
        [B, M, M] float64. First derivatives only.
    """
    if parameter is None or sensitivity is None:
        parameter, sensitivity = torch.zeros_like(energies[:, 0]), torch.zeros_like(energies)
    constants = (x.detach() for x in (energies, coefficients, values, slopes, sensitivity))
    return _SpectralMatrix.apply(hamiltonian, overlap, parameter, *constants, resolution)


class _SquareRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix):
        levels, vectors = torch.linalg.eigh(matrix)
        root = levels.clamp_min(0).sqrt()
        ctx.save_for_backward(root, vectors)
        return (vectors * root.unsqueeze(-2)) @ vectors.mT

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        root, v = ctx.saved_tensors
        k = v.mT @ ((grad + grad.mT) / 2) @ v
        return v @ (k / (root.unsqueeze(-1) + root.unsqueeze(-2))) @ v.mT


def square_root(matrix: Tensor) -> Tensor:
    """S^(1/2) of positive definite [..., M, M]; its divided difference is 1 / (sqrt(a) + sqrt(b)), so exact always."""
    return _SquareRoot.apply(matrix)
