"""``benchmarks/gpu.py`` in small: on the CPU alone, and the parts that compare devices with a device and itself."""

import json

import pytest
import torch

from schnorb_t.data.store import Store
from schnorb_t.training.checkpoint import load_model
from tests.benchmark_scripts import benchmark_script
from tests.training.examples import toy_files


@pytest.fixture(scope="module")
def gpu():
    with benchmark_script("gpu") as module:
        yield module


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return toy_files(tmp_path_factory.mktemp("gpu"))


def test_on_the_cpu_alone(gpu, files, tmp_path, monkeypatch, capsys):
    out, usual_time = tmp_path / "gpu", gpu.timed
    monkeypatch.setattr(gpu, "SAMPLE", files[1])
    monkeypatch.setattr(gpu, "MATRICES", ((6, 8),))
    monkeypatch.setattr(gpu, "timed", lambda work, device, seconds: usual_time(work, device, 0.0))
    small = {"irreps": "4x0e+4x1o+2x1e+2x2e", "interactions": 1, "pair_channels": [4, 2, 4, 2], "hidden": 8}
    usual = gpu.MatrixModule
    monkeypatch.setattr(gpu, "MatrixModule", lambda basis: usual(basis, small))
    arguments = ["--model", files[0], "--cpu-only", "--seconds", "60", "--molecules", "3", "--batch-sizes", "2", "500"]
    arguments += ["--training-batch", "4", "--output", out]
    monkeypatch.setattr("sys.argv", ["gpu.py", *map(str, arguments)])
    gpu.main()
    result = json.loads(out.with_suffix(".json").read_text())
    assert result["gpu"] is None and out.with_suffix(".png").stat().st_size > 5_000
    assert list(result["prediction"]["cpu"]) == ["2"] and sum(result["prediction"]["cpu"]["2"]["shares"].values()) == (
        pytest.approx(1)
    )
    rows = result["training"]["cpu"]
    assert list(rows) == ["float32", "bf16"] and rows["float32"]["level_cost_mev"] < rows["bf16"]["level_cost_mev"]
    assert result["eigensolvers"]["cpu"][0]["jacobi_error"] < 1e-10
    text = " ".join(result["left_out"])
    for what in ("no CUDA device", "batches of 500", "TF32 on the CPU"):
        assert what in text
    assert "left out: agreement" in capsys.readouterr().out


def test_a_device_agrees_with_itself_and_a_changed_model_does_not(gpu, files):
    store = Store(files[1])
    model, records = load_model(files[0])[0].eval(), [store[i] for i in (0, 3)]
    same = gpu.agreement(model, records, torch.device("cpu"))
    assert set(same) == {"hamiltonian", "overlap", "orbital energies", "gradient"} and max(same.values()) == 0.0
    usual = gpu.results(model, records, torch.device("cpu"))
    with torch.no_grad():
        model.two_centre.onsite.add_(1e-3)
    other = gpu.results(model, records, torch.device("cpu"))
    assert (usual["hamiltonian"] - other["hamiltonian"]).abs().max() > 1e-4
    assert usual["gradient"].abs().max() > 1e-2


def test_jacobi(gpu):
    a = torch.randn(5, 12, 12, dtype=torch.float64)
    a = a + a.mT
    assert (gpu.jacobi(a) - torch.linalg.eigvalsh(a)).abs().max() < 1e-11
    with pytest.raises(ValueError, match="even"):
        gpu.jacobi(torch.eye(3)[None])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(gpu, files):
    store = Store(files[1])
    model, records = load_model(files[0])[0].eval(), [store[i] for i in range(4)]
    device = torch.device("cuda")
    assert max(gpu.agreement(model, records, device).values()) < 1e-5
    assert set(gpu.synchronisation(model.to(device), records, device).values()) == {"none"}
