"""What a model must beat: matrices from two-centre fits alone, and from mean blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.block_matrix import BlockMatrix
from schnorb_t.nn.geometry import Geometry
from schnorb_t.nn.two_centre import TwoCentre


class TwoCentreModel(nn.Module):
    """H and S from two-centre fits alone: the honest baseline (``n_radial = 1``: the mean block per element pair)."""

    def __init__(self, basis: Basis, cutoff: float, n_radial: int = 24):
        super().__init__()
        self.basis, self.cutoff = basis, cutoff
        self.geometry = Geometry(basis, cutoff)
        self.hamiltonian = TwoCentre(basis, cutoff, n_radial)
        self.overlap = TwoCentre(basis, cutoff, n_radial)

    @torch.no_grad()
    def fit(self, batches: Callable[[], Iterable[dict[str, Tensor]]]) -> None:
        """Least squares to the H and S of labelled batches."""
        for key, part in ((keys.HAMILTONIAN, self.hamiltonian), (keys.OVERLAP, self.overlap)):
            part.fit(self.geometry.samples(batch, batch[key]) for batch in batches())

    def blocks(self, batch: dict[str, Tensor]) -> dict[str, BlockMatrix]:
        """Symmetric blocks of ``hamiltonian`` and ``overlap``."""
        g = self.geometry(batch)
        return {
            key: self.geometry.symmetric(
                part.onsite_means()[g.element], part.bond_blocks(g.element_i, g.element_j, g.distance), g
            )
            for key, part in ((keys.HAMILTONIAN, self.hamiltonian), (keys.OVERLAP, self.overlap))
        }

    def matrices(self, blocks: dict[str, BlockMatrix], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks -> padded matrices [B, M, M]."""
        return {key: value.padded() for key, value in blocks.items()}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``hamiltonian`` and ``overlap`` [B, M, M]."""
        return self.matrices(self.blocks(batch), batch)
