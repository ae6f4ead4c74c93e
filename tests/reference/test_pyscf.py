import numpy as np
import pytest
from ase.build import molecule

from schnorb_t.errors import UserError
from schnorb_t.reference.pyscf import (
    LabelError,
    Level,
    basis_from_pyscf,
    check_level,
    cross_overlap,
    diagonalise,
    label,
    mole_from_basis,
    overlap_integrals,
)

pytest.importorskip("pyscf")
WATER = molecule("H2O")


def test_label_agrees_with_a_plain_pyscf_run():
    from pyscf import dft, gto

    mol = gto.M(atom=[(s, x) for s, x in zip(WATER.symbols, WATER.positions, strict=True)], basis="def2-SVP", verbose=0)
    mf = dft.RKS(mol, xc="B3LYP").density_fit()
    mf.grids.level, mf.conv_tol = 1, 1e-11
    mf.kernel()
    result = label(WATER.numbers, WATER.positions, Level(conv_tol=1e-11))
    assert result.total_energy == pytest.approx(mf.e_tot, abs=1e-9)
    assert np.abs(result.energies - mf.mo_energy).max() < 1e-5  # mo_energy lags the final Fock matrix
    occupied = result.coefficients[:, :5]
    assert np.abs(occupied.T @ result.overlap @ occupied - np.eye(5)).max() < 1e-12


def test_energies_belong_to_the_stored_matrices():
    result = label(WATER.numbers, WATER.positions)
    e, _ = diagonalise(result.hamiltonian, result.overlap)
    assert np.abs(e - result.energies).max() == 0.0
    assert np.abs(result.hamiltonian - result.hamiltonian.T).max() == 0.0


def test_overlap_of_the_stored_functions_is_the_calculation_s():
    result = label(WATER.numbers, WATER.positions)
    basis = basis_from_pyscf("def2-SVP", WATER.numbers)
    assert np.abs(overlap_integrals(basis, WATER.numbers, WATER.positions) - result.overlap).max() < 1e-12


@pytest.mark.parametrize("name", ["minao", "def2-TZVP", "cc-pVDZ", "6-31G*"])
def test_functions_survive_text_and_come_back_to_pyscf(name):
    """General contractions (minao, cc-pVDZ) become single shells with the same integrals."""
    from pyscf import gto

    from schnorb_t.basis import Basis
    from schnorb_t.conventions import reorder_from_pyscf

    basis = Basis.from_json(basis_from_pyscf(name, WATER.numbers).to_json())
    mol = gto.M(atom=[(s, x) for s, x in zip(WATER.symbols, WATER.positions, strict=True)], basis=name, verbose=0)
    expected = reorder_from_pyscf(mol).matrix(mol.intor("int1e_ovlp"))
    assert np.abs(overlap_integrals(basis, WATER.numbers, WATER.positions) - expected).max() < 1e-9
    assert np.abs(np.diag(expected) - 1).max() < 1e-9


def test_cross_overlap_of_a_basis_with_itself():
    basis = basis_from_pyscf("def2-SVP", WATER.numbers)
    s = overlap_integrals(basis, WATER.numbers, WATER.positions)
    assert np.abs(cross_overlap(basis, basis, WATER.numbers, WATER.positions) - s).max() < 1e-14


def test_a_basis_without_functions_gives_no_integrals():
    from schnorb_t.basis import Basis

    with pytest.raises(UserError, match="no Gaussian functions"):
        mole_from_basis(Basis("shells", {1: (0,)}), [1], np.zeros((1, 3)))


def test_failures_have_reasons():
    with pytest.raises(LabelError, match="9 electrons"):
        label([8, 1], [[0, 0, 0], [0, 0, 0.97]])
    with pytest.raises(LabelError, match="not converged in 2 cycles"):
        label(WATER.numbers, WATER.positions, Level(basis="sto-3g"), max_cycle=2)
    with pytest.raises(LabelError, match="linearly dependent"):
        label([1, 1], [[0, 0, 0], [0, 0, 1e-4]], Level(basis="sto-3g"))


@pytest.mark.parametrize(
    "level,elements,message",
    [
        (Level(functional="B3LIP"), [1], "functional 'B3LIP'"),
        (Level(basis="def3-SVP"), [6], "basis 'def3-SVP' for C"),
        (Level(), [6, 53], "core of I by a potential"),
        (Level(grid_level=12), [6], "grid levels are 0 to 9"),
    ],
)
def test_an_impossible_level_is_found_before_any_work(level, elements, message):
    with pytest.raises(UserError, match=message):
        check_level(level, elements)


def test_the_default_level_is_possible():
    check_level(Level(), [1, 6, 7, 8, 9, 14, 16, 17])


def test_forces_are_the_slope_of_the_energy_and_are_stored(tmp_path):
    from ase.io import write

    from schnorb_t.commands.label import label_files
    from schnorb_t.data.store import Store
    from schnorb_t.units import BOHR

    atoms = molecule("H2O")
    atoms.positions += [[0.0, 0.02, 0.01], [0.03, 0.0, 0.0], [0.0, -0.02, 0.05]]
    write(tmp_path / "water.xyz", atoms, format="extxyz")
    label_files([tmp_path / "water.xyz"], output=tmp_path / "w.h5", target="full", workers=1, forces=True)
    with Store(tmp_path / "w.h5") as store:
        record = store[0]
    level, step = Level(grid_level=4, conv_tol=1e-11), 1e-3
    exact = label(atoms.numbers, atoms.positions, level, forces=True)
    energies = []
    for sign in (1, -1):
        moved = atoms.positions.copy()
        moved[1, 1] += sign * step * BOHR
        energies.append(label(atoms.numbers, moved, level).total_energy)
    assert exact.forces[1, 1] == pytest.approx((energies[1] - energies[0]) / (2 * step), abs=1e-4)
    assert np.abs(record.forces - exact.forces).max() < 2e-3
    assert np.abs(record.dipole - exact.dipole).max() < 1e-3
    assert np.linalg.norm(record.dipole) == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize(
    "basis, symbol, there", [("def2-svp", "H", False), ("minao", "C", False), ("def2-svp", "I", True)]
)
def test_effective_core_potentials_are_found(basis, symbol, there):
    from schnorb_t.reference.pyscf import effective_core_potential

    assert bool(effective_core_potential(basis, symbol)) == there


def test_a_fault_of_pyscf_is_not_taken_for_a_basis_without_potential(monkeypatch):
    import pyscf

    def broken(*_):
        raise RuntimeError("the installation is damaged")

    monkeypatch.setattr(pyscf.gto.basis, "load_ecp", broken)
    with pytest.raises(RuntimeError, match="damaged"):
        check_level(Level(), [6])
