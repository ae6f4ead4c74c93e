"""``data_prep/fit_contraction.py`` on a few labelled molecules: fewer misplaced electrons than free-atom functions."""

import re

import pytest
from ase.build import molecule

from schnorb_t.data.store import StoreWriter
from schnorb_t.interfaces.contraction import ContractionModel
from schnorb_t.reference.labels import header_of, record_of
from schnorb_t.reference.pyscf import Level, basis_from_pyscf, label, versions
from tests.data_prep.commands import run

pytest.importorskip("pyscf")
#: name -> split
MOLECULES = {"CH4": "train", "C2H4": "train", "C2H6": "train", "C2H2": "train", "C3H6_D3h": "val"}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    level = Level(functional="HF", conv_tol=1e-7)
    path = tmp_path_factory.mktemp("fit_contraction") / "full.h5"
    large = basis_from_pyscf(level.basis, [1, 6])
    with StoreWriter(path, header_of("full", [1, 6], level, versions())) as writer:
        for name, split in MOLECULES.items():
            a = molecule(name)
            r = label(a.numbers, a.positions, level)
            matrices = a.numbers, a.positions, r.hamiltonian, r.total_energy, r.n_electrons
            writer.add(record_of("full", large, *matrices, name, name, split))
    return path


def test_fit_from_a_file(full, tmp_path):
    done = run("fit_contraction.py", full, "-o", tmp_path / "way.npz")
    assert done.returncode == 0, done.stderr
    before, after = map(
        float, re.search(r"misplaced electrons: ([\d.]+) .* ([\d.]+) with the fit", done.stdout).groups()
    )
    assert after < 0.5 * before
    assert "fitted to 4 molecules" in done.stdout
    model = ContractionModel.load(tmp_path / "way.npz")
    assert (model.large.name, model.minimal.name, model.minimal.projected) == ("def2-SVP", "wqao", True)


def test_a_projected_file_is_refused(full, tmp_path):
    assert run("project.py", full, "-o", tmp_path / "wqao.h5").returncode == 0
    done = run("fit_contraction.py", tmp_path / "wqao.h5", "-o", tmp_path / "way.npz")
    assert done.returncode == 2 and "wqao.h5" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "way.npz").exists()
