"""The store: one HDF5 file for any number of molecules of any size. The format is written down in docs/store.md.

``Store`` reads, ``StoreWriter`` writes. A writer appends every molecule to a journal beside the file
(``schnorb_t.data.journal``) and merges journal and file when it closes, into a new file that replaces the old
one in a single step. So a molecule is either wholly there or not, and what was there stays.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from ..basis import Basis
from ..errors import UserError
from . import journal as j
from .merge import FORMAT, SCHEMA_VERSION, merge, rewrite_splits
from .records import SPLITS, MoleculeRecord, PackedRecord, pack, unpack


@dataclass(frozen=True)
class Header:
    """What all molecules of a file share; a writer continues a file only if this is equal.

    Attributes:
        basis: of the stored matrices.
        target: ``"wqao"``, ``"iao"``, ``"quambo"``, ``"full"`` or the name of an AO basis.
        level: level of theory, JSON-able: functional, basis, density_fitting, grid_level, conv_tol, ...
        programs: program -> version.
    """

    basis: Basis
    target: str
    level: dict
    programs: dict[str, str]

    def __post_init__(self):
        # tuples become lists, so that a header equals itself after a round trip through a file
        object.__setattr__(self, "level", json.loads(json.dumps(self.level)))
        object.__setattr__(self, "programs", json.loads(json.dumps(self.programs)))

    def to_dict(self) -> dict:
        return {
            "basis": self.basis.to_json(),
            "target": self.target,
            "level": self.level,
            "programs": self.programs,
        }

    @classmethod
    def from_dict(cls, data: dict) -> Header:
        return cls(Basis.from_json(data["basis"]), data["target"], data["level"], data["programs"])

    def difference(self, other: Header) -> str:
        """The differences in words, ``""`` if there is none."""
        out = []
        if self.basis != other.basis:
            same = str(self.basis) == str(other.basis)
            out.append(f"basis: {self.basis} | {other.basis}" + (" (their functions differ)" if same else ""))
        if self.target != other.target:
            out.append(f"target: {self.target} | {other.target}")
        for what in ("level", "programs"):
            mine, theirs = getattr(self, what), getattr(other, what)
            out += [
                f"{what} {key}: {mine.get(key, 'none')} | {theirs.get(key, 'none')}"
                for key in sorted({*mine, *theirs})
                if mine.get(key) != theirs.get(key)
            ]
        return "; ".join(out)


def journal_path(path: str | Path) -> Path:
    """Where the molecules of an unfinished file wait."""
    return Path(f"{path}.journal")


def _finish_hint(path: Path) -> str:
    return f"run the command that writes it again, or `python -m schnorb_t.data.check --finish {path}`"


class Store:
    """Random access to a file of molecules, one process at a time or many.

    Cheap to construct and to pickle: every process opens the file for itself and reads only what is asked for, so a
    ``Store`` can be handed to the workers of a ``DataLoader``, forked or spawned.

    Args:
        path: the HDF5 file. If a writer was interrupted, the molecules of the file itself are read, with a warning.

    Attributes:
        n_atoms, n_orbitals, n_electrons: [n] int64.
        names, groups, splits: [n] text.
        header, basis, target, level, programs: what all molecules share.

    Raises:
        UserError: no such file, no HDF5 file, truncated, another format or schema version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        self._identity: tuple | None = None
        self._open()
        if self.unfinished:
            warnings.warn(
                f"{self.path}: a writer is at work or was interrupted, and {journal_path(self.path)} holds "
                f"molecules that are not in the file yet; to have them, {_finish_hint(self.path)}",
                stacklevel=2,
            )

    # ---- opening ---------------------------------------------------------------------------------------------

    def _open(self) -> h5py.File:
        """The file, opened by this very process."""
        if self._file is not None and self._pid == os.getpid():
            return self._file
        self._file = None
        try:
            stat = os.stat(self.path)
        except OSError:
            if journal_path(self.path).exists():
                raise UserError(
                    f"{self.path}: not finished, its molecules wait in {journal_path(self.path)}; "
                    f"{_finish_hint(self.path)}"
                ) from None
            raise UserError(f"{self.path}: no such file") from None
        identity = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._identity is not None and identity != self._identity:
            raise UserError(f"{self.path}: the file was rewritten while it was in use; start again")
        try:
            # Finished files are never changed in place, so no lock is needed (and some cluster disks have none).
            file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be read as HDF5 ({error}); if it was copied, copy it again, "
                "if it is something else, convert it first (data_prep/)"
            ) from None
        if file.attrs.get("format") != FORMAT:
            file.close()
            raise UserError(f"{self.path}: an HDF5 file, but not one of this package; convert it first (data_prep/)")
        version = int(file.attrs["schema_version"])
        if version != SCHEMA_VERSION:
            file.close()
            raise UserError(
                f"{self.path}: has schema version {version}, this schnorb_t reads version {SCHEMA_VERSION}; "
                + ("update schnorb_t" if version > SCHEMA_VERSION else "write the file again")
            )
        self._file, self._pid, self._identity = file, os.getpid(), identity
        self._data = {name: file[name] for name in ("atomic_numbers", "positions", "hamiltonian", "overlap")}
        self._data |= {name: file[name] for name in ("large_basis_energies", "contraction")}
        return file

    def __getstate__(self):
        return {"path": self.path, "_identity": self._identity}

    def __setstate__(self, state):
        self.__dict__.update(state, _file=None, _pid=-1)

    def close(self) -> None:
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- what all molecules share ----------------------------------------------------------------------------

    @cached_property
    def header(self) -> Header:
        file = self._open()
        return Header(
            Basis.from_json(file["basis"].asstr()[()]),
            file.attrs["target"],
            json.loads(file.attrs["level"]),
            json.loads(file.attrs["programs"]),
        )

    @property
    def basis(self) -> Basis:
        return self.header.basis

    @property
    def target(self) -> str:
        return self.header.target

    @property
    def level(self) -> dict:
        return self.header.level

    @property
    def programs(self) -> dict[str, str]:
        return self.header.programs

    @property
    def unfinished(self) -> bool:
        """A journal lies beside the file: a writer is at work or was interrupted."""
        return journal_path(self.path).exists()

    # ---- columns: one entry per molecule, no matrices read ---------------------------------------------------

    def column(self, name: str) -> np.ndarray:
        """One entry per molecule, [n]: see ``index/`` in docs/store.md. Texts come as numpy strings."""
        data = self._open()["index"][name][:]
        return np.char.decode(data, "utf-8") if data.dtype.kind == "S" else data

    @cached_property
    def _offsets(self) -> dict[str, np.ndarray]:
        names = ("atom_offset", "triangle_offset", "level_offset", "contraction_offset")
        return {name: self.column(name) for name in names}

    def __len__(self) -> int:
        return len(self._offsets["atom_offset"]) - 1

    @cached_property
    def n_atoms(self) -> np.ndarray:
        return np.diff(self._offsets["atom_offset"])

    @cached_property
    def n_orbitals(self) -> np.ndarray:
        return self.column("n_orbitals")

    @cached_property
    def n_electrons(self) -> np.ndarray:
        return self.column("n_electrons")

    @cached_property
    def total_energies(self) -> np.ndarray:
        """[n] float64, Eh."""
        return self.column("total_energy")

    @cached_property
    def names(self) -> np.ndarray:
        return self.column("name")

    @cached_property
    def groups(self) -> np.ndarray:
        return self.column("group")

    @cached_property
    def splits(self) -> np.ndarray:
        return self.column("split")

    @cached_property
    def orders(self) -> np.ndarray:
        return self.column("order")

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(int(z) for z in np.unique(self._open()["atomic_numbers"][:]))

    @cached_property
    def failures(self) -> list[tuple[str, str, int]]:
        """(name, reason, order) of every molecule that was tried in vain, by order."""
        group = self._open()["failures"]
        columns = group["name"].asstr()[:], group["reason"].asstr()[:], group["order"][:]
        return [(str(name), str(reason), int(order)) for name, reason, order in zip(*columns, strict=True)]

    def indices(self, split: str) -> np.ndarray:
        """[k] int64: the molecules of ``"train"``, ``"val"``, ``"test"``, ``""`` (none given) or ``"all"``.

        Raises:
            UserError: no such split.
        """
        if split == "all":
            return np.arange(len(self))
        if split not in (*SPLITS, ""):
            raise UserError(f"{self.path}: no split {split!r}; there are {', '.join(SPLITS)} and all")
        return np.flatnonzero(self.splits == split)

    # ---- molecules -------------------------------------------------------------------------------------------

    def _place(self, index: int) -> int:
        i = int(index)
        if i < 0:
            i += len(self)
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path} holds {len(self)} molecules, asked for number {index}")
        return i

    def atomic_numbers_of(self, index: int) -> np.ndarray:
        """[n] int64."""
        i, at = self._place(index), self._offsets["atom_offset"]
        self._open()
        return self._data["atomic_numbers"][at[i] : at[i + 1]].astype(np.int64)

    def packed(self, index: int) -> PackedRecord:
        """A molecule as it lies on disk, reading nothing else."""
        i = self._place(index)
        self._open()
        offsets, data = self._offsets, self._data

        def part(name: str, kind: str) -> np.ndarray:
            offset = offsets[kind]
            return data[name][offset[i] : offset[i + 1]]

        m = int(self.n_orbitals[i])
        try:
            return PackedRecord(
                atomic_numbers=part("atomic_numbers", "atom_offset"),
                positions=part("positions", "atom_offset"),
                hamiltonian=part("hamiltonian", "triangle_offset"),
                overlap=part("overlap", "triangle_offset"),
                large_basis_energies=part("large_basis_energies", "level_offset"),
                contraction=part("contraction", "contraction_offset").reshape(-1, m),
                total_energy=float(self.total_energies[i]),
                n_electrons=int(self.n_electrons[i]),
                name=str(self.names[i]),
                group=str(self.groups[i]),
                split=str(self.splits[i]),
                order=int(self.orders[i]),
                hamiltonian_asymmetry=float(self._asymmetries[0][i]),
                overlap_asymmetry=float(self._asymmetries[1][i]),
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path}, molecule {self.names[i]!r} (index {i}): cannot be read ({error}); "
                "the file is damaged, copy or write it again"
            ) from None

    @cached_property
    def _asymmetries(self) -> tuple[np.ndarray, np.ndarray]:
        return self.column("hamiltonian_asymmetry"), self.column("overlap_asymmetry")

    def __getitem__(self, index: int) -> MoleculeRecord:
        return unpack(self.packed(index))

    def __repr__(self):
        return f"Store({str(self.path)!r}, {len(self)} molecules, {self.target}, {self.basis})"


class StoreWriter:
    """Adds molecules to a file, crash safe; use as a context manager.

    Args:
        path: the HDF5 file to begin or, if it exists, to continue.
        header: what all molecules share.
        append: continue an existing or interrupted file; ``False`` refuses one.

    Attributes:
        known_names: names of the molecules and failures that are already there.

    Raises:
        UserError: the file exists with another header, somebody else writes it, or it cannot be written.
    """

    def __init__(self, path: str | Path, header: Header, *, append: bool = True):
        self.path = Path(path)
        self.header = header
        if not append and (self.path.exists() or journal_path(self.path).exists()):
            raise UserError(f"{self.path}: exists already; remove it or choose another name")
        self._pid = os.getpid()
        self._journal = j.Journal(journal_path(self.path))
        self._closed = False
        try:
            self._begin()
        except BaseException:
            self._abandon()
            raise

    def _begin(self):
        self._molecules: set[str] = set()
        self._failures: set[str] = set()
        if self.path.exists():
            with _quiet_store(self.path) as store:
                self._refuse_other(store.header)
                self._molecules.update(store.names.tolist())
                self._failures.update(name for name, _, _ in store.failures)
        frames = self._journal.frames
        if not frames:
            self._journal.append(j.HEADER, j.encode_text(self.header.to_dict()))
        else:
            self._refuse_other(journal_header(self._journal))
        self._molecules.update(f.name for f in frames if f.kind == j.MOLECULE)
        self._failures.update(f.name for f in frames if f.kind == j.FAILURE)
        self._failures -= self._molecules

    def _refuse_other(self, there: Header):
        difference = there.difference(self.header)
        if difference:
            raise UserError(
                f"{self.path}: holds molecules of another kind (file | now): {difference}; "
                "choose the same settings or another file"
            )

    @property
    def known_names(self) -> set[str]:
        return self._molecules | self._failures

    def __contains__(self, name: str) -> bool:
        return name in self._molecules or name in self._failures

    def add(self, record: MoleculeRecord) -> None:
        """Store a molecule; when this returns, a killed process cannot lose it. A failure of that name is lifted.

        Raises:
            UserError: the name is there already, or shapes, numbers or symmetry are wrong.
        """
        if record.name in self._molecules:
            raise UserError(f"{self.path}: there is already a molecule {record.name!r}; names must be unique")
        packed = pack(record, self.header.basis)
        self._journal.append(j.MOLECULE, j.encode_molecule(packed), packed.name, packed.order)
        self._molecules.add(packed.name)
        self._failures.discard(packed.name)

    def add_failure(self, name: str, reason: str, order: int) -> None:
        """Record that a molecule was tried in vain, and why. The last reason given for a name counts.

        Raises:
            UserError: the molecule is there.
        """
        if name in self._molecules:
            raise UserError(f"{self.path}: molecule {name!r} is there already, it cannot have failed")
        meta = {"name": name, "reason": str(reason).replace("\0", ""), "order": int(order)}
        self._journal.append(j.FAILURE, j.encode_text(meta), name, int(order))
        self._failures.add(name)

    def close(self) -> None:
        """Merge the journal into the file, sorted by ``order`` and then name, and remove the journal."""
        if self._closed or os.getpid() != self._pid:
            return
        if len(self._journal.frames) > 1 or not self.path.exists():
            self._journal.sync()
            old = _quiet_store(self.path) if self.path.exists() else None
            try:
                merge(self.path, self.header.to_dict(), self._journal, old)
            finally:
                if old is not None:
                    old.close()
        self._journal.remove()
        self._abandon()

    def _abandon(self):
        self._closed = True
        self._journal.release()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        elif os.getpid() == self._pid:
            self._abandon()  # leave at once; the journal keeps everything for the next writer


def _quiet_store(path: Path) -> Store:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Store(path)


def journal_header(journal: j.Journal) -> Header:
    """The header that a journal begins with."""
    frame = journal.frames[0]
    if frame.kind != j.HEADER:
        raise UserError(f"{journal.path}: does not begin with a header; it is damaged, move it away")
    return Header.from_dict(j.decode_meta(journal.payload(frame))[0])


def finish(path: str | Path) -> int:
    """Merge what an interrupted writer left; returns how many frames waited.

    Raises:
        UserError: nothing waits, or a writer is still at work.
    """
    path = Path(path)
    if not journal_path(path).exists():
        raise UserError(f"{path}: nothing to finish, there is no {journal_path(path)}")
    journal = j.Journal(journal_path(path))
    try:
        if not journal.frames:
            raise UserError(f"{journal.path}: holds no whole molecule; remove it")
        header, waiting = journal_header(journal), len(journal.frames) - 1
    finally:
        journal.release()
    StoreWriter(path, header).close()
    return waiting


def set_splits(path: str | Path, splits: Mapping[str, str]) -> None:
    """Give molecules, by name, another split; the others keep theirs. The file is replaced in one step.

    Raises:
        UserError: an unknown molecule or split, or a writer is at work.
    """
    path = Path(path)
    bad = sorted({s for s in splits.values() if s not in (*SPLITS, "")})
    if bad:
        raise UserError(f"{path}: no split {bad[0]!r}; there are {', '.join(SPLITS)}")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    journal = j.Journal(journal_path(path))  # for its lock
    try:
        if journal.frames:
            raise UserError(f"{path}: is not finished; {_finish_hint(path)}")
        with _quiet_store(path) as store:
            names, now = store.names.tolist(), store.splits.tolist()
        unknown = sorted(set(splits) - set(names))
        if unknown:
            raise UserError(f"{path}: holds no molecule {unknown[0]!r} ({len(unknown)} unknown in all)")
        rewrite_splits(path, [splits.get(name, old) for name, old in zip(names, now, strict=True)])
    finally:
        if not journal.frames:
            journal.remove()
        journal.release()
