"""What trained DFTB tables are compared with: energies, forces, charges, dipoles, levels near the gap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schnorb_t import keys, units
from schnorb_t.basis import Basis
from schnorb_t.physics.band_pass import BandPassLoss
from schnorb_t.physics.density_of_states import frontier_window
from schnorb_t.physics.dftb import DFTBResult
from schnorb_t.physics.dipole import dipole_from_charges, sum_over_molecules

KCAL = 627.5094740631  # per Eh
#: Name -> field of a store that it is compared with, and the unit in which losses and errors are counted.
TARGETS = {
    "energy": ("total_energy", "kcal/mol"),
    "free_energy": ("total_energy", "kcal/mol"),
    "forces": ("forces", "kcal/mol/Å"),
    "charges": ("partial_charges", "0.01 e"),
    "dipole": ("dipole", "0.1 D"),
    "band_pass": ("large_basis_energies", "0.1 eV"),
}


@dataclass(frozen=True)
class TableTarget:
    """One target of a training of tables.

    Attributes:
        name: ``energy`` (of smeared levels: without the electrons' entropy), ``free_energy`` (Mermin's), both about
            an energy per element; ``forces``; ``charges`` (Mulliken); ``dipole`` (of these); ``band_pass`` (density of
            states of the levels next to the gap, transport distance).
        weight: of its loss, which is counted in kcal/mol, kcal/mol/Å, 0.01 e, 0.1 D, 0.1 eV.
    """

    name: str
    weight: float = 1.0

    def __post_init__(self):
        if self.name not in TARGETS:
            raise ValueError(f"targets: {self.name!r} is none of {', '.join(TARGETS)}")
        if not self.weight > 0:
            raise ValueError(f"targets: weight {self.weight} of {self.name} must be above 0")

    @property
    def field(self) -> str:
        """Of a store."""
        return TARGETS[self.name][0]

    @property
    def unit(self) -> str:
        """Of losses and errors."""
        return TARGETS[self.name][1]


def deviations(
    target: TableTarget,
    batch: dict[str, Tensor],
    result: DFTBResult,
    forces: Tensor | None,
    reference: Tensor,
    basis: Basis,
    band_pass: BandPassLoss,
) -> Tensor:
    """Predicted less labelled, in the target's unit, of all molecules (or atoms, or components) that have the label.

    Args:
        target: which.
        batch: with labels, from ``data.batch.records_to_batch``.
        result, forces: of DFTB; forces [N, 3], Eh/Bohr, if they are a target.
        reference: [B], Eh, energies per element summed over each molecule, which are added to DFTB's.
        basis: of the tables.
        band_pass: which levels count.
    """
    name = {"partial_charges": keys.CHARGES, "large_basis_energies": keys.LARGE_BASIS_ENERGIES}.get(
        target.field, target.field
    )
    if name not in batch:
        return result.energy.new_zeros(0)
    there = batch[keys.present(name)]
    atoms = there[batch[keys.MOLECULE]]
    if target.name in ("energy", "free_energy"):
        energy = result.energy - (result.parts["mermin"] if target.name == "energy" else 0.0)
        return (energy + reference - batch[name])[there] * KCAL
    if target.name == "forces":
        assert forces is not None
        return (forces - batch[name])[atoms].flatten() * (KCAL / units.BOHR)
    if target.name == "charges":
        return (result.charges - batch[name])[atoms] * 100
    if target.name == "dipole":
        b = len(there)
        positions = units.angstrom_to_bohr(batch[keys.POSITIONS].to(torch.float64))
        centre = sum_over_molecules(positions, batch[keys.MOLECULE], b) / batch[keys.N_ATOMS].unsqueeze(-1)
        dipole = dipole_from_charges(result.charges, positions - centre[batch[keys.MOLECULE]], batch[keys.MOLECULE], b)
        return (dipole - batch[name])[there].flatten() * (10 * units.DEBYE)
    levels = batch[name]
    real = levels.isfinite()
    # electrons of the labels' levels, which may hold cores that DFTB has not
    occupied = batch[keys.N_ELECTRONS] // 2
    levels = torch.where(real, levels, 1e3)
    window = frontier_window(levels, occupied, real, band_pass.n_below, band_pass.n_above)
    valence = (result.scc.state.occupations.sum(-1) / 2).round().long()
    distance = band_pass.against_levels(
        {**batch, keys.N_OCCUPIED: valence}, result.scc.state, levels, window.unsqueeze(1), basis
    )
    return distance[there] * (10 * units.HARTREE)
