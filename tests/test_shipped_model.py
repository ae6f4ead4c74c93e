"""The model that comes with the package, on molecules of the sample that it never saw."""

import pytest
from ase.build import molecule

import schnorb_t
from schnorb_t.data.datamodule import SAMPLE
from schnorb_t.data.store import Store
from schnorb_t.predictor import find_model
from schnorb_t.training.checkpoint import load_model
from schnorb_t.training.evaluation import evaluate_model
from schnorb_t.units import HARTREE


def test_errors_on_unseen_molecules():
    model, card = load_model(find_model("qm9"))
    store = Store(SAMPLE)
    rows = store.indices("test")
    assert not {str(store.groups[i]) for i in rows} & set(card.training_groups)
    errors = evaluate_model(model, store, rows)
    assert errors["hamiltonian_mae_eh"] < 0.6e-3 and errors["overlap_mae"] < 0.3e-3
    assert errors["homo_mae_ev_large_basis"] < 0.06 and errors["lumo_mae_ev_large_basis"] < 0.12
    assert errors["min_overlap_eigenvalue"] > 0.02


def test_predicts_right_after_installation():
    """Ethanol, a test molecule: B3LYP/def2-SVP puts its HOMO at -7.23 eV."""
    prediction = schnorb_t.load("qm9").predict(molecule("CH3CH2OH"))
    assert prediction.homo * HARTREE == pytest.approx(-7.23, abs=0.1) and prediction.gap > 0.2
