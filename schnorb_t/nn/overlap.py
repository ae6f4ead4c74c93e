"""Overlap, positive definite for every input: S = (1 + D) S0 (1 + D)^T.

S0 is the overlap of the basis's (free-atom) Gaussian functions, positive definite because it is a Gram matrix. D is
symmetric, predicted, and bounded in spectral norm below 1, so 1 + D is never singular. For a projected basis D
describes how the surroundings deform the functions; for a fixed basis D = 0 and S is exact.

The Hamiltonian is built with the same congruence, H = (1 + D) H~ (1 + D)^T, so that orbital energies are those of
(H~, S0) and do not feel errors of D at all: an error of 1e-4 in S alone costs tens of meV on core levels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.nn.assembly import matrix_from_blocks
from schnorb_t.nn.gaussian_overlap import shell_overlap
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.scatter import scatter_sum
from schnorb_t.nn.slater_koster import BondFrameBlocks, OverlapTable


class FreeAtomOverlap(nn.Module):
    """S0 [B, M, M], float64, of the Gaussian functions of a basis.

    Raises:
        ValueError: the basis comes without functions.
    """

    def __init__(self, basis: Basis, cutoff: float):
        super().__init__()
        if basis.functions is None:
            raise ValueError(f"basis {basis.name!r} has no Gaussian functions; the overlap needs them")
        self.table = OverlapTable(basis, cutoff)
        self.frame = BondFrameBlocks(basis)
        onsite = torch.zeros(len(basis.elements), basis.n_slots, basis.n_slots, dtype=torch.float64)
        zero = torch.zeros(1, dtype=torch.float64)
        for row, z in enumerate(basis.elements):
            slots = basis.slot_shells(z)
            for a, sa in zip(basis.functions[z], slots, strict=True):
                for b, sb in zip(basis.functions[z], slots, strict=True):
                    if a.l == b.l:
                        for k in range(2 * a.l + 1):
                            place = row, basis.layout_offsets[sa] + k, basis.layout_offsets[sb] + k
                            onsite[place] = shell_overlap(a, b, 0, zero)[0]
        self.register_buffer("onsite", onsite, persistent=False)

    def forward(self, g: PairGeometry) -> Tensor:
        blocks = self.frame.from_components(self.table(g.element_i, g.element_j, g.distance))
        blocks = self.frame.to_molecule(blocks, g.slot_rotation)
        # the table of (j, i) is the transpose up to rounding; make it exact
        blocks = 0.5 * (blocks + blocks[g.batch[keys.PAIR_REVERSE]].mT)
        return matrix_from_blocks(self.onsite[g.element], blocks, g.batch)


def bounded(onsite: Tensor, offsite: Tensor, g: PairGeometry, limit: float = 0.8) -> tuple[Tensor, Tensor]:
    """Scale the blocks of a symmetric D so that its spectral norm stays below ``limit``; small D is hardly touched.

    With b_ij the Frobenius norms of the blocks, row sums rho_i and weights w_i = (1 + (rho_i / limit)^2)^(1/4), the
    blocks D_ij / (w_i w_j) obey sum_j [b_ij / (w_i w_j)] w_j = rho_i / w_i < limit w_i, so by the Schur test the norm
    is below the limit. Local, smooth and invariant.

    Args:
        onsite: [N, K, K]; offsite: [P, K, K], block(j, i) = block(i, j)^T.
    """
    i, j = g.batch[keys.PAIR_INDEX]
    tiny = 1e-24  # the square root has no slope at 0
    own = (onsite.square().sum((1, 2)) + tiny).sqrt()
    row = own + scatter_sum((offsite.square().sum((1, 2)) + tiny).sqrt(), i, len(own))
    weight = (1 + (row / limit).square()) ** -0.25
    return onsite * weight.square()[:, None, None], offsite * (weight[i] * weight[j])[:, None, None]


def congruence(d: Tensor, matrix: Tensor) -> Tensor:
    """(1 + D) X (1 + D)^T, symmetric to the last bit; [B, M, M] each."""
    left = matrix + d @ matrix
    out = left + left @ d.mT
    return 0.5 * (out + out.mT)


@torch.no_grad()
def reference_deformation(overlap: Tensor, overlap0: Tensor, mask: Tensor) -> Tensor:
    """The symmetric D with (1 + D) S0 (1 + D) = S: 1 + D is the geometric mean of S and S0^-1.

    S0^(-1/2) (S0^(1/2) S S0^(1/2))^(1/2) S0^(-1/2); Bhatia, "Positive Definite Matrices", ch. 4.

    Args:
        overlap, overlap0: [B, M, M] float64; mask: [B, M].
    """
    padding = torch.diag_embed((~mask).to(overlap.dtype))

    def power(x, p):
        e, v = torch.linalg.eigh(x)
        return v @ (e.clamp(min=1e-14) ** p)[:, :, None].mul(v.mT)

    s, s0 = overlap + padding, overlap0 + padding
    root, inverse = power(s0, 0.5), power(s0, -0.5)
    out = inverse @ power(root @ s @ root, 0.5) @ inverse
    return out - torch.eye(out.shape[-1], dtype=out.dtype, device=out.device)
