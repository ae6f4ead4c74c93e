"""Overlap, positive definite for every input: S = S0 - a Q.

S0 is the overlap of the basis's (free-atom) Gaussian functions, positive definite because it is a Gram matrix. A
projected basis keeps only the part of these functions inside the span of the molecule's orbitals, S = S0 - Q with Q
the overlap of what is lost: predicted, local and small. The factor a is 1 as long as no eigenvalue of S0^-1 Q exceeds a
limit (``Constants.shrink``, 0.9; real molecules: 0.8 at most over 319 of QM9) and shrinks Q beyond that, so that
S0 - a Q always stays positive definite. For a fixed basis Q = 0 and S is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.block_matrix import BlockMatrix
from schnorb_t.linalg import padded_matrix_power
from schnorb_t.nn.constants import Constants
from schnorb_t.nn.embedding import smooth_end
from schnorb_t.nn.gaussian_overlap import shell_overlap
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.two_centre import BondFrameBlocks, OverlapTable


class FreeAtomOverlap(nn.Module):
    """S0 [B, M, M], float64, of the Gaussian functions of a basis.

    Args:
        basis: with functions.
        cutoff: Å.
        envelope: Å, range below the cutoff in which S0 falls to 0 (``smooth_end``): of a projected basis, whose S is
            learned, so that nothing jumps (silicon's functions overlap by 6e-6 at 10 Å). 0: exact integrals.
        constants: ``overlap_step``.

    Raises:
        ValueError: the basis comes without functions.
    """

    onsite: Tensor

    def __init__(self, basis: Basis, cutoff: float, envelope: float = 0.0, constants: Constants | None = None):
        super().__init__()
        if basis.functions is None:
            raise ValueError(f"basis {basis.name!r} has no Gaussian functions; the overlap needs them")
        self.cutoff, self.envelope = cutoff, envelope
        self.table = OverlapTable(basis, cutoff, constants)
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
        self.register_buffer("onsite", 0.5 * (onsite + onsite.mT), persistent=False)

    def blocks(self, g: PairGeometry) -> BlockMatrix:
        """S0 as blocks, symmetric to the last bit."""
        blocks = self.frame.from_components(self.table(g.element_i, g.element_j, g.distance))
        blocks = self.frame.to_molecule(blocks, g.slot_rotation)
        if self.envelope:
            blocks = blocks * smooth_end(g.distance, self.cutoff, self.envelope)[:, None, None]
        # the table of (j, i) is the transpose up to rounding; make it exact
        offsite = 0.5 * (blocks + blocks[g.batch[keys.PAIR_REVERSE]].mT)
        return BlockMatrix(self.onsite[g.element], offsite, g.index)

    def forward(self, g: PairGeometry) -> Tensor:
        """S0 [B, M, M] of the molecules of a batch, zero in padding."""
        return self.blocks(g).padded()


def shrink(largest: Tensor, start: float, limit: float) -> Tensor:
    """The factor a by which a matrix of largest eigenvalue u must be multiplied to stay below ``limit``.

    a u = u up to ``start``, then start + (limit - start) (1 - exp(-(u - start) / (limit - start))), which goes on with
    equal value and slope.
    """
    over = (largest - start).clamp(min=0.0)
    room = limit - start
    return torch.where(over > 0, (start - room * torch.expm1(-over / room)) / largest.clamp(min=start), 1.0)


def positive_definite(overlap0: Tensor, change: Tensor, mask: Tensor, start: float, limit: float) -> Tensor:
    """S0 + a change, with a (per molecule) in (0, 1] such that it exceeds (1 - ``limit``) S0.

    The smallest eigenvalue x of L^-1 change L^-T, L L^T = S0, decides: S0 + a change = L (1 + a X) L^T.

    Args:
        overlap0: [B, M, M] float64, positive definite where ``mask``.
        change: [B, M, M] float64, symmetric.
        mask: [B, M].
        start, limit: see ``shrink``.
    """
    padding = torch.diag_embed((~mask).to(overlap0.dtype))
    if change.device.type == "cpu" and not torch.linalg.cholesky_ex(start * overlap0 + change + padding)[1].any():
        # x > -start, as of almost every molecule: a = 1, without an eigenproblem. Elsewhere the host would wait.
        return overlap0 + change
    lower = torch.linalg.cholesky_ex(overlap0 + padding)[0]
    half = torch.linalg.solve_triangular(lower, change, upper=False)
    relative = torch.linalg.solve_triangular(lower, half.mT, upper=False)
    smallest = torch.linalg.eigvalsh(relative)[:, 0]
    return overlap0 + shrink(-smallest, start, limit)[:, None, None] * change


def to_orthogonal(hamiltonian: Tensor, overlap: Tensor, mask: Tensor) -> Tensor:
    """S^(-1/2) H S^(-1/2) [B, M, M], float64: H in Löwdin's orthogonal functions (J. Chem. Phys. 18, 365 (1950))."""
    root = padded_matrix_power(overlap, mask, -0.5)
    out = root @ hamiltonian.double() @ root
    return 0.5 * (out + out.mT)


def from_orthogonal(hamiltonian: Tensor, overlap: Tensor, mask: Tensor, root: Tensor | None = None) -> Tensor:
    """S^(1/2) H S^(1/2) [B, M, M], float64: the way back from ``to_orthogonal``; ``root``: S^(1/2) if it is known."""
    root = padded_matrix_power(overlap, mask, 0.5) if root is None else root
    out = root @ hamiltonian.double() @ root
    return 0.5 * (out + out.mT)
