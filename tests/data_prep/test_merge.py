"""data_prep/merge.py: the basis is the union; another file's test molecules stay out of training."""

import dataclasses

import numpy as np
import pytest

from schnorb_t.basis import Basis
from schnorb_t.data.store import Header, Store, StoreWriter
from schnorb_t.structures import graph_key
from tests.data.store_examples import BASIS, HEADER, example
from tests.data_prep.commands import run


def write(path, records, header=HEADER):
    with StoreWriter(path, header) as writer:
        for record in records:
            writer.add(record)
    return path


@pytest.fixture
def files(tmp_path):
    """Two files; a test molecule of the first stands, turned around, in the second's training split."""
    smaller = Basis(BASIS.name, {1: (0,), 6: (0, 0, 1), 9: (0, 0, 1)}, projected=True)
    level = {**HEADER.level, "structures": "drawn at random"}
    tested = next(r for r in (example(i, split="test") for i in range(100, 200)) if 8 not in r.atomic_numbers)
    key = graph_key(tested.atomic_numbers, tested.positions)
    carbon = [r for r in (example(i, split="train") for i in range(20, 60)) if 8 not in r.atomic_numbers]
    second = [r for r in carbon if graph_key(r.atomic_numbers, r.positions) != key][:5]
    copy = dataclasses.replace(
        tested, name="copy", group="copy", split="train", positions=tested.positions @ np.diag([-1.0, -1.0, 1.0])
    )
    others = [example(i, split="train") for i in range(4)]
    return (
        write(tmp_path / "a.h5", [*others, tested]),
        write(tmp_path / "b.h5", [*second, copy], Header(smaller, "wqao", level, HEADER.programs)),
        tested,
    )


def test_merge(files, tmp_path):
    a, b, _ = files
    done = run("merge.py", a, b, "-o", tmp_path / "m.h5")
    assert done.returncode == 0, done.stderr
    merged = Store(tmp_path / "m.h5")
    assert merged.basis.elements == (1, 6, 8, 9) and "structures" not in merged.level
    assert "copy" in done.stdout and "copy" not in merged.names.tolist()
    assert merged.names.tolist() == [*Store(a).names, *(n for n in Store(b).names if n != "copy")]
    for i, name in enumerate(merged.names):
        source = next(s for s in (Store(a), Store(b)) if name in s.names.tolist())
        record = source[source.names.tolist().index(name)]
        assert np.array_equal(merged[i].hamiltonian, record.hamiltonian) and merged[i].split == record.split


def test_what_does_not_fit_is_refused(files, tmp_path):
    a, b, _ = files
    other = Header(BASIS, "wqao", {**HEADER.level, "grid_level": 3}, HEADER.programs)
    c = write(tmp_path / "c.h5", [example(100)], other)
    for paths, word in (((a, c), "grid_level"), ((a, a), "stands in two"), ((a, tmp_path / "no.h5"), "no.h5")):
        done = run("merge.py", *paths, "-o", tmp_path / "m.h5")
        assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "m.h5").exists()
    done = run("merge.py", a, b, "-o", b)
    assert done.returncode == 2 and "exists" in done.stderr


def test_electrons_that_no_shell_holds_are_kept(tmp_path):
    """Valence-only files: the merged basis leaves out the same electrons, and other cores do not mix."""

    def store(name, core):
        basis = Basis("valence", BASIS.shells, projected=True, core=core)
        record = dataclasses.replace(example(0, split="train"), name=name)
        n = record.n_electrons - sum(core.get(int(z), 0) for z in record.atomic_numbers)
        header = Header(basis, HEADER.target, HEADER.level, HEADER.programs)
        return write(tmp_path / f"{name}.h5", [dataclasses.replace(record, n_electrons=n)], header)

    core = {6: 2, 8: 2}
    a, b, other = store("a", core), store("b", core), store("other", {6: 2})
    done = run("merge.py", a, b, "-o", tmp_path / "m.h5")
    assert done.returncode == 0, done.stderr
    assert Store(tmp_path / "m.h5").basis.core == core
    refused = run("merge.py", a, other, "-o", tmp_path / "n.h5")
    assert refused.returncode == 2 and "element 8" in refused.stderr


def test_what_would_spoil_another_files_splits_is_left_out(tmp_path):
    """The same group with other bonds, and validation molecules of one file among the training molecules of another."""
    from schnorb_t.commands.merge import merge

    records = [example(k) for k in range(6)]
    a = [
        dataclasses.replace(r, split=s, group=f"g{k}")
        for k, (r, s) in enumerate(zip(records, ("val", "test", "train"), strict=False))
    ]
    other = [example(k) for k in range(20, 24)]
    b = [
        dataclasses.replace(r, name=f"b{k}", split=s, group=g)
        for k, (r, s, g) in enumerate(
            zip(other, ("train", "val", "train", "train"), ("g0", "g1", "g2", "own"), strict=True)
        )
    ]
    graphs = {graph_key(r.atomic_numbers, r.positions) for r in a[:2]}
    assert not graphs & {graph_key(r.atomic_numbers, r.positions) for r in b}
    done = merge([write(tmp_path / "a.h5", a), write(tmp_path / "b.h5", b)], output=tmp_path / "m.h5")
    assert done["left_out"] == ["b0", "b1"] and done["molecules"] == 5


def test_one_geometry_with_two_energies_is_refused(tmp_path):
    from schnorb_t.commands.merge import merge
    from schnorb_t.errors import UserError

    first = example(0, split="train")
    for name, energy, refused in (("same", first.total_energy, False), ("other", first.total_energy + 0.1, True)):
        second = dataclasses.replace(first, name="copy", total_energy=energy)
        files = [write(tmp_path / f"{name}a.h5", [first]), write(tmp_path / f"{name}b.h5", [second])]
        if refused:
            with pytest.raises(UserError, match="same geometry and total energies 1.0e-01 Eh apart"):
                merge(files, output=tmp_path / f"{name}.h5")
        else:
            assert merge(files, output=tmp_path / f"{name}.h5")["molecules"] == 2


def test_optional_quantities_of_one_file_alone_are_kept(tmp_path):
    from schnorb_t.commands.merge import merge

    first, second = example(0, split="train"), example(1, split="train")
    second = dataclasses.replace(second, forces=np.full((len(second.atomic_numbers), 3), 0.5), charge=0)
    merge([write(tmp_path / "a.h5", [first]), write(tmp_path / "b.h5", [second])], output=tmp_path / "m.h5")
    with Store(tmp_path / "m.h5") as store:
        assert store.has("forces").tolist() == [False, True] and store.has("charge").tolist() == [False, True]
        assert store[0].forces is None and np.array_equal(store[1].forces, second.forces)


def test_molecules_without_matrices_are_not_trained_on(tmp_path):
    from schnorb_t.errors import UserError

    bare = dataclasses.replace(example(1, split="train"), hamiltonian=None, overlap=None)
    with Store(write(tmp_path / "a.h5", [example(0, split="train"), bare])) as store:
        store.require_matrices(np.array([0]))
        with pytest.raises(UserError, match=f"1 of 2 molecules .such as {bare.name}. have no hamiltonian"):
            store.require_matrices(np.array([0, 1]))


def test_a_merge_that_fails_leaves_nothing_so_that_it_can_be_run_again(tmp_path, monkeypatch):
    from schnorb_t.commands.merge import merge
    from schnorb_t.errors import UserError

    files = [write(tmp_path / f"{k}.h5", [example(k, split="train")]) for k in range(2)]
    before, add = sorted(tmp_path.iterdir()), StoreWriter.add

    def full(writer, record):
        if writer.known_names:
            raise UserError("the disk is full")
        add(writer, record)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "add", full)
        with pytest.raises(UserError, match="the disk is full"):
            merge(files, output=tmp_path / "m.h5")
    assert sorted(tmp_path.iterdir()) == before
    assert merge(files, output=tmp_path / "m.h5")["molecules"] == 2
