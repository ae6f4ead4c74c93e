"""``import_orca.py`` and ``write_orca.py`` as a user runs them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write

from schnorb_t.data.store import Store, StoreWriter
from schnorb_t.errors import UserError
from schnorb_t.reference.orca import find_jobs, import_orca
from tests.reference.orca_examples import WATER, orca_json, orca_text, run, write_json
from tests.shared_data import shared_data

pytest.importorskip("pyscf")
ROOT = Path(__file__).resolve().parents[2]


def command(name, *arguments, cwd=None, env=None):
    return subprocess.run(
        [sys.executable, str(ROOT / "data_prep" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        timeout=120,
    )


DEF2_SVP = ["orca_ch4_def2svp", "orca_h2o_def2svp", "orca_hcho_def2svp", "scf"]


def test_import_real_files(tmp_path):
    """Four real files of one basis: stored, with every residual printed and in the file."""
    paths = [shared_data(f"orca/json/{name}.json") for name in DEF2_SVP]
    result = command("import_orca.py", *paths, "-o", tmp_path / "orca.h5")
    assert result.returncode == 0, result.stderr
    assert "PySCF overlap" in result.stdout and "4 molecules, 0 refused" in result.stdout
    with Store(tmp_path / "orca.h5") as store:
        assert store.names.tolist() == DEF2_SVP
        assert store.target == "full" and store.level["method"] == "Hartree-Fock(GTOs)"
        assert store.basis.shells == {1: (0, 0, 1), 6: (0, 0, 0, 1, 1, 2), 8: (0, 0, 0, 1, 1, 2)}
        assert store.programs == {"orca": "5.0 - current, 6.1.x"}
        water = store[3]
        assert water.n_electrons == 10 and len(water.large_basis_energies) == 24
        assert water.total_energy == pytest.approx(-75.959335, abs=1e-6)
        assert water.positions[0] == pytest.approx([-3.56626, 1.77639, 0.0], abs=1e-7)
        assert store.groups[1] == store.groups[3] != store.groups[0]  # both are water
    with h5py.File(tmp_path / "orca.h5") as file:
        checks = file["orca_checks"]
        assert checks["name"].asstr()[:].tolist() == DEF2_SVP
        assert (checks["residual/PySCF overlap"][:] <= 1e-8).all()
        assert (checks["residual/PySCF overlap"][:] <= checks["limit/PySCF overlap"][:]).all()
        charges = checks["residual/Mulliken"][:]
        assert np.isnan(charges[:3]).all() and charges[3] < 1e-10
    assert [p.name for p in tmp_path.iterdir()] == ["orca.h5"]


def test_imported_file_can_be_projected(tmp_path):
    paths = [shared_data(f"orca/json/{name}.json") for name in DEF2_SVP]
    import_orca(find_jobs(paths), tmp_path / "orca.h5")
    result = command("project.py", tmp_path / "orca.h5", "-o", tmp_path / "minimal.h5", "--target", "wqao")
    assert result.returncode == 0, result.stderr
    with Store(tmp_path / "minimal.h5") as store, Store(tmp_path / "orca.h5") as full:
        assert len(store) == 4 and not store.failures
        for i in range(4):
            n_occupied = full[i].n_electrons // 2
            import scipy.linalg

            levels = scipy.linalg.eigvalsh(store[i].hamiltonian, store[i].overlap)
            assert np.abs(levels - full[i].large_basis_energies[: len(levels)])[:n_occupied].max() < 1e-9


def test_refusals_are_all_listed_and_nothing_is_written(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    for name in ("json/orca_ch4_sto3g.json", "json/orca_ch4_sto3g_triplet.json", "text/abort.out"):
        shutil.copy(shared_data(f"orca/{name}"), folder)
    (folder / "cut.json").write_bytes(shared_data("orca/json/orca_h2o_sto3g.json").read_bytes()[:5000])
    result = command("import_orca.py", folder, "-o", tmp_path / "orca.h5")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and "3 of 4 files were refused" in result.stderr
    for piece in ("open shell", "ORCA aborted", "cut.json: ends in the middle", "--skip-bad"):
        assert piece in result.stderr
    assert not (tmp_path / "orca.h5").exists()

    result = command("import_orca.py", folder, "-o", tmp_path / "orca.h5", "--skip-bad")
    assert result.returncode == 0, result.stderr
    assert "1 molecules, 3 refused" in result.stdout and "open shell" in result.stdout
    with Store(tmp_path / "orca.h5") as store:
        assert store.names.tolist() == ["orca_ch4_sto3g"]
        assert [name for name, _, _ in store.failures] == ["abort", "cut", "orca_ch4_sto3g_triplet"]
    result = command("import_orca.py", folder, "-o", tmp_path / "orca.h5", "--skip-bad")
    assert result.returncode == 2 and "exists already" in result.stderr


def test_mixtures_are_refused_even_with_skip_bad(tmp_path):
    paths = [shared_data(f"orca/json/{n}.json") for n in ("orca_ch4_sto3g", "orca_ch4_def2svp")]
    result = command("import_orca.py", *paths, "-o", tmp_path / "orca.h5", "--skip-bad")
    assert result.returncode == 2 and "another basis for C" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_levels(tmp_path):
    """ORCA 3.0 and 4.2 without COSX are one level, 5.0 with it another, unless the user vouches."""
    old = [shared_data(f"orca/text/orca{v}_dvb_sp.out") for v in ("3.0", "4.2")]
    new = shared_data("orca/text/orca5.0_dvb_sp.out")
    result = command("import_orca.py", *old, "-o", tmp_path / "a.h5")
    assert result.returncode == 0, result.stderr
    result = command("import_orca.py", *old, new, "-o", tmp_path / "b.h5")
    assert result.returncode == 2 and "another level of theory" in result.stderr and "cosx on | off" in result.stderr
    result = command("import_orca.py", *old, new, "-o", tmp_path / "b.h5", "--level", "B3LYP (VWN5)")
    assert result.returncode == 0, result.stderr
    with Store(tmp_path / "b.h5") as store:
        assert len(store) == 3 and store.level == {"method": "B3LYP (VWN5)", "basis": "STO-3G"}


def test_find_jobs(tmp_path):
    for name in ("a/job.json", "a/job.out", "a/job.property.json", "b/job.json", "b/job.log", "b/job.inp", "c/x.out"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    jobs = find_jobs([tmp_path])
    assert [(j.name, j.output and j.output.name) for j in jobs] == [
        ("a/job", "job.out"),
        ("b/job", "job.log"),
        ("c/x", None),
    ]
    assert find_jobs([tmp_path / "a/job.json", tmp_path / "a/job.out"])[0].output.name == "job.out"
    with pytest.raises(UserError, match="no such file"):
        find_jobs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no \\*.json"):
        find_jobs([tmp_path / "empty"])
    (tmp_path / "c/x.log").write_text("")
    with pytest.raises(UserError, match="two files for the molecule"):
        find_jobs([tmp_path])


def test_interrupted_import_leaves_nothing(tmp_path, monkeypatch):
    paths = [shared_data(f"orca/json/{name}.json") for name in DEF2_SVP]

    def no_room(self, record):
        raise UserError("disk full")

    monkeypatch.setattr(StoreWriter, "add", no_room)
    with pytest.raises(UserError, match="disk full"):
        import_orca(find_jobs(paths), tmp_path / "orca.h5")
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_written(tmp_path):
    path = shared_data("orca/json/orca_ch4_sto3g.json")
    result = command("import_orca.py", path, "-o", tmp_path / "no" / "orca.h5")
    assert result.returncode == 2 and "cannot be written there" in result.stderr


# ---- inputs ------------------------------------------------------------------------------------------------------


def water_file(path: Path) -> Path:
    atoms = Atoms([s for s, _ in WATER], [x for _, x in WATER])
    atoms.info["name"] = "test:water/1"
    write(path, [atoms], format="extxyz")
    return path


FAKE_ORCA = """#!/bin/sh
# stands in for ORCA: prints what it would for the water of these tests, if the input asks for that
grep -q '^! RKS b3lyp def2-SVP NoUseSym TightSCF$' "$1" || { echo "unexpected input"; exit 1; }
cat "$(dirname "$0")/water.out"
cp "$1" "${1%.inp}.gbw"
"""
FAKE_2JSON = """#!/bin/sh
# stands in for orca_2json: it reads NAME.json.conf as the real one does
[ "$2" = -json ] && grep -q MOCoefficients "${1%.gbw}.json.conf" && cp "$(dirname "$0")/water.json" "${1%.gbw}.json"
"""


def test_write_run_import(tmp_path):
    """The whole way, with ORCA played by a script that prints a PySCF calculation in ORCA's layout."""
    mf = run("b3lyp")
    orca = tmp_path / "orca"
    orca.mkdir()
    (orca / "water.out").write_text(orca_text(mf, matrices=False))
    write_json(orca / "water.json", orca_json(mf))
    for name, script in (("orca", FAKE_ORCA), ("orca_2json", FAKE_2JSON)):
        (orca / name).write_text(script)
        (orca / name).chmod(0o755)

    xyz = water_file(tmp_path / "water.xyz")
    runs = tmp_path / "runs"
    result = command("write_orca.py", xyz, "-o", runs, "--method", "b3lyp")
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in runs.iterdir()) == ["run.sh", "test_water_1.inp", "test_water_1.json.conf"]
    ran = subprocess.run(["sh", str(runs / "run.sh")], env={**os.environ, "ORCA": str(orca / "orca")}, timeout=60)
    assert ran.returncode == 0
    again = subprocess.run(["sh", str(runs / "run.sh")], env={**os.environ, "ORCA": "/bin/false"}, timeout=60)
    assert again.returncode == 0  # done already, so nothing runs

    result = command("import_orca.py", runs, "-o", tmp_path / "orca.h5")
    assert result.returncode == 0, result.stderr
    with Store(tmp_path / "orca.h5") as store:
        assert store.names.tolist() == ["test_water_1"] and store.basis.name == "def2-SVP"
        assert store[0].total_energy == pytest.approx(mf.e_tot, abs=1e-7)
        assert np.abs(store[0].positions - read(xyz).positions).max() < 1e-9


def test_run_script_reports_failures(tmp_path):
    command("write_orca.py", water_file(tmp_path / "w.xyz"), "-o", tmp_path / "runs")
    script = ["sh", str(tmp_path / "runs" / "run.sh")]
    failed = subprocess.run(
        script, env={**os.environ, "ORCA": "/bin/false"}, capture_output=True, text=True, timeout=60
    )
    assert failed.returncode == 1 and "ORCA did not finish" in failed.stderr
    missing = subprocess.run(script, env={**os.environ, "ORCA": "/nowhere"}, capture_output=True, text=True, timeout=60)
    assert missing.returncode == 1 and "set ORCA=" in missing.stderr


def test_input_text(tmp_path):
    xyz = water_file(tmp_path / "water.xyz")
    result = command("write_orca.py", xyz, "-o", tmp_path / "runs", "--method", "HF", "--text", "--fock")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "runs" / "test_water_1.inp").read_text()
    assert "! RHF def2-SVP NoUseSym TightSCF\n" in text and "* xyz 0 1\n" in text
    for flag in ("Print[P_Basis] 2", "Print[P_MOs] 1", "Print[P_Overlap] 1"):
        assert flag in text
    rows = [line.split() for line in text.splitlines() if line[:2] in ("O ", "H ")]
    assert np.array(rows)[:, 1:].astype(float) == pytest.approx(np.array([x for _, x in WATER]), abs=1e-10)
    conf = json.loads((tmp_path / "runs" / "test_water_1.json.conf").read_text())
    assert conf["MOCoefficients"] and conf["Basisset"] and conf["JSONFormats"] == ["json"]
    assert {"H", "S"} <= set(conf["1elIntegrals"]) and conf["FockMatrix"] == ["F"]


@pytest.mark.parametrize(
    ("symbols", "names", "arguments", "message"),
    [
        (["NO"], ["no"], [], "open shell: 15 electrons"),
        (["H2", "H2"], ["a:1", "a/1"], [], "would both be written to a_1.inp"),
        (["H2"], ["h2"], ["--keywords", "%pal nprocs 4 end"], "no % blocks"),
    ],
)
def test_bad_structures(tmp_path, symbols, names, arguments, message):
    frames = []
    for symbol, name in zip(symbols, names, strict=True):
        frames.append(Atoms(symbol, [[0, 0, 0], [0, 0, 1.1]], info={"name": name}))
    write(tmp_path / "x.xyz", frames, format="extxyz")
    result = command("write_orca.py", tmp_path / "x.xyz", "-o", tmp_path / "runs", *arguments)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
