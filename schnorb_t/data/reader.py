"""Read a store: random access to its molecules, from one process or many."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from .. import keys
from ..basis import Basis
from ..errors import UserError, brief
from ..files import wrong_file
from .header import Header
from .merge import (
    CACHE_BYTES,
    CHECKSUM,
    FAILURES_CHECKSUM,
    FORMAT,
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    failures_checksum,
    header_checksum,
    offset_column,
    present_column,
)
from .records import SPLITS, MoleculeRecord, PackedRecord, unpack


def journal_path(path: str | Path) -> Path:
    """Where the molecules of an unfinished file wait."""
    return Path(f"{path}.journal")


def finish_hint(path: Path) -> str:
    """How a user finishes an interrupted file."""
    return f"run the command that writes it again, or `schnorb_t check --finish {path}`"


#: What is said where something else than a store is given.
GIVE = "give a store, which schnorb_t label, label-xtb and import-orca write (older files: schnorb_t convert)"
#: Fields that every molecule of a file of version 1 has.
FIELDS_1 = ("atomic_numbers", "positions", "hamiltonian", "overlap", "large_basis_energies", "total_energy") + (
    "n_electrons",
    "name",
    "group",
    "split",
    "order",
    "contraction",
)


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
        version: schema version of the file.
        fields: what the file holds (``keys.stored()`` explains each).
        unknown: what it holds that this version of the package has no declaration for, and does not read.

    Raises:
        UserError: no such file, no HDF5 file, truncated, another format or schema version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        self._identity: tuple | None = None
        self.version = SCHEMA_VERSION
        self.fields: tuple[str, ...] = ()
        self.unknown: tuple[str, ...] = ()
        self._open()
        _ = self.header  # now, not in the middle of work, is the time to find it damaged
        if self.unfinished:
            warnings.warn(
                f"{self.path}: a writer is at work or was interrupted, and {journal_path(self.path)} holds "
                f"molecules that are not in the file yet; to have them, {finish_hint(self.path)}",
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
                    f"{finish_hint(self.path)}"
                ) from None
            raise UserError(f"{self.path}: no such file") from None
        identity = (stat.st_size, stat.st_mtime_ns)
        if self._identity is not None and identity != self._identity:
            raise UserError(f"{self.path}: the file was rewritten while it was in use; start again")
        try:
            # Finished files are never changed in place, so no lock is needed (and some cluster disks have none).
            file = h5py.File(self.path, "r", locking=False, rdcc_nbytes=CACHE_BYTES)
        except OSError as error:
            reason = wrong_file(self.path, GIVE)
            if not reason or "HDF5" in reason:  # by its first bytes: the rest is damaged
                reason = f"cannot be read as HDF5 ({brief(error)}); if it was copied, copy it again, else {GIVE}"
            raise UserError(f"{self.path}: {reason}") from None
        try:
            with self._reading("its layout"):
                self._check_layout(file)
                self._data = {q.field: file[q.field] for q in keys.stored() if q.ragged and q.field in self.fields}
        except UserError:
            file.close()
            raise
        self._file, self._pid, self._identity = file, os.getpid(), identity
        return file

    def _check_layout(self, file: h5py.File) -> None:
        """Whether it is a store of a format that can be read, with all its parts."""
        if file.attrs.get("format") != FORMAT:
            kind = file.attrs.get("format")
            if kind == "schnorb_t predictions":
                raise UserError(f"{self.path}: holds predictions, and labelled molecules are wanted; {GIVE}")
            raise UserError(f"{self.path}: an HDF5 file, but not a store of this package; {GIVE}")
        version = int(file.attrs.get("schema_version", 0))
        if version not in READABLE_VERSIONS:
            raise UserError(
                f"{self.path}: has schema version {version}, this schnorb_t reads up to version {SCHEMA_VERSION}; "
                + ("update schnorb_t" if version > SCHEMA_VERSION else "write the file again")
            )
        if CHECKSUM in file.attrs and file.attrs[CHECKSUM] != header_checksum(file.attrs, file["basis"].asstr()[()]):
            raise UserError(
                f"{self.path}: what it says of all its molecules has another check sum than it was written with, so "
                "it is damaged; copy or write it again"
            )
        self.version = version
        if version == 1:
            needed = [q.field for q in keys.stored() if q.field in FIELDS_1]
            self.unknown = ()
        else:
            described = [entry["field"] for entry in json.loads(file.attrs["quantities"])]
            known = {q.field for q in keys.stored()}
            needed = [f for f in described if f in known]
            self.unknown = tuple(f for f in described if f not in known)
        self.fields = tuple(needed)
        quantities = [q for q in keys.stored() if q.field in needed]
        parts = ["basis", "index", "failures", "index/n_orbitals", "failures/name", "failures/reason"]
        parts += [q.field if q.ragged else f"index/{q.field}" for q in quantities]
        parts += [f"index/{offset_column(q, version)}" for q in quantities if q.ragged]
        parts += [f"index/{q.field}_asymmetry" for q in quantities if q.symmetric]
        if version > 1:
            parts += [f"index/{present_column(q)}" for q in quantities if q.optional]
        missing = [part for part in dict.fromkeys(parts) if part not in file]
        if missing:
            raise UserError(f"{self.path}: lacks {', '.join(missing)}, so it is damaged; copy or write it again")
        attributes = [name for name in ("target", "level", "programs", "n_molecules") if name not in file.attrs]
        if attributes:
            raise UserError(f"{self.path}: does not say {', '.join(attributes)}, so it is damaged; write it again")
        n = int(file.attrs["n_molecules"])
        for q in quantities:
            column, length = (f"index/{offset_column(q, version)}", n + 1) if q.ragged else (f"index/{q.field}", n)
            if file[column].shape[:1] != (length,):
                raise UserError(
                    f"{self.path}: {column} has {file[column].shape} entries for {n} molecules, so it is damaged; "
                    "copy or write it again"
                )

    def __getstate__(self):
        return {name: getattr(self, name) for name in ("path", "_identity", "version", "fields", "unknown")}

    def __setstate__(self, state):
        self.__dict__.update(state, _file=None, _pid=-1)

    def close(self) -> None:
        """Close the file; the next access opens it again."""
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
        """What all molecules share.

        Raises:
            UserError: damaged.
        """
        file = self._open()
        with self._reading("what all molecules share"):
            return Header(
                Basis.from_json(file["basis"].asstr()[()]),
                file.attrs["target"],
                json.loads(file.attrs["level"]),
                json.loads(file.attrs["programs"]),
            )

    @property
    def basis(self) -> Basis:
        """Of the stored matrices."""
        return self.header.basis

    @property
    def target(self) -> str:
        """Kind of matrices, e.g. ``"wqao"`` (``Header``)."""
        return self.header.target

    @property
    def level(self) -> dict:
        """Level of theory (``Header``)."""
        return self.header.level

    @property
    def programs(self) -> dict[str, str]:
        """Program -> version."""
        return self.header.programs

    @property
    def unfinished(self) -> bool:
        """A journal lies beside the file: a writer is at work or was interrupted."""
        return journal_path(self.path).exists()

    # ---- columns: one entry per molecule, no matrices read ---------------------------------------------------

    def column(self, name: str, decode: bool = True) -> np.ndarray:
        """One entry per molecule, [n]: see ``index/`` in docs/store.md. Texts as numpy strings, or as UTF-8 bytes.

        Raises:
            UserError: the file has none of that name, or is damaged.
        """
        file = self._open()
        with self._reading(f"index/{name}"):
            index = file["index"]
            if name not in index:
                raise UserError(f"{self.path}: holds no {name}")
            data = index[name][:]
            return np.char.decode(data, "utf-8") if decode and data.dtype.kind == "S" else data

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """h5py raises any of these where bytes are wrong."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path}: {what} cannot be read ({brief(error)}), so it is damaged; copy or write it again"
            ) from None

    def has(self, field: str) -> np.ndarray:
        """[n] bool: which molecules have a quantity.

        Raises:
            UserError: no such quantity is declared.
        """
        found = [q for q in keys.stored() if q.field == field]
        if not found:
            raise UserError(f"{self.path}: nothing is declared as {field!r}; see docs/store.md")
        if field not in self.fields:
            return np.zeros(len(self), dtype=bool)
        return np.ones(len(self), dtype=bool) if (flags := self._presence(found[0])) is None else flags

    def _presence(self, quantity: keys.Quantity) -> np.ndarray | None:
        """[n] bool, ``None`` if all molecules have it."""
        if not quantity.optional:
            return None
        if self.version > 1:
            return self.column(present_column(quantity)).astype(bool)
        # an empty contraction stood for none
        return np.diff(self.column("contraction_offset")) > 0 if quantity.field == keys.CONTRACTION else None

    @cached_property
    def _texts(self) -> dict[str, np.ndarray]:
        """UTF-8 bytes, a quarter of the memory of numpy's strings."""
        return {q.field: self.column(q.field, decode=False) for q in self._quantities if q.dtype == "text"}

    @cached_property
    def _quantities(self) -> list[keys.Quantity]:
        return [q for q in keys.stored() if q.field in self.fields]

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """By field: one value per molecule, or for concatenated datasets the offsets, [n+1]."""
        offsets: dict[str, np.ndarray] = {}
        out = {}
        for q in self._quantities:
            if q.ragged:
                name = offset_column(q, self.version)
                if name not in offsets:
                    offsets[name] = self.column(name)
                out[q.field] = offsets[name]
            elif q.dtype != "text":
                out[q.field] = self.column(q.field)
        return out

    @cached_property
    def _flags(self) -> dict[str, np.ndarray]:
        found = {q.field: self._presence(q) for q in self._quantities}
        return {field: flags for field, flags in found.items() if flags is not None}

    @cached_property
    def _asymmetries(self) -> dict[str, np.ndarray]:
        return {q.field: self.column(f"{q.field}_asymmetry") for q in self._quantities if q.symmetric}

    def __len__(self) -> int:
        return len(self._columns[keys.ATOMIC_NUMBERS]) - 1

    @cached_property
    def n_atoms(self) -> np.ndarray:
        """[n] int64."""
        return np.diff(self._columns[keys.ATOMIC_NUMBERS])

    @cached_property
    def n_orbitals(self) -> np.ndarray:
        """[n] int64, also of molecules without matrices."""
        return self.column("n_orbitals")

    @cached_property
    def n_electrons(self) -> np.ndarray:
        """[n] int64, those that the orbitals hold."""
        return self.column("n_electrons")

    @cached_property
    def total_charges(self) -> np.ndarray:
        """[n] int64, e: of every molecule, by the number of its electrons."""
        self._open()
        with self._reading(keys.ATOMIC_NUMBERS):
            nuclei = self.basis.nuclear_charge_table[self._data[keys.ATOMIC_NUMBERS][:]]
        ends = np.concatenate(([0], np.cumsum(nuclei)))[self._columns[keys.ATOMIC_NUMBERS]]
        return np.diff(ends) - self.n_electrons

    @cached_property
    def total_energies(self) -> np.ndarray:
        """[n] float64, Eh; NaN where a molecule has none."""
        if keys.TOTAL_ENERGY not in self.fields:
            return np.full(len(self), np.nan)
        return np.where(self.has(keys.TOTAL_ENERGY), self.column(keys.TOTAL_ENERGY), np.nan)

    @cached_property
    def names(self) -> np.ndarray:
        """[n] text, unique."""
        return self.column("name")

    @cached_property
    def groups(self) -> np.ndarray:
        """[n] text: identity of each molecule, shared by its geometries."""
        return self.column("group")

    @cached_property
    def splits(self) -> np.ndarray:
        """[n] text: ``"train"``, ``"val"``, ``"test"`` or ``""``."""
        return self.column("split")

    @cached_property
    def orders(self) -> np.ndarray:
        """[n] int64: place in the input."""
        return self.column("order")

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        self._open()
        with self._reading(keys.ATOMIC_NUMBERS):
            return tuple(int(z) for z in np.unique(self._data[keys.ATOMIC_NUMBERS][:]))

    @cached_property
    def failures(self) -> list[tuple[str, str, int]]:
        """(name, reason, order) of every molecule that was tried in vain, by order."""
        file = self._open()
        with self._reading("failures"):
            group = file["failures"]
            columns = group["name"].asstr()[:], group["reason"].asstr()[:], group["order"][:]
            out = [(str(name), str(reason), int(order)) for name, reason, order in zip(*columns, strict=True)]
            written = file.attrs.get(FAILURES_CHECKSUM)
            if written is not None and written != failures_checksum((order, name, why) for name, why, order in out):
                raise ValueError("another check sum than it was written with")
        return out

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

    def require_matrices(self, indices: np.ndarray) -> None:
        """Refuse molecules without Hamiltonian or overlap, where these are to be learned or compared.

        Args:
            indices: [k] of the molecules.

        Raises:
            UserError: names the first such molecule and how many there are.
        """
        for field in (keys.HAMILTONIAN, keys.OVERLAP):
            lacking = np.asarray(indices)[~self.has(field)[indices]]
            if len(lacking):
                raise UserError(
                    f"{self.path}: {len(lacking)} of {len(indices)} molecules (such as {self.name_of(lacking[0])}) "
                    f"have no {field}; label them with matrices, or put them into a file of their own"
                )

    # ---- molecules -------------------------------------------------------------------------------------------

    def _place(self, index: int) -> int:
        i = int(index)
        if i < 0:
            i += len(self)
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path} holds {len(self)} molecules, asked for number {index}")
        return i

    def name_of(self, index: int) -> str:
        """One name, without decoding all."""
        return self._texts["name"][self._place(index)].decode()

    def atomic_numbers_of(self, index: int) -> np.ndarray:
        """[n] int64."""
        i, at = self._place(index), self._columns[keys.ATOMIC_NUMBERS]
        self._open()
        with self._reading(f"{keys.ATOMIC_NUMBERS} of molecule {self.name_of(i)!r}"):
            return self._data[keys.ATOMIC_NUMBERS][at[i] : at[i + 1]].astype(np.int64)

    def packed(self, index: int) -> PackedRecord:
        """A molecule as it lies on disk, reading nothing else.

        Raises:
            UserError: the file is damaged there.
        """
        i = self._place(index)
        self._open()
        data, columns, flags = self._data, self._columns, self._flags
        m, name = int(self.n_orbitals[i]), self._texts[keys.NAME][i].decode()
        values: dict = {}
        n = 0
        try:
            for q in self._quantities:
                field = q.field
                if field in flags and not flags[field][i]:
                    continue
                if q.ragged:
                    offset = columns[field]
                    part = data[field][offset[i] : offset[i + 1]]
                    if len(part) != offset[i + 1] - offset[i]:
                        raise ValueError(f"{field} ends before its molecule")
                    n = n or len(part)  # atomic numbers come first
                    values[field] = part if q.symmetric or q.tail else _shaped(part, q.record_shape(n, m))
                elif q.dtype == "text":
                    values[field] = self._texts[field][i].decode()
                else:
                    value = columns[field][i]
                    values[field] = value if q.tail else value.item()
            asymmetries = {f: float(a[i]) for f, a in self._asymmetries.items() if f in values}
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"{self.path}, molecule {name!r} (index {i}): cannot be read ({brief(error)}); "
                "the file is damaged, copy or write it again"
            ) from None
        return PackedRecord(values, m, asymmetries)

    def __getitem__(self, index: int) -> MoleculeRecord:
        packed = self.packed(index)
        for name, value in packed.values.items():
            if isinstance(value, float | np.ndarray) and not np.isfinite(value).all():
                raise UserError(
                    f"{self.path}, molecule {packed.name!r}: {name} holds NaN or infinity; label it again; "
                    f"`schnorb_t check {self.path}` lists all such molecules"
                )
        return unpack(packed)

    def __repr__(self):
        return f"Store({str(self.path)!r}, {len(self)} molecules, {self.target}, {self.basis})"


def _shaped(part: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """[elements] -> shape; ``None`` is what fits."""
    if len(shape) == 1:
        return part
    return part.reshape([-1 if s is None else s for s in shape])


def quiet_store(path: Path) -> Store:
    """A store without a warning that a writer is at work.

    Raises:
        UserError: see ``Store``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Store(path)
