"""Predictions of very many structures in parts ("shards"): on one machine or many, to be gone on with after any death.

The batches are those of a plain run, in its order; each goes to one shard as a whole, since the composition of a batch
changes the last bits (by up to 3e-8 Eh). So shards joined by ``schnorb_t merge`` are the plain run's file bit for bit,
on the same kind of machine, whatever worked on them, in whatever order. A shard is a file of predictions of its own,
written whole or not at all, that names the run it belongs to: the same command finds those that are finished and makes
the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from schnorb_t import __version__
from schnorb_t.data.batch_sizes import batches_by_size
from schnorb_t.errors import UserError, uninterrupted
from schnorb_t.hdf5 import HDF5Output
from schnorb_t.prediction_file import FORMAT, PredictionWriter
from schnorb_t.predictor import SPARSE_ABOVE, Predictor, load
from schnorb_t.structures import Structure, StructureFile
from schnorb_t.training.checkpoint import find_model

#: Attribute of a shard's file: JSON of its number and of the ``Run`` that it belongs to.
SHARD = "shard"


def digest(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


@dataclass(frozen=True)
class Run:
    """What decides the content of all shards.

    Attributes:
        model: SHA-256 of the checkpoint.
        structures: SHA-256 of the file of structures.
        count: structures that are predicted.
        shards: how many files.
        batch_size: molecules at once; None: by their size.
        device: kind of device, ``cpu`` or ``cuda``.
        version: of this package.
    """

    model: str
    structures: str
    count: int
    shards: int
    batch_size: int | None
    device: str
    version: str = __version__

    def path(self, output: Path, number: int) -> Path:
        """``out.h5`` -> ``out-00003-of-00016.h5``, numbers from 0."""
        return output.with_name(f"{output.stem}-{number:05d}-of-{self.shards:05d}{output.suffix or '.h5'}")

    def other(self, path: Path) -> str:
        """Why a file is not a finished shard of this run; ``""`` if it is one.

        A file that cannot be read counts as another's.
        """
        said = read_shard(path)
        if said is None:
            return "is no shard of predictions"
        theirs, ours = said["run"], asdict(self)
        return ", ".join(
            f"{key} {theirs.get(key)!r:.20} instead of {value!r:.20}"
            for key, value in ours.items()
            if theirs.get(key) != value
        )


def read_shard(path: str | Path) -> dict[str, Any] | None:
    """Number and run of a shard, {"number": int, "run": {...}}; None of any other file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs.get("format") != FORMAT or SHARD not in file.attrs or "n_structures" not in file.attrs:
                return None
            return json.loads(file.attrs[SHARD])
    except (OSError, RuntimeError, KeyError, ValueError):
        return None


@dataclass(frozen=True)
class Task:
    """The work of one shard: its number, and its batches of (places in the file of structures, structures)."""

    number: int
    batches: list[tuple[list[int], list[Structure]]]


def tasks(run: Run, read: StructureFile, sound: Sequence[int], wanted: Iterable[int]) -> Iterator[Task]:
    """Cut the plain run's batches into shards of about equally many structures.

    Only a window of the file and the shard that is being filled are in memory.

    Args:
        run: tells how many shards.
        read: the file.
        sound: places of the structures to predict.
        wanted: numbers of the shards to make.
    """
    wanted = frozenset(wanted)
    number, done = 0, 0
    batches: list[tuple[list[int], list[Structure]]] = []
    for places, structures in read.windows(sound):
        for batch in batches_by_size([len(s) for s in structures], run.batch_size, run.device, SPARSE_ABOVE):
            here = done * run.shards // run.count
            while number < here:
                if number in wanted:
                    yield Task(number, batches)
                number, batches = number + 1, []
            if number in wanted:
                batches.append(([places[k] for k in batch], [structures[k] for k in batch]))
            done += len(batch)
    for last in range(number, run.shards):
        if last in wanted:
            yield Task(last, batches if last == number else [])


@dataclass(frozen=True)
class Summary:
    """What a shard says of its structures.

    Attributes:
        count: of them.
        first: (index, formula, name, homo, lumo, gap, frontier_spread, doubt) of those in ``Job.first``.
        doubts: eV, of each; empty of models that know none.
        doubtful: (index, name, doubt) of those beyond the threshold.
    """

    count: int
    first: list[tuple]
    doubts: np.ndarray
    doubtful: list[tuple[int, str, float]]


@lru_cache(maxsize=1)
def _loaded(model: str, device: str, expected: str) -> Predictor:
    """A process loads the model once."""
    if digest(find_model(model)) != expected:
        raise UserError(f"{model}: another model than the one this run began with; every machine needs the same")
    return load(model, device)


@dataclass(frozen=True)
class Job:
    """Makes one shard after the other; picklable, for worker processes.

    Attributes:
        run: what the shards belong to.
        model: path of a checkpoint or name of a model that ships.
        source: file of the structures, for the shards' attributes.
        output: ``out.h5``, see ``Run.path``.
        device: of the network.
        first: indices of the structures whose levels are reported.
        doubt_above: eV.
        skipped: lines of structures that were left out; stand in the first shard.
    """

    run: Run
    model: str
    source: str
    output: Path
    device: str
    first: frozenset[int]
    doubt_above: float
    skipped: tuple[str, ...] = ()

    def __call__(self, task: Task) -> Summary:
        """Predict and write a shard.

        Raises:
            UserError: what the prediction or the disk refuses.
        """
        predictor = _loaded(self.model, self.device, self.run.model)
        path = self.run.path(self.output, task.number)
        said = {SHARD: json.dumps({"number": task.number, "run": asdict(self.run)})}
        first, doubtful, doubts, count = [], [], [], 0
        with PredictionWriter(path, predictor.card, self.model, self.source, said) as writer:
            if task.number == 0:
                writer.skipped(list(self.skipped))
            for places, structures in task.batches:
                # one batch as it is: it is in the order of sizes already
                for made in predictor.predict_batches(structures, len(structures), places):
                    for index, x in made:
                        writer.add(index, x)
                        count += 1
                        if x.doubt is not None:
                            doubts.append(x.doubt)
                            if x.doubt > self.doubt_above:
                                doubtful.append((index, x.name, x.doubt))
                        if index in self.first:
                            first.append((index, x.formula, x.name, x.homo, x.lumo, x.gap, x.frontier_spread, x.doubt))
        return Summary(count, first, np.array(doubts), doubtful)

    def summary_of(self, number: int) -> Summary:
        """That of a shard that was finished before, from its file."""
        first, doubtful, doubts, count = [], [], [], 0
        path = self.run.path(self.output, number)
        with h5py.File(path, "r", locking=False) as file:
            for group in file.values():
                said = group.attrs
                index, doubt, count = int(said["index"]), said.get("doubt_ev"), count + 1
                if doubt is not None:
                    doubts.append(float(doubt))
                    if doubt > self.doubt_above:
                        doubtful.append((index, str(said["name"]), float(doubt)))
                if index in self.first:
                    levels = float(said["homo"]), float(said["lumo"])
                    spread = None
                    if "orbital_energy_spread" in group:
                        k, values = int(said["n_electrons"]) // 2, group["orbital_energy_spread"][()]
                        spread = tuple(float(values[p]) if 0 <= p < len(values) else float("nan") for p in (k - 1, k))
                    name, formula = str(said["name"]), str(said["formula"])
                    known = None if doubt is None else float(doubt)
                    first.append((index, formula, name, *levels, levels[1] - levels[0], spread, known))
        return Summary(count, first, np.array(doubts), doubtful)


def remove_leftovers(run: Run, output: Path) -> None:
    """Temporary files of workers that were killed, once nobody works any more (see ``files.temporary_name``)."""
    for left in output.parent.glob(f".tmp.*-{output.stem}-*-of-{run.shards:05d}{output.suffix or '.h5'}"):
        left.unlink(missing_ok=True)


def merge_shards(files: Sequence[str | Path], output: str | Path) -> int:
    """Join all shards of one run into the file that a plain run writes.

    Args:
        files: every shard once, in any order.
        output: the file to write.

    Returns:
        structures.

    Raises:
        UserError: a file is no shard, is of another run, stands twice, or one is missing; or the disk refuses.
    """
    paths = [Path(path) for path in files]
    found: dict[int, Path] = {}
    wanted: dict[str, Any] | None = None
    for path in paths:
        if (said := read_shard(path)) is None:
            raise UserError(f"{path}: is no shard of `schnorb_t predict --shards`; only such predictions are merged")
        wanted = said["run"] if wanted is None else wanted
        if said["run"] != wanted:
            raise UserError(f"{path} and {paths[0]} belong to different runs; merge the shards of one")
        if said["number"] in found:
            raise UserError(f"{path} and {found[said['number']]} are the same shard; leave one out")
        found[said["number"]] = path
    assert wanted is not None
    if missing := sorted(set(range(wanted["shards"])) - set(found)):
        names = ", ".join(map(str, missing[:5])) + (" ..." if len(missing) > 5 else "")
        raise UserError(
            f"{len(missing)} of {wanted['shards']} shards are missing (number {names}, counted from 0); "
            "name all, or run the command that makes them again"
        )
    count = 0
    with HDF5Output(output) as out:
        for number in sorted(found):
            with h5py.File(found[number], "r", locking=False) as shard, uninterrupted():
                out.file.attrs.update({k: v for k, v in shard.attrs.items() if k not in (SHARD, "n_structures")})
                for name in shard:
                    shard.copy(name, out.file)
                count += int(shard.attrs["n_structures"])
            out.check()
        with uninterrupted():
            out.file.attrs["n_structures"] = count
    return count
