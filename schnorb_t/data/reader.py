"""Read a store: random access to its molecules, from one process or many."""

from __future__ import annotations

import json
import os
import warnings
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from ..basis import Basis
from ..errors import UserError, brief
from .header import Header
from .merge import BULK, CACHE_BYTES, FORMAT, SCHEMA_VERSION
from .records import SPLITS, MoleculeRecord, PackedRecord, unpack


def journal_path(path: str | Path) -> Path:
    """Where the molecules of an unfinished file wait."""
    return Path(f"{path}.journal")


def finish_hint(path: Path) -> str:
    return f"run the command that writes it again, or `schnorb_t check --finish {path}`"


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
            raise UserError(
                f"{self.path}: cannot be read as HDF5 ({brief(error)}); if it was copied, copy it again, "
                "if it is something else, convert it first (data_prep/)"
            ) from None
        if file.attrs.get("format") != FORMAT:
            file.close()
            raise UserError(f"{self.path}: an HDF5 file, but not one of this package; convert it first (data_prep/)")
        version = int(file.attrs.get("schema_version", 0))
        if version != SCHEMA_VERSION:
            file.close()
            raise UserError(
                f"{self.path}: has schema version {version}, this schnorb_t reads version {SCHEMA_VERSION}; "
                + ("update schnorb_t" if version > SCHEMA_VERSION else "write the file again")
            )
        missing = [name for name in (*BULK, "basis", "index", "failures") if name not in file]
        if missing:
            file.close()
            raise UserError(f"{self.path}: lacks {', '.join(missing)}, so it is damaged; copy or write it again")
        self._file, self._pid, self._identity = file, os.getpid(), identity
        self._data = {name: file[name] for name in BULK}
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

    def column(self, name: str, decode: bool = True) -> np.ndarray:
        """One entry per molecule, [n]: see ``index/`` in docs/store.md. Texts as numpy strings, or as UTF-8 bytes."""
        data = self._open()["index"][name][:]
        return np.char.decode(data, "utf-8") if decode and data.dtype.kind == "S" else data

    @cached_property
    def _texts(self) -> dict[str, np.ndarray]:
        """UTF-8 bytes, a quarter of the memory of numpy's strings."""
        return {name: self.column(name, decode=False) for name in ("name", "group", "split")}

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

    def name_of(self, index: int) -> str:
        """One name, without decoding all."""
        return self._texts["name"][self._place(index)].decode()

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

        def part(dataset: str, kind: str) -> np.ndarray:
            offset = offsets[kind]
            return data[dataset][offset[i] : offset[i + 1]]

        m, name = int(self.n_orbitals[i]), self._texts["name"][i].decode()
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
                name=name,
                group=self._texts["group"][i].decode(),
                split=self._texts["split"][i].decode(),
                order=int(self.orders[i]),
                hamiltonian_asymmetry=float(self._asymmetries[0][i]),
                overlap_asymmetry=float(self._asymmetries[1][i]),
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path}, molecule {name!r} (index {i}): cannot be read ({error}); "
                "the file is damaged, copy or write it again"
            ) from None

    @cached_property
    def _asymmetries(self) -> tuple[np.ndarray, np.ndarray]:
        return self.column("hamiltonian_asymmetry"), self.column("overlap_asymmetry")

    def __getitem__(self, index: int) -> MoleculeRecord:
        return unpack(self.packed(index))

    def __repr__(self):
        return f"Store({str(self.path)!r}, {len(self)} molecules, {self.target}, {self.basis})"


def quiet_store(path: Path) -> Store:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Store(path)
