"""The exchange with DFTB+'s C interface, against a stand-in of the same binary interface that solves nothing.

What DFTB+ itself makes of predictions is in ``test_dftbplus.py``, which needs DFTB+.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from schnorb_t.basis import Basis
from schnorb_t.errors import UserError
from schnorb_t.interfaces.dftbplus import DFTBPlus
from schnorb_t.interfaces.dftbplus_library import Calculation, Setup, find_library, load_library, rehearse
from tests.interfaces.examples import prediction_of

SOURCE = Path(__file__).with_name("dftbplus_standin.c")


def compiled(folder: Path, *options: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to build the stand-in with")
    library = folder / f"libstandin{''.join(options)}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", *options, str(SOURCE), "-o", str(library)], check=True)
    return library


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("standin"))


@pytest.fixture
def library(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load_library(path)


def matrices(n: int, seed: int = 0):
    random = np.random.default_rng(seed)
    return [x + x.T for x in random.normal(size=(2, n, n))]


@pytest.mark.parametrize("storage", [0, 1, 2])
def test_matrices_go_both_ways(library, storage):
    Path("dftb_in.hsd").write_text(f"exchange {storage} 5 1 1\n")
    h, s = matrices(7)
    with Calculation(library) as calculation:
        assert calculation.setup == Setup((5, 1, 1), 1, 1, True)
        found = calculation.density(h, s)
    assert np.array_equal(found, h + 2 * s)


def test_many_geometries_in_one_process(library):
    for k in range(300):
        n = 1 + k % 20
        Path("dftb_in.hsd").write_text(f"exchange {k % 3} {n}\n")
        h, s = matrices(n, seed=k)
        with Calculation(library) as calculation:
            assert np.array_equal(calculation.density(h, s), h + 2 * s)
    assert library.standin_live() == 0  # every instance and input was given back


def test_an_instance_is_given_back_after_an_error(library):
    Path("dftb_in.hsd").write_text("mpi 0 2\n")
    with pytest.raises(UserError, match="built with MPI"), Calculation(library) as calculation:
        calculation.density(*matrices(2))
    Path("dftb_in.hsd").write_text("silent 0 2\n")
    with pytest.raises(RuntimeError, match="no overlap, Hamiltonian, density"), Calculation(library) as calculation:
        calculation.density(*matrices(2))
    Path("dftb_in.hsd").write_text("exchange 3 2\n")
    with pytest.raises(RuntimeError, match=r"unknown way \(3\)"), Calculation(library) as calculation:
        calculation.density(*matrices(2))
    assert library.standin_live() == 0


def test_a_rehearsal_survives_what_ends_the_process(path, tmp_path):
    (tmp_path / "dftb_in.hsd").write_text("exchange 1 9 4\n")
    assert rehearse(path, tmp_path) == Setup((9, 4), 1, 1, True)
    (tmp_path / "dftb_in.hsd").write_text("error\n")
    with pytest.raises(UserError, match="does not take this input: No such thing as this$"):
        rehearse(path, tmp_path)
    (tmp_path / "dftb_in.hsd").unlink()  # the stand-in aborts
    with pytest.raises(UserError, match=r"exit code -6"):
        rehearse(path, tmp_path)


def test_the_library_is_named(path, monkeypatch, tmp_path):
    monkeypatch.delenv("DFTBPLUS_LIBRARY", raising=False)
    with pytest.raises(UserError, match=r"set DFTBPLUS_LIBRARY.*25\.1"):
        DFTBPlus()
    monkeypatch.setenv("DFTBPLUS_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(UserError, match=r"none\.so: no such file; DFTBPLUS_LIBRARY must"):
        DFTBPlus()
    monkeypatch.setenv("DFTBPLUS_LIBRARY", str(path))
    assert DFTBPlus().path == path
    monkeypatch.chdir(path.parent)
    assert find_library(path.name) == path  # absolute: the current folder changes


def test_a_library_without_the_functions_is_refused(tmp_path):
    with pytest.raises(UserError, match="lacks dftbp_register_set_s_callback, dftbp_register_set_h_callback;"):
        DFTBPlus(compiled(tmp_path, "-DOLD"))
    (tmp_path / "text.so").write_text("not a library")
    with pytest.raises(UserError, match=r"text\.so: cannot be loaded"):
        DFTBPlus(tmp_path / "text.so")


def test_wrong_shells_are_refused(path):
    here = os.getcwd()
    with pytest.raises(UserError, match=r"DFTB\+ has \[1\] orbitals on the atoms, the prediction \[1, 1\]"):
        DFTBPlus(path).run(hydrogen())
    assert os.getcwd() == here


def hydrogen(shells=(0,), h=None, s=None, distance=0.74):
    basis = Basis("test", {1: shells})
    m = 2 * sum(2 * l + 1 for l in shells)
    h = -np.eye(m) if h is None else h
    s = np.eye(m) if s is None else s
    found = prediction_of(basis, [1, 1], [[0, 0, 0], [0, 0, distance]], -np.eye(m), np.eye(m))
    object.__setattr__(found, "hamiltonian", h)
    object.__setattr__(found, "overlap", s)
    return found


@pytest.mark.parametrize(
    "prediction, charge, message",
    [
        (hydrogen((0, 4)), 0, "H has shells beyond f"),
        (hydrogen(h=np.eye(3)), 0, r"wrong shells: Hamiltonian is \(3, 3\)"),
        (hydrogen(s=np.eye(3)), 0, r"wrong shells: overlap is \(3, 3\)"),
        (hydrogen(h=np.full((2, 2), np.nan)), 0, "Hamiltonian holds NaN"),
        (hydrogen(h=np.array([[0, 1.0], [0, 0]])), 0, "Hamiltonian is not symmetric"),
        (hydrogen(s=np.ones((2, 2))), 0, "overlap is not positive definite"),
        (hydrogen(), 2, "0 electrons do not go into 2 orbitals"),
        (hydrogen(), -3, "5 electrons do not go into 2 orbitals"),
        (hydrogen(distance=0.001), 0, "atoms 0 and 1 coincide"),
    ],
)
def test_what_would_end_the_process_is_refused(path, prediction, charge, message):
    with pytest.raises(UserError, match=f"^H2: {message}"):
        DFTBPlus(path, charge=charge).run(prediction)
