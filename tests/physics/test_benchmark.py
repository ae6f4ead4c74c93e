"""The benchmark runs from its command line and tells consistent numbers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from schnorb_t.basis import Basis
from schnorb_t.data.store import Header, MoleculeRecord, StoreWriter
from tests.physics.molecules import random_batch
from tests.physics.skf_sets import write_set

ROOT = Path(__file__).resolve().parents[2]


def test_benchmark(tmp_path):
    pytest.importorskip("pyscf")
    basis = Basis("test", {1: (0,), 6: (0, 1)})
    header = Header(basis, "test", {"functional": "none"}, {})
    with StoreWriter(tmp_path / "data.h5", header) as writer:
        for k in range(5):
            z = np.array([6] + [1] * 4)
            positions = np.array([[0, 0, 0], *(0.63 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]))])
            h, s, _ = random_batch([8], seed=k)
            levels = np.linspace(-1, 1, 8)
            writer.add(
                MoleculeRecord(
                    z, positions * (1 + 0.01 * k), h[0].numpy(), s[0].numpy(), levels, -1.0, 8, f"m{k}", f"g{k}"
                )
            )
    (tmp_path / "skf").mkdir()
    write_set(tmp_path / "skf", hamiltonian="wolfsberg-helmholz")
    command = [
        sys.executable,
        ROOT / "benchmarks/physics.py",
        "--data",
        tmp_path / "data.h5",
        "-n",
        "5",
        "--repeats",
        "1",
    ]
    command += ["--skf", tmp_path / "skf", "--out", tmp_path / "out", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["n_molecules"] == 5 and report["orbitals_max"] == 8
    assert {"orbital energies", "band-pass loss", "self-consistent charges"} <= set(report["ms_per_molecule"])
    for row in report["ms_per_molecule"].values():
        assert row["1"]["forward_ms"] > 0 and row["loop"]["forward_ms"] > 0
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_missing_data_is_told(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/physics.py", "--data", tmp_path / "nothing.h5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "nothing.h5" in done.stderr and "Traceback" not in done.stderr
