"""One declaration is enough: a made-up quantity reaches journal, store, check, batch and prediction file."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from schnorb_t import keys
from schnorb_t.commands import run
from schnorb_t.data import journal as j
from schnorb_t.data.batch import records_to_batch
from schnorb_t.data.datamodule import SAMPLE
from schnorb_t.data.reader import journal_path
from schnorb_t.data.records import MoleculeRecord, pack, unpack
from schnorb_t.data.store import Store, StoreWriter, finish, set_splits
from schnorb_t.data.validation import check
from schnorb_t.errors import UserError
from schnorb_t.keys import Quantity
from schnorb_t.prediction import Prediction
from schnorb_t.prediction_file import PredictionWriter, read_predictions
from schnorb_t.training.checkpoint import find_model, load_model

from .store_examples import BASIS, HEADER, assert_same, example

FIXTURES = Path(__file__).parent / "fixtures"
MADE_UP = Quantity(
    "polarizability",
    (keys.ATOMS, 2),
    "Bohr^3",
    "made up",
    fill=keys.NAN,
    stored=True,
    optional=True,
    predicted=True,
)


def with_labels(i: int, **labels) -> MoleculeRecord:
    return dataclasses.replace(example(i), **labels)


def atoms_of(i: int) -> int:
    return len(example(i).atomic_numbers)


def test_a_new_quantity_takes_one_declaration(tmp_path):
    path = tmp_path / "new.h5"
    with keys.declared(MADE_UP):
        values = np.random.default_rng(3).normal(size=(atoms_of(1), 2))
        records = [example(0), with_labels(1, polarizability=values), example(2)]
        packed = pack(records[1], BASIS)
        decoded = j.decode_molecule(j.encode_molecule(packed))  # journal
        assert np.array_equal(decoded.polarizability, values)
        with StoreWriter(path, HEADER) as writer:
            for record in records:
                writer.add(record)
        with Store(path) as store:  # store
            for found, expected in zip(store, records, strict=False):
                assert_same(found, expected)
            assert store.has("polarizability").tolist() == [False, True, False]
            batch = records_to_batch([store[i] for i in range(3)], BASIS, 8.0)  # batch
        assert "polarizability" not in {n for n, v in batch.items() if torch.is_tensor(v) and v.ndim == 1}
        n = [atoms_of(i) for i in range(3)]
        assert batch["polarizability"].shape == (sum(n), 2)
        assert batch[keys.present("polarizability")].tolist() == [False, True, False]
        assert torch.equal(batch["polarizability"][n[0] : n[0] + n[1]], torch.from_numpy(values))
        assert batch["polarizability"][: n[0]].isnan().all() and batch["polarizability"][n[0] + n[1] :].isnan().all()
        assert "polarizability" not in records_to_batch(records[:1], BASIS, 8.0)
        assert not check(path).errors  # check
        with h5py.File(path, "r+") as file:
            assert file["polarizability"].attrs["unit"] == "Bohr^3"
            file["polarizability"][0] = np.nan
        assert check(path).errors.messages["not finite"][0].endswith("polarizability holds NaN or infinity")
        with pytest.raises(UserError, match=r"polarizability has shape \[1, 2\], expected"):
            pack(with_labels(1, polarizability=np.zeros((1, 2))), BASIS)
        with pytest.raises(UserError, match="polarizability holds NaN"):
            pack(with_labels(1, polarizability=values * np.nan), BASIS)
        predictions = tmp_path / "predictions.h5"  # prediction file
        _, card = load_model(find_model("hcnof"))
        with PredictionWriter(predictions, card, "model", "in.xyz") as writer:
            writer.add(0, prediction_of(records[1], polarizability=values))
            writer.add(1, prediction_of(records[0]))
        found = dict(read_predictions(predictions))
        assert np.array_equal(found[0]["polarizability"], values) and "polarizability" not in found[1]
        with h5py.File(predictions) as file:
            assert file["000000/polarizability"].attrs["unit"] == "Bohr^3"
        assert "`polarizability` | atom × 2 | Bohr^3" in keys.markdown_table()
    with Store(path) as store:  # without the declaration: read, but not continued, for it would be lost
        assert store.unknown == ("polarizability",) and store[1].name == "molecule:1"
    with (
        pytest.raises(UserError, match="polarizability, which this schnorb_t does not know"),
        StoreWriter(path, HEADER),
    ):
        pass


def prediction_of(record: MoleculeRecord, **properties) -> Prediction:
    m = len(record.hamiltonian)
    levels, orbitals = np.linspace(-1, 1, m), np.eye(m)
    geometry = record.atomic_numbers, record.positions
    matrices = record.hamiltonian, record.overlap, levels, orbitals
    return Prediction(*geometry, BASIS, *matrices, properties=properties)


def test_an_interrupted_file_keeps_a_new_quantity(tmp_path):
    path = tmp_path / "new.h5"
    with keys.declared(MADE_UP):
        values = np.ones((atoms_of(1), 2))
        writer = StoreWriter(path, HEADER)
        writer.add(with_labels(1, polarizability=values))
        writer.abandon()
    with pytest.raises(UserError, match="polarizability, which this schnorb_t does not know"):
        finish(path)
    with keys.declared(MADE_UP):
        finish(path)
        assert np.array_equal(Store(path)[0].polarizability, values)


def test_built_in_optional_labels(tmp_path):
    n = atoms_of(1)
    labels = dict(
        charge=0,
        n_unpaired=0,
        forces=np.random.default_rng(0).normal(size=(n, 3)),
        dipole=np.array([0.1, -0.2, 0.3]),
        partial_charges=np.linspace(-0.1, 0.1, n),
    )
    records = [example(0), with_labels(1, **labels), example(2)]
    path = tmp_path / "labels.h5"
    with StoreWriter(path, HEADER) as writer:
        for record in records:
            writer.add(record)
    store = Store(path)
    for i, record in enumerate(records):
        assert_same(store[i], record)
    assert store[0].forces is None and store[0].charge is None and store[1].charge == 0
    assert not check(path).errors
    batch = records_to_batch([store[i] for i in range(3)], BASIS, 8.0)
    n0 = atoms_of(0)
    assert torch.equal(batch[keys.FORCES][n0 : n0 + n], torch.from_numpy(labels["forces"]))
    assert batch[keys.DIPOLE].shape == (3, 3) and batch[keys.DIPOLE][0].isnan().all()
    assert batch[keys.CHARGES].shape == batch[keys.ATOMIC_NUMBERS].shape
    for name in (keys.TOTAL_CHARGE, keys.N_UNPAIRED, keys.FORCES, keys.DIPOLE, keys.CHARGES):
        assert batch[keys.present(name)].tolist() == [False, True, False]
    assert batch[keys.present(keys.HAMILTONIAN)].all()


def test_records_without_matrices(tmp_path):
    """Energies and forces only, beside molecules with everything."""
    none = dict.fromkeys(("hamiltonian", "overlap", "large_basis_energies"))
    bare = [with_labels(i, **none, forces=np.zeros((atoms_of(i), 3))) for i in range(2)]
    path = tmp_path / "bare.h5"
    with StoreWriter(path, HEADER) as writer:
        for record in [*bare, example(2)]:
            writer.add(record)
    store = Store(path)
    assert store[0].hamiltonian is None and store[2].forces is None
    for i, record in enumerate([*bare, example(2)]):
        assert_same(store[i], record)
    assert store.has("hamiltonian").tolist() == [False, False, True]
    assert store.n_orbitals.tolist() == [int(BASIS.n_orbitals(store[i].atomic_numbers).sum()) for i in range(3)]
    assert not check(path).errors
    batch = records_to_batch(bare, BASIS, 8.0)
    assert keys.HAMILTONIAN not in batch and keys.LARGE_BASIS_ENERGIES not in batch and keys.FORCES in batch
    mixed = records_to_batch([bare[0], store[2]], BASIS, 8.0)
    assert mixed[keys.present(keys.HAMILTONIAN)].tolist() == [False, True]
    assert (mixed[keys.HAMILTONIAN][0] == 0).all() and mixed[keys.LARGE_BASIS_ENERGIES][0].isnan().all()
    with StoreWriter(tmp_path / "only.h5", HEADER) as writer:
        writer.add(dataclasses.replace(bare[0], total_energy=None))
    with Store(tmp_path / "only.h5") as only:
        assert "hamiltonian" not in only.fields and np.isnan(only.total_energies).all()
    with h5py.File(tmp_path / "only.h5") as file:
        assert "hamiltonian" not in file and "hamiltonian_present" not in file["index"]
    finished = subprocess.run(
        [sys.executable, "-m", "schnorb_t.data.check", "only.h5", "--no-png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0 and "sound" in finished.stdout, finished.stderr


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ({"charge": 1}, "charge .1 leaves"),
        ({"charge": 0.5}, "charge must be a whole number"),
        ({"n_unpaired": 1}, "cannot have 1 unpaired"),
        ({"dipole": [0, 0]}, r"dipole has shape \[2\], expected \[3\]"),
        ({"forces": "many"}, "forces must be an array of numbers"),
        ({"total_energy": float("nan")}, "total_energy is nan"),
    ],
)
def test_labels_that_cannot_be(labels, fault):
    with pytest.raises(UserError, match=fault) as caught:
        pack(with_labels(1, **labels), BASIS)
    assert "molecule:1" in str(caught.value)


def test_records_take_what_is_declared():
    record = example(0)
    assert_same(MoleculeRecord(*(getattr(record, q.field) for q in keys.stored())), record)
    assert_same(unpack(pack(record, BASIS)), record)
    with pytest.raises(TypeError, match="no colour"):
        dataclasses.replace(record, colour="red")
    with pytest.raises(TypeError, match="needs n_electrons"):
        dataclasses.replace(record, n_electrons=None)
    with pytest.raises(TypeError, match="given twice"):
        MoleculeRecord(record.atomic_numbers, atomic_numbers=record.atomic_numbers)
    with pytest.raises(AttributeError, match="no 'colour'"):
        record.colour  # noqa: B018


@pytest.mark.parametrize(
    "bad",
    [
        Quantity("x", (keys.ATOMS,), "", "", stored=True),
        Quantity("hamiltonian", (keys.ATOMS,), "", ""),
    ],
)
def test_declarations_end_with_the_block(bad):
    if bad.name in keys.KEYS:
        with pytest.raises(ValueError, match="declared already"), keys.declared(bad):
            pass
        assert keys.KEYS[bad.name] != bad
    else:
        with keys.declared(bad):
            assert bad in keys.stored()
        assert bad.name not in keys.KEYS and bad not in keys.stored()


@pytest.mark.parametrize(
    "arguments",
    [
        ("x", ("colour",), "", ""),
        ("x", (keys.PAIRS,), "", "", "float64", 0, True),
        ("x", (keys.ATOMS,), "", "", "complex"),
        ("x", (keys.MOLECULES, keys.LEVELS, keys.LARGE_ORBITALS), "", "", "float64", 0, True),
    ],
)
def test_impossible_declarations(arguments):
    with pytest.raises(ValueError, match="x: "):
        Quantity(*arguments)


# ---- files of earlier formats --------------------------------------------------------------------------------------


def expected_of_version_1() -> list[MoleculeRecord]:
    return [example(i, keep=i == 1) for i in range(3)]


def test_a_store_of_version_1_reads_and_continues(tmp_path):
    path = tmp_path / "store.h5"
    shutil.copyfile(FIXTURES / "store_v1.h5", path)
    store = Store(path)
    assert store.version == 1 and store.header == HEADER
    assert store.failures == [("molecule:9", "not converged", 9)]
    for i, record in enumerate(expected_of_version_1()):
        assert_same(store[i], record)
    assert store.has("contraction").tolist() == [False, True, False] and store.has("hamiltonian").all()
    assert not store.has("forces").any() and not check(path).errors
    set_splits(path, {"molecule:0": "test"})
    assert Store(path).splits[0] == "test" and Store(path).version == 1
    with StoreWriter(path, HEADER) as writer:
        writer.add(with_labels(3, dipole=np.ones(3)))
    store = Store(path)
    assert store.version == 2 and store.failures == [("molecule:9", "not converged", 9)]
    for i, record in enumerate(expected_of_version_1()[1:], start=1):
        assert_same(store[i], record)
    assert_same(store[3], with_labels(3, dipole=np.ones(3)))


def test_a_journal_of_version_1_continues(tmp_path):
    path = tmp_path / "store.h5"
    shutil.copyfile(FIXTURES / "journal_v1.bin", journal_path(path))
    with StoreWriter(path, HEADER) as writer:
        assert writer.known_names == {"molecule:0", "molecule:1", "molecule:9"}
        writer.add(with_labels(2, dipole=np.ones(3)))
    store = Store(path)
    for i, record in enumerate([*expected_of_version_1()[:2], with_labels(2, dipole=np.ones(3))]):
        assert_same(store[i], record)


def test_the_sample_of_version_1_reads():
    store = Store(SAMPLE)
    assert store.version == 1 and len(store) == 1036 and store.has("overlap").all()
    record = store[-1]
    assert record.hamiltonian.shape == record.overlap.shape == (store.n_orbitals[-1],) * 2


def test_predictions_of_format_1_read():
    found = dict(read_predictions(FIXTURES / "predictions_v1.h5"))
    assert [found[i]["formula"] for i in (0, 1)] == ["CH4", "H2O"]
    assert found[0]["hamiltonian"].shape == (9, 9) and found[1]["positions"].shape == (3, 3)


def test_the_docs_list_what_is_stored():
    text = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    assert keys.markdown_table() in text


# ---- damaged files: one line and exit code 2 -----------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other_magic(path: Path) -> None:
    path.write_bytes(b"\x00" * 8 + path.read_bytes()[8:])


def _no_hdf5(path: Path) -> None:
    path.write_text("3\n\nO 0 0 0\n")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _without(*names: str):
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            for name in names:
                if name.startswith("@"):
                    del file.attrs[name[1:]]
                else:
                    del file[name]

    return change


def _replaced(name: str, value):
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            if name.startswith("@"):
                file.attrs[name[1:]] = value
            else:
                del file[name]
                file[name] = value

    return change


DAMAGES = {
    "truncated": _truncate,
    "other magic": _other_magic,
    "no HDF5": _no_hdf5,
    "empty": _empty,
    "no matrices": _without("hamiltonian"),
    "no index": _without("index"),
    "no energies": _without("index/total_energy"),
    "no flags": _without("index/hamiltonian_present"),
    "no offsets": _without("index/overlap_offset"),
    "no basis": _without("basis"),
    "no level": _without("@level"),
    "no quantities": _without("@quantities"),
    "bad quantities": _replaced("@quantities", "[{"),
    "bad basis": _replaced("basis", "{}"),
    "bad level": _replaced("@level", "{"),
    "short index": _replaced("index/n_electrons", np.zeros(2, "<i8")),
    "a group for a dataset": _replaced("index/name", 3),
    "another program's": _replaced("@format", "another"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_store_is_one_line(kind, tmp_path, capsys):
    path = tmp_path / "bad.h5"
    with StoreWriter(path, HEADER) as writer:
        for i in range(4):
            writer.add(example(i))
    DAMAGES[kind](path)
    for name, words in {
        "check": [str(path), "--no-png"],
        "splits": [str(path), "--by", "group"],
        "evaluate": ["hcnof", str(path)],
    }.items():
        with pytest.raises(UserError) as caught:
            run(name, words)
        message = str(caught.value)
        assert str(path) in message and "\n" not in message, (name, message)
    with pytest.raises(UserError, match="bad.h5"), StoreWriter(path, HEADER):
        pass
    assert not journal_path(path).exists()


@pytest.mark.parametrize("kind", ["truncated", "no HDF5", "empty", "no HDF5 at all"])
def test_damaged_predictions_are_one_line(kind, tmp_path):
    path = tmp_path / "bad.h5"
    shutil.copyfile(FIXTURES / "predictions_v1.h5", path)
    DAMAGES.get(kind, _other_magic)(path)
    with pytest.raises(UserError, match="bad.h5") as caught:
        list(read_predictions(path))
    assert "\n" not in str(caught.value)
