"""The embedded sample: real labels, whole molecules per split, reproducible."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

import schnorb_t
from schnorb_t.data.store import Store
from schnorb_t.reference.labels import LabelJob
from schnorb_t.reference.pyscf import Level
from schnorb_t.structures import Structure, graph_key, read_for_labels
from tests.data_prep.commands import run

SAMPLE = Path(schnorb_t.__file__).parent / "data" / "sample" / "sample.h5"


@pytest.fixture(scope="module")
def sample():
    with Store(SAMPLE) as store:
        yield store


def test_size_and_contents(sample):
    assert SAMPLE.stat().st_size <= 8_000_000
    assert sample.target == "wqao" and sample.basis.projected and sample.elements == (1, 6, 7, 8, 9)
    assert sample.level["functional"] == "B3LYP" and sample.level["basis"] == "def2-SVP"
    assert "300 K" in sample.level["structures"] and sample.failures == []
    assert len(set(sample.groups)) > 200
    heavy = [int((sample.atomic_numbers_of(i) > 1).sum()) for i in range(len(sample))]
    assert max(heavy) <= 9


def test_no_molecule_stands_in_two_splits(sample):
    """By name and by graph: the bonds of the given geometry, whatever the molecule is called."""
    by_group = {}
    for group, split in zip(sample.groups, sample.splits, strict=True):
        by_group.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in by_group.values())
    graphs = {}
    for i, name in enumerate(sample.names):
        if name.endswith("/0"):
            r = sample[i]
            graphs.setdefault(graph_key(r.atomic_numbers, r.positions), []).append(name)
    assert all(len(names) == 1 for names in graphs.values())
    counts = {s: len({g for g, sp in by_group.items() if sp == {s}}) for s in ("train", "val", "test")}
    assert 0.70 < counts["train"] / len(by_group) < 0.80
    assert 0.08 < counts["val"] / len(by_group) < 0.12 and 0.13 < counts["test"] / len(by_group) < 0.17


def test_test_molecules_are_of_kinds_that_training_can_teach(sample):
    for i in np.flatnonzero(sample.splits != "train"):
        z = sample.atomic_numbers_of(i)
        assert (z > 1).sum() >= 3 and 6 in z and (z == 1).sum() >= 2, sample.names[i]


def test_occupied_energies_are_those_of_the_large_basis(sample):
    lumo = []
    for i in range(len(sample)):
        r = sample[i]
        e = scipy.linalg.eigh(r.hamiltonian, r.overlap, eigvals_only=True)
        n = r.n_electrons // 2
        assert np.abs(e[:n] - r.large_basis_energies[:n]).max() < 1e-10, r.name
        if n < len(e):
            lumo.append(e[n] - r.large_basis_energies[n])
    assert min(lumo) > -1e-10 and np.mean(lumo) < 0.1 / 27.2114


@pytest.mark.parametrize("name", ["g2/H2O/0", "smiles/C=N/2"])
def test_relabelling_gives_the_stored_matrices(sample, name):
    pytest.importorskip("pyscf")
    r = sample[sample.names.tolist().index(name)]
    structure = Structure(r.atomic_numbers, r.positions, r.name, r.group, r.split, r.order)
    again = LabelJob(Level(), "wqao")(structure)
    # what another PySCF or BLAS may change: SCF convergence and integration grid
    assert np.abs(again.hamiltonian - r.hamiltonian).max() < 1e-5
    assert np.abs(again.overlap - r.overlap).max() < 1e-5
    assert np.abs(again.large_basis_energies - r.large_basis_energies).max() < 1e-5
    assert abs(again.total_energy - r.total_energy) < 1e-7


def test_structures_are_reproduced_by_their_script(sample):
    pytest.importorskip("tblite")
    from schnorb_t.reference.sample import closed_shell_g2
    from schnorb_t.reference.thermal import displaced_geometries, seed_of

    atoms = dict(closed_shell_g2())["g2/CH3OH"]
    names = sample.names.tolist()
    geometries = [atoms.positions, *displaced_geometries(atoms.numbers, atoms.positions, 3, seed_of("g2/CH3OH"))]
    for k, x in enumerate(geometries):
        assert np.abs(sample[names.index(f"g2/CH3OH/{k}")].positions - x).max() < 1e-6


def test_smiles_of_the_script_can_be_embedded():
    pytest.importorskip("rdkit")
    from schnorb_t.reference.sample import embed, graph_of

    ethanol, ether = embed("CCO"), embed("COC")
    assert ethanol.get_chemical_formula() == "C2H6O" and graph_of(ethanol) != graph_of(ether)


@pytest.mark.slow
def test_the_script_lists_the_molecules_of_the_file(sample, tmp_path):
    pytest.importorskip("rdkit")
    pytest.importorskip("tblite")
    done = run("sample.py", "-o", tmp_path / "s.xyz", "--displaced", 0)
    assert done.returncode == 0, done.stderr
    structures = read_for_labels([tmp_path / "s.xyz"])
    assert {(s.name, s.group, s.split) for s in structures} == {
        (n, g, s)
        for n, g, s in zip(sample.names.tolist(), sample.groups.tolist(), sample.splits.tolist(), strict=True)
        if n.endswith("/0")
    }
