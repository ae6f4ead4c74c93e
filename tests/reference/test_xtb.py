"""GFN2-xTB labels against tblite itself."""

import numpy as np
import pytest
import scipy.linalg
from ase.build import molecule

from schnorb_t.basis import Basis
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from schnorb_t.reference.pyscf import LabelError
from schnorb_t.reference.xtb import XtbJob, xtb_basis, xtb_header
from schnorb_t.structures import from_atoms
from schnorb_t.units import BOHR
from tests.data_prep.commands import run

tblite = pytest.importorskip("tblite.interface")
pytest.importorskip("pyscf")


def test_the_matrices_have_the_levels_and_charges_of_tblite():
    atoms = molecule("CH3CONH2")
    atoms.rotate(40, (1, 2, 3))
    record = XtbJob()(from_atoms(atoms, "acetamide", 0))
    basis = xtb_basis(atoms.numbers)
    assert record.n_electrons == basis.n_electrons(atoms.numbers) == 24
    assert len(record.hamiltonian) == basis.n_orbitals(atoms.numbers).sum()
    e, c = scipy.linalg.eigh(record.hamiltonian, record.overlap)
    calculator = tblite.Calculator("GFN2-xTB", atoms.numbers, atoms.positions / BOHR)
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    assert np.abs(e - result.get("orbital-energies")).max() < 1e-10
    p = 2 * c[:, :12] @ c[:, :12].T
    owner = np.repeat(np.arange(len(atoms)), basis.n_orbitals(atoms.numbers))
    populations = np.bincount(owner, weights=(p * record.overlap).sum(1))
    valence = np.array([{1: 1, 6: 4, 7: 5, 8: 6}[z] for z in atoms.numbers])
    assert np.abs(valence - populations - result.get("charges")).max() < 1e-4  # tblite's electrons are at 300 K


def test_orbital_order_is_ours():
    """p along z of a bond along z: only it and s couple to hydrogen's s."""
    atoms = molecule("HF")
    atoms.positions[:] = [[0, 0, 0], [0, 0, 0.92]]
    atoms.numbers[:] = [1, 9]
    s = XtbJob()(from_atoms(atoms, "HF", 0)).overlap
    assert np.abs(s[0, [2, 4]]).max() < 1e-12 and abs(s[0, 3]) > 0.1  # y, z, x


def test_basis_leaves_the_core_out_and_survives_text():
    basis = xtb_basis([1, 6, 8])
    assert basis.core == {6: 2, 8: 2} and basis.layout == (0, 1)
    assert Basis.from_json(basis.to_json()) == basis
    assert basis.restricted([1, 8]).core == {8: 2}
    assert basis.n_electrons([8, 1, 1]) == 8


def test_refusals():
    with pytest.raises(UserError, match="not for Cl"):
        xtb_header([1, 17])
    with pytest.raises(LabelError, match="odd|open shell"):
        XtbJob()(from_atoms(molecule("OH"), "OH", 0))


def test_the_command_continues(tmp_path):
    from ase.io import write

    frames = [molecule(n) for n in ("H2O", "CH4", "NH3", "OH")]
    for frame in frames:
        frame.info["name"] = str(frame.symbols)
    write(tmp_path / "few.xyz", frames[:3], format="extxyz")
    write(tmp_path / "all.xyz", frames, format="extxyz")
    for name, text in (
        ("few.xyz", "3 molecules labelled, 0 failed, 0 there"),
        ("all.xyz", "0 molecules labelled, 1 failed, 3 there"),
    ):
        done = run("label_xtb.py", tmp_path / name, "-o", tmp_path / "xtb.h5")
        assert done.returncode == 0 and text in done.stdout, done.stderr
    with Store(tmp_path / "xtb.h5") as store:
        assert store.target == "GFN2-xTB" and len(store.failures) == 1
        water = store[0]
        assert np.linalg.eigvalsh(water.overlap).min() > 0
