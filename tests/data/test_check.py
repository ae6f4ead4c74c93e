"""The check finds each kind of poison, names the molecule, and passes what is sound."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from schnorb_t.data.check import check, main
from schnorb_t.data.duplicates import composition_code, find_duplicates, geometry_invariants, same_geometry
from schnorb_t.data.store import Header, Store, StoreWriter, finish, journal_path
from schnorb_t.errors import UserError
from tests.data.store_examples import BASIS, HEADER, example

N = 12


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "molecules.h5"
    with StoreWriter(path, HEADER) as writer:
        for i in range(N):
            writer.add(example(i))
        writer.add_failure("qm9:77", "SCF not converged", 3)
        writer.add_failure("qm9:78", "SCF not converged", 4)
    return path


def moved(record, random, noise=0.0):
    """The same geometry rotated, reflected, shifted and with its atoms in another sequence."""
    turn = Rotation.random(random_state=int(random.integers(1 << 30))).as_matrix() * random.choice([-1, 1])
    sequence = random.permutation(len(record.atomic_numbers))
    positions = (
        record.positions @ turn.T + random.normal(size=3) + random.uniform(-noise, noise, record.positions.shape)
    )
    return record.atomic_numbers[sequence], positions[sequence]


def test_a_sound_file(path, capsys):
    report = check(path)
    assert not report.errors and not report.warnings
    assert report.element_counts.sum() == sum(len(example(i).positions) for i in range(N))
    assert report.measures["occupied_error"].max() < 1e-10
    record = example(3)
    assert report.measures["overlap_eigenvalue"][3] == pytest.approx(np.linalg.eigvalsh(record.overlap)[0])
    levels, n_occupied = record.large_basis_energies, record.n_electrons // 2
    assert report.measures["homo"][3] == pytest.approx(levels[n_occupied - 1])
    assert report.measures["lumo"][3] == pytest.approx(levels[n_occupied])
    main([str(path)])
    printed = capsys.readouterr().out
    for words in ("b3lyp", "def2-svp", "2.14.0", "wqao", "train", "SCF not converged", "qm9:77", "sound"):
        assert words in printed
    picture = path.with_name("molecules.h5.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10000


def test_an_empty_file_and_a_single_atom_are_sound(tmp_path):
    path = tmp_path / "few.h5"
    StoreWriter(path, HEADER).close()
    main([str(path)])
    z, levels = np.array([8]), np.array([-19.0, -1.0, -0.5, -0.4, -0.3])
    with StoreWriter(path, HEADER) as writer:
        writer.add(
            replace(
                example(0),
                atomic_numbers=z,
                positions=np.zeros((1, 3)),
                hamiltonian=np.diag(levels),
                overlap=np.eye(5),
                large_basis_energies=levels,
                n_electrons=8,
            )
        )
    main([str(path), "--no-png"])


# ---- poison ------------------------------------------------------------------------------------------------------


def spoil(dataset, molecule, value, offset=""):
    """Set the first number of a molecule in one of the concatenated datasets."""

    def edit(file):
        file[dataset][file["index"][offset or f"{dataset}_offset"][molecule]] = value

    return edit


def spoil_column(column, molecule, value):
    def edit(file):
        file["index"][column][molecule] = value

    return edit


def overlap_atoms(file):
    at = file["index/atom_offset"][4]
    file["positions"][at] = file["positions"][at + 1] + [0.1, 0, 0]


def shift_levels(file):
    start, end = file["index/large_basis_energies_offset"][4:6]
    file["large_basis_energies"][start:end] += 1e-3


def hydrogen_to(z):
    def edit(file):
        last = file["index/atom_offset"][5] - 1
        assert file["atomic_numbers"][last] == 1
        file["atomic_numbers"][last] = z

    return edit


POISONS = {
    "NaN in H": (spoil("hamiltonian", 4, np.nan), "not finite", "hamiltonian holds NaN"),
    "infinite S": (spoil("overlap", 4, np.inf), "not finite", "overlap holds NaN"),
    "NaN position": (spoil("positions", 4, np.nan, "atom_offset"), "not finite", "positions holds NaN"),
    "NaN level": (spoil("large_basis_energies", 4, np.nan), "not finite", "large_basis_energies"),
    "NaN energy": (spoil_column("total_energy", 4, np.nan), "not finite", "total_energy"),
    "S not positive": (spoil("overlap", 4, -1.0), "overlap", "not positive definite"),
    "atoms overlap": (overlap_atoms, "overlapping atoms", "0.100 Å apart"),
    "odd electrons": (spoil_column("n_electrons", 4, 7), "electrons", "7 electrons cannot"),
    "too many electrons": (spoil_column("n_electrons", 4, 600), "electrons", "600 electrons cannot"),
    "another H": (spoil("hamiltonian", 4, 3.0), "occupied levels", "differ from the large-basis"),
    "shifted levels": (shift_levels, "occupied levels", "1.0e-03 Eh"),
    "asymmetric H": (spoil_column("hamiltonian_asymmetry", 4, 0.01), "not symmetric", "asymmetric by 1.0e-02"),
    "asymmetric S": (spoil_column("overlap_asymmetry", 4, np.nan), "not symmetric", "overlap was asymmetric"),
    "same name": (spoil_column("name", 4, b"molecule:2"), "duplicate name", "'molecule:2' (index 4)"),
    "unknown split": (spoil_column("split", 4, b"trial"), "split", "unknown split 'trial'"),
    "foreign element": (hydrogen_to(26), "basis", "no shells for Fe"),
    "no element": (hydrogen_to(200), "basis", "atomic number"),
    "other element": (hydrogen_to(6), "shape", "its atoms need"),
    "wrong orbital count": (spoil_column("n_orbitals", 4, 3), "shape", "n_orbitals has 3"),
    "lost triangle": (spoil_column("hamiltonian_offset", 4, 0), "shape", "hamiltonian has"),
    "straddling group": (spoil_column("split", 5, b"train"), "splits overlap", "'group 2'"),
}


@pytest.mark.parametrize("poison", POISONS)
def test_each_poison_is_caught_and_named(path, poison):
    edit, kind, words = POISONS[poison]
    with h5py.File(path, "r+") as file:
        edit(file)
    report = check(path)
    assert kind in report.errors.messages, report.errors.messages
    messages = report.errors.messages[kind]
    assert any(words in m for m in messages), messages
    assert any("molecule:4" in m or "molecule:2" in m for m in messages), messages
    with pytest.raises(UserError, match="problems"):
        main([str(path), "--no-png"])


def test_damaged_bytes_are_caught_and_the_rest_is_still_checked(path):
    with h5py.File(path) as file:
        chunk = file["overlap"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 10] ^= 1
    path.write_bytes(data)
    report = check(path)
    assert "molecule:0" in report.errors.messages["unreadable"][0]


@pytest.mark.parametrize(
    "split, energy, kind",
    [("test", 0.0, "splits overlap"), ("train", 1e-3, "contradiction"), ("train", 0.0, None), ("", 0.0, None)],
)
def test_the_same_geometry_twice(path, split, energy, kind):
    """Rotated, reflected, atoms in another order, under another name and group."""
    twin = example(0)  # in train
    z, positions = moved(twin, np.random.default_rng(1))
    order = np.argsort(-z, kind="stable")
    m = len(twin.hamiltonian)
    assert m == BASIS.n_orbitals(z).sum()
    with StoreWriter(path, HEADER) as writer:
        writer.add(
            replace(
                twin,
                atomic_numbers=z[order],
                positions=positions[order],
                total_energy=twin.total_energy + energy,
                name="twin",
                group="twin",
                split=split,
            )
        )
    report = check(path)
    if kind is None:
        assert not report.errors
        assert "'molecule:0'" in report.warnings.messages["duplicate geometry"][0]
    else:
        (message,) = report.errors.messages[kind]
        assert "'molecule:0'" in message and "'twin'" in message


def test_levels_of_another_target_are_not_compared(tmp_path):
    """A minimal AO basis of its own has other levels than the large basis."""
    path = tmp_path / "sto3g.h5"
    with StoreWriter(path, Header(BASIS, "sto-3g", {}, {})) as writer:
        writer.add(example(0, large_basis_energies=example(0).large_basis_energies - 1))
    assert not check(path).errors


def test_charged_molecules_are_mentioned(path):
    record = example(50)
    with StoreWriter(path, HEADER) as writer:
        writer.add(replace(record, n_electrons=record.n_electrons - 2))
    report = check(path)
    assert not report.errors and "charge is +2" in report.warnings.messages["charged"][0]


def test_many_problems_are_counted_but_not_all_listed(path):
    with h5py.File(path, "r+") as file:
        file["index/n_electrons"][:] = 3
    with pytest.raises(UserError) as error:
        main([str(path), "--no-png"])
    assert str(error.value).count("3 electrons") == 10 and "and 2 more" in str(error.value)


@pytest.mark.parametrize("bad", ["poisoned", "absent", "foreign"])
def test_command_exits_with_two_and_no_traceback(path, bad):
    if bad == "poisoned":
        with h5py.File(path, "r+") as file:
            spoil("hamiltonian", 4, np.nan)(file)
    elif bad == "absent":
        path.unlink()
    else:
        path.write_text("not HDF5")
    done = subprocess.run(
        [sys.executable, "-m", "schnorb_t.data.check", str(path), "--no-png"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert str(path) in done.stderr.replace("\n", "")
    if bad == "poisoned":
        assert "molecule 'molecule:4' (index 4): hamiltonian holds NaN" in done.stderr


def test_finish_option(path, capsys):
    writer = StoreWriter(path, HEADER)
    writer.add(example(N))
    writer.abandon()
    main([str(path), "--no-png", "--finish"])
    assert "1 molecules and failures merged" in capsys.readouterr().out
    assert not journal_path(path).exists() and len(Store(path)) == N + 1
    with pytest.raises(UserError):
        finish(path)


# ---- duplicates --------------------------------------------------------------------------------------------------


def test_duplicates_are_found_whatever_their_pose_and_nothing_else():
    random = np.random.default_rng(5)
    geometries, expected = [], []
    for i in range(60):
        record = example(i)
        geometries.append((record.atomic_numbers, record.positions))
        if i % 4 == 0:
            expected.append((len(geometries) - 1, len(geometries)))
            geometries.append(moved(record, random, noise=1e-4))
        if i % 4 == 1:  # near, but another geometry
            geometries.append(moved(record, random, noise=0.02))
    codes = np.array([composition_code(z) for z, _ in geometries])
    invariants = np.array([geometry_invariants(z, r) for z, r in geometries])
    assert find_duplicates(codes, invariants, geometries.__getitem__) == expected


def test_invariants_change_no_more_than_distances():
    """What makes the search complete: candidates are never missed."""
    random = np.random.default_rng(6)
    for i in range(50):
        record = example(i)
        z, r = record.atomic_numbers, record.positions
        near = r + random.uniform(-0.05, 0.05, r.shape)
        change = np.abs(pdist(r) - pdist(near)).max()
        assert np.abs(geometry_invariants(z, r) - geometry_invariants(z, near)).max() <= change + 1e-12


def test_isomers_and_exchanged_elements_differ():
    line = np.array([[0.0, 0, 0], [1.2, 0, 0], [2.6, 0, 0]])
    assert same_geometry(([1, 6, 8], line), ([8, 6, 1], line[::-1]))
    assert not same_geometry(([1, 6, 8], line), ([8, 6, 1], line))
    assert not same_geometry(([1, 6, 8], line), ([1, 6, 6], line))


def test_many_copies_are_linked():
    random = np.random.default_rng(7)
    record = example(0)
    geometries = [moved(record, random) for _ in range(30)]
    codes = np.array([composition_code(z) for z, _ in geometries])
    invariants = np.array([geometry_invariants(z, r) for z, r in geometries])
    pairs = find_duplicates(codes, invariants, geometries.__getitem__)
    assert len(pairs) == 29 and {i for pair in pairs for i in pair} == set(range(30))
