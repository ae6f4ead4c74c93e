"""``benchmarks/throughput.py`` on a small model, and that both devices predict the same."""

import json

import numpy as np
import pytest
import torch

import schnorb_t
from schnorb_t.data.store import Store
from tests.benchmark_scripts import benchmark_script
from tests.training.examples import fitted_model, geometries, toy_files


@pytest.fixture(scope="module")
def throughput():
    with benchmark_script("throughput") as module:
        yield module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("throughput")
    return toy_files(folder)


def test_rates_of_every_batch_size(throughput, files, tmp_path, monkeypatch, capsys):
    checkpoint, data = files
    out = tmp_path / "rates"
    arguments = ["--model", checkpoint, "--data", data, "--device", "cpu", "--pyscf", "0", "--output", out]
    monkeypatch.setattr("sys.argv", ["throughput.py", *map(str, arguments)])
    throughput.main()
    result = json.loads(out.with_suffix(".json").read_text())
    rows = result["devices"]["cpu"]["batch_sizes"]
    assert list(rows) == ["1", "8", "64", "256"] and result["molecules"] == 12
    for row in rows.values():
        assert set(row["seconds_per_molecule"]) == {"batch", "network", "assembly", "eigenproblem"}
        assert row["molecules_per_second"] == pytest.approx(1 / sum(row["seconds_per_molecule"].values()))
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "eigenproblem" in capsys.readouterr().out


def test_only_molecules_of_one_size_beside_xtb(throughput, files, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tblite")
    checkpoint, data = files
    out = tmp_path / "two"
    arguments = ["--model", checkpoint, "--data", data, "--device", "cpu", "--pyscf", "0", "--xtb", "2"]
    arguments += ["--heavy-atoms", "2", "--output", out]
    monkeypatch.setattr("sys.argv", ["throughput.py", *map(str, arguments)])
    throughput.main()
    result = json.loads(out.with_suffix(".json").read_text())
    # HCN, C2H4, CH3OH, C2H2, H2CO, C2H6
    assert result["molecules"] == 6 and len(result["xtb"]["seconds"]) == 2
    assert result["xtb"]["molecules_per_second"] == pytest.approx(2 / sum(result["xtb"]["seconds"]))
    assert "GFN2-xTB" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["throughput.py", *map(str, arguments[:-4]), "--heavy-atoms", "40"])
    with pytest.raises(throughput.UserError, match="no molecule with 40 heavy atoms"):
        throughput.main()


def test_difference_of_two_devices(throughput, files):
    _, data = files
    store = Store(data)
    records = [store[i] for i in range(4)]
    model = fitted_model(store)
    same = throughput.compare_devices(model, records, torch.device("cpu"))
    assert set(same) == {"hamiltonian", "overlap", "orbital_energies"} and max(same.values()) == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cpu_and_gpu_predict_the_same(files):
    checkpoint, _ = files
    structures = geometries()
    cpu, gpu = (schnorb_t.load(checkpoint, device=d).predict(structures) for d in ("cpu", "cuda"))
    for a, b in zip(cpu, gpu, strict=True):
        for what in ("hamiltonian", "overlap", "orbital_energies"):
            x, y = getattr(a, what), getattr(b, what)
            assert np.abs(x - y).max() < 1e-5 * np.abs(x).max(), what
