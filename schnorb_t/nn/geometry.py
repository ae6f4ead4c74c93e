"""What every part of the model needs of a batch's geometry, computed once: distances, bond frames, rotations."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.block_matrix import BlockIndex, BlockMatrix
from schnorb_t.harmonics import bond_frames, slot_rotations, wigner_d
from schnorb_t.nn.two_centre import BondFrameBlocks


@dataclass
class PairGeometry:
    """What the parts of a network read of a batch.

    Attributes:
        batch: the batch itself.
        index: where blocks of atoms and pairs stand in its matrices.
        element, element_i, element_j: [N], [P], [P], rows of tables over the basis's elements.
        distance: [P], Å, float64.
        wigner: D^l [P, 2l+1, 2l+1], float64, of the rotations into the bonds' frames.
        slot_rotation: [P, K, K], float64, the same of an atom's slots.
    """

    batch: dict[str, Tensor]
    index: BlockIndex
    element: Tensor
    element_i: Tensor
    element_j: Tensor
    distance: Tensor
    wigner: list[Tensor]
    slot_rotation: Tensor
    _cast: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)
    _near: dict[float, PairGeometry] = field(default_factory=dict)

    def near(self, cutoff: float) -> PairGeometry:
        """The same with pairs within a shorter cutoff alone, made once; for what is 0 beyond.

        Only on the CPU: elsewhere the host would wait for the device to learn how many there are, and all pairs are
        returned. ``index`` and ``batch`` are those of the whole but for ``keys.PAIR_INDEX``.
        """
        if self.distance.device.type != "cpu":
            return self
        if cutoff not in self._near:
            chosen = (self.distance < cutoff).nonzero()[:, 0]
            batch = {**self.batch, keys.PAIR_INDEX: self.batch[keys.PAIR_INDEX].index_select(1, chosen)}
            per_pair = (self.element_i, self.element_j, self.distance)
            one, other, distance = (t.index_select(0, chosen) for t in per_pair)
            wigner = [d.index_select(0, chosen) for d in self.wigner]
            slots = self.slot_rotation.index_select(0, chosen)
            self._near[cutoff] = PairGeometry(batch, self.index, self.element, one, other, distance, wigner, slots)
        return self._near[cutoff]

    def rotations(self, dtype: torch.dtype) -> list[Tensor]:
        """The D^l in the network's precision, cast once."""
        if dtype not in self._cast:
            self._cast[dtype] = [d.to(dtype) for d in self.wigner]
        return self._cast[dtype]


class Geometry(nn.Module):
    """Batch -> ``PairGeometry``, and blocks in bond frames -> symmetric blocks.

    Args:
        basis: shells per element.
        cutoff: Å.
        l_max: largest l that anything is rotated in; at least the basis's own.
    """

    def __init__(self, basis: Basis, cutoff: float, l_max: int = 0):
        super().__init__()
        self.cutoff, self.layout = cutoff, basis.layout
        self.l_max = max(l_max, basis.l_max)
        self.frame = BondFrameBlocks(basis)
        self.register_buffer("lookup", torch.from_numpy(basis.element_row_table), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> PairGeometry:
        """Bonds, distances, rotations and elements of the pairs of a batch (``keys.PAIR_INDEX``, ``POSITIONS``, Å)."""
        i, j = batch[keys.PAIR_INDEX]
        element = self.lookup[batch[keys.ATOMIC_NUMBERS]]
        # differences in the positions' own precision (float64 from the loaders), so that translation costs nothing
        bond = (batch[keys.POSITIONS][j] - batch[keys.POSITIONS][i]).double()
        wigner = wigner_d(bond_frames(bond), self.l_max)
        index, rotation = BlockIndex.of(batch), slot_rotations(wigner, self.layout)
        return PairGeometry(batch, index, element, element[i], element[j], bond.norm(dim=1), wigner, rotation)

    def symmetric(self, onsite: Tensor, bond_blocks: Tensor, g: PairGeometry) -> BlockMatrix:
        """On-site blocks [N, K, K] and bond-frame blocks [P, K, K] -> symmetric matrices in the molecule's frame.

        block(j, i) = block(i, j)^T holds exactly: both are the same mean of the two predictions, and a sum of two
        floats does not depend on their order. Axes in front of those of atoms and pairs are kept.
        """
        blocks = self.frame.to_molecule(bond_blocks, g.slot_rotation.to(bond_blocks.dtype))
        reverse = blocks.index_select(-3, g.batch[keys.PAIR_REVERSE])
        return BlockMatrix(0.5 * (onsite + onsite.mT), 0.5 * (blocks + reverse.mT), g.index)

    def samples(self, batch: dict[str, Tensor], matrix: Tensor, g: PairGeometry | None = None) -> tuple[Tensor, ...]:
        """A labelled matrix cut into what ``TwoCentre.fit`` reads."""
        g = self(batch) if g is None else g
        blocks = BlockMatrix.from_padded(matrix, g.index)
        offsite = self.frame.to_bond(blocks.offsite, g.slot_rotation.to(blocks.offsite.dtype))
        return g.element, blocks.onsite, g.element_i, g.element_j, g.distance, offsite
