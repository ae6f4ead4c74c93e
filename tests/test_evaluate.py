"""``python -m schnorb_t.evaluate``."""

import json
import subprocess
import sys

import numpy as np
import pytest

from schnorb_t.data.store import Header, Store, StoreWriter
from schnorb_t.errors import run_command
from schnorb_t.evaluate import main
from schnorb_t.training.evaluation import evaluate_model
from tests.training.examples import BASIS, fitted_model, geometries, record, write_checkpoint, write_store

KEYS = (
    "n_molecules hamiltonian_mae_eh hamiltonian_onsite_mae_eh hamiltonian_offsite_mae_eh overlap_mae "
    "occupied_energy_mae_ev homo_mae_ev lumo_mae_ev gap_mae_ev occupied_similarity min_overlap_eigenvalue "
    "occupied_energy_mae_ev_large_basis homo_mae_ev_large_basis lumo_mae_ev_large_basis gap_mae_ev_large_basis "
    "hamiltonian_mae_ev homo_mae_eh homo_mae_eh_large_basis overlap_onsite_mae overlap_offsite_mae"
).split()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    store = write_store(folder / "toy.h5")
    model = fitted_model(store)
    return write_checkpoint(folder / "toy.ckpt", model, store), folder / "toy.h5", model


def run(*arguments) -> None:
    main([str(a) for a in arguments])


def fails(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: run(*arguments))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_numbers_are_those_of_the_evaluation(files, tmp_path, capsys):
    checkpoint, data, model = files
    out = tmp_path / "numbers.json"
    run(checkpoint, data, "--json", out)
    printed = capsys.readouterr().out
    assert "H on-site" in printed and "warning: " not in printed and "3 molecules" in printed
    found = json.loads(out.read_text())
    assert all(isinstance(found[k], (int, float)) for k in KEYS)
    assert set(found["seconds_per_molecule"]) == {"network", "assembly", "eigenproblem"}
    store = Store(data)
    expected = evaluate_model(model, store, store.indices("test"))
    for key in KEYS:
        assert found[key] == pytest.approx(expected[key], rel=1e-5), key
    run(checkpoint, data, "--json", out, "--batch-size", "1")
    single = json.loads(out.read_text())
    assert single["hamiltonian_mae_eh"] == pytest.approx(found["hamiltonian_mae_eh"], rel=1e-4)


def test_molecules_seen_in_training(files, tmp_path, capsys):
    checkpoint, data, model = files
    run(checkpoint, data, "--split", "train")
    assert "trained on" in capsys.readouterr().out
    run(checkpoint, data, "--split", "val")
    assert "1 of 1 molecules" in capsys.readouterr().out
    run(checkpoint, data, "--split", "all")
    printed = " ".join(capsys.readouterr().out.split())
    assert "9 of 12 molecules (such as H2O) were in the model's training or validation" in printed
    # another file whose test split holds a molecule of the training
    with StoreWriter(tmp_path / "other.h5", Store(data).header) as writer:
        writer.add(record(geometries(seed=5)[0], "test"))
    message = fails(capsys, checkpoint, tmp_path / "other.h5", "--json", tmp_path / "o.json")
    assert "1 of 1 molecules (such as H2O)" in message and "no test" in message
    assert not (tmp_path / "o.json").exists()


def test_another_level_of_theory_is_told(files, tmp_path, capsys):
    checkpoint, data, _ = files
    with StoreWriter(tmp_path / "other.h5", Header(BASIS, "toy", {"functional": "PBE"}, {})) as writer:
        writer.add(record(geometries()[11], "test"))
    run(checkpoint, tmp_path / "other.h5")
    assert "functional: model extended Hueckel, data PBE" in " ".join(capsys.readouterr().out.split())


def test_data_in_another_basis(files, tmp_path, capsys):
    checkpoint, data, _ = files
    water = record(geometries()[0], "test")
    cases = {
        "other functions": (BASIS.from_json(BASIS.to_json().replace("0.45", "0.46")), "Gaussian functions differ"),
        "other name": (BASIS.from_json(BASIS.to_json().replace('"toy"', '"iao"')), "stand in the basis iao"),
    }
    for name, (basis, message) in cases.items():
        path = tmp_path / f"{name}.h5"
        with StoreWriter(path, Header(basis, "toy", {}, {})) as writer:
            writer.add(record(geometries()[1], "test"))
        assert message in fails(capsys, checkpoint, path)
    basis = BASIS.from_json(BASIS.to_json().replace('"O"', '"S"'))
    changed = water.atomic_numbers.copy()
    changed[0] = 16
    with StoreWriter(tmp_path / "sulfur.h5", Header(basis, "toy", {}, {})) as writer:
        writer.add(type(water)(**{**water.__dict__, "atomic_numbers": changed, "n_electrons": 18}))
    assert "holds S, and the model" in fails(capsys, checkpoint, tmp_path / "sulfur.h5")


def test_a_file_of_fewer_elements_is_in_the_models_basis(files, tmp_path, capsys):
    checkpoint, data, model = files
    with StoreWriter(tmp_path / "ch.h5", Header(BASIS.restricted([1, 6]), "toy", {}, {})) as writer:
        writer.add(record(geometries()[11], "test"))
    run(checkpoint, tmp_path / "ch.h5", "--json", tmp_path / "few.json")
    few = json.loads((tmp_path / "few.json").read_text())
    store = Store(data)
    ethane = int(np.flatnonzero(store.names == "C2H6")[0])
    assert few["hamiltonian_mae_eh"] == pytest.approx(
        evaluate_model(model, store, [ethane])["hamiltonian_mae_eh"], rel=1e-4
    )


def test_every_wrong_argument_has_its_message(files, tmp_path, capsys):
    checkpoint, data, _ = files
    assert "no such file" in fails(capsys, checkpoint, tmp_path / "none.h5")
    assert "no such model" in fails(capsys, tmp_path / "none.ckpt", data)
    assert "no such folder" in fails(capsys, checkpoint, data, "--json", tmp_path / "there" / "x.json")
    assert "device 'abacus'" in fails(capsys, checkpoint, data, "--device", "abacus")
    (tmp_path / "text.h5").write_text("nothing")
    assert "HDF5" in fails(capsys, checkpoint, tmp_path / "text.h5")
    with StoreWriter(tmp_path / "no_test.h5", Store(data).header) as writer:
        writer.add(record(geometries()[0], "train"))
    message = fails(capsys, checkpoint, tmp_path / "no_test.h5")
    assert "no molecule in split 'test'" in message and "train 1" in message


def test_the_command_as_a_process(files):
    checkpoint, data, _ = files
    done = subprocess.run(
        [sys.executable, "-m", "schnorb_t.evaluate", str(checkpoint), str(data)], capture_output=True, text=True
    )
    assert done.returncode == 0 and "mean absolute errors" in " ".join(done.stdout.split()), done.stderr
