"""Band energy, its valence part, electronic entropy, Mermin free energy, and where a repulsive energy joins."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from schnorb_t.basis import Basis
from schnorb_t.physics.dipole import sum_over_molecules
from schnorb_t.physics.state import ElectronicState


class RepulsiveEnergy(Protocol):
    """Whatever gives the part of a total energy that the levels do not hold (``repulsion.Repulsion``, a network)."""

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Batch of ``keys`` (positions in Å) -> [B], Eh."""


def band_energy(state: ElectronicState) -> Tensor:
    """sum_i f_i e_i = Tr(P H), [B], Eh."""
    return (state.occupations * torch.where(state.level_mask, state.energies, 0.0)).sum(-1)


def entropy(state: ElectronicState) -> Tensor:
    """Electronic entropy in units of k_B, [B]; 0 at zero temperature. Generalised for Gaussian, Methfessel-Paxton."""
    if state.smearing.kind == "none":
        return torch.zeros_like(state.chemical_potential)
    real = state.level_mask
    x = torch.where(real, state.energies - state.chemical_potential.unsqueeze(-1), 0.0) / state.smearing.width
    return torch.where(real, state.smearing.entropy(x), 0.0).sum(-1)


def free_energy(state: ElectronicState) -> Tensor:
    """Mermin free energy E_band - width * entropy, [B], Eh; variational, so dF = Tr(P dH) - Tr(W dS)."""
    return band_energy(state) - state.smearing.width * entropy(state)


def total_energy(state: ElectronicState, repulsive: RepulsiveEnergy, batch: dict[str, Tensor]) -> Tensor:
    """Free energy of the levels plus the repulsive energy, [B], Eh."""
    return free_energy(state) + repulsive(batch)


def core_orbitals(basis: Basis, atomic_numbers: Tensor, molecule: Tensor, n_molecules: int) -> Tensor:
    """How many of each molecule's lowest levels are core levels, [B] int64; see ``Basis.core_orbital_table``."""
    table = torch.as_tensor(basis.core_orbital_table, device=atomic_numbers.device)
    return sum_over_molecules(table[atomic_numbers], molecule, n_molecules)


def valence_energy(state: ElectronicState, n_core: Tensor) -> Tensor:
    """sum f_i e_i over all but the ``n_core`` [B] lowest levels, [B], Eh: core levels would drown the rest."""
    index = torch.arange(state.energies.shape[-1], device=state.energies.device)
    kept = state.level_mask & (index >= n_core.unsqueeze(-1))
    return (state.occupations * torch.where(kept, state.energies, 0.0)).sum(-1)
