"""Dipole moments: exact from position integrals, or from charges and on-site s-p terms. The function's name says which.

Positions here are in Bohr, dipoles in e*Bohr, pointing from negative to positive; for a charged molecule they depend on
the origin.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from schnorb_t.basis import Basis, GaussianShell
from schnorb_t.physics.orbitals import first_atoms


def sum_over_molecules(values: Tensor, molecule: Tensor, n_molecules: int) -> Tensor:
    """Sums of per-atom values [N, ...] over the atoms of each molecule, [B, ...]; ``molecule`` [N] int64."""
    return values.new_zeros(n_molecules, *values.shape[1:]).index_add(0, molecule, values)


def dipole_from_integrals(
    density: Tensor, position_integrals: Tensor, nuclear_charges: Tensor, positions: Tensor, molecule: Tensor
) -> Tensor:
    """mu = sum_A Z_A R_A - Tr(P r): exact for the density.

    Args:
        density: [B, M, M].
        position_integrals: [B, 3, M, M], <m| r |n> in Bohr, our orbital order; 0 in padding.
        nuclear_charges: [N].
        positions: [N, 3], Bohr.
        molecule: [N] int64.

    Returns:
        [B, 3], e*Bohr.
    """
    nuclei = sum_over_molecules(nuclear_charges.to(density.dtype).unsqueeze(-1) * positions, molecule, len(density))
    return nuclei - torch.einsum("bmn,bxmn->bx", density, position_integrals.to(density.dtype))


def atomic_dipoles(
    density: Tensor, atom_of_orbital: Tensor, slot_of_orbital: Tensor, atomic_numbers: Tensor, onsite: Tensor
) -> Tensor:
    """Polarisation of each atom's own cloud, d_A = -sum_{m, n on A} P_mn <m| r - R_A |n>.

    Args:
        density: [B, M, M]; beside charges the Löwdin density, whose trace they share (``charges.lowdin_density``).
        atom_of_orbital, slot_of_orbital: [B, M] int64, -1 in padding.
        atomic_numbers: [N] int64.
        onsite: [119, 3, K, K], Bohr, from ``onsite_position_integrals``.

    Returns:
        [N, 3], e*Bohr.
    """
    same = (atom_of_orbital.unsqueeze(-1) == atom_of_orbital.unsqueeze(-2)) & (atom_of_orbital >= 0).unsqueeze(-1)
    z = atomic_numbers[atom_of_orbital.clamp_min(0)]
    slot = slot_of_orbital.clamp_min(0)
    table = onsite.to(density)
    out = []
    for axis in range(3):
        integrals = table[:, axis][z.unsqueeze(-1), slot.unsqueeze(-1), slot.unsqueeze(-2)]
        per_orbital = -torch.where(same, density * integrals, 0.0).sum(-1)
        total = density.new_zeros(len(atomic_numbers))
        out.append(total.index_add(0, atom_of_orbital.clamp_min(0).flatten(), per_orbital.flatten()))
    return torch.stack(out, -1)


def dipole_from_charges(
    charges: Tensor, positions: Tensor, molecule: Tensor, n_molecules: int, atomic: Tensor | None = None
) -> Tensor:
    """mu = sum_A q_A R_A + d_A: an approximation, which lumps two-centre charge onto its atoms.

    Löwdin charges with the atomic dipoles of the Löwdin density came nearest to the exact dipole of RHF/STO-3G (four
    polar molecules, mean error 0.12 e*Bohr of 0.78); Mulliken charges alone 0.21, with Mulliken's d_A 0.25 and more.

    Args:
        charges: [N], e, of any partition.
        positions: [N, 3], Bohr.
        molecule: [N] int64.
        atomic: [N, 3], e*Bohr, from ``atomic_dipoles``; left out, point charges alone.

    Returns:
        [B, 3], e*Bohr.
    """
    moments = charges.unsqueeze(-1) * positions
    if atomic is not None:
        moments = moments + atomic
    return sum_over_molecules(moments, molecule, n_molecules)


def _radial_integral(a: GaussianShell, b: GaussianShell, power: int) -> float:
    """int R_a R_b r^(2 + power) dr of two contracted shells, each normalised."""
    half = (a.l + b.l + 3 + power) / 2
    sums = np.add.outer(np.array(a.exponents), np.array(b.exponents))
    return float(a.radial_coefficients() @ (math.gamma(half) / (2 * sums**half)) @ b.radial_coefficients())


def onsite_position_integrals(basis: Basis) -> Tensor:
    """<m| r |n> between s and p functions of one free atom in slots, from the basis's Gaussians.

    <s| z |p_z> = (1 / sqrt 3) int R_s R_p r^3 dr, alike for x and y. Higher pairs (p-d, d-f) are left out, as is
    whatever a projected basis changes in its functions.

    Returns:
        [119, 3, K, K] float64, Bohr; axes x, y, z.

    Raises:
        ValueError: the basis has no functions.
    """
    if basis.functions is None:
        raise ValueError(f"basis {basis.name!r} holds no functions; on-site dipoles need them")
    table = torch.zeros(119, 3, basis.n_slots, basis.n_slots, dtype=torch.float64)
    for z, functions in basis.functions.items():
        at = [basis.layout_offsets[s] for s in basis.slot_shells(z)]
        for i, s in enumerate(functions):
            for j, p in enumerate(functions):
                if (s.l, p.l) == (0, 1):
                    value = _radial_integral(s, p, 1) / math.sqrt(3)
                    for axis, slot in ((1, 0), (2, 1), (0, 2)):  # p in our order: y, z, x
                        table[z, axis, at[i], at[j] + slot] = table[z, axis, at[j] + slot, at[i]] = value
    return table


def centred(positions: Tensor, molecule: Tensor, n_molecules: int) -> Tensor:
    """Positions [N, 3] relative to each molecule's centroid: an origin that moves with the molecule."""
    _, counts = first_atoms(molecule, n_molecules)
    centroid = sum_over_molecules(positions, molecule, n_molecules) / counts.clamp_min(1).unsqueeze(-1)
    return positions - centroid[molecule]
