"""Tables and pictures at the end of a run."""

import csv
import io
import json
import math

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from schnorb_t.training import report
from schnorb_t.training.evaluation import OrbitalLevels, evaluate_model, test_against_baselines

from .examples import fitted_model, write_store


class Data:
    """What ``test_against_baselines`` and ``write_pictures`` read of a ``MatrixDataModule``."""

    def __init__(self, store):
        self.store, self.cutoff = store, 8.0
        self.split = {name: store.indices(name) for name in ("train", "val", "test")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    store = write_store(folder / "toy.h5")
    model, data, levels = fitted_model(store), Data(store), OrbitalLevels()
    return folder, model, data, test_against_baselines(model, data, levels=levels), levels


def write_log(path, steps=40):
    """As Lightning's CSVLogger writes: one row per event, empty where nothing was logged."""
    names = ["epoch", "step", "lr-AdamW", "train/loss", "val/loss", "val/hamiltonian_mae_eh", "val/homo_mae_eh"]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for step in range(steps):
            writer.writerow({"epoch": step // 10, "step": step, "train/loss": 50 / (step + 1)})
            if step % 10 == 9:
                row = {"val/loss": 60 / (step + 1), "val/hamiltonian_mae_eh": 0.01 / (step + 1)}
                writer.writerow({"epoch": step // 10, "step": step, **row, "val/homo_mae_eh": "nan"})


def printed(metrics) -> str:
    console = Console(file=io.StringIO(), width=120)
    report.print_table(metrics, console=console)
    return console.file.getvalue()


def test_table_has_the_model_first_and_every_number(run):
    *_, metrics, _ = run
    text = printed({"mean_block": metrics["mean_block"], "model": metrics["model"]})
    assert text.index("model") < text.index("mean blocks") and "two-centre" not in text
    line = next(x for x in text.splitlines() if "H on-site" in x)
    shown = [float(x) for x in line.replace("│", " ").split()[3:]]
    wanted = [1e3 * metrics[name]["hamiltonian_onsite_mae_eh"] for name in ("model", "mean_block")]
    assert shown == pytest.approx(wanted, rel=5e-3)
    for what in ("S", "occupied", "HOMO", "LUMO", "gap", "LUMO, large basis", "meV", "mEh", "eigenproblem"):
        assert what in text


def test_table_tells_which_molecules_are_missing(run):
    *_, metrics, _ = run
    broken = {**metrics["model"], "n_without_solution": 2, "homo_mae_ev": math.nan}
    text = printed({"model": metrics["model"], "mean_block": broken})
    assert "2 of 3 molecules is not positive definite" in " ".join(text.split())
    assert next(x for x in text.splitlines() if "HOMO" in x).rstrip("│ ").endswith("-")


def test_json_is_readable_by_every_reader_and_written_in_one_step(tmp_path):
    path = tmp_path / "new" / "test_metrics.json"
    report.write_json(path, {"a": math.nan, "b": [1.5, math.inf], "c": {"n": 3}, "d": np.float64(0.25)})
    assert json.loads(path.read_text(), parse_constant=lambda x: pytest.fail(x)) == {
        "a": None,
        "b": [1.5, None],
        "c": {"n": 3},
        "d": 0.25,
    }
    with pytest.raises(TypeError):
        report.write_json(path, {"a": object()})
    assert json.loads(path.read_text())["c"] == {"n": 3}
    assert [p.name for p in path.parent.iterdir()] == ["test_metrics.json"]


def test_log_of_a_resumed_run_is_joined_by_step(tmp_path):
    write_log(tmp_path / "a.csv", 30)
    write_log(tmp_path / "b.csv", 40)
    log = report.read_log([tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "missing.csv"])
    assert log["train/loss"].shape == (2, 40) and log["train/loss"][1, 4] == 10.0
    assert log["val/loss"][0].tolist() == [9, 19, 29, 39]
    assert "step" not in log and "lr-AdamW" not in log


def test_pictures_of_a_run(run):
    folder, model, data, metrics, levels = run
    write_log(folder / "metrics.csv")
    before = {name: data.split[name].copy() for name in data.split}
    report.write_pictures(folder, model, data, metrics, levels)
    names = {"learning_curve.png", "parity.png", "hamiltonian.png", "report.png"}
    assert {p.name for p in folder.glob("*.png")} == names
    for name in names:
        picture = matplotlib.image.imread(folder / name)
        assert picture.shape[0] > 400 and picture[..., :3].std() > 0.05, f"{name} is blank"
    assert all(np.array_equal(before[name], data.split[name]) for name in before)


def test_pictures_without_test_molecules_or_log(run, tmp_path):
    _, model, data, metrics, _ = run
    data = Data(data.store)
    data.split["test"] = data.split["test"][:0]
    report.write_pictures(tmp_path, model, data, metrics)
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_one_page_as_pdf(run, tmp_path):
    _, model, data, metrics, levels = run
    write_log(tmp_path / "metrics.csv")
    record = data.store[int(data.split["test"][0])]
    example = report.MatrixExample("x", record.atomic_numbers, model.basis, record.hamiltonian, record.hamiltonian)
    report.one_page(tmp_path / "page.pdf", metrics, levels, tmp_path / "metrics.csv", example, "a run")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.csv", "page.pdf"}


def test_parity_needs_no_level_to_be_drawn(tmp_path):
    report.plot_parity(OrbitalLevels(), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").exists()


def test_pictures_show_what_was_evaluated(run):
    _, model, data, metrics, levels = run
    again = OrbitalLevels()
    found = evaluate_model(model, data.store, data.split["test"], levels=again)
    predicted, reference = again.pairs("lumo")
    assert np.abs(predicted - reference).mean() == pytest.approx(found["lumo_mae_eh"], rel=1e-12)
    assert np.array_equal(levels.pairs("lumo"), again.pairs("lumo"))
    assert metrics["model"]["lumo_mae_eh"] == found["lumo_mae_eh"]
