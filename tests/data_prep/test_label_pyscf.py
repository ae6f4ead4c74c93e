"""The labeller as a user runs it: resumed after kill -9, bad input, failures with reasons."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

from schnorb_t.data.store import Store, journal_path
from tests.data_prep.commands import assert_same_content, run, start
from tests.shared_data import shared_data

pytest.importorskip("pyscf")
SMALL = ("--basis", "6-31G", "--grid-level", "0")


@pytest.fixture(scope="module")
def water(tmp_path_factory):
    """24 geometries of water and one OH, and their undisturbed labels."""
    folder = tmp_path_factory.mktemp("water")
    rng = np.random.default_rng(0)
    frames = [molecule("H2O") for _ in range(24)]
    for atoms in frames:
        atoms.positions += rng.normal(scale=0.03, size=(3, 3))
    frames.insert(5, molecule("OH"))
    write(folder / "water.xyz", frames, format="extxyz")
    done = run("label_pyscf.py", folder / "water.xyz", "-o", folder / "whole.h5", "--workers", 2, *SMALL)
    assert done.returncode == 0, done.stderr
    return folder / "water.xyz", folder / "whole.h5", done


def children(pid: int) -> list[int]:
    """Worker processes of a running labeller."""
    out = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                out.append(int(child))
        except FileNotFoundError:
            pass
    return out


def gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def grown(path: Path, beyond: int) -> bool:
    return path.exists() and path.stat().st_size > beyond


def test_what_an_undisturbed_run_writes(water):
    structures, whole, done = water
    with Store(whole) as store:
        assert len(store) == 24 and store.target == "wqao" and store.basis.projected
        assert [(n, k) for n, _, k in store.failures] == [("water:5", 5)]
        assert store.failures[0][1].startswith("open shell: 9 electrons, an odd number")
        assert store.level["functional"] == "B3LYP" and store.level["basis"] == "6-31G"
        assert len(set(store.groups)) == 1  # geometries of one molecule
        record = store[3]
        e = scipy.linalg.eigh(record.hamiltonian, record.overlap, eigvals_only=True)
        assert np.abs(e[:5] - record.large_basis_energies[:5]).max() < 1e-10
    assert "24 molecules, 1 failed" in done.stdout and "water:5: open shell: 9 electrons" in done.stdout


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds worker processes through /proc")
def test_killed_three_times_the_file_is_that_of_an_undisturbed_run(water, tmp_path):
    structures, whole, _ = water
    output = tmp_path / "labels.h5"
    arguments = (structures, "-o", output, "--workers", 2, *SMALL)
    journal = journal_path(output)
    for _ in range(2):  # the parent, twice: its workers must not live on
        size = journal.stat().st_size if journal.exists() else 0
        process = start("label_pyscf.py", *arguments)
        wait_for(lambda before=size: grown(journal, before + 6000))
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda pids=workers: all(gone(pid) for pid in pids))
        assert not output.exists()
    process = start("label_pyscf.py", *arguments)  # then a worker
    wait_for(lambda: children(process.pid) or process.poll() is not None)
    for pid in children(process.pid)[:1]:
        os.kill(pid, signal.SIGKILL)
    assert process.wait(120) == 0
    assert not journal.exists()
    assert_same_content(output, whole)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds worker processes through /proc")
def test_forty_qm9_molecules_killed_twice(tmp_path):
    """The projected file passes the store's check."""
    options = ("--target", "full", "--workers", 2, *SMALL)
    structures = tmp_path / "qm9.xyz"
    write(structures, read(shared_data("qm9/qm9_first100_all15properties.xyz"), ":40"), format="extxyz")
    whole = run("label_pyscf.py", structures, "-o", tmp_path / "whole.h5", *options)
    assert whole.returncode == 0 and "40 molecules, 0 failed" in whole.stdout, whole.stdout + whole.stderr
    output = tmp_path / "labels.h5"
    for _ in range(2):
        size = journal_path(output).stat().st_size if journal_path(output).exists() else 0
        process = start("label_pyscf.py", structures, "-o", output, *options)
        wait_for(lambda before=size: grown(journal_path(output), before + 40_000))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run("label_pyscf.py", structures, "-o", output, *options).returncode == 0
    assert_same_content(output, tmp_path / "whole.h5")
    assert run("project.py", output, "-o", tmp_path / "wqao.h5").returncode == 0
    check = [sys.executable, "-m", "schnorb_t.data.check", str(tmp_path / "wqao.h5")]
    assert subprocess.run(check, capture_output=True, timeout=120).returncode == 0


def test_a_finished_file_is_left_as_it_is(water):
    structures, whole, _ = water
    before = whole.read_bytes()
    again = run("label_pyscf.py", structures, "-o", whole, *SMALL)
    assert again.returncode == 0 and "25 molecules are there already" in again.stderr
    assert whole.read_bytes() == before


@pytest.mark.parametrize(
    "other", [("--target", "iao"), ("--functional", "PBE"), ("--basis", "STO-3G"), ("--grid-level", "1")]
)
def test_two_kinds_of_labels_never_share_a_file(water, other):
    structures, whole, _ = water
    before = whole.read_bytes()
    refused = run("label_pyscf.py", structures, "-o", whole, *SMALL, *other)
    assert refused.returncode == 2 and "holds molecules of another kind" in refused.stderr
    assert "Traceback" not in refused.stderr and whole.read_bytes() == before


def test_the_target_may_be_an_atomic_orbital_basis(tmp_path):
    write(tmp_path / "h2.xyz", molecule("H2"))
    done = run("label_pyscf.py", tmp_path / "h2.xyz", "-o", tmp_path / "h2.h5", "--target", "6-31G")
    assert done.returncode == 0, done.stderr
    with Store(tmp_path / "h2.h5") as store:
        assert store.target == "full" and store.basis.name == "6-31G" and not store.basis.projected
        record = store[0]
        assert record.hamiltonian.shape == (4, 4)
        e = scipy.linalg.eigh(record.hamiltonian, record.overlap, eigvals_only=True)
        assert np.abs(e - record.large_basis_energies).max() < 1e-12


BAD = {
    "position of atom 1 (H) is NaN": Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]),
    "atoms 0 (H) and 1 (H) overlap": Atoms("H2", [[0, 0, 0], [0, 0, 0.05]]),
    "is no element": Atoms("XH", [[0, 0, 0], [0, 0, 1.0]]),
}


def test_bad_structures_are_named_before_any_work(tmp_path):
    write(tmp_path / "bad.xyz", [molecule("H2"), *BAD.values()], format="extxyz")
    arguments = (tmp_path / "bad.xyz", "-o", tmp_path / "bad.h5", *SMALL)
    refused = run("label_pyscf.py", *arguments)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    for i, message in enumerate(BAD, 1):
        assert f"structure {i} (bad:{i}): " in refused.stderr and message in refused.stderr
    assert not (tmp_path / "bad.h5").exists() and not journal_path(tmp_path / "bad.h5").exists()
    done = run("label_pyscf.py", *arguments, "--skip-bad")
    assert done.returncode == 0, done.stderr
    with Store(tmp_path / "bad.h5") as store:
        assert store.names.tolist() == ["bad:0"]
        assert [name for name, _, _ in store.failures] == ["bad:1", "bad:2", "bad:3"]
        for (_, reason, _), message in zip(store.failures, BAD, strict=True):
            assert message in reason


def test_a_molecule_that_fails_is_recorded_and_can_be_tried_again(tmp_path):
    write(tmp_path / "a.xyz", [molecule("H2O"), molecule("H2")], format="extxyz")
    arguments = (tmp_path / "a.xyz", "-o", tmp_path / "a.h5", "--workers", 1, *SMALL)
    done = run("label_pyscf.py", *arguments, "--max-cycle", 5)
    assert done.returncode == 0 and "a:0: SCF not converged in 5 cycles" in done.stdout
    with Store(tmp_path / "a.h5") as store:
        assert store.names.tolist() == ["a:1"]
        assert store.failures == [("a:0", "SCF not converged in 5 cycles", 0)]
    again = run("label_pyscf.py", *arguments)
    assert "2 molecules are there already" in again.stderr and "1 molecules, 1 failed" in again.stdout
    again = run("label_pyscf.py", *arguments, "--retry-failed")
    assert again.returncode == 0 and "2 molecules, 0 failed" in again.stdout
    with Store(tmp_path / "a.h5") as store:
        assert store.names.tolist() == ["a:0", "a:1"] and not store.failures


@pytest.mark.parametrize(
    "extra,message",
    [
        (("--functional", "B3LIP"), "functional 'B3LIP'"),
        (("--basis", "no-such-basis"), "basis 'no-such-basis'"),
        (("--workers", "0"), "at least one process"),
        (("--target", "STO-3G", "--basis", "6-31G"), "contradicts"),
    ],
)
def test_impossible_options_are_named(tmp_path, extra, message):
    write(tmp_path / "h2.xyz", molecule("H2"))
    refused = run("label_pyscf.py", tmp_path / "h2.xyz", "-o", tmp_path / "x.h5", *extra)
    assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_file(water, tmp_path):
    distributed = pytest.importorskip("distributed")
    structures, whole, _ = water
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)
    ) as cluster:
        pids = [worker.pid for worker in cluster.workers.values()]
        output = tmp_path / "dask.h5"
        process = start("label_pyscf.py", structures, "-o", output, "--scheduler", cluster.scheduler_address, *SMALL)
        wait_for(lambda: grown(journal_path(output), 6000))
        os.kill(pids[0], signal.SIGKILL)
        assert process.wait(120) == 0
    assert_same_content(output, whole)


@pytest.mark.slow
def test_scf_from_a_model_gives_the_same_labels(tmp_path):
    """Ethanol in def2-SVP, begun from PySCF's guess and from the package's model."""
    atoms = molecule("CH3CH2OH")
    write(tmp_path / "ethanol.xyz", atoms, format="extxyz")
    for name, more in (("own", ()), ("model", ("--guess", "def2svp"))):
        done = run("label_pyscf.py", tmp_path / "ethanol.xyz", "-o", tmp_path / f"{name}.h5", "--workers", 1, *more)
        assert done.returncode == 0, done.stderr
    own, model = (Store(tmp_path / f"{name}.h5")[0] for name in ("own", "model"))
    assert abs(own.total_energy - model.total_energy) < 1e-8
    assert 0 < np.abs(own.hamiltonian - model.hamiltonian).max() < 1e-4  # another way to the same place


def test_a_model_that_does_not_know_an_element_is_refused(tmp_path):
    write(tmp_path / "salt.xyz", molecule("CH3SH"), format="extxyz")
    done = run("label_pyscf.py", tmp_path / "salt.xyz", "-o", tmp_path / "salt.h5", "--guess", "def2svp")
    assert done.returncode == 2 and "does not know S" in done.stderr and not (tmp_path / "salt.h5").exists()
