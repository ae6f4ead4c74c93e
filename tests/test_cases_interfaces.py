"""Reports of real users that concern what predictions are handed to, each by the script or command that they gave.

The scripts lie beside the shared data; their tests are skipped where they are absent. What the scripts do step by step
is tested, without them, in ``tests/interfaces``.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.shared_data import shared_data

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments, cwd, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
        **options,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path


def script(case, folder):
    pytest.importorskip("pyscf")
    path = shared_data(f"../cases/{case}/repro.py")
    return run("-B", path, cwd=folder)


def test_c08_what_a_prediction_does_not_fix_is_refused(folder):
    done = script("C08_mean_field_post_scf", folder)
    assert "NotImplementedError: this needs more than a prediction fixes" in done.stderr
    assert "TDA" not in done.stdout and not (folder / "out/c08.fcidump").exists()


def test_c09_no_molden_file_of_projected_functions(folder):
    done = script("C09_pyscf_molden_of_projected", folder)
    assert "NotImplementedError" in done.stderr and "schnorb_t.interfaces.molden" in done.stderr
    assert "electrons in the file" not in done.stdout


def test_c24_starts_for_rounded_positions_and_either_basis(folder):
    done = script("C24_initial_guess_rounded", folder)
    assert done.stdout.split() == ["(48,", "48)"] * 2, done.stderr


def test_c25_pickle_analyze_and_quadrupole(folder):
    done = script("C25_mean_field_pickle_analyze", folder)
    assert "pickle ok" in done.stdout and "analyze ok" in done.stdout
    assert "quad_moment NotImplementedError" in done.stdout


def test_c14_cube_of_a_molecule_far_from_the_origin(folder):
    from ase.build import molecule
    from ase.io import read, write

    far = molecule("CH3OH")
    far.translate((-2900.0, 1000.0, 500.0))
    write(folder / "far.xyz", far)
    done = run("-m", "schnorb_t", "predict", "hcnof", "far.xyz", "-o", "out/c.h5", "--cube", "homo", cwd=folder)
    assert done.returncode == 0, done.stderr
    (cube,) = (folder / "out").rglob("*.cube")
    assert abs(read(cube).positions - far.positions).max() < 1e-3


def test_c15_an_skf_is_told_by_its_content(folder):
    from schnorb_t.physics.skf import read_skf

    done = run("-m", "schnorb_t", "export-skf", "hcnof", "-o", "out/skf", "--spacing", "0.1", cwd=folder)
    assert done.returncode == 0, done.stderr
    same, other = folder / "out/skf/C-C.skf", folder / "out/skf/_C-C.skf"
    other.write_bytes(same.read_bytes())
    a, b = read_skf(same), read_skf(other)
    assert a.mass == b.mass and a.onsite is not None
    assert np.array_equal(a.onsite, b.onsite) and all(np.array_equal(a.overlap[k], b.overlap[k]) for k in a.overlap)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are those of Unix")
def test_c16_a_full_disk_is_one_line_and_leaves_nothing(folder):
    import resource

    from ase.build import molecule
    from ase.io import write

    write(folder / "many.xyz", [molecule("C6H6")] * 300)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    done = run("-m", "schnorb_t", "predict", "hcnof", "many.xyz", "-o", "out/o.h5", cwd=folder, preexec_fn=small_files)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert not list((folder / "out").iterdir())
