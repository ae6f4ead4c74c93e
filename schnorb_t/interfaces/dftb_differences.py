"""Labels less DFTB: what a learned repulsion, or a learned correction, has to add to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.data.header import Header
from schnorb_t.data.records import MoleculeRecord
from schnorb_t.physics.dftb import DFTB

_DROPPED = ("hamiltonian", "overlap", "large_basis_energies", "contraction", "dipole", "partial_charges")
#: What of DFTB is subtracted: everything but the repulsion, or all of it.
PARTS = ("electronic", "total")


class NoRepulsion(torch.nn.Module):
    """Batch -> zeros [B]."""

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Nothing, for each molecule of a batch."""
        return torch.zeros(len(batch[keys.ORBITAL_MASK]), dtype=torch.float64)


def difference_header(header: Header, model: DFTB, set_name: str, part: str) -> Header:
    """Header of a store of differences: the level of theory tells what was subtracted."""
    level = {**header.level, "subtracted": f"DFTB{model.order}/{set_name}, {part}"}
    return Header(header.basis, header.target, level, header.programs)


def differences(
    records: Sequence[MoleculeRecord], model: DFTB
) -> Iterator[tuple[MoleculeRecord, bool, MoleculeRecord | str]]:
    """Energy (Eh) and forces (Eh/Bohr) of one batch of records less those of DFTB; other labels are left out.

    Yields:
        the record, whether DFTB has a solution, and the record of differences or the reason.
    """
    basis = model.basis
    batch = structures_to_batch([r.atomic_numbers for r in records], [r.positions for r in records], basis, 1.0)
    charge = torch.tensor([float(r.charge or 0) for r in records], dtype=torch.float64)
    result, forces = model.energy_and_forces(batch, charge, check=False)
    at = 0
    for k, record in enumerate(records):
        own = forces[at : at + len(record.atomic_numbers)].numpy()
        at += len(own)
        if not result.converged[k]:
            yield record, False, f"DFTB: charges have not converged in {model.max_iterations} iterations"
            continue
        values = {field: value for field, value in record.values.items() if field not in _DROPPED}
        if record.total_energy is not None:
            values[keys.TOTAL_ENERGY] = record.total_energy - result.energy[k].item()
        if record.forces is not None:
            values[keys.FORCES] = record.forces - own
        yield record, True, MoleculeRecord(values=values)
