"""Orbital blocks <-> padded matrices: one gather or scatter, no loop over molecules or pairs."""

from __future__ import annotations

from torch import Tensor

from schnorb_t import keys


def _flat_places(batch: dict[str, Tensor], row_atom: Tensor, column_atom: Tensor) -> Tensor:
    """Places [Q, K, K] of blocks in matrices flattened as [B * (M+1) * (M+1)]; unfilled slots fall on index M."""
    index = batch[keys.ORBITAL_INDEX]
    side = batch[keys.ORBITAL_MASK].shape[1] + 1
    molecule = batch[keys.MOLECULE][row_atom]
    return (molecule[:, None, None] * side + index[row_atom][:, :, None]) * side + index[column_atom][:, None, :]


def _atoms(batch: dict[str, Tensor]) -> Tensor:
    z = batch[keys.ATOMIC_NUMBERS]
    return z.new_ones(z.shape).cumsum(0) - 1


def matrix_from_blocks(onsite: Tensor, offsite: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Padded matrices [B, M, M] from on-site blocks [N, K, K] and blocks of ordered pairs [P, K, K]; 0 elsewhere."""
    n, m = batch[keys.ORBITAL_MASK].shape
    atoms = _atoms(batch)
    i, j = batch[keys.PAIR_INDEX]
    out = onsite.new_zeros(n * (m + 1) * (m + 1))
    # every filled place is written once; only the dump row and column M collide, and they are cut off
    out = out.index_put((_flat_places(batch, atoms, atoms).reshape(-1),), onsite.reshape(-1))
    out = out.index_put((_flat_places(batch, i, j).reshape(-1),), offsite.reshape(-1))
    return out.reshape(n, m + 1, m + 1)[:, :m, :m]


def blocks_from_matrix(matrix: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The inverse: on-site [N, K, K] and off-site [P, K, K] blocks, 0 in unfilled slots."""
    padded = matrix.new_zeros(matrix.shape[0], matrix.shape[1] + 1, matrix.shape[2] + 1)
    padded[:, :-1, :-1] = matrix
    atoms = _atoms(batch)
    i, j = batch[keys.PAIR_INDEX]
    flat = padded.reshape(-1)
    return flat[_flat_places(batch, atoms, atoms)], flat[_flat_places(batch, i, j)]
