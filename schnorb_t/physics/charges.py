"""Mulliken and Löwdin charges, Mayer bond orders."""

from __future__ import annotations

import torch
from torch import Tensor

from schnorb_t.physics.orbitals import membership, sum_over_atoms
from schnorb_t.physics.spectral import square_root


def orbital_populations(density: Tensor, overlap: Tensor) -> Tensor:
    """Mulliken electrons of each orbital [B, M], (P S)_mm (Mulliken, J. Chem. Phys. 23, 1833 (1955)).

    Args:
        density: [B, M, M], 0 in padding.
        overlap: [B, M, M].
    """
    return (density * overlap).sum(-1)


def mulliken_charges(density: Tensor, overlap: Tensor, atom_of_orbital: Tensor, nuclear_charges: Tensor) -> Tensor:
    """q_A = Z_A - sum_{m on A} (P S)_mm.

    Args:
        density, overlap: [B, M, M].
        atom_of_orbital: [B, M] int64, -1 in padding (``orbitals.atom_and_slot``).
        nuclear_charges: [N], what the electrons of P neutralise: Z, or the valence charge where P has no core.

    Returns:
        [N], e.
    """
    electrons = sum_over_atoms(orbital_populations(density, overlap), atom_of_orbital, len(nuclear_charges))
    return nuclear_charges.to(electrons.dtype) - electrons


def lowdin_density(density: Tensor, overlap: Tensor) -> Tensor:
    """S^1/2 P S^1/2 [B, M, M], the density matrix in Löwdin's orthogonal orbitals; ``overlap`` 1 in padding."""
    root = square_root(overlap)
    return root @ density @ root


def lowdin_charges(density: Tensor, overlap: Tensor, atom_of_orbital: Tensor, nuclear_charges: Tensor) -> Tensor:
    """q_A = Z_A - sum_{m on A} (S^1/2 P S^1/2)_mm (Löwdin, J. Chem. Phys. 18, 365 (1950)).

    Arguments as ``mulliken_charges``; ``overlap`` must hold 1 on the diagonal of its padding, as a state's does.
    """
    populations = lowdin_density(density, overlap).diagonal(dim1=-2, dim2=-1)
    electrons = sum_over_atoms(populations, atom_of_orbital, len(nuclear_charges))
    return nuclear_charges.to(electrons.dtype) - electrons


def mayer_bond_orders(
    density: Tensor, overlap: Tensor, atom_of_orbital: Tensor, molecule: Tensor, n_atoms: int | None = None
) -> Tensor:
    """B_AB = sum_{m on A, n on B} (P S)_mn (P S)_nm of closed shells (Mayer, Chem. Phys. Lett. 97, 270 (1983)).

    Args:
        density, overlap: [B, M, M].
        atom_of_orbital: [B, M] int64, -1 in padding.
        molecule: [N] int64, ascending.
        n_atoms: A, atoms of the largest molecule; counted from ``molecule`` (which waits for the device) if left out.

    Returns:
        [B, A, A], symmetric, 0 on the diagonal and in padding.
    """
    a = int(torch.bincount(molecule).max()) if n_atoms is None else n_atoms
    member = membership(atom_of_orbital, molecule, a)
    ps = density @ overlap
    orders = member.mT @ (ps * ps.mT) @ member
    return orders * (1.0 - torch.eye(a, dtype=orders.dtype, device=orders.device))
