"""From H and S to orbitals, occupations and density matrices: the state that everything else is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schnorb_t.physics.eigen import pad, solve
from schnorb_t.physics.occupations import DEGENERATE, ZERO_TEMPERATURE, Smearing, level_mask, occupations
from schnorb_t.physics.spectral import spectral_matrix
from schnorb_t.units import KELVIN


@dataclass(frozen=True)
class ElectronicState:
    """Orbitals of padded molecules and how they are filled; float64.

    Attributes:
        hamiltonian, overlap: [B, M, M], Eh and dimensionless, with 0 in padding (1 on S's diagonal).
        orbital_mask: [B, M] bool.
        energies: [B, M], Eh, ascending, padding last.
        coefficients: [B, M, M].
        occupations: [B, M], 0 in padding.
        chemical_potential: [B], Eh.
        smearing: how the levels were filled.
    """

    hamiltonian: Tensor
    overlap: Tensor
    orbital_mask: Tensor
    energies: Tensor
    coefficients: Tensor
    occupations: Tensor
    chemical_potential: Tensor
    smearing: Smearing

    @property
    def level_mask(self) -> Tensor:
        """[B, M] bool, True for real levels."""
        return level_mask(self.orbital_mask)

    def function(self, values: Tensor, slopes: Tensor, resolution: float, sensitivity: Tensor | None = None) -> Tensor:
        """C diag(g(e)) C^T [B, M, M], see ``spectral.spectral_matrix``; ``sensitivity`` is dg/dmu."""
        return spectral_matrix(
            self.hamiltonian,
            self.overlap,
            self.energies,
            self.coefficients,
            values,
            slopes,
            resolution,
            None if sensitivity is None else self.chemical_potential,
            sensitivity,
        )


def electronic_state(
    hamiltonian: Tensor,
    overlap: Tensor,
    orbital_mask: Tensor,
    n_electrons: Tensor,
    smearing: Smearing = ZERO_TEMPERATURE,
) -> ElectronicState:
    """Solve H C = S C diag(e) and fill the levels.

    Args:
        hamiltonian, overlap: [B, M, M], Eh and dimensionless; padding is ignored.
        orbital_mask: [B, M] bool.
        n_electrons: [B], electrons that the matrices' levels hold (with the core where the basis has it).
    """
    energies, coefficients = solve(hamiltonian, overlap, orbital_mask)
    occ, mu = occupations(energies, n_electrons, orbital_mask, smearing)
    h, s = pad(hamiltonian, orbital_mask, 0.0), pad(overlap, orbital_mask, 1.0)
    return ElectronicState(h, s, orbital_mask, energies, coefficients, occ, mu, smearing)


def _filling_slopes(state: ElectronicState) -> tuple[Tensor, float]:
    """df/de at fixed mu [B, M], and the distance below which two levels are one."""
    if state.smearing.kind == "none":
        return torch.zeros_like(state.energies), DEGENERATE
    width, real = state.smearing.width, state.level_mask
    x = torch.where(real, state.energies - state.chemical_potential.unsqueeze(-1), 0.0) / width
    return torch.where(real, state.smearing.slope(x.detach()) / width, 0.0), 1e-4 * width


def density_matrix(state: ElectronicState) -> Tensor:
    """P = C diag(f) C^T, [B, M, M], 0 in padding; Tr(P S) is the number of electrons. Exact gradients."""
    slopes, resolution = _filling_slopes(state)
    return state.function(state.occupations, slopes, resolution, -slopes)


def thermal_density_matrix(
    hamiltonian: Tensor, overlap: Tensor, orbital_mask: Tensor, n_electrons: Tensor, temperature: float
) -> Tensor:
    """Density matrix [B, M, M] at an electronic temperature, 0 in padding; for networks that take it as input.

    Args:
        hamiltonian, overlap: [B, M, M], Eh and dimensionless; padding is ignored.
        orbital_mask: [B, M] bool.
        n_electrons: [B].
        temperature: K; 0: levels are full or empty.
    """
    smearing = Smearing("fermi-dirac", temperature * KELVIN) if temperature else ZERO_TEMPERATURE
    return density_matrix(electronic_state(hamiltonian, overlap, orbital_mask, n_electrons, smearing))


def energy_weighted_density_matrix(state: ElectronicState) -> Tensor:
    """W = C diag(f e) C^T, [B, M, M], Eh: the derivative of the band (free) energy is Tr(P dH) - Tr(W dS)."""
    slopes, resolution = _filling_slopes(state)
    e = torch.where(state.level_mask, state.energies, 0.0)
    # at zero temperature members of a degenerate set keep their filling but move in energy: g' = f
    return state.function(state.occupations * e, state.occupations + e * slopes, resolution, -e * slopes)
