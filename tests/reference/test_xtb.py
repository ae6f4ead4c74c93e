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


@pytest.mark.parametrize("name", ["CH3SH", "PH3", "SiH4", "CH3Cl", "BF3", "HBr"])
def test_d_shells_turn_as_ours_and_hold_the_levels(name):
    from ase import Atoms
    from scipy.spatial.transform import Rotation

    from schnorb_t.reference.rotation import orbital_rotation

    atoms = Atoms("BrH", [[0, 0, 0], [0.3, 0.5, 1.3]]) if name == "HBr" else molecule(name)
    atoms.positions += np.random.default_rng(0).normal(scale=0.03, size=atoms.positions.shape)
    basis = xtb_basis(atoms.numbers)
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    record = XtbJob()(from_atoms(atoms, name, 0))
    assert record.n_electrons == basis.n_electrons(atoms.numbers)
    assert len(record.overlap) == basis.n_orbitals(atoms.numbers).sum()
    e = scipy.linalg.eigvalsh(record.hamiltonian, record.overlap)
    assert np.abs(e - record.large_basis_energies).max() < 1e-9
    atoms.positions = atoms.positions @ turn.T
    turned = XtbJob()(from_atoms(atoms, name, 0))
    d = orbital_rotation(basis, atoms.numbers, turn)
    assert np.abs(turned.overlap - d @ record.overlap @ d.T).max() < 1e-8
    assert np.abs(turned.hamiltonian - d @ record.hamiltonian @ d.T).max() < 1e-4  # tblite's SCF stops at 1e-6 Eh


def test_a_prior_refuses_d_shells():
    from types import SimpleNamespace

    from schnorb_t.nn.prior import Prior
    from schnorb_t.physics.state import thermal_density_matrix

    with pytest.raises(ValueError, match="one s and one p shell"):
        Prior(SimpleNamespace(basis=xtb_basis([1, 16])), 2, thermal_density_matrix)


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
    with pytest.raises(UserError, match="not for I"):
        xtb_header([1, 53])
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


@pytest.mark.parametrize("name", ["CH3SH", "PH3", "CH3Cl", "CH3SiH3"])
def test_valence_only_labels_keep_occupied_levels(name):
    structure = from_atoms(molecule(name), name, 0)
    own, valence = XtbJob()(structure), XtbJob("wqvo")(structure)
    basis = xtb_header(own.atomic_numbers, target="wqvo").basis
    assert len(valence.overlap) == basis.n_orbitals(own.atomic_numbers).sum() < len(own.overlap)
    assert valence.n_electrons == basis.n_electrons(own.atomic_numbers)
    n = own.n_electrons // 2
    levels = scipy.linalg.eigvalsh(valence.hamiltonian, valence.overlap)
    assert np.abs(levels[:n] - own.large_basis_energies[:n]).max() < 1e-10
    assert np.array_equal(valence.large_basis_energies, own.large_basis_energies)


@pytest.mark.parametrize("name", ["CH3CONH2", "CF4"])
def test_valence_only_labels_without_d_shells_are_gfn2_itself(name):
    structure = from_atoms(molecule(name), name, 0)
    own, valence = XtbJob()(structure), XtbJob("wqvo")(structure)
    assert np.abs(valence.hamiltonian - own.hamiltonian).max() < 1e-10
    assert np.abs(valence.overlap - own.overlap).max() < 1e-10


def test_valence_only_header():
    header = xtb_header([1, 17], target="wqvo")
    assert header.target == header.basis.name == "wqvo" and header.level["functional"] == "GFN2-xTB"
    with pytest.raises(UserError, match="unknown target 'wqao'"):
        xtb_header([1], target="wqao")
