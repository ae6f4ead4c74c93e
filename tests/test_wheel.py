"""The wheel, built from the source distribution, installed alone into a new environment, used in an empty folder."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow
#: bytes; the models may take 25 MB at most, the sample takes 8
LARGEST = 35e6


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with the source distribution and the wheel that is made from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    call = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs the installed command in an empty folder. Dependencies are those of this interpreter, by a path file."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    call = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([*map(str, call)], check=True, timeout=300, env=environment)
    packages = sysconfig.get_path("purelib", vars={"base": str(place)})
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = tmp_path_factory.mktemp("empty")

    def call_it(*words):
        command = [str(place / "bin" / "schnorb_t"), *map(str, words)]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{words}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
        return done.stdout

    call_it.folder, call_it.environment = empty, place
    return call_it


def tracked(folder):
    found = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("not in a git repository")
    return set(found.stdout.split())


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    assert wheel.stat().st_size < LARGEST
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        models = [i.file_size for i in archive.infolist() if i.filename.startswith("schnorb_t/models/")]
    assert len(models) > 4 and sum(models) < 25e6
    configurations = {f"schnorb_t/{name}" for name in tracked("configs")}
    assert names == tracked("schnorb_t") | configurations


def test_the_source_distribution_holds_the_tests(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("tests", "docs", "configs", "benchmarks", "data_prep", "schnorb_t"):
        assert tracked(folder) <= names
    assert {"CHANGELOG.md", "CITATION.cff", "constraints.txt", "Makefile", "LICENSE"} <= names


def test_it_works_without_the_repository(run):
    assert str(run.environment) in run("info").splitlines()[0]
    assert "predict" in run("--help")
    (run.folder / "water.xyz").write_text("3\nname=water\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n")
    assert "H2O" in run("predict", "organic", "water.xyz", "-o", "out.h5")
    assert "all 7 checks passed" in run("selftest")
