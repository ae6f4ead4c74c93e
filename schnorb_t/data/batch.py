"""The padded batch: flat atoms and pairs for the network, padded and masked matrices for the electronic structure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.data.records import MoleculeRecord


def pair_list(n_atoms: np.ndarray, positions: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of atoms of one molecule closer than the cutoff, for all molecules at once.

    Args:
        n_atoms: [B] atoms per molecule.
        positions: [N, 3] Å.
        cutoff: Å.

    Returns:
        ``pair_index`` [2, P], sorted by (i, j), and ``reverse`` [P], the place of (j, i).
    """
    n_atoms = np.asarray(n_atoms, dtype=np.int64)
    first = np.concatenate(([0], np.cumsum(n_atoms)[:-1]))
    partners = np.repeat(n_atoms, n_atoms)  # of each atom, itself included
    i = np.repeat(np.arange(len(partners)), partners)
    start = np.repeat(first, n_atoms)
    within = np.arange(len(i)) - np.repeat(np.cumsum(partners) - partners, partners)
    j = start[i] + within
    keep = i != j
    i, j = i[keep], j[keep]
    close = np.linalg.norm(positions[i] - positions[j], axis=1) < cutoff
    i, j = i[close], j[close]
    code, reverse = i * len(positions) + j, j * len(positions) + i
    return np.stack((i, j)), np.searchsorted(code, reverse)


def structures_to_batch(
    atomic_numbers: Sequence[np.ndarray], positions: Sequence[np.ndarray], basis: Basis, cutoff: float
) -> dict[str, Tensor]:
    """The network's input for a list of molecules.

    Args:
        atomic_numbers: per molecule [n].
        positions: per molecule [n, 3], Å.
        basis: tells each atom's orbitals.
        cutoff: Å, pairs farther apart have no block.

    Returns:
        ``atomic_numbers, positions (float64), molecule, pair_index, pair_reverse, pair_place, atom_place, atom_mask,
        n_atoms, orbital_mask, orbital_index`` of ``schnorb_t.keys``.
    """
    n_atoms = np.array([len(z) for z in atomic_numbers], dtype=np.int64)
    z = np.concatenate(atomic_numbers).astype(np.int64)
    r = np.concatenate(positions).astype(np.float64)
    molecule = np.repeat(np.arange(len(n_atoms)), n_atoms)
    pair_index, reverse = pair_list(n_atoms, r, cutoff)

    most = int(n_atoms.max())
    within = np.arange(len(z)) - (np.cumsum(n_atoms) - n_atoms)[molecule]
    i, j = pair_index
    place = (molecule[i] * most + within[i]) * most + within[j]

    per_atom = basis.n_orbitals(z)
    per_molecule = np.bincount(molecule, weights=per_atom, minlength=len(n_atoms)).astype(np.int64)
    largest = int(per_molecule.max())
    before_molecule = np.concatenate(([0], np.cumsum(per_molecule)[:-1]))
    before_atom = np.cumsum(per_atom) - per_atom - before_molecule[molecule]
    filled = basis.slot_mask_table[z]
    orbital_index = np.where(filled, before_atom[:, None] + np.cumsum(filled, axis=1) - 1, largest)
    return {
        keys.ATOMIC_NUMBERS: torch.from_numpy(z),
        keys.POSITIONS: torch.from_numpy(r),
        keys.MOLECULE: torch.from_numpy(molecule),
        keys.PAIR_INDEX: torch.from_numpy(pair_index),
        keys.PAIR_REVERSE: torch.from_numpy(reverse),
        keys.PAIR_PLACE: torch.from_numpy(place),
        keys.ATOM_PLACE: torch.from_numpy(molecule * most + within),
        keys.ATOM_MASK: torch.from_numpy(np.arange(most) < n_atoms[:, None]),
        keys.N_ATOMS: torch.from_numpy(n_atoms),
        keys.ORBITAL_MASK: torch.from_numpy(np.arange(largest) < per_molecule[:, None]),
        keys.ORBITAL_INDEX: torch.from_numpy(orbital_index),
    }


def _pad(rows: Sequence[np.ndarray], fill: float) -> Tensor:
    """Stack arrays of one rank and different size into one padded float64 tensor."""
    shape = np.max([x.shape for x in rows], axis=0)
    out = np.full((len(rows), *shape), fill)
    for k, x in enumerate(rows):
        out[(k, *map(slice, x.shape))] = x
    return torch.from_numpy(out)


def records_to_batch(
    records: Sequence[MoleculeRecord], basis: Basis, cutoff: float, indices: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """``structures_to_batch`` with the labels: padded H, S (0 in padding) and large-basis energies (NaN in padding)."""
    batch = structures_to_batch([x.atomic_numbers for x in records], [x.positions for x in records], basis, cutoff)
    electrons = torch.tensor([x.n_electrons for x in records], dtype=torch.int64)
    batch |= {
        keys.N_ELECTRONS: electrons,
        keys.N_OCCUPIED: electrons // 2,
        keys.HAMILTONIAN: _pad([x.hamiltonian for x in records], 0.0),
        keys.OVERLAP: _pad([x.overlap for x in records], 0.0),
        keys.LARGE_BASIS_ENERGIES: _pad([x.large_basis_energies for x in records], float("nan")),
        keys.TOTAL_ENERGY: torch.tensor([x.total_energy for x in records], dtype=torch.float64),
        keys.INDEX: torch.as_tensor(range(len(records)) if indices is None else indices, dtype=torch.int64),
    }
    return batch


def to_device(batch: dict[str, Tensor], device) -> dict[str, Tensor]:
    return {k: v.to(device, non_blocking=True) for k, v in batch.items()}
