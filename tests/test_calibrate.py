"""``schnorb_t calibrate``, and what ``evaluate`` and ``predict`` say of the model that it makes."""

import json

import numpy as np
import pytest
import torch
from ase.io import write

import schnorb_t
from schnorb_t.commands import main
from schnorb_t.commands.calibrate import calibrate_model
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.training.calibration import level_errors
from schnorb_t.training.checkpoint import load_model
from tests.training.examples import geometries, toy_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate")
    model, data = toy_files(folder)
    result = calibrate_model(str(model), data, output=folder / "sure.ckpt", members=5)
    return folder, result


def fails(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main([str(w) for w in words]))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_predictions_stay_and_know_doubt(files):
    folder, result = files
    old, new = (schnorb_t.load(folder / f"{name}.ckpt", "cpu") for name in ("toy", "sure"))
    assert old.card.training_groups == new.card.training_groups and new.card.arguments["doubt_members"] == 5
    for atoms in geometries()[:3]:
        a, b = old.predict(atoms), new.predict(atoms)
        assert np.array_equal(a.hamiltonian, b.hamiltonian) and np.array_equal(a.overlap, b.overlap)
        assert a.doubt is None and b.doubt >= result["floor_ev"] > 0


def test_numbers_are_those_of_the_checkpoint(files):
    folder, result = files
    model, _ = load_model(folder / "sure.ckpt")
    assert float(model.doubt.factor) == pytest.approx(result["factor"])
    assert float(model.doubt.floor) == pytest.approx(result["floor_eh"])
    assert (result["members"], result["training"], result["validation"]) == (5, 8, 1)
    from schnorb_t.data.batch import records_to_batch

    with Store(folder / "toy.h5") as store:
        rows = store.indices("val")
        batch = records_to_batch([store[i] for i in rows], model.basis, model.cutoff, rows)
    levels = level_errors(model, [batch])
    within = levels.error.abs() <= model.doubt.standard_deviation(levels.spread)
    assert result["coverage_1_sigma"] == pytest.approx(float(within.double().mean()))
    assert result["frontier_coverage_1_sigma"] == pytest.approx(float(within[levels.frontier].double().mean()))


def test_calibrating_again_draws_anew(files):
    folder, result = files
    calibrate_model(str(folder / "sure.ckpt"), folder / "toy.h5", output=folder / "again.ckpt", members=7)
    first, again = (load_model(folder / f"{name}.ckpt")[0] for name in ("sure", "again"))
    assert first.doubt.members == 5 and again.doubt.members == 7
    weights = first.state_dict()
    same = [torch.equal(v, weights[k]) for k, v in again.state_dict().items() if not k.startswith("doubt.")]
    assert same and all(same)


def test_evaluate_reports_and_draws(files, tmp_path, capsys):
    folder, _ = files
    words = ["evaluate", folder / "sure.ckpt", folder / "toy.h5", "--json", tmp_path / "e.json"]
    main([str(w) for w in [*words, "--plot", tmp_path / "doubt.png"]])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "e.json").read_text())["doubt"]
    assert found["n_molecules"] == 3 and 0 <= found["frontier_coverage_1_sigma"] <= found["frontier_coverage_2_sigma"]
    assert "share of errors within 2 sigma" in printed and "doubt.png" in printed
    assert (tmp_path / "doubt.png").read_bytes().startswith(b"\x89PNG")
    # by hand, from the predictions
    predictor, error, sigma = schnorb_t.load(folder / "sure.ckpt", "cpu"), [], []
    with Store(folder / "toy.h5") as store:
        for i in store.indices("test"):
            record = store[i]
            x = predictor.predict(geometries()[i])
            n = x.n_occupied
            from scipy.linalg import eigh

            wanted = eigh(record.hamiltonian, record.overlap, eigvals_only=True)
            error += list(np.abs(x.orbital_energies - wanted)[: n + 1])
            sigma += list(x.orbital_energy_spread[: n + 1])
    assert found["n_levels"] == len(error)
    assert found["coverage_1_sigma"] == pytest.approx(np.mean(np.array(error) <= sigma), abs=1e-9)
    message = fails(capsys, "evaluate", folder / "toy.ckpt", folder / "toy.h5", "--plot", tmp_path / "x.png")
    assert "schnorb_t calibrate adds it" in message and not (tmp_path / "x.png").exists()


def test_predict_names_what_is_beyond_the_threshold(files, tmp_path, capsys):
    folder, _ = files
    write(tmp_path / "m.xyz", geometries()[:4])
    predictor = schnorb_t.load(folder / "sure.ckpt", "cpu")
    doubt = np.array([predictor.predict(a).doubt for a in geometries()[:4]])
    threshold = 0.5 * sum(np.sort(doubt)[-2:]) if np.ptp(doubt) else 0.5 * doubt[0]
    words = [
        "predict",
        folder / "sure.ckpt",
        tmp_path / "m.xyz",
        "-o",
        tmp_path / "o.h5",
        "--json",
        tmp_path / "o.json",
    ]
    main([str(w) for w in [*words, "--doubt-above", threshold]])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "o.json").read_text())
    assert [x["structure"] for x in found["doubtful"]] == [int(np.argmax(doubt))]
    assert found["doubt"]["largest_ev"] == pytest.approx(doubt.max(), rel=1e-3)
    assert found["doubt"]["median_ev"] == pytest.approx(np.median(doubt), rel=1e-3)
    assert [x["doubt_ev"] for x in found["levels"]] == pytest.approx(list(doubt), rel=1e-3)
    assert "1 of 4 structures" in printed and f"({found['doubtful'][0]['name']})" in printed


def test_what_is_refused(files, tmp_path, capsys):
    folder, _ = files
    out = tmp_path / "o.ckpt"
    assert "two or more" in fails(
        capsys, "calibrate", folder / "toy.ckpt", folder / "toy.h5", "-o", out, "--members", 1
    )
    from schnorb_t.data.store import set_splits

    data = tmp_path / "no_val.h5"
    data.write_bytes((folder / "toy.h5").read_bytes())
    with Store(data) as store:
        names = [str(n) for n in store.names]
    set_splits(data, dict.fromkeys(names, "train"))
    with pytest.raises(UserError, match="no molecule in split 'val'"):
        calibrate_model(str(folder / "toy.ckpt"), data, output=out)
    assert not out.exists()
