"""Write the HDF5 file of a store: journal and old file into a new one, in blocks, then one ``os.replace``."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np

from .. import keys
from ..errors import UserError
from ..files import atomic_write
from ..hdf5 import HDF5Output
from ..keys import Quantity
from . import journal as j
from .records import PackedRecord

FORMAT = "schnorb_t store"
#: 2: a column for each declared quantity, flags where optional ones are present. 1: H, S, levels and energy in all.
SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)

#: Attributes with the CRC-32 of all other attributes and the basis, and of the failures; older files have none.
CHECKSUM, FAILURES_CHECKSUM = "checksum", "failures_checksum"

ORBITAL_ORDER = (
    "atoms as in atomic_numbers; within an atom shells by l, then as listed in the basis; within a shell m = -l..l of "
    "standard real spherical harmonics (p: y, z, x; d: xy, yz, z2, xz, x2-y2), no extra signs"
)
PACKING = "symmetric matrices as lower triangles, row by row: element (i, j <= i) at i*(i+1)/2 + j"

#: 32 KiB chunks, checksummed and not compressed: gzip saves 7 % of such matrices and makes access 8 times slower.
CHUNK = 4096
#: Chunk cache per dataset; HDF5 2 would take 8 MiB of each.
CACHE_BYTES = 1 << 20
#: Molecules are handed to HDF5 in blocks of about this many bytes.
BLOCK_BYTES = 4 << 20


def offset_column(quantity: Quantity, version: int = SCHEMA_VERSION) -> str:
    """Name in ``index/`` of where each molecule's part of a concatenated dataset begins and ends, [n+1]."""
    if quantity.axes[0] == keys.ATOMS and not quantity.optional:
        return "atom_offset"
    if version == 1:
        return {"large_basis_energies": "level_offset", "contraction": "contraction_offset"}.get(
            quantity.field, "triangle_offset"
        )
    return f"{quantity.field}_offset"


def present_column(quantity: Quantity) -> str:
    """Name in ``index/`` of the flags that say which molecules have an optional quantity, [n] uint8."""
    return keys.present(quantity.field)


def merge(path: Path, header: dict, journal: j.Journal, old) -> None:
    """Old file and journal -> new file, sorted by ``order`` and then name, in place of the old one.

    Memory: one block and some 500 bytes per molecule.

    Args:
        path: the file to write.
        header: ``Header.to_dict()``.
        journal: molecules and failures to add; a molecule that the old file has already is skipped.
        old: ``Store`` of the file as it is, or ``None``.

    Raises:
        UserError: the disk is full or broken; old file and journal stay as they were.
    """
    names: list[str] = [] if old is None else old.names.tolist()
    orders: list[int] = [] if old is None else old.orders.tolist()
    n_old, known = len(names), set(names)
    failures = {} if old is None else {name: (order, name, reason) for name, reason, order in old.failures}
    new: list[int] = []  # frames to add
    for k, frame in enumerate(journal.frames):
        if frame.kind == j.MOLECULE and frame.name not in known:
            new.append(k)
            names.append(frame.name)
            orders.append(frame.order)
            known.add(frame.name)
        elif frame.kind == j.FAILURE:
            reason = j.decode_meta(journal.payload(frame))[0]["reason"]
            failures[frame.name] = (frame.order, frame.name, reason)
    kept = sorted(failure for name, failure in failures.items() if name not in known)
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    places = by_name[np.argsort(np.array(orders, dtype=np.int64)[by_name], kind="stable")]
    del known, names, orders, by_name

    def read(place: int) -> PackedRecord:
        if place < n_old:
            return old.packed(place)
        return j.decode_molecule(journal.payload(journal.frames[new[place - n_old]]))

    molecules = map(read, map(int, places))
    options = {"libver": "v110", "rdcc_nbytes": CACHE_BYTES}
    with HDF5Output(path, remedy=_REMEDY, temporary=_temporary(path), **options) as output:
        _write(output, header, molecules, len(places), kept)


def rewrite_splits(path: Path, splits: list[str]) -> None:
    """Replace the file by a copy with other splits, one per molecule in file order."""

    with atomic_write(path, remedy=_REMEDY, temporary=_temporary(path)) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            column = file["index/split"]
            column[:] = np.array([s.encode() for s in splits], dtype=column.dtype)
            file.flush()


#: What to do when a disk refuses: the journal keeps the molecules.
_REMEDY = "free the disk, then write again: nothing is lost"


def _temporary(path: Path) -> Path:
    """The journal's lock keeps others away, so the name can be fixed: what a killed process left is overwritten."""
    return Path(f"{path.resolve()}.tmp")


def _write(output: HDF5Output, header: dict, molecules: Iterable[PackedRecord], n: int, failures: list) -> None:
    file = output.file
    columns = _Columns(output, n)
    for i, packed in enumerate(molecules):
        columns.add(i, packed)
    columns.finish()
    held = columns.held()
    file.attrs["format"] = FORMAT
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["n_molecules"] = n
    file.attrs["target"] = header["target"]
    file.attrs["level"] = json.dumps(header["level"], sort_keys=True)
    file.attrs["programs"] = json.dumps(header["programs"], sort_keys=True)
    file.attrs["quantities"] = json.dumps([_description(q) for q in held])
    file.attrs["units"] = "; ".join(f"{q.field}: {q.unit or '1'}" for q in held if q.dtype == "float64")
    file.attrs["orbital_order"] = ORBITAL_ORDER
    file.attrs["packing"] = PACKING
    file.create_dataset("basis", data=header["basis"])  # attributes end at 64 KiB
    group = file.create_group("failures")
    group.create_dataset("order", data=np.array([f[0] for f in failures], dtype="<i8"))
    for k, name in ((1, "name"), (2, "reason")):
        data = np.array([failure[k] for failure in failures], dtype=object)
        group.create_dataset(name, data=data, dtype=h5py.string_dtype())
    file.attrs[FAILURES_CHECKSUM] = failures_checksum(failures)
    file.attrs[CHECKSUM] = header_checksum(file.attrs, header["basis"])


def header_checksum(attributes: Mapping, basis: str) -> int:
    """CRC-32 of what all molecules share; HDF5 has check sums for the arrays but not for this."""
    told = [str(attributes[name]) for name in sorted(attributes) if name != CHECKSUM]
    return zlib.crc32(json.dumps([*told, basis]).encode())


def failures_checksum(failures: Iterable[tuple[int, str, str]]) -> int:
    """CRC-32 of (order, name, reason) of every failure."""
    return zlib.crc32(json.dumps([list(failure) for failure in failures]).encode())


def _description(q: Quantity) -> dict:
    return {"field": q.field, "axes": q.record_axes, "unit": q.unit, "type": q.dtype, "meaning": q.meaning} | (
        {"optional": True} if q.optional else {}
    )


class _Columns:
    """Everything per molecule, in the order of the file: concatenated datasets, written block by block, and ``index/``.

    An optional quantity that no molecule has leaves no trace.
    """

    def __init__(self, output: HDF5Output, n: int):
        self.output, self.n = output, n
        self.quantities = keys.stored()
        self.known = {q.field for q in self.quantities}
        self.datasets: dict[str, h5py.Dataset] = {}
        self.block: dict[str, list[np.ndarray]] = {}
        self.waiting = 0
        self.index = {"n_orbitals": np.zeros(n, "<i8")}
        self.texts: dict[str, bytearray] = {}
        for q in self.quantities:
            if not q.optional:
                self._begin(q)

    def _begin(self, q: Quantity) -> None:
        """Make room for a quantity; the molecules before lack it."""
        if q.optional:
            self.index[present_column(q)] = np.zeros(self.n, "u1")
        if q.symmetric:
            self.index[f"{q.field}_asymmetry"] = np.zeros(self.n, "<f8")
        if q.ragged:
            chunk = (CHUNK if not q.tail else max(1, CHUNK // 4 if q.tail == (3,) else CHUNK // int(np.prod(q.tail))),)
            self.datasets[q.field] = self.output.file.create_dataset(
                q.field,
                (0, *q.tail),
                q.stored_as,
                chunks=(*chunk, *q.tail),
                maxshape=(None, *q.tail),
                fletcher32=True,
            )
            self.datasets[q.field].attrs["unit"] = q.unit
            self.block[q.field] = []
            self.index.setdefault(offset_column(q), np.zeros(self.n + 1, "<i8"))
        elif q.dtype == "text":
            self.texts[q.field] = bytearray()
        else:
            self.index[q.field] = np.zeros((self.n, *q.tail), q.stored_as)

    def add(self, i: int, packed: PackedRecord) -> None:
        """Append molecule number i."""
        if unknown := packed.values.keys() - self.known:
            raise UserError(
                f"{self.output.path}: molecule {packed.name!r} has {', '.join(sorted(unknown))}, which this schnorb_t "
                "does not know and would lose; finish the file with the version that began it"
            )
        self.index["n_orbitals"][i] = packed.n_orbitals
        for q in self.quantities:
            value = packed.values.get(q.field)
            if value is None and q.optional:
                continue
            if q.dtype == "text":
                self.texts[q.field] += (q.default or "" if value is None else value).encode() + b"\0"
                continue
            if q.optional:
                if present_column(q) not in self.index:
                    self._begin(q)
                self.index[present_column(q)][i] = 1
            if q.symmetric:
                self.index[f"{q.field}_asymmetry"][i] = packed.asymmetries[q.field]
            if q.ragged:
                part = np.asarray(value).reshape(-1, *q.tail)
                self.index[offset_column(q)][i + 1] = len(part)
                self.block[q.field].append(part)
                self.waiting += part.nbytes
            else:
                self.index[q.field][i] = value
        if self.waiting > BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        for field, parts in self.block.items():
            if parts:
                data, dataset = np.concatenate(parts), self.datasets[field]
                at = len(dataset)
                dataset.resize(at + len(data), axis=0)
                dataset[at:] = data
                parts.clear()
        self.waiting = 0
        self.output.check()

    def finish(self) -> None:
        """Write what waits, and ``index/``."""
        self._flush()
        for column in {offset_column(q) for q in self.quantities if q.ragged} & self.index.keys():
            np.cumsum(self.index[column], out=self.index[column])
        group = self.output.file.create_group("index")
        for name in sorted(self.index):
            group.create_dataset(name, data=self.index[name], **_column_layout(self.index[name].shape))
        for name in list(self.texts):
            data = _fixed_texts(self.texts.pop(name), 5 if name == keys.SPLIT else 1)
            group.create_dataset(name, data=data, **_column_layout((self.n,)))

    def held(self) -> list[Quantity]:
        """What the file holds, in the order of declaration."""
        return [q for q in self.quantities if not q.optional or present_column(q) in self.index]


def _column_layout(shape: tuple[int, ...]) -> dict:
    if not shape[0]:
        return {}
    return {"chunks": (min(shape[0], CHUNK), *shape[1:]), "compression": "gzip", "shuffle": True}


def _fixed_texts(joined: bytearray, least: int) -> np.ndarray:
    """UTF-8 of fixed length: fast to read and small when compressed."""
    values = bytes(joined).split(b"\0")[:-1]
    width = max([least, *map(len, values)])
    return np.array(values, dtype=h5py.string_dtype("utf-8", width))
