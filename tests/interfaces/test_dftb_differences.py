"""Labels less DFTB: what comes back is energy and forces of DFTB, with or without its repulsion."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from schnorb_t.commands.subtract_dftb import subtract_dftb
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.data.store import Header, MoleculeRecord, Store, StoreWriter
from schnorb_t.errors import UserError
from schnorb_t.physics.dftb import DFTB
from schnorb_t.physics.skf import read_skf_set
from tests.shared_data import shared_data


def test_labels_less_dftb(tmp_path):
    folder = shared_data("skf/3ob-3-1")
    tables, molecules = read_skf_set(folder, [1, 6, 8]), [molecule(x) for x in ("CH3OH", "H2O", "H2CO")]
    with StoreWriter(tmp_path / "labels.h5", Header(tables.basis, "none", {"functional": "PBE0"}, {})) as writer:
        for k, atoms in enumerate(molecules):
            writer.add(
                MoleculeRecord(
                    atomic_numbers=atoms.numbers,
                    positions=atoms.positions,
                    n_electrons=int(tables.valence_charges[atoms.numbers].sum()),
                    total_energy=-10.0 * k,
                    forces=np.full((len(atoms), 3), 0.01) if k else None,
                    dipole=np.zeros(3),
                    name=f"m{k}",
                    group=f"m{k}",
                    order=k,
                )
            )
    model = DFTB(tables, order=3).requires_grad_(False)
    batch = structures_to_batch([a.numbers for a in molecules], [a.positions for a in molecules], tables.basis, 1.0)
    result, forces = model.energy_and_forces(batch)
    for part in ("electronic", "total"):
        out = tmp_path / f"{part}.h5"
        assert subtract_dftb(tmp_path / "labels.h5", folder, output=out, part=part)["molecules"] == 3
        store = Store(out)
        assert store.level["subtracted"] == f"DFTB3/3ob-3-1, {part}" and store.level["functional"] == "PBE0"
        for k in range(3):
            record, expected = (
                store[k],
                result.energy[k] - (result.parts["repulsion"][k] if part == "electronic" else 0),
            )
            assert record.total_energy == pytest.approx(-10.0 * k - expected.item(), abs=1e-8)
            assert record.dipole is None and (record.forces is None) == (k == 0)
    whole = np.concatenate([Store(tmp_path / "total.h5")[k].forces for k in (1, 2)])
    assert torch.allclose(torch.tensor(whole), 0.01 - forces[6:], atol=1e-7)
    again = subtract_dftb(tmp_path / "labels.h5", folder, output=tmp_path / "total.h5", part="total")
    assert again["molecules"] == 0 and again["known"] == 3
    with pytest.raises(UserError, match="holds molecules of another kind"):
        subtract_dftb(tmp_path / "labels.h5", folder, output=tmp_path / "total.h5")
    with pytest.raises(UserError, match="--part all"):
        subtract_dftb(tmp_path / "labels.h5", folder, output=tmp_path / "x.h5", part="all")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        subtract_dftb(tmp_path / "labels.h5", tmp_path / "nowhere", output=tmp_path / "x.h5")
