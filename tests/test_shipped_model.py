"""The models that come with the package, on molecules that they never saw."""

import numpy as np
import pytest
from ase.build import molecule

import schnorb_t
from schnorb_t.data.datamodule import SAMPLE
from schnorb_t.data.store import Store
from schnorb_t.training.checkpoint import MODELS, find_model, load_model
from schnorb_t.training.evaluation import evaluate_model
from schnorb_t.units import HARTREE
from tests.data_prep.commands import run
from tests.shared_data import shared_data

NAMES = ("qm9", "hcnof")
#: docs/accuracy.md
STATED = {
    "hamiltonian_mae_eh": 0.2349e-3,
    "overlap_mae": 0.1357e-3,
    "occupied_energy_mae_ev": 0.0195,
    "homo_mae_ev_large_basis": 0.0163,
    "lumo_mae_ev_large_basis": 0.0451,
    "gap_mae_ev_large_basis": 0.0497,
}


def unseen(card, store, rows):
    assert not {str(store.groups[i]) for i in rows} & set(card.training_groups)
    return np.asarray(rows)


def test_small_molecules_thermally_displaced():
    model, card = load_model(find_model("hcnof"))
    store = Store(SAMPLE)
    errors = evaluate_model(model, store, unseen(card, store, store.indices("test")))
    assert errors["hamiltonian_mae_eh"] < 0.6e-3 and errors["overlap_mae"] < 0.3e-3
    assert errors["homo_mae_ev_large_basis"] < 0.06 and errors["lumo_mae_ev_large_basis"] < 0.12
    assert errors["min_overlap_eigenvalue"] > 0.02


def test_qm9_molecules(tmp_path):
    """The 60 test molecules, projected here from the shared labels: the errors that docs/accuracy.md states."""
    pytest.importorskip("pyscf")
    labels = shared_data("qm9/labels_b3lyp_def2svp.h5")
    done = run("convert_labels.py", labels, "-o", tmp_path / "qm9.h5", "--target", "wqao")
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path / "qm9.h5")
    model, card = load_model(find_model("qm9"))
    assert len(card.training_groups) == 540  # 500 to train on, 40 to choose by
    errors = evaluate_model(model, store, unseen(card, store, store.indices("test")))
    for name, bound in STATED.items():
        assert errors[name] < bound * 1.02, name


@pytest.mark.parametrize("name", NAMES)
def test_predicts_right_after_installation(name):
    """Ethanol: B3LYP/def2-SVP puts its HOMO at -7.23 eV."""
    prediction = schnorb_t.load(name).predict(molecule("CH3CH2OH"))
    assert prediction.homo * HARTREE == pytest.approx(-7.23, abs=0.15) and prediction.gap > 0.2


def test_all_shipped_models_are_named_here_and_small():
    files = sorted(MODELS.glob("*.ckpt"))
    assert {p.stem for p in files} >= set(NAMES)
    assert sum(p.stat().st_size for p in MODELS.iterdir()) < 20e6


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.ckpt")))
def test_neutral_molecules_have_neutral_charges(name):
    """Also where the basis leaves the core out."""
    model = schnorb_t.load(name)
    for molecule_name in ("CH4", "H2O", "HCN"):
        found = model.predict(molecule(molecule_name))
        assert abs(found.mulliken_charges.sum()) < 1e-6
        core = found.basis.n_core_orbitals(found.atomic_numbers)
        assert (found.orbital_energies[:core] < -5).all() and (found.orbital_energies[core:] > -3).all()
