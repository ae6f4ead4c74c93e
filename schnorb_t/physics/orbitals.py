"""Which atom, slot and angular momentum an orbital of a padded matrix has; sums over the orbitals of an atom."""

from __future__ import annotations

import torch
from torch import Tensor

from schnorb_t.basis import Basis


def atom_and_slot(orbital_index: Tensor, molecule: Tensor, orbital_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Atom and slot of every orbital, from the batch's own map of slots to orbitals.

    Args:
        orbital_index: [N, K] int64, ``keys.ORBITAL_INDEX`` (M where a slot is unfilled).
        molecule: [N] int64, molecule of each atom.
        orbital_mask: [B, M] bool; only its shape is used.

    Returns:
        atom_of_orbital [B, M] int64, place of the atom among all N atoms of the batch, and slot_of_orbital [B, M]
        int64, place in ``basis.layout``'s slots; both -1 in padding.
    """
    b, m = orbital_mask.shape
    n, k = orbital_index.shape
    # one column more than M takes all unfilled slots and is cut off
    place = (molecule.unsqueeze(-1) * (m + 1) + orbital_index).flatten()
    atoms = torch.arange(n, device=orbital_index.device).repeat_interleave(k)
    slots = torch.arange(k, device=orbital_index.device).repeat(n)
    out = torch.full((2, b * (m + 1)), -1, dtype=torch.int64, device=orbital_index.device)
    out[0].scatter_(0, place, atoms)
    out[1].scatter_(0, place, slots)
    atom, slot = out.view(2, b, m + 1)[:, :, :m]
    return atom.contiguous(), slot.contiguous()


def angular_momentum(slot_of_orbital: Tensor, basis: Basis) -> Tensor:
    """l of every orbital [B, M] int64, -1 in padding."""
    ls = [l for l in basis.layout for _ in range(2 * l + 1)]
    table = torch.tensor([*ls, -1], device=slot_of_orbital.device)
    return table[slot_of_orbital]


def shell_of_slot(slot_of_orbital: Tensor, basis: Basis) -> Tensor:
    """Slot shell (place in ``basis.layout``) of every orbital [B, M] int64, -1 in padding."""
    shells = [s for s, l in enumerate(basis.layout) for _ in range(2 * l + 1)]
    table = torch.tensor([*shells, -1], device=slot_of_orbital.device)
    return table[slot_of_orbital]


def sum_over_atoms(values: Tensor, atom_of_orbital: Tensor, n_atoms: int) -> Tensor:
    """Add up a quantity of orbitals [B, M] over the orbitals of each atom -> [N]; padding is left out."""
    real = atom_of_orbital >= 0
    values = torch.where(real, values, 0.0).flatten()
    out = values.new_zeros(n_atoms)
    return out.index_add(0, atom_of_orbital.clamp_min(0).flatten(), values)


def first_atoms(molecule: Tensor, n_molecules: int) -> tuple[Tensor, Tensor]:
    """First atom of each molecule and atoms per molecule, each [B] int64, from ``keys.MOLECULE`` [N] (ascending)."""
    counts = torch.zeros(n_molecules, dtype=torch.int64, device=molecule.device)
    counts = counts.index_add(0, molecule, torch.ones_like(molecule))
    return counts.cumsum(0) - counts, counts


def membership(atom_of_orbital: Tensor, molecule: Tensor, n_slots: int) -> Tensor:
    """[B, M, A] float64, 1 where an orbital belongs to the molecule's a-th atom; A = ``n_slots``, most atoms of any."""
    first, _ = first_atoms(molecule, atom_of_orbital.shape[0])
    local = torch.where(atom_of_orbital >= 0, atom_of_orbital - first.unsqueeze(-1), n_slots)
    return torch.nn.functional.one_hot(local, n_slots + 1)[..., :n_slots].to(torch.float64)
