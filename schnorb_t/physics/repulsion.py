"""Pairwise repulsive energy of Slater-Koster files: splines or polynomials."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from schnorb_t import keys, units
from schnorb_t.physics.dipole import sum_over_molecules
from schnorb_t.physics.skf import SlaterKosterSet
from schnorb_t.physics.slater_koster import unordered_pairs


class Repulsion(nn.Module):
    """Batch -> sum over pairs of V_AB(R), [B], Eh; a ``physics.energies.RepulsiveEnergy``.

    Args:
        tables: the files; a spline where a file has one, else its polynomial.
    """

    element_index: Tensor
    starts: Tensor
    pieces: Tensor
    exponential: Tensor
    cutoff: Tensor
    polynomial: Tensor
    polynomial_cutoff: Tensor

    def __init__(self, tables: SlaterKosterSet):
        super().__init__()
        elements = tables.basis.elements
        files = [tables.files[a, b] for a in elements for b in elements]
        longest = max((len(f.spline.starts) for f in files if f.spline), default=1)
        starts = np.full((len(files), longest), np.inf)
        pieces = np.zeros((len(files), longest, 6))
        exponential, cutoff = np.zeros((len(files), 3)), np.zeros(len(files))
        polynomial, polynomial_cutoff = np.zeros((len(files), 8)), np.zeros(len(files))
        for t, f in enumerate(files):
            if f.spline is None:
                polynomial[t], polynomial_cutoff[t] = f.polynomial, f.polynomial_cutoff
            else:
                n = len(f.spline.starts)
                starts[t, :n], pieces[t, :n] = f.spline.starts, f.spline.coefficients
                exponential[t], cutoff[t] = f.spline.exponential, f.spline.cutoff
        index = np.full(119, -1)
        index[list(elements)] = np.arange(len(elements))
        for name, value in {
            "element_index": index,
            "starts": starts,
            "pieces": pieces,
            "exponential": exponential,
            "cutoff": cutoff,
            "polynomial": polynomial,
            "polynomial_cutoff": polynomial_cutoff,
        }.items():
            self.register_buffer(name, torch.tensor(value), persistent=False)
        self.n_elements = len(elements)

    def pair_energy(self, pair_type: Tensor, distance: Tensor) -> Tensor:
        """V(R) [P], Eh, of ordered element pairs [P] at distances [P], Bohr."""
        starts = self.starts[pair_type]
        interval = (starts <= distance.detach().unsqueeze(-1)).sum(-1) - 1
        piece = interval.clamp_min(0)
        x = distance - starts.gather(-1, piece.unsqueeze(-1)).squeeze(-1)
        inside = (interval >= 0) & (distance < self.cutoff[pair_type])
        x = torch.where(inside, x, 0.0)
        c = self.pieces[pair_type, piece]
        spline = torch.where(inside, torch.stack([c[:, k] * x**k for k in range(6)]).sum(0), 0.0)
        a1, a2, a3 = self.exponential[pair_type].unbind(-1)
        close = (interval < 0) & (self.cutoff[pair_type] > 0)
        wall = torch.where(close, torch.exp(-a1 * distance + a2) + a3, 0.0)
        gap = (self.polynomial_cutoff[pair_type] - distance).clamp_min(0)
        polynomial = torch.stack([self.polynomial[pair_type, k] * gap ** (k + 2) for k in range(8)]).sum(0)
        return spline + wall + polynomial

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Repulsive energy [B], Eh; ``keys.ATOMIC_NUMBERS``, ``POSITIONS`` (Å), ``MOLECULE``, ``ORBITAL_MASK``."""
        z, molecule = batch[keys.ATOMIC_NUMBERS], batch[keys.MOLECULE]
        positions = units.angstrom_to_bohr(batch[keys.POSITIONS].to(torch.float64))
        n_molecules = len(batch[keys.ORBITAL_MASK])
        i, j = unordered_pairs(molecule, n_molecules)
        i, j = torch.where(z[i] <= z[j], torch.stack((i, j)), torch.stack((j, i)))
        pair_type = self.element_index[z[i]] * self.n_elements + self.element_index[z[j]]
        energy = self.pair_energy(pair_type, (positions[j] - positions[i]).norm(dim=-1))
        return sum_over_molecules(energy, molecule[i], n_molecules)
