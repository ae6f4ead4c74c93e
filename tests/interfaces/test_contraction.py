"""The way back from a minimal basis: covariance, fit, file, and an SCF that starts from it in fewer cycles."""

import numpy as np
import pytest
import scipy.linalg

import schnorb_t
from schnorb_t.errors import UserError
from schnorb_t.interfaces.contraction import ContractionModel, matrix_power, shipped_contractions
from schnorb_t.interfaces.pyscf import initial_guess
from schnorb_t.reference.pyscf import basis_from_pyscf, cross_overlap, overlap_integrals
from schnorb_t.reference.rotation import orbital_rotation
from schnorb_t.units import BOHR
from tests.interfaces.examples import tilted

pytest.importorskip("pyscf")


def bases(elements=(1, 6, 8)):
    return basis_from_pyscf("def2-SVP", elements), basis_from_pyscf("minao", elements, projected="wqao")


def random_model(seed=0, **options) -> ContractionModel:
    import torch

    model = ContractionModel(*bases(), **options)
    generator = torch.Generator().manual_seed(seed)
    for name in ("offsite", "neighbours", "constants"):
        values = torch.randn(getattr(model, name).shape, generator=generator, dtype=torch.float64)
        setattr(model, name, 0.1 * values)
    # constants stand where l is equal, in the place of m = 0
    for k, (a, b, m) in enumerate(model.components):
        if m or model.large.layout[a] != model.minimal.layout[b]:
            model.constants[:, k] = 0.0
    return model


def labelled(model, names):
    """What a molecule's labels would be if ``model`` were exact."""
    for name in names:
        atoms = tilted(name)
        z, x = atoms.numbers, atoms.positions
        overlap = overlap_integrals(model.large, z, x)
        inverse_root = matrix_power(overlap, -0.5)
        orthogonal = inverse_root @ cross_overlap(model.large, model.minimal, z, x) + model.change(z, x)
        yield z, x, inverse_root @ orthogonal, overlap


def test_turns_with_the_molecule_and_follows_the_order_of_atoms():
    model, atoms = random_model(), tilted("CH3OH")
    z, x = atoms.numbers, atoms.positions
    change = model.change(z, x)
    assert change.shape == (2 * 14 + 4 * 5, 2 * 5 + 4 * 1)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    for proper in (turn, -turn):  # one of both is a reflection
        turned = model.change(z, x @ proper.T)
        rows, columns = (turning(basis, z, proper) for basis in (model.large, model.minimal))
        assert np.abs(turned - rows @ change @ columns.T).max() < 1e-12
    order = np.array([3, 0, 5, 1, 4, 2])
    moved = model.change(z[order], x[order] + [1.0, -2.0, 0.5])
    rows, columns = (positions_of(basis, z, order) for basis in (model.large, model.minimal))
    assert np.abs(moved - change[np.ix_(rows, columns)]).max() < 1e-12


def turning(basis, z, rotation):
    """D [m, m] of all orbitals, for reflections too: -1 times a proper rotation changes the sign of odd l."""
    sign = np.sign(np.linalg.det(rotation))
    parity = np.array([sign**l for _, _, l, _ in basis.orbital_labels(z)])
    return parity[:, None] * orbital_rotation(basis, z, sign * rotation)


def positions_of(basis, z, order):
    counts = basis.n_orbitals(z)
    first = np.cumsum(counts) - counts
    return np.concatenate([np.arange(first[k], first[k] + counts[k]) for k in order])


def test_the_fit_finds_the_functions_that_made_the_labels():
    truth, model = random_model(n_radial=4), ContractionModel(*bases(), n_radial=4)
    names = ["H2O", "CH4", "CH3OH", "H2CO", "C2H4", "HCOOH", "CH3CHO", "C2H6", "CO2", "H2O2", "CH3COOH", "C2H2"]
    assert model.fit(labelled(truth, names), ridge=1e-14) == len(names)
    other = tilted("CH3OCH3")
    expected, found = (m.change(other.numbers, other.positions) for m in (truth, model))
    assert np.abs(expected).max() > 0.05 and np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_file_and_what_it_refuses(tmp_path):
    model, atoms = random_model(), tilted("H2CO")
    path = tmp_path / "way.npz"
    model.save(path)
    again = ContractionModel.load(path)
    assert (again.large, again.minimal, again.cutoff) == (model.large, model.minimal, model.cutoff)
    both = (m.change(atoms.numbers, atoms.positions) for m in (model, again))
    assert np.abs(np.subtract(*both)).max() < 1e-6
    assert [p.name for p in tmp_path.iterdir()] == ["way.npz"]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="no contraction coefficients"):
        ContractionModel.load(path)
    with pytest.raises(UserError, match="different elements"):
        ContractionModel(bases()[0], bases((1, 6))[1])
    with pytest.raises(KeyError, match="N"):
        model.change(np.array([7, 1, 1, 1]), tilted("NH3").positions)


def test_orbitals_are_orthonormal():
    model, atoms = random_model(), tilted("H2CO")
    c = np.random.default_rng(0).normal(size=(12, 8))
    orbitals = model.orbitals(c, atoms.numbers, atoms.positions)
    overlap = overlap_integrals(model.large, atoms.numbers, atoms.positions)
    assert np.abs(orbitals.T @ overlap @ orbitals - np.eye(8)).max() < 1e-10


def test_an_scf_that_starts_from_the_shipped_models_needs_fewer_cycles():
    from pyscf import dft, gto

    assert [(m.minimal.name, m.large.name) for m in shipped_contractions()] == [("wqao", "def2-SVP")]
    atoms = tilted("CH3CHO")
    mol = gto.M(
        atom=list(zip(atoms.numbers.tolist(), atoms.positions / BOHR, strict=True)),
        unit="Bohr",
        basis="def2-svp",
        verbose=0,
    )

    def start(density=None):
        mf = dft.RKS(mol, xc="b3lyp").density_fit()
        mf.grids.level = 0
        mf.kernel(density)
        return mf

    default = start()
    occupied = default.mo_coeff[:, default.mo_occ > 0]
    s = mol.intor("int1e_ovlp")
    cycles = []
    for name, bound in (("hcnof", 0.1), ("def2svp", 0.02)):
        density = initial_guess(schnorb_t.load(name).predict(atoms), mol)
        assert np.trace(density @ s) == pytest.approx(mol.nelectron)
        outside = mol.nelectron - np.trace(occupied.T @ s @ density @ s @ occupied)
        assert 0 < outside < bound, name  # free-atom functions alone: 0.4
        mf = start(density)
        assert mf.e_tot == pytest.approx(default.e_tot, abs=1e-7)
        cycles.append(mf.cycles)
    assert max(cycles) < default.cycles


def test_matrix_power():
    a = np.random.default_rng(0).normal(size=(5, 5))
    s = a @ a.T + np.eye(5)
    assert np.abs(matrix_power(s, -0.5) - scipy.linalg.inv(scipy.linalg.sqrtm(s))).max() < 1e-12
