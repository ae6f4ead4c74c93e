"""Rotations of real spherical harmonics in our order (m = -l..l, standard, no extra signs): bond frames and D^l.

Pure linear algebra on the ground floor: the network turns atom features into bond frames with it, ``physics`` turns
Slater-Koster blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from e3nn import o3
from torch import Tensor

from schnorb_t.conventions import E3NN_AXES


def bond_frames(vectors: Tensor) -> Tensor:
    """Rotations that turn bond vectors onto +z.

    The frame's turn about the bond is arbitrary (and jumps for bonds along -z): whatever is built in it must be
    equivariant to that turn. Formula without branches: Duff et al., J. Comput. Graph. Tech. 6, 1 (2017), eq. 3-4.

    Args:
        vectors: [P, 3], any length but 0.

    Returns:
        [P, 3, 3], R with ``R @ v / |v| = z`` and det R = +1.
    """
    n = vectors / vectors.norm(dim=-1, keepdim=True)
    x, y, z = n.unbind(-1)
    sign = torch.where(z < 0, -torch.ones_like(z), torch.ones_like(z))
    a = -1.0 / (sign + z)
    b = x * y * a
    first = torch.stack((1.0 + sign * x * x * a, sign * b, -sign * x), -1)
    second = torch.stack((b, sign + y * y * a, -y), -1)
    return torch.stack((first, second, n), -2)


@cache
def clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    """Real coupling coefficients [2l1+1, 2l2+1, 2l3+1], float64, of unit Frobenius norm; unique up to a sign.

    e3nn's ``wigner_3j``; invariant under all rotations in e3nn's axes, hence under ours (``conventions.E3NN_AXES``).
    """
    return o3.wigner_3j(l1, l2, l3, dtype=torch.float64)


@cache
def _recursion(l: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """K [((2l-1)*3)^2, (2l+1)^2] of D^l = Q^T (D^(l-1) x D^1) Q = K (D^(l-1) x D^1), Q coupling l-1 and 1 to l.

    Kept per device: a copy from the host in every step would make the host wait.
    """
    q = clebsch_gordan(l - 1, 1, l) * (2 * l + 1) ** 0.5
    k = torch.einsum("iam,jbn->ijabmn", q, q)
    return k.reshape(((2 * l - 1) * 3) ** 2, (2 * l + 1) ** 2).to(device, dtype)


def wigner_d(rotations: Tensor, l_max: int) -> list[Tensor]:
    """D^l of proper rotations: ``D^l(R) Y^l(v) = Y^l(R v)``, polynomial in R, so smooth everywhere.

    Args:
        rotations: [P, 3, 3], det = +1.
        l_max: largest l.

    Returns:
        for l = 0..l_max tensors [P, 2l+1, 2l+1], orthogonal.
    """
    p = rotations.shape[0]
    out = [rotations.new_ones(p, 1, 1)]
    if l_max >= 1:
        # E3NN_AXES, y z x, as a roll: an index list would be copied to the device every time
        out.append(rotations.roll((-1, -1), (1, 2)))
    for l in range(2, l_max + 1):
        k = _recursion(l, rotations.dtype, rotations.device)
        # pairs of entries (i, j) of D^(l-1) and (a, b) of D^1, as one matrix product
        size = (2 * l - 1) ** 2
        products = out[l - 1].reshape(p, size, 1) * out[1].reshape(p, 1, 9)
        out.append((products.reshape(p, 9 * size) @ k).reshape(p, 2 * l + 1, 2 * l + 1))
    return out


def slot_rotations(wigner: Sequence[Tensor], layout: Sequence[int]) -> Tensor:
    """[P, K, K], block-diagonal: the D^l of shells of these l, one behind the other (``Basis.layout``).

    Args:
        wigner: [P, 2l+1, 2l+1] of each l, as ``wigner_d`` gives them.
        layout: l of each shell.
    """
    at, size = 0, sum(2 * l + 1 for l in layout)
    out = wigner[0].new_zeros(len(wigner[0]), size, size)
    for l in layout:
        out[:, at : at + 2 * l + 1, at : at + 2 * l + 1] = wigner[l]
        at += 2 * l + 1
    return out


def spherical_harmonics(vectors: Tensor, l_max: int) -> Tensor:
    """Real spherical harmonics [..., (l_max+1)^2] of directions [..., 3], each l normalised to sum_m Y_lm^2 = 1."""
    irreps = list(range(l_max + 1))
    return o3.spherical_harmonics(irreps, vectors[..., list(E3NN_AXES)], normalize=True, normalization="norm")
