"""Every property by name, from a batch and its electronic state: what losses, metrics and files ask for.

    state = electronic_state(h, s, batch["orbital_mask"], batch["n_electrons"], Smearing("fermi-dirac", 0.001))
    value, real = PROPERTIES["charges"](batch, state, basis)

Each is a pure function of tensors, differentiable with respect to H and S; ``real`` is False where the value is
padding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from schnorb_t import keys, units
from schnorb_t.basis import Basis
from schnorb_t.physics import charges as _charges
from schnorb_t.physics import dipole as _dipole
from schnorb_t.physics import energies as _energies
from schnorb_t.physics.orbitals import atom_and_slot
from schnorb_t.physics.state import ElectronicState, density_matrix, energy_weighted_density_matrix

#: optional in a batch: [B, 3, M, M], Bohr, <m| r |n> in our orbital order; 0 in padding
POSITION_INTEGRALS = "position_integrals"

Masked = tuple[Tensor, Tensor]
Property = Callable[[dict[str, Tensor], ElectronicState, Basis], Masked]


def _whole(value: Tensor) -> Masked:
    return value, torch.ones_like(value, dtype=torch.bool)


def _atoms(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return atom_and_slot(batch[keys.ORBITAL_INDEX], batch[keys.MOLECULE], batch[keys.ORBITAL_MASK])


def _orbital_energies(batch, state, basis) -> Masked:
    """[B, M], Eh."""
    return torch.where(state.level_mask, state.energies, 0.0), state.level_mask


def _occupations(batch, state, basis) -> Masked:
    """[B, M]."""
    return state.occupations, state.level_mask


def _density(batch, state, basis) -> Masked:
    """[B, M, M]."""
    mask = state.orbital_mask
    return density_matrix(state), mask.unsqueeze(-1) & mask.unsqueeze(-2)


def _energy_weighted_density(batch, state, basis) -> Masked:
    """[B, M, M], Eh."""
    mask = state.orbital_mask
    return energy_weighted_density_matrix(state), mask.unsqueeze(-1) & mask.unsqueeze(-2)


def _nuclear_charges(batch, basis: Basis | None) -> Tensor:
    """[N], e: those of the nuclei with the core that the basis leaves out; all electrons where no basis is told."""
    z = batch[keys.ATOMIC_NUMBERS]
    return z if basis is None else torch.as_tensor(basis.nuclear_charge_table, device=z.device)[z]


def _mulliken(batch, state, basis) -> Masked:
    """[N], e, Mulliken."""
    atom, _ = _atoms(batch)
    return _whole(_charges.mulliken_charges(density_matrix(state), state.overlap, atom, _nuclear_charges(batch, basis)))


def _lowdin(batch, state, basis) -> Masked:
    """[N], e, Löwdin."""
    atom, _ = _atoms(batch)
    return _whole(_charges.lowdin_charges(density_matrix(state), state.overlap, atom, _nuclear_charges(batch, basis)))


def _bond_orders(batch, state, basis) -> Masked:
    """[B, A, A], Mayer."""
    atom, _ = _atoms(batch)
    n = batch[keys.N_ATOMS]
    orders = _charges.mayer_bond_orders(density_matrix(state), state.overlap, atom, batch[keys.MOLECULE], int(n.max()))
    exists = torch.arange(orders.shape[-1], device=n.device) < n.unsqueeze(-1)
    return orders, exists.unsqueeze(-1) & exists.unsqueeze(-2)


def dipole_source(batch: dict[str, Tensor], basis: Basis) -> str:
    """Which dipole ``PROPERTIES["dipole"]`` gives: of the density itself, or how it is approximated."""
    if POSITION_INTEGRALS in batch:
        return "position integrals"
    if basis.functions is None:
        return "Mulliken charges"
    if basis.projected:
        # free-atom functions are not the deformed ones: their s-p terms made wqao dipoles of 8 polar molecules worse
        # (mean error against B3LYP/def2-SVP 0.87 D instead of 0.50 D)
        return "Löwdin charges"
    return "Löwdin charges and on-site s-p terms"


@lru_cache(maxsize=8)
def _onsite(basis: Basis) -> Tensor:
    return _dipole.onsite_position_integrals(basis)


def _molecular_dipole(batch, state, basis) -> Masked:
    """[B, 3], e*Bohr; ``dipole_source`` says how. Origin: the centroid of the atoms."""
    density, n = density_matrix(state), len(state.energies)
    molecule, z, nuclei = batch[keys.MOLECULE], batch[keys.ATOMIC_NUMBERS], _nuclear_charges(batch, basis)
    positions = units.angstrom_to_bohr(batch[keys.POSITIONS].to(density.dtype))
    if POSITION_INTEGRALS in batch:
        moved = _dipole.centred(positions, molecule, n)
        dipole = _dipole.dipole_from_integrals(density, batch[POSITION_INTEGRALS], nuclei, positions, molecule)
        # from the coordinate origin to the centroid: nothing for neutral molecules
        charge = _dipole.sum_over_molecules(nuclei.to(density.dtype), molecule, n) - state.occupations.sum(-1)
        first = torch.searchsorted(molecule, torch.arange(n, device=molecule.device))
        return _whole(dipole - charge.unsqueeze(-1) * (positions - moved)[first])
    atom, slot = _atoms(batch)
    source, atomic = dipole_source(batch, basis), None
    if source == "Mulliken charges":
        charges = _charges.mulliken_charges(density, state.overlap, atom, nuclei)
    else:
        charges = _charges.lowdin_charges(density, state.overlap, atom, nuclei)
    if source == "Löwdin charges and on-site s-p terms":
        lowdin = _charges.lowdin_density(density, state.overlap)
        atomic = _dipole.atomic_dipoles(lowdin, atom, slot, z, _onsite(basis).to(density.device))
    return _whole(_dipole.dipole_from_charges(charges, _dipole.centred(positions, molecule, n), molecule, n, atomic))


def _band(batch, state, basis) -> Masked:
    """[B], Eh."""
    return _whole(_energies.band_energy(state))


def _valence(batch, state, basis) -> Masked:
    """[B], Eh, without the levels of the noble-gas cores."""
    n_core = _energies.core_orbitals(basis, batch[keys.ATOMIC_NUMBERS], batch[keys.MOLECULE], len(state.energies))
    return _whole(_energies.valence_energy(state, n_core))


def _free(batch, state, basis) -> Masked:
    """[B], Eh, Mermin."""
    return _whole(_energies.free_energy(state))


def _entropy(batch, state, basis) -> Masked:
    """[B], k_B."""
    return _whole(_energies.entropy(state))


def _chemical_potential(batch, state, basis) -> Masked:
    """[B], Eh."""
    return _whole(state.chemical_potential)


PROPERTIES: dict[str, Property] = {
    keys.ORBITAL_ENERGIES: _orbital_energies,
    keys.OCCUPATIONS: _occupations,
    keys.DENSITY: _density,
    "energy_weighted_density": _energy_weighted_density,
    keys.CHARGES: _mulliken,
    "lowdin_charges": _lowdin,
    "bond_orders": _bond_orders,
    keys.DIPOLE: _molecular_dipole,
    "band_energy": _band,
    "valence_energy": _valence,
    "free_energy": _free,
    "entropy": _entropy,
    "chemical_potential": _chemical_potential,
}
