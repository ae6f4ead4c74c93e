"""Matrices of molecules as blocks between atoms: what networks make, and electronic structure reads padded or sparse.

A Hamiltonian or overlap of a batch is one block per atom and one per ordered pair of atoms within the cutoff, each with
K x K places, K the slots of the basis (``keys.ORBITAL_INDEX`` tells which of them an element fills). That is all there
is to a matrix whose other elements are zero. ``BlockMatrix.padded`` scatters the blocks into dense matrices of one
size, ``BlockMatrix.sparse`` into one SciPy CSR matrix per molecule, for molecules of which only few pairs are near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from schnorb_t import keys


@dataclass(frozen=True, eq=False)
class BlockIndex:
    """Where the blocks of a batch stand in its matrices; the same for all matrices of the batch.

    Attributes:
        molecule: [N] int64, molecule of each atom.
        orbitals: [N, K] int64, place of an atom's slots in its molecule's matrix; M where unfilled.
        pairs: [2, P] int64, the two atoms of each block off the diagonal, each pair at most once.
        mask: [B, M] bool, real orbitals.
    """

    molecule: Tensor
    orbitals: Tensor
    pairs: Tensor
    mask: Tensor

    @classmethod
    def of(cls, batch: dict[str, Tensor]) -> BlockIndex:
        """That of a batch, whose pairs are ``keys.PAIR_INDEX``."""
        return cls(batch[keys.MOLECULE], batch[keys.ORBITAL_INDEX], batch[keys.PAIR_INDEX], batch[keys.ORBITAL_MASK])

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Of the elements of blocks, [N, K, K] and [P, K, K], in matrices [B, M + 1, M + 1] flattened.

        Elements of unfilled slots fall on row or column M.
        """
        side = self.mask.shape[1] + 1

        def between(rows: Tensor, columns: Tensor, molecule: Tensor) -> Tensor:
            return (molecule[:, None, None] * side + rows[:, :, None]) * side + columns[:, None, :]

        i, j = self.pairs
        return (
            between(self.orbitals, self.orbitals, self.molecule),
            between(self.orbitals[i], self.orbitals[j], self.molecule[i]),
        )


@dataclass(frozen=True, eq=False)
class BlockMatrix:
    """One matrix per molecule, or several if the tensors have axes in front.

    Attributes:
        onsite: [..., N, K, K], blocks of atoms.
        offsite: [..., P, K, K], blocks of ordered pairs of atoms (i, j), rows of i and columns of j.
        index: where they stand.
    """

    onsite: Tensor
    offsite: Tensor
    index: BlockIndex

    @classmethod
    def from_padded(cls, matrix: Tensor, index: BlockIndex) -> BlockMatrix:
        """The blocks of padded matrices [B, M, M]; 0 in unfilled slots. What stands elsewhere is left out."""
        flat = torch.nn.functional.pad(matrix, (0, 1, 0, 1)).reshape(-1)
        onsite, offsite = index.places
        return cls(flat[onsite], flat[offsite], index)

    def __add__(self, other: BlockMatrix) -> BlockMatrix:
        return BlockMatrix(self.onsite + other.onsite, self.offsite + other.offsite, self.index)

    def __mul__(self, factor: float) -> BlockMatrix:
        return BlockMatrix(self.onsite * factor, self.offsite * factor, self.index)

    __rmul__ = __mul__

    @staticmethod
    def mean(matrices: Sequence[BlockMatrix]) -> BlockMatrix:
        """Of several matrices of the same batch."""
        n, total = len(matrices), matrices[0]
        for other in matrices[1:]:
            total = total + other
        return BlockMatrix(total.onsite / n, total.offsite / n, total.index)

    def padded(self) -> Tensor:
        """Dense matrices [..., B, M, M], 0 in padding and between atoms without a block; differentiable."""
        b, m = self.index.mask.shape
        front = self.onsite.shape[:-3]
        # of several matrices all elements of one place are written together: axes in front are innermost in memory
        last = tuple(range(len(front), len(front) + 3)) + tuple(range(len(front)))
        out = self.onsite.new_zeros(b * (m + 1) * (m + 1), *front)
        # every place of a real element is written once; only row and column M collide, and they are cut off
        for places, blocks in zip(self.index.places, (self.onsite, self.offsite), strict=True):
            out = out.index_copy_(0, places.reshape(-1), blocks.permute(last).reshape(-1, *front))
        out = out.reshape(b, m + 1, m + 1, *front)[:, :m, :m]
        return out.permute(*range(3, out.dim()), 0, 1, 2)

    def sparse(self) -> list[scipy.sparse.csr_array]:
        """One matrix [m, m] per molecule, m its own orbitals: the elements of ``padded()``, float64, on the CPU.

        SciPy's CSR, since its eigensolvers, those of PySCF's kind and writers of files read it; torch has no sparse
        eigenproblem. Elements of blocks are stored, zeros included, and no others.

        Raises:
            ValueError: several matrices per molecule; take them one by one.
        """
        if self.onsite.dim() != 3:
            raise ValueError(f"blocks {tuple(self.onsite.shape)} of several matrices; make each sparse on its own")
        index = self.index
        m = index.mask.shape[1]
        sizes = index.mask.sum(1).cpu().numpy()
        ends = np.cumsum(sizes)
        start = torch.from_numpy(ends - sizes).to(index.molecule.device)[index.molecule]
        everywhere = torch.where(
            index.orbitals < m, index.orbitals + start[:, None], -1
        )  # among all molecules' orbitals
        i, j = index.pairs
        n = len(index.molecule)
        atoms = torch.arange(n, device=i.device)
        rows = everywhere[torch.cat((atoms, i))][:, :, None]
        columns = everywhere[torch.cat((atoms, j))][:, None]
        values = torch.cat((self.onsite, self.offsite)).detach()
        real = (rows >= 0) & (columns >= 0)
        where = (torch.broadcast_to(x, values.shape)[real].cpu().numpy() for x in (rows, columns))
        total = int(ends[-1]) if len(ends) else 0
        all_of_them = scipy.sparse.csr_array(
            (values[real].double().cpu().numpy(), tuple(where)), shape=(total, total), dtype=np.float64
        )
        all_of_them.sort_indices()
        out = []
        for size, end in zip(sizes.tolist(), ends.tolist(), strict=True):
            first = end - size
            at = all_of_them.indptr[first : end + 1]
            part = slice(at[0], at[-1])
            entries = all_of_them.data[part], all_of_them.indices[part] - first, at - at[0]
            out.append(scipy.sparse.csr_array(entries, shape=(size, size)))
        return out
