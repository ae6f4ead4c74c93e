"""The padded batch: flat atoms and pairs for the network, padded and masked matrices for the electronic structure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.data.records import MoleculeRecord
from schnorb_t.keys import Quantity

#: Atoms from which on neighbours are looked for in a k-d tree instead of among all pairs.
LARGE = 400


def _all_pairs(n_atoms: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ordered pairs (i, j), i and j different atoms of one molecule, of molecules that begin at ``first``; sorted."""
    partners = np.repeat(n_atoms, n_atoms)  # of each atom, itself included
    within = np.arange(partners.sum()) - np.repeat(np.cumsum(partners) - partners, partners)
    atoms = np.arange(n_atoms.sum()) + np.repeat(first - (np.cumsum(n_atoms) - n_atoms), n_atoms)
    i = np.repeat(atoms, partners)
    j = np.repeat(np.repeat(first, n_atoms), partners) + within
    keep = i != j
    return i[keep], j[keep]


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
    first = np.cumsum(n_atoms) - n_atoms
    large = n_atoms >= LARGE
    i, j = _all_pairs(n_atoms[~large], first[~large])
    if large.any():
        found = [np.stack((i, j), 1)]
        for start, n in zip(first[large], n_atoms[large], strict=True):
            # a little farther than the cutoff: which pairs are within it is decided below, as for small molecules
            near = cKDTree(positions[start : start + n]).query_pairs(cutoff * (1 + 1e-9), output_type="ndarray") + start
            found += [near, near[:, ::-1]]
        i, j = np.concatenate(found).T
        order = np.argsort(i * len(positions) + j)
        i, j = i[order], j[order]
    close = np.linalg.norm(positions[i] - positions[j], axis=1) < cutoff
    i, j = i[close], j[close]
    code, reverse = i * len(positions) + j, j * len(positions) + i
    return np.stack((i, j)), np.searchsorted(code, reverse)


def structures_to_batch(
    atomic_numbers: Sequence[np.ndarray],
    positions: Sequence[np.ndarray],
    basis: Basis,
    cutoff: float,
    charges: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """The network's input for a list of molecules.

    Args:
        atomic_numbers: per molecule [n].
        positions: per molecule [n, 3], Å.
        basis: tells each atom's orbitals.
        cutoff: Å, pairs farther apart have no block.
        charges: total charge of each molecule, e; all neutral if left out.

    Returns:
        ``atomic_numbers, positions (float64), charge, molecule, pair_index, pair_reverse, pair_place, atom_place,
        atom_mask, n_atoms, orbital_mask, orbital_index`` of ``schnorb_t.keys``.
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
        keys.TOTAL_CHARGE: torch.tensor([0] * len(n_atoms) if charges is None else list(charges), dtype=torch.int64),
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


def _padded(rows: Sequence[np.ndarray | None], fill: float, dtype: str) -> Tensor:
    """Stack arrays of one rank and different size, absent ones too, into one padded tensor."""
    shape = np.max([x.shape for x in rows if x is not None], axis=0)
    out = np.full((len(rows), *shape), fill, dtype)
    for k, x in enumerate(rows):
        if x is not None:
            place: tuple[int | slice, ...] = (k, *map(slice, x.shape))
            out[place] = x
    return torch.from_numpy(out)


def _label(quantity: Quantity, values: Sequence, n_atoms: Sequence[int]) -> Tensor:
    """One declared quantity of all molecules as in ``keys``; ``fill`` where a molecule lacks it."""
    dtype = {"float64": "float64", "int64": "int64", "bool": "bool"}[quantity.dtype]
    if quantity.axes[0] == keys.ATOMS:
        tail = next(x.shape[1:] for x in values if x is not None)
        parts = [
            np.full((n, *tail), quantity.fill, dtype) if x is None else np.asarray(x, dtype)
            for n, x in zip(n_atoms, values, strict=True)
        ]
        return torch.from_numpy(np.concatenate(parts))
    if not quantity.record_axes:
        return torch.from_numpy(np.array([quantity.fill if x is None else x for x in values], dtype))
    return _padded(values, quantity.fill, dtype)


def records_to_batch(
    records: Sequence[MoleculeRecord], basis: Basis, cutoff: float, indices: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """``structures_to_batch`` with the labels: every declared quantity that at least one of the molecules has.

    Args:
        records: the molecules.
        basis: tells each atom's orbitals.
        cutoff: Å, pairs farther apart have no block.
        indices: of the molecules in their file (default: 0, 1, ...).

    Returns:
        beside the input of ``structures_to_batch``: ``n_electrons, n_occupied, index``, and by name each quantity of
        ``keys.stored()`` that is there, in float64, int64 or bool, padded with its ``fill`` (H and S: 0, levels: NaN).
        Optional ones come with flags, ``keys.present(name)`` [B] bool; molecules without hold ``fill`` everywhere.
    """
    # by the number of electrons, which every molecule has; where a molecule states its charge, the two agree
    charges = [basis.n_electrons(x.atomic_numbers) - x.n_electrons for x in records]
    batch = structures_to_batch(
        [x.atomic_numbers for x in records], [x.positions for x in records], basis, cutoff, charges
    )
    n_atoms = [len(x.atomic_numbers) for x in records]
    for quantity in keys.stored():
        if not quantity.batched:
            continue
        values = [x.values.get(quantity.field) for x in records]
        flags = [x is not None for x in values]
        if any(flags):
            if quantity.name not in batch:
                batch[quantity.name] = _label(quantity, values, n_atoms)
            if quantity.optional:
                batch[keys.present(quantity.name)] = torch.tensor(flags)
    batch[keys.N_OCCUPIED] = batch[keys.N_ELECTRONS] // 2
    batch[keys.INDEX] = torch.as_tensor(range(len(records)) if indices is None else indices, dtype=torch.int64)
    return batch


def to_device(batch: dict[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """A copy of the batch on a device."""
    return {k: v.to(device, non_blocking=True) for k, v in batch.items()}
