"""The benchmark of the store runs: every stage, its table and its picture, on a few molecules."""

from __future__ import annotations

import numpy as np
import pytest

from schnorb_t.data.records import pack
from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def benchmark():
    with benchmark_script("store") as module:
        yield module


def test_synthetic_molecules_have_qm9s_sizes(benchmark):
    records = [benchmark.synthetic_molecule(i) for i in range(300)]
    assert 16 < np.mean([len(r.positions) for r in records]) < 20  # QM9: 18
    assert 45 < np.mean([len(r.hamiltonian) for r in records]) < 60  # QM9 in a minimal basis: 53
    assert 150 < np.mean([len(r.large_basis_energies) for r in records]) < 185  # QM9 in def2-SVP: 167
    for record in records:
        pack(record, benchmark.BASIS)


def test_all_stages(benchmark, tmp_path, capsys):
    path, run = tmp_path / "some.h5", {"n_molecules": 60}
    for stage, function in benchmark.STAGES.items():
        run |= function(path, 60) | {f"{stage}_peak_mb": 1.0}
    assert run["random_access_per_s"] > 0 and run["file_mb"] > 0.5
    benchmark.print_table([run, run])
    assert "random access" in capsys.readouterr().out
    benchmark.draw([run, run], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
