"""``schnorb_t label-model``: a model's predictions as a store that plain training reads."""

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write

import schnorb_t
from schnorb_t.commands.label_model import label_model
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from tests.training.examples import toy_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label_model")
    names = ["CH3OH", "C2H4", "H2CO"]
    write(folder / "more.xyz", [molecule(name) for name in names], format="extxyz")
    return toy_files(folder)[0], folder / "more.xyz", names


def test_labels_are_the_predictions_and_the_command_goes_on(files, tmp_path):
    model, structures, names = files
    out = tmp_path / "soft.h5"
    done = label_model(str(model), [structures], output=out, batch_size=2)
    assert (done["labelled"], done["failed"], done["doubtful"], done["known"]) == (3, 0, 0, 0)
    again = label_model(str(model), [structures], output=out)
    assert (again["labelled"], again["known"]) == (0, 3)
    predictor = schnorb_t.load(model)
    with Store(out) as store:
        assert store.level["predicted_by"] == model.stem and store.target == predictor.card.target
        for k, name in enumerate(names):
            wanted, record = predictor.predict(molecule(name)), store[k]
            assert (
                np.abs(record.hamiltonian - wanted.hamiltonian).max() < 1e-5
            )  # other molecules of the batch: rounding
            assert np.abs(record.overlap - wanted.overlap).max() < 1e-5
            assert record.n_electrons == wanted.n_electrons and record.values.get("large_basis_energies") is None
            assert record.group


def test_an_element_that_the_model_does_not_know(files, tmp_path):
    write(tmp_path / "sulphur.xyz", molecule("CH3SH"), format="extxyz")
    with pytest.raises(UserError, match=r"sulphur\.xyz: .* does not know S"):
        label_model(str(files[0]), [tmp_path / "sulphur.xyz"], output=tmp_path / "soft.h5")


def test_doubt_is_asked_only_of_models_that_know_it(files, tmp_path):
    model, structures, _ = files
    with pytest.raises(UserError, match="does not tell doubt"):
        label_model(str(model), [structures], output=tmp_path / "soft.h5", doubt_below=0.2)
    assert not (tmp_path / "soft.h5").exists()
