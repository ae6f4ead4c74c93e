"""Large molecules from Python and in files: sparse matrices that say what the dense ones say."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from ase.io import write

import schnorb_t
from schnorb_t import predictor as predictor_module
from schnorb_t.commands.predict import predict
from schnorb_t.errors import UserError
from schnorb_t.prediction import Prediction
from schnorb_t.prediction_file import read_predictions
from schnorb_t.sparse_prediction import SparsePrediction
from schnorb_t.structures import read_structures
from tests.nn.test_large import waters
from tests.training.examples import toy_files


@pytest.fixture(scope="module")
def molecule():
    z, r = waters(10)
    return Atoms(z, r, info={"name": "drop"})


@pytest.mark.parametrize("name", ["organic", "hcnof"])
def test_sparse_is_dense(name, molecule):
    """Of an orthogonal model and of one that learns H itself: matrices, levels, charges, both ways of solving."""
    dense = schnorb_t.load(name, device="cpu").predict(molecule)
    found = schnorb_t.load(name, device="cpu", sparse_above=20).predict(molecule)
    assert isinstance(dense, Prediction) and isinstance(found, SparsePrediction)
    assert found.formula == dense.formula and found.n_occupied == dense.n_occupied and found.name == "drop"
    for x in (found, replace(found, dense=0, drop=1e-11)):
        assert np.abs(x.overlap.toarray() - dense.overlap).max() < 1e-9
        assert np.abs(x.hamiltonian.toarray() - dense.hamiltonian).max() < 1e-8
        assert abs(x.homo - dense.homo) < 1e-8 and abs(x.lumo - dense.lumo) < 1e-8
        assert np.abs(x.mulliken_charges - dense.mulliken_charges).max() < 1e-7
        k = dense.n_occupied
        assert np.abs(x.levels_near(dense.homo + 1e-4, 1) - dense.orbital_energies[k - 1]).max() < 1e-8
    rough = replace(found, dense=0)
    assert abs(rough.homo - dense.homo) < 1e-7 and np.abs(rough.mulliken_charges - dense.mulliken_charges).max() < 1e-4
    assert scipy.linalg.eigvalsh(found.overlap.toarray())[0] > 0


def test_overlap_is_positive_definite_where_the_network_exaggerates(molecule):
    """Atoms far too near: the learned part of S would make it indefinite, and is shrunk as in the dense way."""
    squeezed = molecule.copy()
    squeezed.positions *= 0.62
    predictor = schnorb_t.load("organic", device="cpu")
    model, lower = predictor.model, []
    with np.errstate(all="ignore"):
        dense = predictor.predict(squeezed)
        predictor.sparse_above = 1
        found = predictor.predict(squeezed)
        lower = scipy.linalg.eigvalsh(found.overlap.toarray())
    assert lower[0] > 0 and np.abs(found.overlap.toarray() - dense.overlap).max() < 1e-8
    assert model.gives_sparse


def test_files_hold_sparse_matrices(molecule, tmp_path, monkeypatch):
    checkpoint = toy_files(tmp_path)[0]
    structures = tmp_path / "molecules.xyz"
    write(structures, [molecule[:3], molecule], format="extxyz")
    monkeypatch.setattr(predictor_module, "SPARSE_ABOVE", 20)
    result = predict(str(checkpoint), structures, output=tmp_path / "out.h5", device="cpu")
    assert [x["structure"] for x in result["levels"]] == [0, 1]
    found = dict(read_predictions(tmp_path / "out.h5"))
    assert isinstance(found[0]["hamiltonian"], np.ndarray)
    direct = schnorb_t.load(checkpoint, device="cpu").predict(read_structures(structures)[1])
    assert (found[1]["hamiltonian"] - direct.hamiltonian).nnz == 0 and (found[1]["overlap"] - direct.overlap).nnz == 0
    assert found[1]["homo"] == direct.homo and np.array_equal(found[1]["mulliken_charges"], direct.mulliken_charges)
    with pytest.raises(UserError, match=r"structure 1, 30 atoms: only -o OUT.h5 takes molecules this large"):
        predict(str(checkpoint), structures, output=tmp_path / "b.h5", device="cpu", dftbplus=tmp_path / "folder")
