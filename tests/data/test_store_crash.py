"""Whatever kills a writer, at any moment: molecules are wholly there or not, and none that was there is lost."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import time
import warnings

import h5py
import numpy as np
import pytest

from schnorb_t.data import journal as j
from schnorb_t.data.store import Header, Store, StoreWriter, finish, journal_path, set_splits
from schnorb_t.errors import UserError
from tests.data.store_examples import BASIS, HEADER, assert_same, example

FORK = multiprocessing.get_context("fork")
N = 36


@pytest.fixture
def path(tmp_path):
    return tmp_path / "molecules.h5"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The bytes of a file written in one go."""
    path = tmp_path_factory.mktemp("undisturbed") / "molecules.h5"
    with StoreWriter(path, HEADER) as writer:
        for i in range(N):
            writer.add(example(i))
        writer.add_failure("hopeless", "not converged", 7)
    return path.read_bytes()


def write_missing(path, per_session, acknowledge=lambda name: None, pause=0.0):
    """What a labelling command does: add what is not there yet, in sessions of a few molecules each."""
    sequence = np.random.default_rng(len(os.listdir(path.parent))).permutation(N).tolist()
    while True:
        with StoreWriter(path, HEADER) as writer:
            missing = [i for i in sequence if f"molecule:{i}" not in writer.known_names]
            for i in missing[:per_session]:
                time.sleep(pause)
                writer.add(example(i))
                acknowledge(f"molecule:{i}")
            if "hopeless" not in writer.known_names:
                writer.add_failure("hopeless", "not converged", 7)
                acknowledge("hopeless")
        if len(missing) <= per_session:
            return


def _writing_child(path, per_session, pipe):
    write_missing(path, per_session, lambda name: os.write(pipe, f"{name}\n".encode()), pause=0.001)
    os._exit(0)


def write_and_kill(path, per_session, delay) -> set[str]:
    """Start a writer, ``kill -9`` it, return the names whose ``add`` had returned."""
    read_end, write_end = os.pipe()
    child = FORK.Process(target=_writing_child, args=(path, per_session, write_end))
    child.start()
    os.close(write_end)
    time.sleep(delay)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with os.fdopen(read_end) as pipe:
        return set(pipe.read().split("\n")) - {""}


@pytest.mark.parametrize("per_session", [1, 5, 1000])
def test_kill_nine_again_and_again(path, undisturbed, per_session):
    """Sessions of 1 spend most of their time merging, of 1000 in the journal."""
    random = np.random.default_rng(per_session)
    acknowledged, kills = set(), 0
    while kills < 12 or not acknowledged:  # on a busy machine a child may die before its first molecule
        acknowledged |= write_and_kill(path, per_session, random.uniform(0, 0.06))
        kills += 1
        if not path.exists() and not journal_path(path).exists():
            assert not acknowledged
            continue
        with StoreWriter(path, HEADER) as writer:
            assert acknowledged <= writer.known_names
            known = set(writer.known_names)
        with Store(path) as store:
            assert set(store.names) | {f[0] for f in store.failures} == known
            for record in store:
                assert_same(record, example(record.order))
        assert os.listdir(path.parent) == [path.name]
    write_missing(path, 1000)
    assert path.read_bytes() == undisturbed


def test_killed_between_replace_and_removal_of_the_journal(path, undisturbed, monkeypatch):
    """The moment at which file and journal hold the same molecules."""
    with monkeypatch.context() as patch:
        patch.setattr(j.Journal, "remove", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        writer = StoreWriter(path, HEADER)
        for i in range(N):
            writer.add(example(i))
        writer.add_failure("hopeless", "not converged", 7)
        with pytest.raises(KeyboardInterrupt):
            writer.close()
        writer.abandon()
    assert path.exists() and journal_path(path).exists()
    StoreWriter(path, HEADER).close()
    assert path.read_bytes() == undisturbed and not journal_path(path).exists()


def test_an_exception_in_the_writers_block_keeps_everything(path):
    with pytest.raises(KeyboardInterrupt):
        with StoreWriter(path, HEADER) as writer:
            writer.add(example(0))
            raise KeyboardInterrupt
    with pytest.raises(UserError, match="not finished.*--finish"):
        Store(path)
    assert finish(path) == 1
    assert_same(Store(path)[0], example(0))
    with pytest.raises(UserError, match="nothing to finish"):
        finish(path)


def interrupted(path, n=4):
    """A journal of n molecules whose writer died; returns the frames' ends."""
    writer = StoreWriter(path, HEADER)
    for i in range(n):
        writer.add(example(i))
    ends = [f.start + f.length for f in writer._journal.frames]
    writer.abandon()
    return ends


def test_torn_tail_at_every_kind_of_place(path):
    ends = interrupted(path)
    whole = journal_path(path).read_bytes()
    assert ends[-1] == len(whole)
    random = np.random.default_rng(0)
    cuts = [*range(ends[-2], ends[-2] + 40), *random.integers(0, len(whole), 40), len(whole) - 1]
    for cut in map(int, cuts):
        journal_path(path).write_bytes(whole[:cut])
        path.unlink(missing_ok=True)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            writer = StoreWriter(path, HEADER)
        assert bool(told) == (cut not in (0, *ends))
        with writer:
            n_whole = sum(end <= cut for end in ends[1:])
            assert writer.known_names == {f"molecule:{i}" for i in range(n_whole)}
            for i in range(n_whole, 5):
                writer.add(example(i))
        with Store(path) as store:
            assert len(store) == 5
            for record in store:
                assert_same(record, example(record.order))


def test_zeros_after_a_power_cut(path):
    """Some file systems leave zeros at the end."""
    interrupted(path)
    with open(journal_path(path), "ab") as file:
        file.write(bytes(5000))
    with pytest.warns(UserWarning, match="its last 5,000 bytes are cut short or damaged and were left out"):
        writer = StoreWriter(path, HEADER)
    assert len(writer.known_names) == 4
    writer.close()


@pytest.mark.parametrize("how", ["write", "finish"])
def test_a_flipped_bit_anywhere_in_the_journal_is_never_silent(path, how):
    ends = interrupted(path, 3)
    whole, random = journal_path(path).read_bytes(), np.random.default_rng(1)
    places = [*range(8, 40), *random.integers(0, ends[0], 20), *random.integers(0, len(whole), 60), len(whole) - 1]
    for at in map(int, places):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(random.integers(8))
        path.unlink(missing_ok=True)
        journal_path(path).write_bytes(damaged)
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                finish(path) if how == "finish" else StoreWriter(path, HEADER).close()
            assert "left out" in str(told[0].message)
        except UserError as error:
            assert at < ends[0] and str(path) in str(error) and "\n" not in str(error)
            assert journal_path(path).read_bytes() == damaged  # nothing was thrown away
            journal_path(path).unlink()
            continue
        with Store(path) as store:
            for record in store:
                assert_same(record, example(record.order))


def test_damage_within_the_journal_costs_one_molecule_and_says_so(path):
    ends = interrupted(path)
    data = bytearray(journal_path(path).read_bytes())
    data[ends[1] + 200] ^= 1  # within molecule 1
    journal_path(path).write_bytes(data)
    with pytest.warns(UserWarning, match="damaged and were left out"):
        writer = StoreWriter(path, HEADER)
    assert writer.known_names == {"molecule:0", "molecule:2", "molecule:3"}
    writer.add(example(1))
    writer.close()
    assert len(Store(path)) == 4


def test_a_journal_that_is_something_else_is_left_alone(path):
    journal_path(path).write_text("my notes")
    with pytest.raises(UserError, match="not a journal.*move it away"):
        StoreWriter(path, HEADER)
    assert journal_path(path).read_text() == "my notes"


def test_an_interrupted_file_refuses_another_header(path):
    interrupted(path)
    before = journal_path(path).read_bytes()
    with pytest.raises(UserError, match="target: wqao . iao"):
        StoreWriter(path, Header(BASIS, "iao", HEADER.level, HEADER.programs))
    assert journal_path(path).read_bytes() == before


def test_two_writers_at_once_are_refused(path):
    with StoreWriter(path, HEADER) as writer:
        with pytest.raises(UserError, match="this process already writes it"):
            StoreWriter(path, HEADER)
        with pytest.raises(UserError, match="this process already writes it"):
            finish(path)
        answer, there = FORK.Pipe(duplex=False)
        child = FORK.Process(target=_second_writer, args=(path, there))
        child.start()
        assert "another process is writing this file" in answer.recv()
        child.join()
        writer.add(example(0))
        with pytest.raises(UserError, match="already writes"):
            set_splits(path, {}) if path.exists() else finish(path)
    assert len(Store(path)) == 1


def _second_writer(path, pipe):
    try:
        StoreWriter(path, HEADER)
        pipe.send("it was let in")
    except UserError as error:
        pipe.send(str(error))


def test_writers_that_race_leave_every_molecule(path):
    """Six processes try again and again until each had its turn."""
    children = [FORK.Process(target=_racing_writer, args=(path, i)) for i in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    with Store(path) as store:
        assert sorted(store.names) == [f"molecule:{i}" for i in range(6)]
    assert os.listdir(path.parent) == [path.name]


def _racing_writer(path, i):
    for _ in range(2000):
        try:
            writer = StoreWriter(path, HEADER)
        except UserError as error:
            assert "another process" in str(error)
            time.sleep(0.002)
            continue
        writer.add(example(i))
        writer.close()
        return
    raise SystemExit(1)


def test_a_forked_worker_cannot_write_or_close_its_parents_file(path):
    with StoreWriter(path, HEADER) as writer:
        writer.add(example(0))
        child = FORK.Process(target=_misuse, args=(writer,))
        child.start()
        child.join()
        assert child.exitcode == 0
        writer.add(example(1))
    assert len(Store(path)) == 2
    with pytest.raises(ValueError, match="closed"):
        writer.add(example(2))


def _misuse(writer):
    with pytest.raises(ValueError, match="another process"):
        writer.add(example(5))
    writer.close()
    assert journal_path(writer.path).exists()


def test_full_disk(path):
    """A limit on file size stands for the full disk: an error that says so, and everything before it is kept."""
    refused = {"journal": 0, "merge": 0}
    with StoreWriter(path, HEADER) as writer:
        for i in range(N):
            writer.add(example(i))
        size = {"journal": journal_path(path).stat().st_size}
    size["merge"] = path.stat().st_size
    path.unlink()
    assert size["merge"] > size["journal"]
    for limit in (*range(30000, size["merge"], 11111), *range(size["merge"] - 12000, size["merge"] + 600, 600)):
        child = FORK.Process(target=_write_into_full_disk, args=(path, limit))
        child.start()
        child.join()
        refused["journal"] += child.exitcode == 1
        refused["merge"] += child.exitcode == 2
        assert child.exitcode in (0, 1, 2)
        assert path.exists() == (child.exitcode == 0)
        with StoreWriter(path, HEADER) as writer:
            n = len(writer.known_names)
            assert n == N or (child.exitcode == 1 and n >= limit // 30000)
        with Store(path) as store:
            assert len(store) == n
            for record in store:
                assert_same(record, example(record.order))
        assert os.listdir(path.parent) == [path.name]
        path.unlink()
    assert refused["journal"] > 3 and refused["merge"] > 3


def _write_into_full_disk(path, limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    writer, room = StoreWriter(path, HEADER), 1
    try:
        for i in range(N):
            writer.add(example(i))
        room = 2
        writer.close()
    except UserError as error:
        assert re.search(
            "cannot be written .file too large.; raise the limit on the size of files", str(error), re.IGNORECASE
        )
        os._exit(room)
    os._exit(0)


def test_files_are_never_changed_in_place(path):
    """Who reads the old file, keeps it."""
    with StoreWriter(path, HEADER) as writer:
        writer.add(example(0))
    with h5py.File(path, "r", locking=False) as reader:
        with StoreWriter(path, HEADER) as writer:
            writer.add(example(1))
        set_splits(path, {"molecule:0": "test"})
        assert reader["index/name"].shape == (1,)
    with Store(path) as store:
        assert len(store) == 2 and store.splits[0] == "test"
