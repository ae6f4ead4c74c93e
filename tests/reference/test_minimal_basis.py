import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from schnorb_t.reference.minimal_basis import TARGETS, project, project_molecule, virtual_weights
from schnorb_t.reference.pyscf import (
    FREE_ATOM_BASIS,
    LabelError,
    Level,
    basis_from_pyscf,
    cross_overlap,
    label,
    mole_from_basis,
    overlap_integrals,
    target_basis,
)
from schnorb_t.reference.rotation import orbital_rotation

pytest.importorskip("pyscf")
NAMES = ("CH4", "HCN", "H2CO", "CH3OH", "F2O")  # CH4, HCN: degenerate levels


@pytest.fixture(scope="module")
def labels():
    """Full-basis B3LYP/def2-SVP results and the basis of each."""
    out = {}
    for name in NAMES:
        atoms = molecule(name)
        out[name] = label(atoms.numbers, atoms.positions), basis_from_pyscf("def2-SVP", atoms.numbers)
    return out


def projected(result, basis, target, **options):
    return project_molecule(
        target, basis, result.atomic_numbers, result.positions, result.hamiltonian, result.n_electrons, **options
    )[0]


def energies(projection):
    return scipy.linalg.eigh(projection.hamiltonian, projection.overlap, eigvals_only=True)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_occupied_energies_are_exact(labels, name, target):
    result, basis = labels[name]
    p = projected(result, basis, target)
    occupied = result.energies[p.n_core : result.n_electrons // 2]
    assert np.abs(energies(p)[: len(occupied)] - occupied).max() < 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_matrices_come_from_the_contraction(labels, name):
    result, basis = labels[name]
    p = projected(result, basis, "wqao")
    a = p.contraction
    assert a.shape == (
        len(result.energies),
        basis_from_pyscf(FREE_ATOM_BASIS, result.atomic_numbers).n_orbitals(result.atomic_numbers).sum(),
    )
    assert np.abs(a.T @ result.hamiltonian @ a - p.hamiltonian).max() < 1e-12
    assert np.abs(a.T @ result.overlap @ a - p.overlap).max() < 1e-12


def test_iao_are_pyscf_s(labels):
    from pyscf.lo import iao

    from schnorb_t.conventions import reorder_from_pyscf

    result, basis = labels["H2CO"]
    z, x = result.atomic_numbers, result.positions
    large = mole_from_basis(basis, z, x)
    free = mole_from_basis(basis_from_pyscf(FREE_ATOM_BASIS, z), z, x)
    to_large, to_free = reorder_from_pyscf(large), reorder_from_pyscf(free)
    occupied = to_large.inverse().rows(result.coefficients[:, : result.n_electrons // 2])
    theirs = to_free.rows(to_large.rows(iao.iao(large, occupied)).T).T
    assert np.abs(theirs - projected(result, basis, "iao").contraction).max() < 1e-10


def test_wqao_keeps_low_virtual_orbitals(labels):
    for result, basis in labels.values():
        n = result.n_electrons // 2
        lumos = {}
        for target in TARGETS:
            p = projected(result, basis, target)
            lumos[target] = energies(p)[n - p.n_core]
        errors = {target: lumo - result.energies[n] for target, lumo in lumos.items()}
        assert errors["wqao"] < 0.15 * errors["quambo"] and errors["vqao"] < 0.15 * errors["quambo"]
        assert errors["wqvo"] < 0.5 * errors["wqao"] + 1e-6
        assert min(errors.values()) >= -1e-12  # variational: a subspace's levels lie above
        assert abs(errors["iao"] - errors["quambo"]) < 3e-4


def test_power_zero_is_quambo(labels):
    result, basis = labels["HCN"]
    zero = projected(result, basis, "wqao", power=0.0)
    assert np.abs(zero.hamiltonian - projected(result, basis, "quambo").hamiltonian).max() < 1e-12


def test_vqao_without_weight_span_the_same_as_iao(labels):
    """Both are the occupied and the whole valence virtual space; levels tell the space."""
    for result, basis in labels.values():
        flat = energies(projected(result, basis, "vqao", power=0.0))
        assert np.abs(flat - energies(projected(result, basis, "iao"))).max() < 1e-3


def test_vqao_stand_where_a_choice_of_singular_values_breaks_down():
    """Acetylene with diffuse functions and a strong weight: a choice takes a Rydberg orbital of the wrong symmetry."""
    atoms = molecule("C2H2")
    result = label(atoms.numbers, atoms.positions, Level(basis="def2-SVPD"))
    basis = basis_from_pyscf("def2-SVPD", atoms.numbers)
    with pytest.raises(LabelError, match="linearly dependent wqao"):
        projected(result, basis, "wqao", power=3.0)
    p = projected(result, basis, "vqao", power=3.0)
    assert np.linalg.eigvalsh(p.overlap)[0] > 0.01 and p.singular_value_ratio == 0.0
    assert np.abs(energies(p)[:7] - result.energies[:7]).max() < 1e-10


def test_the_weight_stops_at_the_pole():
    g = virtual_weights(np.array([-0.5, -0.25, -0.22, -0.21, 0.0]))
    assert np.allclose(g[:3], 0.03**-2) and g[3] == pytest.approx(0.04**-2) and g[4] == pytest.approx(16.0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_covariant_under_rotation(labels, name, target):
    result, basis = labels[name]
    z = result.atomic_numbers
    rotation = Rotation.random(rng=np.random.default_rng(3)).as_matrix()
    x = result.positions @ rotation.T
    d = orbital_rotation(basis, z, rotation)
    assert np.abs(overlap_integrals(basis, z, x) - d @ result.overlap @ d.T).max() < 1e-12  # D is right
    turned = project_molecule(target, basis, z, x, d @ result.hamiltonian @ d.T, result.n_electrons)[0]
    here = projected(result, basis, target)
    small = orbital_rotation(target_basis(target, z, "def2-SVP"), z, rotation)
    for what in ("hamiltonian", "overlap"):
        expected = small @ getattr(here, what) @ small.T
        assert np.abs(getattr(turned, what) - expected).max() < 1e-9, what


def hydrogen_peroxide(angle: float) -> Atoms:
    """H2O2 with a dihedral angle in degrees."""
    atoms = Atoms("OOHH", [[0, 0, 0], [1.45, 0, 0], [-0.2, 0.95, 0], [1.65, 0.95, 0]])
    atoms.set_dihedral(2, 0, 1, 3, angle, mask=[0, 0, 0, 1])
    return atoms


def hydrogen_cyanide(stretch: float) -> Atoms:
    return Atoms("HCN", [[-1.07, 0, 0.1], [0, 0, 0], [1.15 + stretch, 0, 0]])


@pytest.mark.parametrize(
    "path",
    [
        [hydrogen_peroxide(a) for a in np.linspace(60, 180, 17)],
        [hydrogen_cyanide(s) for s in np.linspace(-0.15, 0.45, 17)],
    ],
    ids=["torsion", "stretch"],
)
def test_smooth_along_a_path(path):
    """Half the step, half the largest change of any element: a jump would not shrink."""
    basis = basis_from_pyscf("def2-SVP", path[0].numbers)
    results = [label(a.numbers, a.positions) for a in path]
    for target in ("wqao", "vqao", "wqvo", "iao"):
        points = [projected(r, basis, target) for r in results]
        for what in ("hamiltonian", "overlap"):
            m = np.array([getattr(p, what) for p in points])
            whole = np.abs(m[2:] - m[:-2])[::2].max()
            half = np.abs(m[1:] - m[:-1]).max()
            assert half < 0.62 * whole, f"{target} {what}: {half} against {whole}"


def test_dependent_functions_are_refused(labels):
    result, basis = labels["HCN"]
    z, x = result.atomic_numbers, result.positions
    free_basis = basis_from_pyscf(FREE_ATOM_BASIS, z)
    cross = cross_overlap(basis, free_basis, z, x)
    cross[:, -1] = cross[:, -2]  # the same function twice
    with pytest.raises(LabelError, match="linearly dependent wqao"):
        project(
            "wqao",
            result.hamiltonian,
            result.overlap,
            result.energies,
            result.coefficients,
            7,
            cross,
            overlap_integrals(free_basis, z, x),
        )


def test_open_shell_is_refused(labels):
    result, basis = labels["CH4"]
    with pytest.raises(LabelError, match="9 electrons"):
        project_molecule("wqao", basis, result.atomic_numbers, result.positions, result.hamiltonian, 9)


@pytest.mark.parametrize("symbols", ["ClF", "SiH4", "PH3", "HBr", "BF3", "SO2", "NaH"])
def test_valence_levels_are_exact_without_core(symbols):
    """Third row, bromine, boron: as many functions as valence shells have, and every occupied valence level."""
    bonds = {"HBr": 1.414, "NaH": 1.887, "ClF": 1.628}
    atoms = Atoms(symbols, [(0, 0, 0), (0.3, 0.2, bonds[symbols])]) if symbols in bonds else molecule(symbols)
    result, basis = label(atoms.numbers, atoms.positions), basis_from_pyscf("def2-SVP", atoms.numbers)
    p = projected(result, basis, "wqvo")
    small = target_basis("wqvo", atoms.numbers, "def2-SVP")
    electrons = small.n_electrons(atoms.numbers)
    valence = {1: 1, 5: 3, 8: 6, 9: 7, 11: 1, 14: 4, 15: 5, 16: 6, 17: 7, 35: 7}
    assert electrons == sum(valence[z] for z in atoms.numbers.tolist())
    assert 2 * p.n_core == result.n_electrons - electrons
    assert max(small.n_orbitals(atoms.numbers)) <= 4
    occupied = result.energies[p.n_core :][: electrons // 2]
    assert np.abs(energies(p)[: electrons // 2] - occupied).max() < 1e-10


def test_a_core_that_is_none_is_refused(labels):
    result, basis = labels["H2CO"]
    arguments = result.hamiltonian, result.overlap, result.energies, result.coefficients, result.n_electrons // 2
    free = basis_from_pyscf(FREE_ATOM_BASIS, result.atomic_numbers)
    cross = cross_overlap(basis, free, result.atomic_numbers, result.positions)
    inner = overlap_integrals(free, result.atomic_numbers, result.positions)
    with pytest.raises(LabelError, match="no core"):
        project("wqvo", *arguments, cross, inner, n_core=4)
