"""Molden and cube files are read back by PySCF and ASE and hold what was predicted."""

import numpy as np
import pytest
from ase.io.cube import read_cube
from scipy.linalg import sqrtm

from schnorb_t.basis import Basis, GaussianShell
from schnorb_t.conventions import reorder_from_pyscf
from schnorb_t.errors import UserError
from schnorb_t.interfaces.molden import (
    check_cube_name,
    molden_text,
    orbital_index,
    write_cube,
    write_molden,
)
from schnorb_t.units import BOHR
from tests.interfaces.examples import prediction_of, tilted, valence_prediction

pytest.importorskip("pyscf")


@pytest.fixture(scope="module")
def large():
    """Water in def2-TZVP (d and f shells), from the bare Hamiltonian: any matrix will do."""
    from schnorb_t.reference.pyscf import basis_from_pyscf, mole_from_basis

    atoms = tilted("H2O")
    basis = basis_from_pyscf("def2-tzvp", atoms.numbers)
    mol = mole_from_basis(basis, atoms.numbers, atoms.positions)
    order = reorder_from_pyscf(mol)
    h = order.matrix(mol.intor("int1e_kin") + mol.intor("int1e_nuc"))
    return prediction_of(basis, atoms.numbers, atoms.positions, h, order.matrix(mol.intor("int1e_ovlp")), "water")


def test_round_trip_through_pyscf_with_d_and_f_shells(large, tmp_path):
    from pyscf.tools import molden

    path = tmp_path / "water.molden"
    write_molden(path, large)
    mol, energies, coefficients, occupations, *_ = molden.load(str(path))
    assert max(mol.bas_angular(b) for b in range(mol.nbas)) == 3
    assert np.abs(mol.atom_coords() * BOHR - large.positions).max() < 1e-9
    assert np.abs(energies - large.orbital_energies).max() < 1e-9
    assert np.array_equal(occupations, large.occupations)
    order = reorder_from_pyscf(mol)
    back = order.rows(coefficients)
    assert np.abs(back - large.orbital_coefficients).max() < 1e-9
    # the functions are the same: orthonormal orbitals in the overlap that PySCF computes of what it read
    s = mol.intor("int1e_ovlp")
    assert np.abs(coefficients.T @ s @ coefficients - np.eye(len(s))).max() < 1e-8
    h = mol.intor("int1e_kin") + mol.intor("int1e_nuc")
    assert np.abs(np.diag(coefficients.T @ h @ coefficients) - large.orbital_energies).max() < 1e-7


def test_a_projected_basis_says_that_its_functions_are_approximate(model, tmp_path):
    from pyscf.tools import molden

    found = model.predict(tilted("CH3OH"))
    text = molden_text(found)
    assert "free-atom functions in place of the projected ones" in text
    (tmp_path / "x.molden").write_text(text)
    mol, energies, coefficients, *_ = molden.load(str(tmp_path / "x.molden"))
    assert np.abs(energies - found.orbital_energies).max() < 1e-9
    # orthonormal, as readers check, and no further from the prediction's than the overlaps are from each other
    s = mol.intor("int1e_ovlp")
    assert np.abs(coefficients.T @ s @ coefficients - np.eye(len(s))).max() < 1e-7
    order = reorder_from_pyscf(mol)
    lowdin = (
        sqrtm(s) @ coefficients,
        sqrtm(order.inverse().matrix(found.overlap)) @ order.inverse().rows(found.orbital_coefficients),
    )
    assert np.abs(lowdin[0] - lowdin[1]).max() < 1e-7
    assert np.abs(order.matrix(s) - found.overlap).max() > 1e-2


def test_contractions_are_normalised():
    """Against quadrature: the integral of R^2 r^2 is 1, each primitive normalised by quadrature as well."""
    shell = GaussianShell(2, (3.0, 0.7, 0.2), (0.3, -0.5, 0.9))
    r = np.linspace(0, 30, 60_001)
    primitives = [r**shell.l * np.exp(-a * r**2) for a in shell.exponents]
    primitives = [p / np.sqrt(np.trapezoid(p**2 * r**2, r)) for p in primitives]
    total = sum(c * p for c, p in zip(shell.normalised_coefficients(), primitives, strict=True))
    assert np.trapezoid(total**2 * r**2, r) == pytest.approx(1, abs=1e-8)
    ratio = np.array(shell.normalised_coefficients()) / shell.coefficients
    assert np.ptp(ratio) < 1e-12


def test_names_of_orbitals(large):
    assert [orbital_index(large, x) for x in ("homo", "lumo", "homo-1", "lumo+2", "1")] == [4, 5, 3, 7, 0]
    for name in ("homo-9", "lumo+99", "500", "density"):
        with pytest.raises(UserError, match="none called"):
            orbital_index(large, name)
    for name in ("somo", "homo1", "-1", "0", ""):
        with pytest.raises(UserError, match="is called"):
            orbital_index(large, name)
        with pytest.raises(UserError, match="is called"):
            check_cube_name(name)
    for name in ("density", "homo-9", "12"):
        check_cube_name(name)


def _cube(path):
    with open(path) as file:
        return read_cube(file, read_data=True, verbose=True)


def test_cube_files_hold_orbital_and_density(large, tmp_path):
    """Read by ASE: normalised HOMO, all ten electrons but for the core's cusp; one value against PySCF."""
    from schnorb_t.reference.pyscf import mole_from_basis

    write_cube(tmp_path / "homo.cube", large, "homo")
    write_cube(tmp_path / "density.cube", large, "density")
    homo, density = _cube(tmp_path / "homo.cube"), _cube(tmp_path / "density.cube")
    assert np.abs(homo["atoms"].positions - large.positions).max() < 1e-6
    assert homo["atoms"].numbers.tolist() == large.atomic_numbers.tolist()
    volume = 0.25**3
    assert (homo["data"] ** 2).sum() * volume == pytest.approx(1, abs=0.01)
    assert density["data"].sum() * volume == pytest.approx(10, abs=0.5)
    mol = mole_from_basis(large.basis, large.atomic_numbers, large.positions)
    point = tuple(n // 2 for n in homo["data"].shape)
    origin = mol.atom_coords().min(0) - 4.0
    values = mol.eval_gto("GTOval_sph", (origin + 0.25 * np.array(point))[None])
    own = values @ reorder_from_pyscf(mol).inverse().rows(large.orbital_coefficients[:, 4])
    assert homo["data"][point] == pytest.approx(own[0], rel=1e-4, abs=1e-6)
    head = (tmp_path / "homo.cube").read_text().splitlines()[:2]
    assert "orbital homo" in head[0] and "Eh" in head[0] and "approximate" not in head[1]


def test_cube_of_a_projected_basis_says_so(model, tmp_path):
    write_cube(tmp_path / "l.cube", model.predict(tilted("H2O")), "lumo", resolution=0.5)
    assert "approximate" in (tmp_path / "l.cube").read_text().splitlines()[1]


def hydrogens(positions, name="", scale=1.0):
    """Atoms with one function each, orbitals that are these functions; coefficients may be scaled."""
    functions = {1: (GaussianShell(0, (0.8 * scale, 123456.789), (1.0, -1e-105)),)}
    basis, n = Basis("one s", {1: (0,)}, functions), len(positions)
    return prediction_of(basis, [1] * n, positions, np.diag(np.linspace(-1, 1, n)), np.eye(n), name)


@pytest.mark.parametrize("shift", [(12345.678, -9876.543, 0.1), (-532.13, -532.13, -532.13), (1e6, -1e6, 1e6)])
def test_coordinates_far_from_the_origin(shift, tmp_path):
    """Numbers never touch: read by ASE and PySCF, with negative values and four to seven digits."""
    from pyscf.tools import cubegen, molden

    found = hydrogens(np.array([[0.0, 0, 0], [-0.3, 0.5, 0.4]]) + shift, "[far] away\n[MO]")
    write_cube(tmp_path / "x.cube", found, "homo", resolution=1.0)
    cube = _cube(tmp_path / "x.cube")
    assert np.abs(cube["atoms"].positions - found.positions).max() < 1e-5 + 1e-9 * max(map(abs, shift))
    with_pyscf = cubegen.Cube(_hydrogen(), nx=2, ny=2, nz=2).read(str(tmp_path / "x.cube"))
    assert np.abs(with_pyscf - cube["data"]).max() == 0 and np.abs(cube["data"]).max() > 0.01
    write_molden(tmp_path / "x.molden", found)
    mol, energies, *_ = molden.load(str(tmp_path / "x.molden"))
    assert np.abs(mol.atom_coords() * BOHR - found.positions).max() < 1e-9 * max(map(abs, shift))
    assert energies.tolist() == [-1, 1]


def _hydrogen():
    from pyscf import gto

    return gto.M(atom="H 0 0 0", spin=1, verbose=0)


def test_tiny_values_keep_two_digits_of_exponent(tmp_path):
    """Tight functions: most of the grid is below 1e-100."""
    found = hydrogens(np.array([[0.0, 0, 0], [4.0, 0, 0]]), scale=40.0)
    for name in ("homo", "density"):
        write_cube(tmp_path / "x.cube", found, name, resolution=1.0)
        numbers = " ".join((tmp_path / "x.cube").read_text().splitlines()[8:]).split()
        assert {len(x.lstrip("-")) for x in numbers} == {11} and "0.00000E+00" in numbers


def test_a_thousand_and_more_atoms(tmp_path):
    from ase.io import read
    from pyscf.tools import molden

    from schnorb_t.interfaces.dftbplus_files import gen_text, read_square_matrix, write_square_matrix

    positions = -1.3 * np.stack(np.unravel_index(np.arange(1003), (17, 59, 1)), 1) - 1000
    found = hydrogens(positions)
    write_molden(tmp_path / "x.molden", found)
    mol, energies, coefficients, *_ = molden.load(str(tmp_path / "x.molden"))
    assert mol.natm == 1003 and np.abs(mol.atom_coords() * BOHR - positions).max() < 1e-8
    assert np.abs(coefficients - found.orbital_coefficients).max() < 1e-12
    assert np.abs(energies - found.orbital_energies).max() < 1e-9
    (tmp_path / "x.gen").write_text(gen_text(found.atomic_numbers, 100 * positions))
    atoms = read(tmp_path / "x.gen")
    assert len(atoms) == 1003 and np.abs(atoms.positions - 100 * positions).max() < 1e-8
    matrix = np.outer(-(10.0 ** np.linspace(-150, 150, 200)), np.ones(200))
    write_square_matrix(tmp_path / "hamsqr1.dat", matrix)
    assert np.abs(read_square_matrix(tmp_path / "hamsqr1.dat") / matrix - 1).max() < 1e-14


def test_a_grid_that_nobody_reads_is_refused(tmp_path):
    found = hydrogens(np.array([[0.0, 0, 0], [900.0, 900, 900]]))
    with pytest.raises(UserError, match=r"H2: a grid of 0.25 Bohr has .* points"):
        write_cube(tmp_path / "x.cube", found)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["H2O", "SO2"])
def test_valence_only_bases(name, tmp_path):
    """The core's electrons are named in Molden's [Core], taken off the charges of cubes; the rest is the valence."""
    from pyscf.tools import molden

    found, levels = valence_prediction(name)
    cores = {"H2O": [2, 0, 0], "SO2": [10, 2, 2]}[name]
    text = molden_text(found)
    section = text.split("[Core]\n")[1].split("\n\n")[0].splitlines()
    assert section == [f"{k} : {n}" for k, n in enumerate(cores, 1) if n]
    (tmp_path / "x.molden").write_text(text)
    mol, energies, c, occupations, *_ = molden.load(str(tmp_path / "x.molden"))
    electrons = int(found.atomic_numbers.sum()) - sum(cores)
    assert np.diag(c.T @ mol.intor("int1e_ovlp") @ c) @ occupations == pytest.approx(electrons, abs=1e-6)
    assert np.abs(energies[occupations > 0] - levels[sum(cores) // 2 :][: electrons // 2]).max() < 1e-8
    write_cube(tmp_path / "d.cube", found, "density", resolution=0.4)
    write_cube(tmp_path / "h.cube", found, "homo", resolution=0.4)
    lines = (tmp_path / "d.cube").read_text().splitlines()
    assert "valence electron density" in lines[0]
    assert [float(line.split()[1]) for line in lines[6 : 6 + len(cores)]] == (found.atomic_numbers - cores).tolist()
    density = _cube(tmp_path / "d.cube")
    assert density["data"].sum() * 0.4**3 == pytest.approx(electrons, abs=1)
    assert density["atoms"].numbers.tolist() == found.atomic_numbers.tolist()
    highest = levels[int(found.atomic_numbers.sum()) // 2 - 1]
    assert f"{highest:.6f} Eh" in (tmp_path / "h.cube").read_text().splitlines()[0]


def test_without_functions_nothing_is_drawn(tmp_path):
    basis = Basis("bare", {1: (0,)})
    found = prediction_of(basis, [1, 1], np.eye(2, 3), np.diag([-1.0, 0.0]), np.eye(2))
    with pytest.raises(UserError, match="no Gaussian functions"):
        write_molden(tmp_path / "x", found)
    with pytest.raises(UserError, match="no Gaussian functions"):
        write_cube(tmp_path / "x", found)
    assert not list(tmp_path.iterdir())
