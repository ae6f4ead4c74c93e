"""Write the HDF5 file of a store: journal and old file into a new one, in blocks, then one ``os.replace``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np

from ..files import atomic_write
from ..hdf5 import HDF5Output
from . import journal as j
from .records import PackedRecord

FORMAT = "schnorb_t store"
SCHEMA_VERSION = 1

UNITS = (
    "positions: Angstrom; hamiltonian: Hartree; overlap: 1; large_basis_energies: Hartree; "
    "total_energy: Hartree; contraction: 1"
)
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

BULK = {  # dataset -> (dtype, offset column)
    "atomic_numbers": ("u1", "atom_offset"),
    "positions": ("<f8", "atom_offset"),
    "hamiltonian": ("<f8", "triangle_offset"),
    "overlap": ("<f8", "triangle_offset"),
    "large_basis_energies": ("<f8", "level_offset"),
    "contraction": ("<f8", "contraction_offset"),
}
_NUMBERS = {
    "n_orbitals": "<i8",
    "n_electrons": "<i8",
    "total_energy": "<f8",
    "order": "<i8",
    "hamiltonian_asymmetry": "<f8",
    "overlap_asymmetry": "<f8",
}
_TEXTS = ("name", "group", "split")


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
    n_old, there = len(names), set(names)
    failures = {} if old is None else {name: (order, name, reason) for name, reason, order in old.failures}
    new: list[int] = []  # frames to add
    for k, frame in enumerate(journal.frames):
        if frame.kind == j.MOLECULE and frame.name not in there:
            new.append(k)
            names.append(frame.name)
            orders.append(frame.order)
            there.add(frame.name)
        elif frame.kind == j.FAILURE:
            reason = j.decode_meta(journal.payload(frame))[0]["reason"]
            failures[frame.name] = (frame.order, frame.name, reason)
    kept = sorted(failure for name, failure in failures.items() if name not in there)
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    places = by_name[np.argsort(np.array(orders, dtype=np.int64)[by_name], kind="stable")]
    del there, names, orders, by_name

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
    file.attrs["format"] = FORMAT
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["n_molecules"] = n
    file.attrs["target"] = header["target"]
    file.attrs["level"] = json.dumps(header["level"], sort_keys=True)
    file.attrs["programs"] = json.dumps(header["programs"], sort_keys=True)
    file.attrs["units"] = UNITS
    file.attrs["orbital_order"] = ORBITAL_ORDER
    file.attrs["packing"] = PACKING
    index, texts = _write_bulk(output, molecules, n)
    file.create_dataset("basis", data=header["basis"])  # attributes end at 64 KiB
    group = file.create_group("index")
    for name, values in index.items():
        group.create_dataset(name, data=values, **_column_layout(len(values)))
    for name in _TEXTS:
        data = _fixed_texts(texts.pop(name), 5 if name == "split" else 1)
        group.create_dataset(name, data=data, **_column_layout(n))
    group = file.create_group("failures")
    group.create_dataset("order", data=np.array([f[0] for f in failures], dtype="<i8"))
    for k, name in ((1, "name"), (2, "reason")):
        data = np.array([failure[k] for failure in failures], dtype=object)
        group.create_dataset(name, data=data, dtype=h5py.string_dtype())


def _write_bulk(output: HDF5Output, molecules: Iterable[PackedRecord], n: int) -> tuple[dict, dict]:
    """Concatenate the arrays of all molecules block by block.

    Returns:
        the columns of the index, and its texts, each ended by a zero byte.
    """
    datasets = {}
    for name, (dtype, _) in BULK.items():
        tail = (3,) if name == "positions" else ()
        chunk = (CHUNK // 4, 3) if tail else (CHUNK,)
        datasets[name] = output.file.create_dataset(
            name, (0, *tail), dtype, chunks=chunk, maxshape=(None, *tail), fletcher32=True
        )
    index = {name: np.zeros(n, dtype) for name, dtype in _NUMBERS.items()}
    index |= {offset: np.zeros(n + 1, "<i8") for _, offset in BULK.values()}
    texts = {name: bytearray() for name in _TEXTS}
    block: dict[str, list[np.ndarray]] = {name: [] for name in BULK}
    waiting = 0

    def flush():
        for name, parts in block.items():
            data, dataset = np.concatenate(parts), datasets[name]
            at = len(dataset)
            dataset.resize(at + len(data), axis=0)
            dataset[at:] = data
            parts.clear()
        output.check()

    for i, packed in enumerate(molecules):
        for name in _NUMBERS:
            index[name][i] = packed.contraction.shape[1] if name == "n_orbitals" else getattr(packed, name)
        for name in _TEXTS:
            texts[name] += getattr(packed, name).encode() + b"\0"
        for name, (_, offset) in BULK.items():
            array = getattr(packed, name)
            array = array if name == "positions" else array.ravel()
            index[offset][i + 1] = index[offset][i] + len(array)
            block[name].append(array)
            waiting += array.nbytes
        if waiting > BLOCK_BYTES:
            flush()
            waiting = 0
    if block["positions"]:
        flush()
    return index, texts


def _column_layout(n: int) -> dict:
    return {"chunks": (min(n, CHUNK),), "compression": "gzip", "shuffle": True} if n else {}


def _fixed_texts(joined: bytearray, least: int) -> np.ndarray:
    """UTF-8 of fixed length: fast to read and small when compressed."""
    values = bytes(joined).split(b"\0")[:-1]
    width = max([least, *map(len, values)])
    return np.array(values, dtype=h5py.string_dtype("utf-8", width))
