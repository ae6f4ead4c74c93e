"""``benchmarks/learning_curve.py`` and ``benchmarks/losses.py`` on toy molecules: two steps each, and resuming."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from schnorb_t.training.evaluation import baseline_metrics, evaluate_model
from tests.training.examples import ARGUMENTS, write_store

CONFIG = {
    "data": {"path": "elsewhere.h5", "cutoff": ARGUMENTS["cutoff"], "batch_size": 2, "eval_batch_size": 4},
    "model": {
        "network": {k: v for k, v in ARGUMENTS.items() if k != "cutoff"},
        "outputs": [
            {"name": "hamiltonian", "weight": 1000.0},
            {"name": "overlap", "weight": 10000.0},
            {"name": "orbital_energies", "weight": 400.0, "start": 1},  # no epoch is the same at all points
        ],
        "learning_rate": 0.003,
        "warmup_steps": 1,
    },
    "ema": {"decay": 0.9},
    "trainer": {"max_epochs": 7, "gradient_clip_val": 50.0},
}


@pytest.fixture(scope="module")
def benchmarks():
    """Both scripts, imported as they import one another: from their own folder."""
    names = ("learning_curve", "losses")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(variable, "1")
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Configuration and store."""
    folder = tmp_path_factory.mktemp("learning_curve")
    write_store(folder / "toy.h5")
    (folder / "toy.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder / "toy.yaml", folder / "toy.h5"


@pytest.fixture
def run(benchmarks, files, tmp_path, monkeypatch):
    """Runs a script into ``tmp_path / "out"``; gives its JSON, and how many trainings it took."""

    def call(name, *more):
        script, trained = benchmarks[name], []
        original = benchmarks["learning_curve"].train
        with monkeypatch.context() as patch:
            patch.setattr(script, "train", lambda *a: (trained.append(a), original(*a))[1])
            arguments = ["--config", files[0], "--data", files[1], "--output", tmp_path / "out", *more]
            patch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
            script.main()
        return json.loads((tmp_path / "out.json").read_text()), len(trained)

    return call


def test_a_point_is_a_training_of_so_many_steps_on_the_first_molecules(benchmarks, files):
    script = benchmarks["learning_curve"]
    config = script.read_config(files[0])
    module, data, seconds = script.train(config, files[1], 5, 3, 0)
    store = Store(files[1])
    assert data.split["train"].tolist() == store.indices("train")[:5].tolist() and seconds > 0
    assert module.trainer.global_step == 3
    assert [o.name for o in module.outputs] == ["hamiltonian", "overlap"]
    # the schedule ends at these steps, two of them after the one of warming up
    rate = module.trainer.optimizers[0].param_groups[0]["lr"]
    assert rate == pytest.approx(0.003 * module.final_rate, rel=1e-6)
    # what is left are the averaged weights: not those after the last step
    again, _, _ = script.train({**config, "ema": {"decay": 0.0}}, files[1], 5, 3, 0)
    pairs = list(zip(module.model.parameters(), again.model.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in pairs)
    other, _, _ = script.train(config, files[1], 5, 3, 0)
    for a, b in zip(module.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_curve_and_its_baselines(benchmarks, run, files, tmp_path, capsys):
    result, trained = run("learning_curve", "--molecules", 8, 5, "--steps", 2)
    assert trained == 2 and (tmp_path / "out.png").stat().st_size > 10_000
    text = capsys.readouterr().out
    assert "two-centre fit" in text and "limit of the basis" in text
    store = Store(files[1])
    assert [p["molecules"] for p in result["points"]] == [8, 5]
    for point in result["points"]:
        expected = baseline_metrics(store, store.indices("train")[: point["molecules"]], store.indices("test"), 8.0)
        for name in ("two_centre", "mean_block"):
            for key in ("hamiltonian_mae_eh", "overlap_mae"):
                assert point[name][key] == pytest.approx(expected[name][key], rel=1e-9), (name, key)
    # goes on with what is missing
    more, trained = run("learning_curve", "--molecules", 5, 6, "--steps", 2)
    assert trained == 1 and more["points"][:2] == result["points"]
    with pytest.raises(UserError, match=r"other settings \(steps\)"):
        run("learning_curve", "--molecules", 5, "--steps", 3)
    with pytest.raises(UserError, match="8 training molecules"):
        run("learning_curve", "--molecules", 9, "--steps", 2)


def test_the_limit_of_the_basis_is_what_its_labels_leave(benchmarks, files):
    """The large-basis levels of the toy molecules are those of their matrices."""
    store = Store(files[1])
    metrics = benchmarks["learning_curve"].limit_of_basis(store, store.indices("test"), 8.0)
    assert metrics["n_molecules"] == 3 and metrics["hamiltonian_mae_eh"] == 0.0
    assert metrics["homo_mae_eh_large_basis"] < 1e-9 and metrics["lumo_mae_eh_large_basis"] < 1e-9


def test_levels_of_some_molecules_are_not_shown_as_those_of_all(benchmarks):
    script = benchmarks["learning_curve"]
    metrics = {key: 0.5 for _, key, *_ in script.QUANTITIES.values()}
    assert script.cells({**metrics, "n_without_solution": 0}).count("-") == 0
    assert script.cells({**metrics, "n_without_solution": 1}) == ["500.000", "500.000", "-", "-", "-", "-"]


def test_labels_beside_a_panel_do_not_overlap(benchmarks):
    spread = benchmarks["learning_curve"].spread
    assert spread([0.7, 0.1, 0.4], 0.1).tolist() == [0.7, 0.1, 0.4]
    close = spread([0.52, 0.5, 0.9, 0.51], 0.1)
    assert np.diff(close[[1, 3, 0, 2]]).min() > 0.0999 and close[3] == pytest.approx(0.51, abs=1e-3)


def test_every_row_of_losses_trains(benchmarks, run, files, capsys):
    rows = list(benchmarks["losses"].ROWS)
    result, trained = run("losses", "--molecules", 5, "--steps", 2, "--seeds", 0, 1)
    assert trained == 2 * len(rows) == len(result["points"])
    text = capsys.readouterr().out
    assert all(row in text for row in rows) and text.count("  seed 1") == len(rows)
    store = Store(files[1])
    values = {}
    for point in result["points"]:
        assert point["metrics"]["n_molecules"] == len(store.indices("val"))
        values[point["row"], point["seed"]] = point["metrics"]["hamiltonian_mae_eh"]
    assert np.isfinite(list(values.values())).all()
    assert len(set(values.values())) == len(values), "losses and seeds must make a difference"
    # the matrices' losses are the configuration's here: the same training as the learning curve's
    script = benchmarks["learning_curve"]
    module, data, _ = script.train(script.read_config(files[0]), files[1], 5, 2, 1)
    h = evaluate_model(module.model, data.store, data.split["val"])["hamiltonian_mae_eh"]
    assert values["matrices", 1] == pytest.approx(h, rel=1e-6)
    _, trained = run("losses", "--molecules", 5, "--steps", 2, "--seeds", 0, 1)
    assert trained == 0


def test_a_file_that_is_no_configuration(benchmarks, tmp_path):
    script = benchmarks["learning_curve"]
    with pytest.raises(UserError, match="nowhere"):
        script.read_config(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="no configuration"):
        script.read_config(tmp_path / "list.yaml")
