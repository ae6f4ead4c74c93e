"""``benchmarks/scf_guess.py``: real SCF calculations of a tiny molecule, resuming, and what the summary says."""

import json

import numpy as np
import pytest
from ase.build import molecule

from schnorb_t.data.store import StoreWriter
from schnorb_t.errors import UserError
from schnorb_t.reference.labels import header_of, record_of
from schnorb_t.reference.pyscf import Level, basis_from_pyscf, label, versions
from tests.benchmark_scripts import benchmark_script

pytest.importorskip("pyscf")


@pytest.fixture(scope="module")
def benchmark():
    with benchmark_script("scf_guess") as module:
        yield module


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Formaldehyde's labels, as a test molecule."""
    atoms, level = molecule("H2CO"), Level()
    result = label(atoms.numbers, atoms.positions, level)
    large = basis_from_pyscf(level.basis, atoms.numbers)
    path = tmp_path_factory.mktemp("scf_guess") / "full.h5"
    with StoreWriter(path, header_of("full", atoms.numbers, level, versions())) as writer:
        matrices = atoms.numbers, atoms.positions, result.hamiltonian, result.total_energy, result.n_electrons
        writer.add(record_of("full", large, *matrices, "formaldehyde", "formaldehyde", "test"))
    return path


def run(benchmark, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["scf_guess.py", *map(str, arguments)])
    benchmark.main()


def test_cycles_resuming_and_table(benchmark, store, tmp_path, monkeypatch, capsys):
    arguments = "--data", store, "--n", 1, "--larger", "none", "-o", tmp_path / "scf"
    run(benchmark, monkeypatch, *arguments)
    out = capsys.readouterr().out
    assert "1 test molecules" in out and "minimal-basis model, more cycles than the default: nowhere" in out
    result = json.loads((tmp_path / "scf.json").read_text())
    starts = result["summary"]["test molecules"]["starts"]
    cycles = {name: x["cycles"] for name, x in starts.items()}
    assert cycles["exact Fock matrix"] < cycles["minimal-basis model"] < cycles["PySCF default"]
    assert starts["exact Fock matrix"]["misplaced_electrons"] < 1e-6
    assert 1e-3 < starts["minimal-basis model"]["misplaced_electrons"] < 0.1
    assert starts["PySCF default"]["time_ratio"] == 1.0
    assert all(x["largest_energy_difference"] < 1e-7 and not x["not_converged"] for x in starts.values())
    assert (tmp_path / "scf.png").stat().st_size > 10_000
    # a second call runs nothing again; a lost line is run again
    lines = (tmp_path / "scf.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 3
    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "converge", None)
        run(benchmark, patch, *arguments)
    (tmp_path / "scf.jsonl").write_text("".join(line for line in lines if "exact" not in line))
    run(benchmark, monkeypatch, *arguments)
    again = json.loads((tmp_path / "scf.json").read_text())["summary"]["test molecules"]["starts"]
    assert again["exact Fock matrix"]["cycles"] == cycles["exact Fock matrix"]
    assert again["PySCF default"] == starts["PySCF default"]


def test_worse_is_said(benchmark):
    def one(molecule, start, cycles, cpu):
        return benchmark.Run(molecule, benchmark.TEST, 9, 150, start, "", True, cycles, cpu, cpu, 1.0, 0.1, -1.0)

    runs = [
        one("a", benchmark.DEFAULT, 10, 10.0),
        one("a", benchmark.FULL, 12, 11.0),
        one("b", benchmark.DEFAULT, 10, 20.0),
        one("b", benchmark.FULL, 5, 9.0),
        one("c", benchmark.DEFAULT, 10, 10.0),  # its other start is missing
    ]
    part = benchmark.summary(runs)[benchmark.TEST]
    full = part["starts"][benchmark.FULL]
    assert part["molecules"] == 2 and full["cycles"] == 8.5 and full["most_cycles"] == 12
    assert full["more_cycles_than_default"] == ["a (12 against 10)"] and full["fewer_cycles_than_default"] == 1
    assert full["more_time_than_default"] == ["a (12.0 s against 10.0)"]
    assert full["time_ratio"] == pytest.approx(np.mean([12 / 10, 10 / 20]))  # one second of prediction each
    assert part["starts"][benchmark.DEFAULT]["time_ratio"] == 1.0


def test_larger_molecules_are_larger(benchmark):
    pytest.importorskip("rdkit")
    sizes = [int((benchmark.larger_molecule(smiles).numbers > 1).sum()) for smiles in benchmark.LARGER.values()]
    assert min(sizes) >= 12 and max(sizes) <= 20


def test_what_is_refused(benchmark, store, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no larger molecule 'water'"):
        run(benchmark, monkeypatch, "--larger", "water", "-o", tmp_path / "scf")
