import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.linalg
from ase.build import molecule
from ase.io import write

from schnorb_t.data.store import Store
from tests.data_prep.commands import ROOT, assert_same_content, run
from tests.shared_data import shared_data

pytest.importorskip("pyscf")


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """H2, HF, OH labelled in the full basis and directly in wqao."""
    folder = tmp_path_factory.mktemp("project")
    write(folder / "m.xyz", [molecule(n) for n in ("H2", "HF", "OH", "H2O")], format="extxyz")
    for target in ("full", "wqao"):
        done = run(
            "label_pyscf.py", folder / "m.xyz", "-o", folder / f"{target}.h5", "--target", target,
            "--workers", 1, "--basis", "6-31G*",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


def test_projecting_later_is_labelling_so_at_once(labels, tmp_path):
    done = run("project.py", labels / "full.h5", "-o", tmp_path / "p.h5", "--target", "wqao")
    assert done.returncode == 0, done.stderr
    assert "3 molecules, 1 failed" in done.stdout
    with Store(tmp_path / "p.h5") as a, Store(labels / "wqao.h5") as b:
        assert a.header == b.header and a.names.tolist() == b.names.tolist() and a.failures == b.failures
        for i in range(len(a)):
            assert np.abs(a[i].hamiltonian - b[i].hamiltonian).max() < 1e-12
            assert np.abs(a[i].overlap - b[i].overlap).max() < 1e-12
            assert a[i].contraction is None


@pytest.mark.parametrize("target", ["iao", "quambo", "wqao"])
def test_the_contraction_leads_from_the_full_file_to_the_projected_one(labels, tmp_path, target):
    output = tmp_path / "p.h5"
    run("project.py", labels / "full.h5", "-o", output, "--target", target, "--keep-contraction")
    with Store(output) as small, Store(labels / "full.h5") as full:
        for i in range(len(small)):
            a = small[i].contraction
            assert np.abs(a.T @ full[i].hamiltonian @ a - small[i].hamiltonian).max() < 1e-12
            assert np.abs(a.T @ full[i].overlap @ a - small[i].overlap).max() < 1e-12


def test_projected_files_cannot_be_projected_again(labels, tmp_path):
    refused = run("project.py", labels / "wqao.h5", "-o", tmp_path / "p.h5")
    assert refused.returncode == 2 and "holds wqao matrices already" in refused.stderr
    refused = run("project.py", labels / "full.h5", "-o", labels / "full.h5")
    assert refused.returncode == 2 and "same file" in refused.stderr
    assert not (tmp_path / "p.h5").exists()


def test_the_benchmark_tells_what_each_projection_costs(labels, tmp_path):
    script = ROOT / "benchmarks" / "minimal_basis.py"
    arguments = [labels / "full.h5", "--smooth", "1", "--json", tmp_path / "b.json", "--png", tmp_path / "b.png"]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "b.json").read_text())
    assert result["n_molecules"] == 3 and (tmp_path / "b.png").stat().st_size > 1000
    v = result["variants"]
    assert v["wqao"]["lumo_error_mean_ev"] < v["power 1"]["lumo_error_mean_ev"] < v["quambo"]["lumo_error_mean_ev"]
    assert max(x["occupied_error_max_ev"] for x in v.values()) < 1e-9
    assert max(x["covariance_worst"] for x in v.values()) < 1e-9
    assert all(0.4 < p["half_over_whole_step"] < 0.62 for p in result["paths"].values())


@pytest.fixture(scope="module")
def part_of_qm9(tmp_path_factory):
    """Three molecules of the shared labels, one of each split."""
    source = shared_data("qm9/labels_b3lyp_def2svp.h5")
    path = tmp_path_factory.mktemp("qm9") / "labels.h5"
    with h5py.File(source) as old, h5py.File(path, "w") as new:
        new.attrs.update(old.attrs)
        keys = [
            next(k for k in old if low <= old[k].attrs["rank"] < high) for low, high in ((0, 60), (60, 100), (100, 400))
        ]
        for key in keys:
            old.copy(key, new)
    return path


def test_conversion_keeps_split_energies_and_names(part_of_qm9, tmp_path):
    for target in ("full", "wqao"):
        done = run("convert_labels.py", part_of_qm9, "-o", tmp_path / f"{target}.h5", "--target", target)
        assert done.returncode == 0, done.stderr
    with h5py.File(part_of_qm9) as old, Store(tmp_path / "full.h5") as full, Store(tmp_path / "wqao.h5") as small:
        assert full.splits.tolist() == small.splits.tolist() == ["test", "val", "train"]
        for i, key in enumerate(sorted(old)):
            group = old[key]
            name = f"qm9:{group.attrs['qm9_index']}"
            for record in (full[i], small[i]):
                assert record.name == record.group == name and record.order == group.attrs["rank"]
                assert record.total_energy == group.attrs["energy"]
                assert np.abs(record.large_basis_energies - group["mo_energy"][:]).max() < 1e-9
            n = small[i].n_electrons // 2
            for record, count in ((full[i], None), (small[i], n)):
                e = scipy.linalg.eigh(record.hamiltonian, record.overlap, eigvals_only=True)[:count]
                assert np.abs(e - group["mo_energy"][:][: len(e)]).max() < 1e-9
    run("project.py", tmp_path / "full.h5", "-o", tmp_path / "later.h5")
    assert_same_content(tmp_path / "later.h5", tmp_path / "wqao.h5", 1e-11)


def test_foreign_files_are_refused(part_of_qm9, tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")
    refused = run("convert_labels.py", tmp_path / "text.h5", "-o", tmp_path / "o.h5")
    assert refused.returncode == 2 and "text.h5: cannot be read as HDF5" in refused.stderr
    with h5py.File(tmp_path / "other.h5", "w") as f:
        f.attrs["level"] = "HF/STO-3G"
    refused = run("convert_labels.py", tmp_path / "other.h5", "-o", tmp_path / "o.h5")
    assert refused.returncode == 2 and "not understood" in refused.stderr and not (tmp_path / "o.h5").exists()
