"""Run the commands of data_prep/ as a user does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from schnorb_t.data.store import Store

ROOT = Path(__file__).resolve().parents[2]


def command(script: str, *args) -> list[str]:
    return [sys.executable, str(ROOT / "data_prep" / script), *map(str, args)]


def start(script: str, *args) -> subprocess.Popen:
    env = {**os.environ, "COLUMNS": "200"}
    return subprocess.Popen(command(script, *args), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(script: str, *args) -> subprocess.CompletedProcess:
    env = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command(script, *args), env=env, capture_output=True, text=True, timeout=300)


def assert_same_content(first: Path, second: Path, tolerance: float = 0.0) -> None:
    """Every molecule and failure of two stores is the same (bitwise unless told otherwise), and in the same order."""
    with Store(first) as a, Store(second) as b:
        assert a.header == b.header
        assert a.names.tolist() == b.names.tolist() and a.failures == b.failures
        for i in range(len(a)):
            x, y = a[i], b[i]
            for name in ("atomic_numbers", "positions", "hamiltonian", "overlap", "large_basis_energies"):
                assert np.abs(getattr(x, name) - getattr(y, name)).max() <= tolerance, (x.name, name)
            assert (x.total_energy, x.n_electrons, x.group, x.split, x.order) == (
                y.total_energy,
                y.n_electrons,
                y.group,
                y.split,
                y.order,
            )
