"""The ASE calculator says what the model says, refuses what it cannot, and works once per structure."""

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError

from schnorb_t.basis import Basis
from schnorb_t.errors import UserError
from schnorb_t.interfaces.ase import SchNOrbT, dipole_moment, results_of
from schnorb_t.units import BOHR, HARTREE
from tests.interfaces.examples import prediction_of, tilted
from tests.training.examples import geometries


@pytest.fixture
def calculator(model):
    return SchNOrbT(model)


@pytest.fixture
def work(calculator, monkeypatch):
    """Sizes of the batches that reach the network."""
    forward, sizes = calculator.predictor.model.forward, []

    def counted(batch):
        sizes.append(len(batch["n_atoms"]))
        return forward(batch)

    monkeypatch.setattr(calculator.predictor.model, "forward", counted)
    return sizes


def test_properties_are_the_predictions_in_units_of_ase(model, calculator):
    atoms = tilted("CH3OH")
    expected = model.predict(atoms)
    atoms.calc = calculator
    for name in ("homo", "lumo", "gap"):
        assert calculator.get_property(name, atoms) == pytest.approx(getattr(expected, name) * HARTREE, abs=1e-12)
    assert np.allclose(calculator.get_property("orbital_energies", atoms), expected.orbital_energies * HARTREE)
    assert np.allclose(atoms.get_charges(), expected.mulliken_charges)
    assert np.allclose(atoms.get_dipole_moment(), dipole_moment(expected))


@pytest.mark.parametrize(
    "ask", ["get_potential_energy", "get_forces", "get_stress", "get_magnetic_moments", "get_potential_energies"]
)
def test_no_energy_no_forces(calculator, ask):
    atoms = molecule("H2O")
    atoms.calc = calculator
    with pytest.raises(NotImplementedError, match="predicts Hamiltonian and overlap.*homo, lumo"):
        getattr(atoms, ask)()
    with pytest.raises(PropertyNotImplementedError):
        calculator.get_property("free_energy", atoms)


def test_a_structure_is_predicted_once(calculator, work):
    atoms = tilted("H2O")
    atoms.calc = calculator
    first = atoms.get_charges()
    first[:] = 9.0  # what is handed out is a copy
    atoms.get_dipole_moment()
    assert work == [1] and abs(atoms.get_charges().sum()) < 1e-9
    old, before = atoms.get_charges(), atoms.positions.copy()
    atoms.positions[0, 0] += 0.1
    assert not np.allclose(atoms.get_charges(), old) and work == [1, 1]
    atoms.positions = before  # seen before, though not last
    assert np.array_equal(atoms.get_charges(), old) and work == [1, 1]


def test_the_cache_is_bounded(model, work):
    calculator = SchNOrbT(model, cache_size=2)
    one, two, three = (tilted("H2O", seed) for seed in range(3))
    calculator.calculate_trajectory([one, two, three])
    n = len(work)
    calculator.calculate_trajectory([two, three])
    assert len(work) == n
    calculator.calculate_trajectory([one])
    assert len(work) == n + 1


def test_trajectories_in_batches(model, calculator, work):
    images = geometries()[:6] + geometries()[:3] + [tilted("H2O")]
    found = calculator.calculate_trajectory(images, batch_size=4)
    assert sum(work) == 7 and max(work) == 4
    for atoms, results in zip(images, found, strict=True):
        expected = results_of(model.predict(atoms))
        assert set(results) == set(expected) == set(calculator.implemented_properties)
        for name in expected:
            assert np.allclose(results[name], expected[name], atol=2e-4), name
    work.clear()
    images[4].calc = calculator
    assert images[4].get_charges() == pytest.approx(found[4]["charges"]) and not work


def test_bad_structures_are_refused(calculator, work):
    with pytest.raises(UserError, match="structure 1.*odd number"):
        calculator.calculate_trajectory([molecule("H2O"), molecule("CH3")])
    assert work == []
    atoms = molecule("H2O")
    atoms.calc = calculator
    atoms.get_charges()
    atoms.info["charge"] = 1
    with pytest.raises(UserError, match="charge"):
        atoms.get_charges()


def test_a_model_by_its_path(checkpoint, model):
    atoms = molecule("H2O")
    atoms.calc = SchNOrbT(checkpoint, device="cpu")
    assert np.allclose(atoms.get_charges(), model.predict(atoms).mulliken_charges)
    with pytest.raises(UserError, match="no such model"):
        SchNOrbT("none/there.ckpt")


def test_dipole_of_charges_by_hand_and_turned():
    """Two s functions without overlap: q R."""
    basis = Basis("s", {1: (0,)})
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 2.0, 1.0]])
    h = np.array([[-0.5, -0.1], [-0.1, -0.2]])
    found = prediction_of(basis, [1, 1], positions, h, np.eye(2))
    assert dipole_moment(found) == pytest.approx(found.mulliken_charges @ positions)
    assert abs(dipole_moment(found)[1]) > 0.1


def test_dipole_turns_with_the_molecule(model):
    atoms = tilted("CH3OH")
    before = dipole_moment(model.predict(atoms))
    turned = atoms.copy()
    turned.rotate(90, "z", center=(1, 2, 3))
    assert dipole_moment(model.predict(turned)) == pytest.approx([-before[1], before[0], before[2]], abs=1e-4)
    assert np.linalg.norm(before) > 0.05


def test_dipole_against_pyscf():
    """The approximation lies as near the exact dipole of RHF/STO-3G water as its documentation says."""
    pytest.importorskip("pyscf")
    from pyscf import scf

    from schnorb_t.conventions import reorder_from_pyscf
    from schnorb_t.reference.pyscf import basis_from_pyscf, mole_from_basis

    atoms = tilted("H2O")
    basis = basis_from_pyscf("sto-3g", [1, 8])
    mol = mole_from_basis(basis, atoms.numbers, atoms.positions)
    mf = scf.RHF(mol).run()
    order = reorder_from_pyscf(mol)
    found = prediction_of(
        basis, atoms.numbers, atoms.positions, order.matrix(mf.get_fock()), order.matrix(mf.get_ovlp())
    )
    exact = mf.dip_moment(unit="AU") * BOHR
    assert np.linalg.norm(dipole_moment(found) - exact) < 0.2 * BOHR
    assert np.linalg.norm(exact) > 0.6 * BOHR
