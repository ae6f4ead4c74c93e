"""Reference levels of a molecule out of a store, found by name or by structure."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg
from ase.build import molecule

from schnorb_t.data.store import Header, Store, StoreWriter
from schnorb_t.errors import UserError
from schnorb_t.interfaces.reference_levels import ReferenceStore, level_name, references
from tests.training.examples import BASIS, geometries, record


@pytest.fixture(scope="module")
def labels(checkpoint):
    return ReferenceStore(checkpoint.with_name("toy.h5"))


def test_by_name(labels):
    for index, atoms in enumerate(geometries()):
        row = labels.find(index, atoms)
        assert labels.store.name_of(row) == atoms.info["name"]


def test_by_structure_however_it_stands(labels):
    random = np.random.default_rng(5)
    for index, atoms in enumerate(geometries()):
        other = atoms[random.permutation(len(atoms))]
        other.rotate(50, (1, 2, 3))
        other.positions += [1.0, 2.0, -3.0]
        for name in (None, "unheard of"):
            other.info = {"name": name} if name else {}
            row = labels.find(index, other)
            assert labels.store.name_of(row) == atoms.info["name"]


def test_energies_are_those_of_the_large_basis(labels):
    store = labels.store
    record = store[7]
    found = labels.levels(7, int(store.n_orbitals[7]))
    assert np.array_equal(found.energies, record.large_basis_energies) and found.label == "extended Hueckel"
    own = scipy.linalg.eigvalsh(record.hamiltonian, record.overlap)
    assert np.allclose(found.basis_energies, own, rtol=0, atol=1e-12)
    assert found.basis_label == "extended Hueckel, toy"
    assert labels.levels(7, 1000).basis_energies is None


def test_without_a_large_basis_the_labels_own(tmp_path):
    water = dataclasses.replace(record(geometries()[0], "test"), large_basis_energies=np.zeros(0))
    with StoreWriter(tmp_path / "w.h5", Header(BASIS, "toy", {"functional": "PBE", "basis": "b"}, {})) as writer:
        writer.add(water)
    found = ReferenceStore(tmp_path / "w.h5").levels(0, 7)
    assert np.allclose(found.energies, scipy.linalg.eigvalsh(water.hamiltonian, water.overlap))
    assert found.label == "PBE/b, toy"


def test_what_is_not_there_is_refused(labels):
    stranger = molecule("CH3CN")
    with pytest.raises(UserError, match=r"in.xyz, structure 4: .*toy.h5 holds no molecule of this name.*--reference"):
        labels.find(4, stranger, "in.xyz")
    near = molecule("CH4")  # stored as it is
    near.positions[0] += 0.01
    with pytest.raises(UserError, match="none of this structure"):
        labels.find(0, near)


def test_another_molecule_of_the_same_name_is_refused(labels):
    wrong = molecule("CH3OH")
    wrong.info["name"] = "CH4"
    with pytest.raises(UserError, match=r"structure 2 \(CH4\): is CH4O, and the molecule of this name.*is CH4;"):
        labels.find(2, wrong)
    moved = geometries()[0]
    moved.positions[0] += 0.02
    with pytest.raises(UserError, match=r"structure 0 \(H2O\): .*other positions"):
        labels.find(0, moved)


def test_an_ion_is_refused(tmp_path):
    ion = dataclasses.replace(record(geometries()[0], "test"), n_electrons=8)
    with StoreWriter(tmp_path / "ion.h5", Header(BASIS, "toy", {}, {})) as writer:
        writer.add(ion)
    with pytest.raises(UserError, match=r"charge \+2"):
        ReferenceStore(tmp_path / "ion.h5").find(0, geometries()[0])


def test_all_are_found_before_any_is_read(labels, monkeypatch):
    path = labels.store.path
    structures = {3: geometries()[3], 9: geometries()[9]}
    find = references(path, structures)
    assert np.array_equal(find(9, 0).energies, labels.store[labels.find(9, structures[9])].large_basis_energies)
    assert references(None, structures)(3, 0) is None
    monkeypatch.setattr(Store, "__getitem__", lambda *_: pytest.fail("read before all are found"))
    with pytest.raises(UserError, match="structure 5"):
        references(path, structures | {5: molecule("CH3CN")})


def test_level_names():
    assert level_name({"functional": "B3LYP", "basis": "def2-SVP", "grid_level": 1}) == "B3LYP/def2-SVP"
    assert level_name({}) == "reference"
