"""``benchmarks/positive_definite.py``: eigenvalues and factors against direct computation, and resuming."""

import json

import numpy as np
import pytest
import scipy.linalg
import torch

import schnorb_t
from schnorb_t.data.batch import structures_to_batch
from schnorb_t.nn.constants import today
from schnorb_t.nn.overlap import shrink
from tests.benchmark_scripts import benchmark_script
from tests.training.examples import fitted_model, geometries, write_checkpoint, write_store


@pytest.fixture(scope="module")
def benchmark():
    with benchmark_script("positive_definite") as module:
        yield module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Checkpoint, store and a geometry table of the same twelve molecules."""
    folder = tmp_path_factory.mktemp("positive_definite")
    store = write_store(folder / "toy.h5")
    atoms = geometries()
    positions = np.concatenate([a.positions for a in atoms])
    np.savez(
        folder / "table.npz",
        qm9_index=np.arange(1, len(atoms) + 1),
        n_atoms=[len(a) for a in atoms],
        atomic_numbers=np.concatenate([a.numbers for a in atoms]),
        positions_1e5_angstrom=np.round(positions * 1e5).astype(np.int64),
    )
    return write_checkpoint(folder / "toy.ckpt", fitted_model(store), store), folder / "toy.h5", folder / "table.npz"


def test_a_sweep_goes_on_where_it_stopped(benchmark, files, tmp_path, monkeypatch, capsys):
    checkpoint, data, table = files
    out = tmp_path / "pd"
    seen = []
    original = benchmark.overlap_values
    monkeypatch.setattr(benchmark, "overlap_values", lambda m, x: (seen.append(len(x)), original(m, x))[1])

    def run(*more):
        seen.clear()
        arguments = [checkpoint, table, "--data", data, "--device", "cpu", "--output", out, *more]
        monkeypatch.setattr("sys.argv", ["positive_definite.py", *map(str, arguments)])
        benchmark.main()
        return json.loads(out.with_suffix(".json").read_text())

    distorted = 2 * len(benchmark.STRETCHES) * 3
    first = run("--molecules", "5")
    assert first["swept"] == 5 and sum(seen) == 5 + distorted
    second = run()
    assert second["swept"] == 12 and sum(seen) == 7 + distorted
    group = second["groups"]["table"]
    predictor = schnorb_t.load(checkpoint, "cpu")
    lowest = [np.linalg.eigvalsh(p.overlap)[0] for p in predictor.predict(geometries())]
    # positions of the table are rounded to 1e-5 Å
    assert group["smallest_eigenvalue"] == pytest.approx(min(lowest), rel=1e-3)
    assert group["smallest_on"].startswith(f"qm9:{1 + int(np.argmin(lowest))} ")
    assert group["not_positive_definite"] == 0
    assert {name for name in second["groups"]} == {"table", "stretched, all directions", "stretched, longest axis"}
    assert all(g["smallest_eigenvalue"] > 0 for g in second["groups"].values())
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "smallest eigenvalue" in capsys.readouterr().out


def test_factor_is_the_one_that_was_applied(benchmark, files, monkeypatch):
    """Changes of S blown up until S0 - Q has negative eigenvalues."""
    predictor = schnorb_t.load(files[0], "cpu")
    model, molecules = predictor.model, [(a.numbers, a.positions) for a in geometries()[:6]]
    original = model.blocks

    def blown_up(batch):
        blocks = original(batch)
        return blocks | {"overlap_change": -30.0 * blocks["overlap_change"]}

    monkeypatch.setattr(model, "blocks", blown_up)
    smallest, factor = benchmark.overlap_values(model, molecules)
    assert (smallest > 0).all() and (factor < 1).any()
    for k, (z, x) in enumerate(molecules):
        batch = structures_to_batch([z], [x], model.basis, model.cutoff)
        with torch.no_grad():
            blocks = model.blocks(batch)
        s0, change = (blocks[n].padded()[0].numpy() for n in ("overlap0", "overlap_change"))
        relative = -scipy.linalg.eigh(change, s0, eigvals_only=True)[0]
        expected = float(shrink(torch.tensor(relative), *today().shrink))
        assert factor[k] == pytest.approx(expected, rel=1e-5)
        assert smallest[k] == pytest.approx(np.linalg.eigvalsh(s0 + expected * change)[0], rel=1e-3)


def test_stretching(benchmark):
    positions = np.array([[0.0, 0, 0], [0, 0, 4.0], [0, 1.0, 2.0]])
    longest = benchmark.stretch(positions, 1.3, "longest axis")
    np.testing.assert_allclose(np.ptp(longest, axis=0), [0, 1.0, 5.2], atol=1e-12)
    np.testing.assert_allclose(np.ptp(benchmark.stretch(positions, 0.7, "all directions"), axis=0), [0, 0.7, 2.8])
