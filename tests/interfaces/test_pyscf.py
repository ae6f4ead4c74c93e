"""PySCF's own tools on our object give our numbers; an SCF through our door runs as one through PySCF's own."""

import numpy as np
import pytest
import scipy.linalg

from schnorb_t.conventions import reorder_from_pyscf
from schnorb_t.errors import UserError
from schnorb_t.interfaces.pyscf import initial_guess, to_mean_field
from schnorb_t.reference.pyscf import basis_from_pyscf
from schnorb_t.units import BOHR
from tests.interfaces.examples import prediction_of, tilted, valence_prediction

pytest.importorskip("pyscf")


@pytest.fixture(scope="module")
def converged():
    """Formaldehyde in def2-SVP (d shells), no special orientation: PySCF's calculation and its matrices as ours."""
    from pyscf import dft, gto

    atoms = tilted("H2CO")
    mol = gto.M(
        atom=[(s, x) for s, x in zip(atoms.symbols, atoms.positions / BOHR, strict=True)],
        unit="Bohr",
        basis="def2-svp",
        verbose=0,
    )
    mf = dft.RKS(mol, xc="pbe")
    mf.grids.level = 1
    mf.kernel()
    order = reorder_from_pyscf(mol)
    fock, overlap = mf.get_fock(), mf.get_ovlp()
    basis = basis_from_pyscf("def2-svp", atoms.numbers)
    found = prediction_of(basis, atoms.numbers, atoms.positions, order.matrix(fock), order.matrix(overlap))
    return mf, fock, found


def test_matrices_and_orbital_energies(converged):
    mf, fock, found = converged
    ours = to_mean_field(found)
    assert {l for z in (1, 6, 8) for l in found.basis.shells[z]} == {0, 1, 2}
    # the Mole of the basis has PySCF's own order of shells here, so matrices are equal element by element
    assert np.abs(ours.mol.intor("int1e_ovlp") - mf.get_ovlp()).max() < 1e-10
    assert np.abs(ours.get_fock() - fock).max() < 1e-13
    assert np.abs(ours.get_ovlp() - mf.get_ovlp()).max() < 1e-13
    e, _ = ours.eig(ours.get_fock(), ours.get_ovlp())
    assert np.abs(ours.mo_energy - e).max() < 1e-9 and np.abs(e - found.orbital_energies).max() < 1e-9
    assert np.abs(scipy.linalg.eigh(fock, mf.get_ovlp(), eigvals_only=True) - ours.mo_energy).max() < 1e-9
    c = ours.mo_coeff
    assert np.abs(fock @ c - mf.get_ovlp() @ c * ours.mo_energy).max() < 1e-9
    assert ours.mo_occ.tolist() == mf.mo_occ.tolist() and ours.converged


def test_populations(converged):
    mf, _, found = converged
    ours = to_mean_field(found)
    assert np.abs(ours.mulliken_pop(verbose=0)[1] - found.mulliken_charges).max() < 1e-9
    # the Fock matrix after the last cycle has very nearly the density of that cycle
    assert np.abs(ours.mulliken_pop(verbose=0)[1] - mf.mulliken_pop(verbose=0)[1]).max() < 1e-4
    assert np.abs(ours.dip_moment(unit="AU", verbose=0) - mf.dip_moment(unit="AU", verbose=0)).max() < 1e-3
    meta = ours.mulliken_meta(verbose=0)[1], mf.mulliken_meta(verbose=0)[1]
    assert np.abs(meta[0] - meta[1]).max() < 1e-3 and np.abs(meta[0]).max() > 0.05
    root = scipy.linalg.sqrtm(ours.get_ovlp())
    populations = np.diag(root @ ours.make_rdm1() @ root)
    pop, charges = ours.lowdin_pop(verbose=0)
    assert np.abs(pop - populations).max() < 1e-9 and abs(charges.sum()) < 1e-8
    atoms = [label[0] for label in ours.mol.ao_labels(fmt=None)]
    assert charges[1] == pytest.approx(
        found.atomic_numbers[1] - sum(p for p, a in zip(pop, atoms, strict=True) if a == 1)
    )


def test_another_molecule_is_refused(converged):
    ours = to_mean_field(converged[2])
    other = to_mean_field(converged[2]).mol
    for call in (ours.get_ovlp, ours.mulliken_pop, ours.dip_moment):
        with pytest.raises(NotImplementedError, match="one molecule"):
            call(other)


def test_a_predicted_minimal_basis(model):
    """A projected basis: populations by the predicted S, the dipole refused."""
    found = model.predict(tilted("CH3OH"))
    ours = to_mean_field(found)
    e, _ = ours.eig(ours.get_fock(), ours.get_ovlp())
    assert np.abs(e - found.orbital_energies).max() < 1e-9
    assert np.abs(ours.mulliken_pop(verbose=0)[1] - found.mulliken_charges).max() < 1e-9
    assert np.trace(ours.make_rdm1() @ ours.get_ovlp()) == pytest.approx(18)
    with pytest.raises(NotImplementedError, match="projected"):
        ours.dip_moment()


def fresh(mf):
    from pyscf import dft

    new = dft.RKS(mf.mol, xc=mf.xc)
    new.grids.level = mf.grids.level
    return new


def test_scf_cycles_from_the_exact_fock_matrix(converged):
    mf, fock, found = converged
    own, through_us, default = (fresh(mf) for _ in range(3))
    e, c = own.eig(fock, own.get_ovlp())
    own.kernel(own.make_rdm1(c, own.get_occ(e, c)))
    density = initial_guess(found, mf.mol)
    assert np.abs(density - own.make_rdm1(c, own.get_occ(e, c))).max() < 1e-8
    through_us.kernel(density)
    default.kernel()
    assert through_us.cycles == own.cycles < default.cycles
    assert through_us.e_tot == pytest.approx(mf.e_tot, abs=1e-8)


def test_initial_guess_in_another_order_of_shells(converged):
    """PySCF keeps the order of a basis given by hand; the density follows it."""
    from pyscf import gto

    mf, _, found = converged
    basis = {s: sorted(gto.basis.load("def2-svp", s), key=lambda x: -x[0]) for s in "HCO"}
    mol = mf.mol.copy()
    mol.basis = {s: basis[s] for s in basis}
    mol._basis = basis
    atoms, bas, env = mol.make_env(mol._atom, basis, mol._env[:20], {}, {})
    mol._atm, mol._bas, mol._env = atoms, bas, env
    density = initial_guess(found, mol)
    s = mol.intor("int1e_ovlp")
    assert [mol.bas_angular(b) for b in range(4)] != [mf.mol.bas_angular(b) for b in range(4)]
    assert np.trace(density @ s) == pytest.approx(16) and np.abs(density @ s @ density - 2 * density).max() < 1e-8


@pytest.mark.parametrize("name", ["hcnof", "def2svp"])
@pytest.mark.parametrize("digits", [5, 3])
def test_initial_guess_for_positions_of_a_file(name, digits):
    """Rounded as xyz files have them: orthonormal in the molecule's own overlap, and as good a start."""
    import schnorb_t

    atoms = tilted("H2O")
    mol = molecule_of(atoms, digits)
    exact, found = (initial_guess(schnorb_t.load(name).predict(atoms), m) for m in (molecule_of(atoms, 12), mol))
    s = mol.intor("int1e_ovlp")
    assert np.abs(found.mo_coeff.T @ s @ found.mo_coeff - np.eye(found.mo_coeff.shape[1])).max() < 1e-9
    assert np.trace(found @ s) == pytest.approx(10) and np.abs(found - exact).max() < 10.0 ** (1 - digits)


def molecule_of(atoms, digits=12, **options):
    from pyscf import gto

    atom = list(zip(atoms.symbols, np.round(atoms.positions, digits), strict=True))
    return gto.M(**{"atom": atom, "basis": "def2-svp", "verbose": 0, **options})


def test_reasons_for_no_way_back_name_what_helps():
    import schnorb_t

    model, water = schnorb_t.load("hcnof"), tilted("H2O")
    prediction = model.predict(water)

    def refuses(match, prediction=prediction, **options):
        with pytest.raises(UserError, match=match) as caught:
            initial_guess(prediction, molecule_of(water, **options))
        return str(caught.value)

    assert "elements" not in refuses("basis is not def2-SVP, it has other shells", basis="def2-tzvp")
    refuses("build it with cart=False", cart=True)
    refuses("charge", charge=-2)
    refuses("mol.spin=2", spin=2)
    # the remedy for a turned molecule helps
    turned = water.copy()
    turned.rotate(30, "x")
    turned = molecule_of(turned)
    with pytest.raises(UserError, match="from its place") as caught:
        initial_guess(prediction, turned)
    said = str(caught.value)
    assert 'ase.Atoms(mol.elements, mol.atom_coords("Ang"))' in said
    from ase import Atoms

    density = initial_guess(model.predict(Atoms(turned.elements, turned.atom_coords("Ang"))), turned)
    assert np.trace(density @ turned.intor("int1e_ovlp")) == pytest.approx(10)


def test_valence_electrons_are_no_guess_for_all():
    prediction, _ = valence_prediction("H2O")
    with pytest.raises(UserError, match="holds 8 valence electrons of the 10"):
        initial_guess(prediction, molecule_of(tilted("H2O")))


def test_effective_core_potentials_are_named():
    from ase import Atoms

    basis = basis_from_pyscf("minao", [1, 35])
    atoms = Atoms("HBr", [(0, 0, 0), (0, 0, 1.41)])
    found = prediction_of(basis, atoms.numbers, atoms.positions, np.diag(np.arange(19.0)), np.eye(19))
    mol = molecule_of(atoms, basis="lanl2dz", ecp={"Br": "lanl2dz"})
    with pytest.raises(UserError, match="effective core potentials; build it without"):
        initial_guess(found, mol)


def test_initial_guess_refuses_another_molecule(converged, model):
    from pyscf import gto

    mf, _, found = converged
    atoms = tilted("H2CO")
    atom = [(s, x) for s, x in zip(atoms.symbols, atoms.positions, strict=True)]

    def refuses(match, prediction=found, **options):
        mol = gto.M(**{"atom": atom, "basis": "def2-svp", "verbose": 0, **options})
        with pytest.raises(UserError, match=match):
            initial_guess(prediction, mol)

    refuses("other shells", basis="6-31g")
    refuses("not the same functions", basis={"H": "def2-svp", "C": "def2-svp", "O": _stretched()})
    refuses("paired electrons", charge=2)
    refuses("in their atoms", atom=atom[::-1])
    refuses("from its place", atom=[(s, x + 0.01) for s, x in atom])
    refuses("projected basis 'toy'", model.predict(atoms))


def _stretched():
    """Oxygen's def2-SVP with all exponents a little larger: same shells, other functions."""
    from pyscf import gto

    return [[shell[0], *[[a * 1.01, c] for a, c in shell[1:]]] for shell in gto.basis.load("def2-svp", "O")]
