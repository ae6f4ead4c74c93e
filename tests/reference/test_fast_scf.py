"""The faster steps of the SCF against PySCF's own."""

import numpy as np
import pytest
from ase.build import molecule

pytest.importorskip("pyscf")

from schnorb_t.reference import fast_scf  # noqa: E402
from schnorb_t.reference.pyscf import Level, label, restricted_kohn_sham  # noqa: E402

#: Name of a molecule of ASE's collection, or symbols and positions in Å; together S P Cl Br Si B F and first row.
MOLECULES = {
    "H2O": molecule("H2O"),
    "CH3CHO": molecule("CH3CHO"),
    "CH3SH": molecule("CH3SH"),
    "PH3": molecule("PH3"),
    "SiH4": molecule("SiH4"),
    "BCl3": molecule("BCl3"),
    "HBr": None,
    "CF4": molecule("CF4"),
}


def geometry(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions [n, 3] in Å, distorted a little: no symmetry helps."""
    if name == "HBr":
        z, x = np.array([35, 1]), np.array([[0.0, 0.0, 0.0], [0.3, 0.2, 1.41]])
    else:
        z, x = MOLECULES[name].numbers, MOLECULES[name].positions
    return z, x + np.random.default_rng(1).normal(scale=0.02, size=x.shape)


def differences(z, x, level: Level, **options) -> tuple[float, float, float]:
    """Largest differences between the fast and the plain path in total energy, orbital energies and F, Eh."""
    plain = label(z, x, level, plain=True)
    fast = label(z, x, level, **options)
    return (
        abs(plain.total_energy - fast.total_energy),
        np.abs(plain.energies - fast.energies).max(),
        np.abs(plain.hamiltonian - fast.hamiltonian).max(),
    )


@pytest.mark.parametrize("name", MOLECULES)
def test_labels_equal_those_of_plain_pyscf(name):
    assert max(differences(*geometry(name), Level())) < 1e-8


@pytest.mark.parametrize(
    "level",
    [
        Level("LDA,VWN", "sto-3g"),
        Level("PBE", "6-31G*"),
        Level("PBE"),  # PySCF has an auxiliary basis of its own for Coulomb alone
        Level("TPSS", "sto-3g"),
        Level("wB97X", "sto-3g"),
        Level("PBE0", "6-31G*", density_fitting=False),
    ],
    ids=str,
)
def test_every_kind_of_functional(level):
    assert max(differences(*geometry("CH3SH"), level)) < 1e-8


@pytest.mark.parametrize("max_memory", [0.0, 3.0, 1000.0])
def test_memory_changes_the_time_only(max_memory):
    z, x = geometry("CH3CHO")
    assert max(differences(z, x, Level(), max_memory=max_memory)) < 1e-8


def make(name: str):
    """An RKS object with its grid, PySCF's first density matrix and one with orbitals."""
    from pyscf import gto

    z, x = geometry(name)
    mol = gto.M(atom=list(zip(z.tolist(), x, strict=True)), basis="def2-SVP", verbose=0)
    mf = restricted_kohn_sham(mol, Level(), plain=True)
    mf.initialize_grids(mol)
    first = mf.get_init_guess(mol)
    energies, orbitals = mf.eig(mf.get_hcore() + mf.get_veff(mol, first), mf.get_ovlp())
    return mol, mf, np.asarray(first), mf.make_rdm1(orbitals, mf.get_occ(energies, orbitals))


def test_memory_is_bounded_and_orbitals_are_evaluated_once(monkeypatch):
    mol, mf, first, _ = make("CH3CHO")
    calls = []
    original = fast_scf.CachedNumInt._evaluate
    monkeypatch.setattr(fast_scf.CachedNumInt, "_evaluate", lambda self, *a: calls.append(a[2]) or original(self, *a))
    ample, scarce = fast_scf.CachedNumInt(), fast_scf.CachedNumInt(5.0)
    for _ in range(3):
        ample.nr_rks(mol, mf.grids, "B3LYP", first)
    n_blocks = len(ample._blocks)
    assert len(calls) == n_blocks > 3
    calls.clear()
    for _ in range(2):
        scarce.nr_rks(mol, mf.grids, "B3LYP", first)
    assert 0 < sum(block.values.nbytes for block in scarce._blocks) <= 5e6
    assert n_blocks < len(calls) < 2 * n_blocks


def test_another_molecule_or_grid_empties_the_memory():
    integrator = fast_scf.CachedNumInt()
    for name in ("H2O", "PH3", "H2O"):
        mol, mf, first, _ = make(name)
        expected = mf._numint.nr_rks(mol, mf.grids, "PBE", first)
        found = integrator.nr_rks(mol, mf.grids, "PBE", first)
        assert np.abs(found[2] - expected[2]).max() < 1e-9
    mf.grids.level = 3
    mf.grids.build(with_non0tab=True)
    expected = mf._numint.nr_rks(mol, mf.grids, "PBE", first)
    assert np.abs(integrator.nr_rks(mol, mf.grids, "PBE", first)[2] - expected[2]).max() < 1e-9
    assert np.abs(integrator.nr_rks(mol, mf.grids, "LDA,VWN", first)[2] - expected[2]).max() > 1e-4


def test_a_density_matrix_with_negative_occupations():
    """Guesses need not be a Slater determinant's: both signs of natural occupations are carried along."""
    mol, mf, first, converged = make("CH3SH")
    strange = np.asarray(2.0 * converged - first)
    assert np.linalg.eigvalsh(strange)[0] < -1e-3
    fitting = fast_scf.MemoryDF(mol)
    for dm in (first, converged, strange):
        coulomb, exchange = fitting.get_jk(dm)
        expected = mf.with_df.get_jk(dm)
        assert np.abs(coulomb - expected[0]).max() < 1e-10
        assert np.abs(exchange - expected[1]).max() < 1e-10
        assert fitting.get_jk(dm, with_k=False)[1] is None
        found = fast_scf.CachedNumInt().nr_rks(mol, mf.grids, "B3LYP", dm)
        reference = mf._numint.nr_rks(mol, mf.grids, "B3LYP", dm)
        assert found[0] == pytest.approx(reference[0], abs=1e-8)
        assert found[1] == pytest.approx(reference[1], abs=1e-8)
        assert np.abs(found[2] - reference[2]).max() < 1e-9
