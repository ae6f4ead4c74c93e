"""Predictions in shards: whatever is killed, joined they are the file of one plain run, bit for bit."""

import dataclasses
import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.io import write

from schnorb_t.commands.merge import merge
from schnorb_t.commands.predict import predict, show
from schnorb_t.errors import UserError
from schnorb_t.reference.pool import run_dask, run_processes
from schnorb_t.shards import Job, Run, digest, tasks
from schnorb_t.structures import StructureFile
from tests.training.examples import geometries, toy_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, a file of 36 structures, and its predictions by a plain run in batches of 3."""
    folder = tmp_path_factory.mktemp("shards")
    checkpoint = toy_files(folder)[0]
    structures = folder / "molecules.xyz"
    write(structures, [atoms for seed in range(3) for atoms in geometries(seed)], format="extxyz")
    plain = folder / "plain.h5"
    predict(str(checkpoint), structures, output=plain, batch_size=3, device="cpu")
    return str(checkpoint), structures, plain


def content(path: Path) -> dict:
    """Everything that a file of predictions holds."""
    with h5py.File(path) as file:
        out = {("", key): value for key, value in file.attrs.items()}
        for name, group in file.items():
            out |= {(name, key): value for key, value in group.attrs.items()}
            out |= {(f"{name}/{key}", ""): data[()] for key, data in group.items()}
    return out


def assert_equal(a: Path, b: Path) -> None:
    one, other = content(a), content(b)
    assert one.keys() == other.keys() and len(one) > 300
    assert all(np.array_equal(one[key], other[key]) for key in one)


@dataclasses.dataclass(frozen=True)
class DiesOnce:
    """A job whose worker is killed in the middle of shard 1, the first time."""

    job: Job
    mark: Path

    def __call__(self, task):
        if task.number == 1 and not self.mark.exists():
            self.mark.touch()
            (place := self.job.run.path(self.job.output, 1)).with_name(f".tmp.1-{place.name}").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.job(task)


def job_of(files, output: Path, shards: int) -> tuple[Job, list]:
    checkpoint, structures, _ = files
    run = Run(digest(checkpoint), digest(structures), 36, shards, 3, "cpu")
    job = Job(run, checkpoint, str(structures), output, "cpu", frozenset((0, 1)), 0.15)
    return job, list(tasks(run, StructureFile(structures), range(36), range(shards)))


def test_tasks_hold_every_structure_once_in_the_batches_of_a_plain_run(files):
    job, work = job_of(files, Path("out.h5"), 5)
    assert [task.number for task in work] == list(range(5))
    batches = [places for task in work for places, _ in task.batches]
    assert sorted(sum(batches, [])) == list(range(36)) and {len(b) for b in batches} == {3}
    assert {sum(len(places) for places, _ in task.batches) for task in work} <= {6, 9}
    some = list(tasks(job.run, StructureFile(files[1]), range(36), [3]))
    assert [t.number for t in some] == [3] and [b[0] for b in some[0].batches] == [b[0] for b in work[3].batches]


def test_two_workers_one_killed(files, tmp_path, capsys):
    """SIGKILL in the middle of a shard: another worker makes it, and the same command finds all of them."""
    checkpoint, structures, plain = files
    output = tmp_path / "out.h5"
    job, work = job_of(files, output, 4)
    outcomes = list(run_processes(DiesOnce(job, tmp_path / "mark"), work, 2))
    assert (tmp_path / "mark").exists() and all(ok for _, ok, _ in outcomes) and len(outcomes) == 4
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out-*")}
    result = predict(checkpoint, structures, output=output, batch_size=3, device="cpu", shards=4)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("out-*")} == before and len(before) == 4
    assert not list(tmp_path.glob(".tmp*"))
    assert merge([Path(p) for p in result["shards"]], output=tmp_path / "joined.h5")["molecules"] == 36
    assert_equal(tmp_path / "joined.h5", plain)
    show(result)
    assert "4 of 4 shards are there already" in capsys.readouterr().err


def test_a_restarted_command_makes_what_is_missing(files, tmp_path):
    checkpoint, structures, plain = files
    output = tmp_path / "out.h5"
    options = dict(output=output, batch_size=3, device="cpu", shards=6)
    first = predict(checkpoint, structures, **options)
    paths = [Path(path) for path in first["shards"]]
    paths[2].unlink()
    with pytest.raises(UserError, match=r"1 of 6 shards are missing \(number 2"):
        merge([p for p in paths if p.exists()], output=tmp_path / "joined.h5")
    again = predict(checkpoint, structures, **options)
    assert again["levels"] == first["levels"] and len(again["levels"]) == 5
    assert [x["structure"] for x in again["levels"]] == list(range(5))
    merge(paths[::-1], output=tmp_path / "joined.h5")
    assert_equal(tmp_path / "joined.h5", plain)


def test_more_shards_than_batches(files, tmp_path):
    checkpoint, structures, _ = files
    result = predict(checkpoint, structures, output=tmp_path / "out.h5", device="cpu", shards=3)
    predict(checkpoint, structures, output=tmp_path / "plain.h5", device="cpu")
    merge([Path(p) for p in result["shards"]], output=tmp_path / "joined.h5")
    assert_equal(tmp_path / "joined.h5", tmp_path / "plain.h5")


def test_shards_of_another_run_are_not_touched(files, tmp_path):
    checkpoint, structures, plain = files
    options = dict(output=tmp_path / "out.h5", device="cpu", shards=2)
    first = predict(checkpoint, structures, batch_size=3, **options)
    with pytest.raises(UserError, match=r"belongs to another run \(batch_size 3 instead of 4\).*--force"):
        predict(checkpoint, structures, batch_size=4, **options)
    second = predict(checkpoint, structures, batch_size=4, force=True, **options)
    assert second["shards"] == first["shards"]
    third = predict(checkpoint, structures, output=tmp_path / "b.h5", device="cpu", shards=2, batch_size=3)
    for wrong, reason in (
        ([first["shards"][0], third["shards"][1]], "different runs"),
        ([first["shards"][0]] * 2, "same shard"),
        ([first["shards"][0], str(plain)], "is no shard"),
    ):
        with pytest.raises(UserError, match=reason):
            merge([Path(p) for p in wrong], output=tmp_path / "joined.h5")
    assert not (tmp_path / "joined.h5").exists()


def test_options_that_do_not_go_together(files, tmp_path):
    checkpoint, structures, _ = files
    for options, reason in (
        (dict(workers=2), "how many with --shards"),
        (dict(shards=2, workers=2, scheduler="tcp://x:1"), "one of them"),
        (dict(shards=2, html=tmp_path / "pages"), "predictions alone"),
    ):
        with pytest.raises(UserError, match=reason):
            predict(checkpoint, structures, output=tmp_path / "out.h5", **options)


@pytest.mark.slow
def test_dask_workers_one_killed(files, tmp_path):
    distributed = pytest.importorskip("distributed")
    job, work = job_of(files, tmp_path / "out.h5", 8)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path)
    ) as cluster:
        for _, ok, value in run_dask(DiesOnce(job, tmp_path / "mark"), work, cluster.scheduler_address):
            assert ok, value
    assert (tmp_path / "mark").exists()
    merge([job.run.path(tmp_path / "out.h5", k) for k in range(8)], output=tmp_path / "joined.h5")
    assert_equal(tmp_path / "joined.h5", files[2])


@pytest.mark.slow
def test_twenty_thousand_structures(tmp_path):
    """Four windows of the file, two workers, one killed: the plain run's file."""
    checkpoint = str(toy_files(tmp_path)[0])
    structures = tmp_path / "molecules.xyz"
    with open(structures, "w") as file:
        for seed in range(1667):
            write(file, geometries(seed), format="extxyz")
    predict(checkpoint, structures, output=tmp_path / "plain.h5", device="cpu")
    run = Run(digest(checkpoint), digest(structures), 20004, 9, None, "cpu")
    job = Job(run, checkpoint, str(structures), tmp_path / "out.h5", "cpu", frozenset(), 0.15)
    work = tasks(run, StructureFile(structures), range(20004), range(9))
    assert all(ok for _, ok, _ in run_processes(DiesOnce(job, tmp_path / "mark"), work, 2))
    merge([run.path(tmp_path / "out.h5", k) for k in range(9)], output=tmp_path / "joined.h5")
    assert_equal(tmp_path / "joined.h5", tmp_path / "plain.h5")
