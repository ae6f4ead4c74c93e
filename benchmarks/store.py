"""The store at QM9's scale: write, check and sample N synthetic molecules; every stage in a process of its own.

    python benchmarks/store.py                    # 100,000 molecules, about 2 GB of disk while it runs
    python benchmarks/store.py -n 20000 --folder /scratch

Prints a table with rates, opening time and peak memory at 1,000 and at N molecules; writes JSON and a PNG.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from schnorb_t.basis import Basis
from schnorb_t.data.check import check
from schnorb_t.data.store import Header, MoleculeRecord, Store, StoreWriter
from schnorb_t.errors import run_command
from schnorb_t.files import atomic_write, write_text

BASIS = Basis("wqao", {1: (0,), 6: (0, 0, 1), 7: (0, 0, 1), 8: (0, 0, 1)}, projected=True)
HEADER = Header(
    BASIS,
    "wqao",
    {"functional": "b3lyp", "basis": "def2-svp", "synthetic": "random matrices of QM9's sizes"},
    {"numpy": np.__version__},
)
LARGE_BASIS = np.zeros(9, dtype=np.int64)
LARGE_BASIS[[1, 6, 7, 8]] = 5, 14, 14, 14  # def2-SVP


@lru_cache(maxsize=256)
def _frame(m: int) -> tuple[np.ndarray, np.ndarray]:
    """A positive definite S0 and vectors X with X^T S0 X = 1, both [m, m]."""
    random = np.random.default_rng(m)
    factor = np.eye(m) + 0.3 * random.normal(size=(m, m)) / np.sqrt(m)
    s0 = factor @ factor.T
    return s0, np.linalg.solve(factor.T, np.linalg.qr(random.normal(size=(m, m)))[0])


def synthetic_molecule(i: int) -> MoleculeRecord:
    """Molecule i: composition like QM9's (9 heavy atoms, 18 +- 3 atoms), random but consistent H, S and levels."""
    random = np.random.default_rng([2026, i])
    n_heavy = 9 if random.random() < 0.85 else int(random.integers(5, 9))
    heavy = random.choice([6, 7, 8], n_heavy, p=[0.70, 0.12, 0.18])
    n_hydrogen = int(np.clip(np.rint(random.normal(n_heavy, 2.6)), 1, 2 * n_heavy + 2))
    n_hydrogen += int(heavy.sum() + n_hydrogen) % 2  # a closed shell
    z = np.concatenate([heavy, np.ones(n_hydrogen, dtype=np.int64)])
    grid = random.permutation(64)[: len(z)]
    positions = 1.3 * np.stack(np.unravel_index(grid, (4, 4, 4)), axis=1) + random.uniform(-0.2, 0.2, (len(z), 3))
    m, n_occupied = int(BASIS.n_orbitals(z).sum()), int(z.sum()) // 2
    occupied = np.sort(np.concatenate([random.uniform(-1.2, -0.25, n_occupied - n_heavy), -0.5 - heavy**2 / 3.2]))
    levels = np.sort(random.uniform(-0.05, 3.0, int(LARGE_BASIS[z].sum()) - n_occupied))
    small = np.concatenate([occupied, levels[: m - n_occupied]])
    s0, x = _frame(m)
    scale = random.uniform(0.9, 1.1, m)
    overlap = s0 * np.outer(scale, scale)
    back = (s0 @ x) * scale[:, None]  # (X^-1)^T, so that the levels of (H, S) are ``small``
    hamiltonian = (back * small) @ back.T
    return MoleculeRecord(
        z,
        positions,
        0.5 * (hamiltonian + hamiltonian.T),
        overlap,
        np.concatenate([occupied, levels]),
        float(2 * occupied.sum()),
        int(z.sum()),
        f"synthetic:{i}",
        f"molecule {i}",
        "train" if i % 10 else "test",
        i,
    )


# ---- stages, each in a fresh process -----------------------------------------------------------------------------


def write_stage(path: Path, n: int) -> dict:
    """Rates apart for making molecules (not the store's time), adding them, and the merge on closing.

    Before the merge the writer is abandoned, as if it had been killed, and the file taken up again.
    """
    making = adding = 0.0
    writer = StoreWriter(path, HEADER)
    for i in range(n):
        start = time.perf_counter()
        record = synthetic_molecule(i)
        made = time.perf_counter()
        writer.add(record)
        making, adding = making + made - start, adding + time.perf_counter() - made
    writer.abandon()
    start = time.perf_counter()
    writer = StoreWriter(path, HEADER)
    reopening = time.perf_counter() - start
    assert len(writer.known_names) == n
    start = time.perf_counter()
    writer.close()
    merging = time.perf_counter() - start
    return {
        "synthesis_s": making,
        "reopen_s": reopening,
        "add_per_s": n / adding,
        "merge_s": merging,
        "write_per_s": n / (adding + merging),
        "file_mb": path.stat().st_size / 1e6,
    }


def open_stage(path: Path, n: int) -> dict:
    start = time.perf_counter()
    with Store(path) as store:
        constructed = time.perf_counter() - start
        columns = len(store), store.n_atoms, store.n_orbitals, store.splits, store.names
        assert columns[0] == n
    return {"open_s": constructed, "open_with_columns_s": time.perf_counter() - start}


def sample_stage(path: Path, n: int) -> dict:
    """Unpacked molecules in random order from one process."""
    with Store(path) as store:
        order = np.random.default_rng(0).permutation(n)[: min(n, 20000)]
        store[0]
        start = time.perf_counter()
        for i in order:
            record = store[i]
        rate = len(order) / (time.perf_counter() - start)
        expected = synthetic_molecule(int(order[-1]))
        assert np.array_equal(record.hamiltonian, expected.hamiltonian)
    return {"random_access_per_s": rate}


def check_stage(path: Path, n: int) -> dict:
    start = time.perf_counter()
    report = check(path)
    assert not report.errors, report.errors[:3]
    return {"check_per_s": n / (time.perf_counter() - start)}


def continue_stage(path: Path, n: int) -> dict:
    """Add 100 molecules more to the finished file: what a long run pays for one interruption."""
    start = time.perf_counter()
    with StoreWriter(path, HEADER) as writer:
        for i in range(n, n + 100):
            writer.add(synthetic_molecule(i))
    return {"continue_s": time.perf_counter() - start}


def idle_stage(path: Path, n: int) -> dict:
    """The bare process: imports only."""
    return {}


STAGES = {
    "idle": idle_stage,
    "write": write_stage,
    "open": open_stage,
    "sample": sample_stage,
    "check": check_stage,
    "continue": continue_stage,
}


def _child(stage: str, path: Path, n: int, pipe) -> None:
    result = STAGES[stage](path, n)
    result[f"{stage}_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send(result)


def run_stages(folder: Path, n: int) -> dict:
    """All stages for a file of n molecules, one after the other, each in a spawned process."""
    context, results = multiprocessing.get_context("spawn"), {"n_molecules": n}
    path = folder / f"{n}.h5"
    for stage in STAGES:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(stage, path, n, there))
        process.start()
        there.close()
        try:
            results |= here.recv()
        except EOFError:
            raise SystemExit(f"stage {stage} of {n} molecules failed") from None
        process.join()
    path.unlink()
    return results


# ---- report ------------------------------------------------------------------------------------------------------

ROWS = (
    ("add_per_s", "molecules added per second (journal, crash safe)", "{:,.0f}"),
    ("reopen_s", "take up an interrupted file of all molecules, s", "{:.2f}"),
    ("merge_s", "merge on closing, s", "{:.1f}"),
    ("write_per_s", "molecules written per second, all in all", "{:,.0f}"),
    ("file_mb", "file, MB", "{:,.1f}"),
    ("open_s", "opening, s (required < 1)", "{:.4f}"),
    ("open_with_columns_s", "opening and reading all names, sizes, splits, s", "{:.3f}"),
    ("random_access_per_s", "random access, molecules per second (required > 2,000)", "{:,.0f}"),
    ("check_per_s", "checked per second", "{:,.0f}"),
    ("continue_s", "continue a finished file by 100 molecules, s", "{:.1f}"),
    ("idle_peak_mb", "peak memory, imports only, MB", "{:.0f}"),
    ("write_peak_mb", "peak memory, write, MB", "{:.0f}"),
    ("sample_peak_mb", "peak memory, sample, MB", "{:.0f}"),
    ("check_peak_mb", "peak memory, check, MB", "{:.0f}"),
    ("continue_peak_mb", "peak memory, continue, MB", "{:.0f}"),
)


def print_table(runs: list[dict]) -> None:
    table = Table(title=f"Store of synthetic molecules of QM9's sizes ({platform.processor() or platform.machine()})")
    table.add_column("")
    for run in runs:
        table.add_column(f"{run['n_molecules']:,}", justify="right")
    for key, words, pattern in ROWS:
        table.add_row(words, *[pattern.format(run[key]) for run in runs])
    Console().print(table)


def draw(runs: list[dict], path: Path) -> None:
    """Peak memory per stage, and the rates, for both sizes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    memory = ["idle", "write", "open", "sample", "check", "continue"]
    rates = {"add": "add_per_s", "write": "write_per_s", "random access": "random_access_per_s", "check": "check_per_s"}
    for k, run in enumerate(runs):
        at, label = np.arange(len(memory)) + 0.4 * k, f"{run['n_molecules']:,} molecules"
        left.bar(at, [run[f"{stage}_peak_mb"] for stage in memory], 0.38, label=label)
        right.bar(np.arange(len(rates)) + 0.4 * k, [run[key] for key in rates.values()], 0.38, label=label)
    left.set_xticks(np.arange(len(memory)) + 0.2, memory)
    left.set_ylabel("peak memory / MB")
    right.set_xticks(np.arange(len(rates)) + 0.2, rates)
    right.set_ylabel("molecules per second")
    right.axhline(2000, color="gray", linestyle="--", linewidth=1)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    right.annotate("required of random access", (len(rates) - 1, 2000), va="bottom", ha="center", fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=100_000, help="molecules (default 100000)")
    parser.add_argument("--folder", type=Path, help="where the file is written meanwhile (default: a temporary one)")
    parser.add_argument("-o", "--output", type=Path, default=Path("store_benchmark"), help="stem of JSON and PNG")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"  # before the stages' processes load numpy
    folder = Path(tempfile.mkdtemp(prefix="store_benchmark_", dir=arguments.folder))
    try:
        runs = [run_stages(folder, n) for n in (1000, arguments.n)]
    finally:
        shutil.rmtree(folder)
    print_table(runs)
    write_text(Path(f"{arguments.output}.json"), json.dumps(runs, indent=1) + "\n")
    draw(runs, Path(f"{arguments.output}.png"))


if __name__ == "__main__":
    run_command(main)
