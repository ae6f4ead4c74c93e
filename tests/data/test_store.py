"""The store holds what was put in, for every process that reads it, and refuses what it cannot read."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import warnings

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from schnorb_t import keys
from schnorb_t.basis import Basis, GaussianShell
from schnorb_t.data.records import pack_triangle, unpack_triangle
from schnorb_t.data.store import Header, Store, StoreWriter, journal_path, set_splits
from schnorb_t.errors import UserError
from tests.data.store_examples import BASIS, HEADER, assert_same, example


@pytest.fixture
def path(tmp_path):
    return tmp_path / "molecules.h5"


def write(path, numbers, header=HEADER, **changes):
    with StoreWriter(path, header) as writer:
        for i in numbers:
            writer.add(example(i, keep=i % 3 == 0, **changes))
    return path


def test_round_trip_is_bitwise(path):
    write(path, range(40))
    with Store(path) as store:
        assert len(store) == 40
        for i in np.random.default_rng(0).permutation(40):
            assert_same(store[i], example(int(i), keep=i % 3 == 0))
        assert_same(store[-1], example(39, keep=True))
        with pytest.raises(IndexError):
            store[40]
        assert [record.name for record in store] == list(store.names)  # iteration ends


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_triangles_round_trip(m, seed):
    x = np.random.default_rng(seed).normal(size=(m, m))
    x = x + x.T
    packed = pack_triangle(x)
    assert np.array_equal(packed, x[np.tril_indices(m)])
    assert np.array_equal(unpack_triangle(packed, m), x)


def test_header_survives_with_functions_and_long_basis(path):
    # the basis as JSON is far beyond the 64 KiB that an HDF5 attribute may have
    random = np.random.default_rng(0)
    shells = tuple(GaussianShell(0, tuple(random.uniform(1, 99, 60)), tuple(random.normal(size=60))) for _ in range(20))
    basis = Basis("long", {z: (0,) * 20 for z in (1, 6, 7, 8)}, {z: shells for z in (1, 6, 7, 8)})
    assert len(basis.to_json()) > 2 * 65536
    header = Header(basis, "full", {"functional": "pbe", "grid": (75, 302)}, {"pyscf": "2.14"})
    StoreWriter(path, header).close()
    with Store(path) as store:
        assert store.header == header and store.basis == basis and len(store) == 0
        assert store.level["grid"] == [75, 302] and store.target == "full" and store.programs == {"pyscf": "2.14"}
        assert store.elements == () and list(store.indices("train")) == []


def test_columns_and_splits(path):
    write(path, range(12))
    records = [example(i) for i in range(12)]
    with Store(path) as store:
        assert store.n_atoms.tolist() == [len(r.atomic_numbers) for r in records]
        assert store.n_orbitals.tolist() == [len(r.hamiltonian) for r in records]
        assert store.n_electrons.tolist() == [r.n_electrons for r in records]
        assert store.groups.tolist() == [r.group for r in records]
        assert store.total_energies.tolist() == [r.total_energy for r in records]
        assert store.elements == (1, 6, 8)
        assert np.array_equal(store.atomic_numbers_of(5), records[5].atomic_numbers)
        assert store.indices("test").tolist() == [4, 5, 10, 11]
        assert store.indices("all").tolist() == list(range(12))
        with pytest.raises(UserError, match="no split 'training'"):
            store.indices("training")


def test_texts_keep_every_letter(path):
    name, group = "qm9:ß Ω 分子", "C[C@H](N)C(=O)O" * 40
    with StoreWriter(path, HEADER) as writer:
        writer.add(example(0, name=name, group=group))
        writer.add(example(1, name="b"))
        writer.add_failure("bad: µ", "not converged after 50 cycles " * 100, 5)
    with Store(path) as store:
        assert store[0].name == name and store[0].group == group == store.groups[0]
        assert store.failures == [("bad: µ", "not converged after 50 cycles " * 100, 5)]


def test_content_does_not_depend_on_sessions_or_sequence(path, tmp_path):
    write(path, range(30))
    other = tmp_path / "other.h5"
    shuffled = np.random.default_rng(3).permutation(30)
    for part in np.array_split(shuffled, 5):
        write(other, part.tolist())
    assert path.read_bytes() == other.read_bytes()


def test_order_then_name(path):
    with StoreWriter(path, HEADER) as writer:
        for name, order in (("b", 1), ("z", 0), ("a", 1), ("c", -5)):
            writer.add(example(1, name=name, order=order))
    with Store(path) as store:
        assert store.names.tolist() == ["c", "z", "a", "b"]
        assert store[1].order == 0


def test_failures_are_kept_and_lifted(path):
    with StoreWriter(path, HEADER) as writer:
        writer.add_failure("molecule:1", "not converged", 1)
        writer.add_failure("molecule:2", "open shell", 2)
        assert writer.known_names == {"molecule:1", "molecule:2"}
    with StoreWriter(path, HEADER) as writer:
        assert "molecule:1" in writer.known_names
        writer.add(example(1))
        writer.add_failure("molecule:2", "open shell, 3 unpaired", 2)
        with pytest.raises(UserError, match="cannot have failed"):
            writer.add_failure("molecule:1", "?", 1)
    with Store(path) as store:
        assert store.failures == [("molecule:2", "open shell, 3 unpaired", 2)]
        assert store.names.tolist() == ["molecule:1"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hamiltonian": np.full((2, 2), 1.0)}, "hamiltonian has shape"),
        ({"positions": np.full((3, 2), 1.0)}, "positions has shape"),
        ({"total_energy": float("nan")}, "total_energy is nan"),
        ({"atomic_numbers": np.array([26])}, "no shells for Fe"),
        ({"atomic_numbers": np.array([0, 1])}, "must lie in 1..118"),
        ({"atomic_numbers": np.array([], dtype=int)}, "non-empty"),
        ({"split": "training"}, "split is 'training'"),
        ({"group": ""}, "must not be empty"),
        ({"name": "a\0b"}, "zero bytes"),
        ({"contraction": np.zeros((5, 1))}, "contraction has shape"),
    ],
)
def test_bad_records_are_refused_by_name(path, changes, words):
    with StoreWriter(path, HEADER) as writer:
        with pytest.raises(UserError, match=words) as error:
            writer.add(example(0, **changes))
        assert repr(changes.get("name", "molecule:0")) in str(error.value)
        writer.add(example(1))
    with Store(path) as store:
        assert store.names.tolist() == ["molecule:1"]


@pytest.mark.parametrize("field", ["hamiltonian", "overlap", "positions", "large_basis_energies"])
def test_not_finite_is_refused(path, field):
    value = np.array(getattr(example(0), field))
    value.flat[0] = np.inf
    with StoreWriter(path, HEADER) as writer, pytest.raises(UserError, match=f"{field} holds NaN"):
        writer.add(example(0, **{field: value}))


def test_asymmetry_is_measured_and_refused(path):
    h = example(0).hamiltonian
    with StoreWriter(path, HEADER) as writer:
        with pytest.raises(UserError, match="not symmetric"):
            writer.add(example(0, hamiltonian=h + np.triu(np.full(h.shape, 1e-3), 1)))
        writer.add(example(0, hamiltonian=h + np.triu(np.full(h.shape, 1e-9), 1)))
    with Store(path) as store:
        assert store.column("hamiltonian_asymmetry")[0] == pytest.approx(1e-9, rel=1e-4)
        assert np.array_equal(store[0].hamiltonian, h)


def test_names_are_unique(path):
    write(path, [0])
    with StoreWriter(path, HEADER) as writer:
        with pytest.raises(UserError, match="already a molecule 'molecule:0'"):
            writer.add(example(0))


def test_another_header_is_refused_and_named(path):
    write(path, [0])
    before = path.read_bytes()
    others = {
        "target: wqao | iao": Header(BASIS, "iao", HEADER.level, HEADER.programs),
        "level functional: b3lyp | pbe": Header(BASIS, "wqao", HEADER.level | {"functional": "pbe"}, HEADER.programs),
        "level xc: none | 1": Header(BASIS, "wqao", HEADER.level | {"xc": 1}, HEADER.programs),
        "programs pyscf: 2.14.0 | 2.6": Header(BASIS, "wqao", HEADER.level, {"pyscf": "2.6"}),
        "basis: wqao": Header(Basis("wqao", {1: (0,)}, projected=True), "wqao", HEADER.level, HEADER.programs),
    }
    for words, header in others.items():
        with pytest.raises(UserError) as error:
            StoreWriter(path, header)
        assert words in str(error.value) and str(path) in str(error.value)
        assert not journal_path(path).exists()
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="exists already"):
        StoreWriter(path, HEADER, append=False)


def test_set_splits(path):
    write(path, range(6))
    set_splits(path, {"molecule:0": "test", "molecule:5": ""})
    with Store(path) as store:
        assert store.splits.tolist() == ["test", "train", "val", "val", "test", ""]
        for i in (1, 2, 3, 4):
            assert_same(store[i], example(i, keep=i % 3 == 0))
    with pytest.raises(UserError, match="no molecule 'nobody'"):
        set_splits(path, {"nobody": "test"})
    with pytest.raises(UserError, match="no split 'holdout'"):
        set_splits(path, {"molecule:0": "holdout"})
    assert sorted(os.listdir(path.parent)) == [path.name]


# ---- many processes ----------------------------------------------------------------------------------------------


class Names(Dataset):
    def __init__(self, store):
        self.store = store

    def __len__(self):
        return len(self.store)

    def __getitem__(self, i):
        record = self.store[i]
        return record.name, float(record.hamiltonian.sum()), os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers_read_the_right_molecules(path, method):
    write(path, range(64))
    store = Store(path)
    store[3]  # an open file and caches in the parent must do no harm
    loader = DataLoader(
        Names(store), batch_size=4, shuffle=True, num_workers=2, multiprocessing_context=method, collate_fn=list
    )
    seen = [item for batch in loader for item in batch]
    assert {name: value for name, value, _ in seen} == {
        f"molecule:{i}": float(example(i).hamiltonian.sum()) for i in range(64)
    }
    assert len({pid for _, _, pid in seen} - {os.getpid()}) == 2
    assert_same(store[5], example(5))


def test_pickle_is_small_and_notices_a_rewritten_file(path):
    write(path, range(50))
    store = Store(path)
    store[0], store.names
    text = pickle.dumps(store)
    assert len(text) < 500
    assert_same(pickle.loads(text)[7], example(7))
    write(path, [99])
    with pytest.raises(UserError, match="rewritten while it was in use"):
        pickle.loads(text)[7]
    assert_same(store[7], example(7))  # whoever has it open keeps the old file


def test_a_killed_writers_fork_does_not_hold_the_lock(path):
    writer = StoreWriter(path, HEADER)
    writer.add(example(0))
    child = multiprocessing.get_context("fork").Process(target=__import__("time").sleep, args=(30,))
    child.start()
    try:
        writer.abandon()  # what the death of the writing process does
        with StoreWriter(path, HEADER) as second:
            assert second.known_names == {"molecule:0"}
    finally:
        child.kill()
        child.join()


# ---- files that are not what they should be ----------------------------------------------------------------------


def test_no_file(path):
    with pytest.raises(UserError, match="no such file"):
        Store(path)


def test_not_hdf5(path):
    path.write_text("3\nwater\nO 0 0 0\n")
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        Store(path)
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        StoreWriter(path, HEADER)
    assert not journal_path(path).exists()


def test_foreign_hdf5(path):
    with h5py.File(path, "w") as file:
        file["energies"] = [1.0]
    with pytest.raises(UserError, match="not a store of this package"):
        Store(path)


@pytest.mark.parametrize("version, remedy", [(3, "update schnorb_t"), (0, "write the file again")])
def test_other_schema_version(path, version, remedy):
    write(path, [0])
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = version
    with pytest.raises(UserError, match=f"schema version {version}.*{remedy}"):
        Store(path)


def test_missing_dataset(path):
    write(path, [0])
    with h5py.File(path, "r+") as file:
        del file["overlap"]
    with pytest.raises(UserError, match="lacks overlap"):
        Store(path)


def test_truncated_anywhere(path):
    """A copy cut short is refused when it is opened, or at the latest when the missing molecule is read."""
    write(path, range(30))
    whole = path.read_bytes()
    cuts = np.random.default_rng(0).integers(0, len(whole), 25).tolist()
    for cut in [0, 1, 7, 8, 100, len(whole) - 1, *cuts]:
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=str(path)):
            with Store(path) as store:
                assert [record.name for record in store]  # reads every molecule


def test_flipped_bytes_never_give_wrong_matrices(path):
    """Checksums: damage of the bulk is reported with the molecule's name."""
    write(path, range(30))
    with h5py.File(path) as file:
        chunk = file["hamiltonian"].id.get_chunk_info(0)
    whole = bytearray(path.read_bytes())
    whole[chunk.byte_offset + 1000] ^= 0x40
    path.write_bytes(whole)
    with Store(path) as store, pytest.raises(UserError, match="'molecule:0'.*damaged"):
        store[0]


def _contents(path):
    with Store(path) as store:
        values = [[getattr(record, q.field) for q in keys.stored()] for record in store]
        molecules = [[v.tobytes() if isinstance(v, np.ndarray) else v for v in some] for some in values]
        return store.header.to_dict(), store.failures, molecules


def test_a_flipped_bit_anywhere_is_told_in_one_line_or_changes_nothing(path):
    """Also in what HDF5 has no check sums for: attributes, basis, failures, names of parts."""
    write(path, range(2))
    with StoreWriter(path, HEADER) as writer:
        writer.add_failure("hopeless", "not converged", 7)
    whole, before = path.read_bytes(), _contents(path)
    random = np.random.default_rng(0)
    with h5py.File(path) as file:
        bulk = file["hamiltonian"].id.get_chunk_info(0).byte_offset
    told = 0
    texts = [whole.index(text) for text in (b"def2-svp", b'"hamiltonian", "axes"', b"not converged", b'"projected"')]
    for at in [*range(12), *random.integers(0, bulk, 120), *random.integers(0, len(whole), 60), *texts]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            assert _contents(path) == before
            assert at not in texts
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            told += 1
    assert told > 100


def test_files_without_check_sums_of_the_header_are_read(path):
    write(path, range(2))
    before = _contents(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["checksum"], file.attrs["failures_checksum"]
    assert _contents(path) == before


def test_unfinished_file_is_readable_with_a_warning(path):
    write(path, range(3))
    writer = StoreWriter(path, HEADER)
    writer.add(example(3))
    with pytest.warns(UserWarning, match="not in the file yet"):
        store = Store(path)
    assert len(store) == 3 and store.unfinished
    writer.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Store(path)) == 4
