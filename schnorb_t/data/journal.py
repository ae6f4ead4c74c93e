"""The journal: where molecules wait, one whole frame each, until they are merged into the HDF5 file.

A frame is MAGIC, kind (1 byte), payload length (8 bytes), CRC-32 of kind, length and payload (4 bytes), payload; little
endian. It is handed to the operating system in one write before ``append`` returns, so a killed process leaves at
most one torn frame at the end, which the next ``open`` drops. Frames before it are whole or named as damaged.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
import warnings
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import write_error
from .records import PackedRecord

MAGIC = b"\x93schnorb_t\x00frame\n"
_HEAD = struct.Struct("<BQ")
_CRC = struct.Struct("<I")
_HEAD_SIZE = len(MAGIC) + _HEAD.size + _CRC.size

HEADER, MOLECULE, FAILURE = 0, 1, 2

#: Seconds between two fsyncs; a kill loses nothing, a power cut at most the molecules of this time.
SYNC_EVERY = 5.0

#: Arrays of a molecule's frame of format 1, in their order; later formats name them.
_ARRAYS_1 = (
    ("atomic_numbers", "<u1"),
    ("positions", "<f8"),
    ("hamiltonian", "<f8"),
    ("overlap", "<f8"),
    ("large_basis_energies", "<f8"),
    ("contraction", "<f8"),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a whole frame's payload lies, and for a molecule or failure its name and order."""

    kind: int
    start: int
    length: int
    name: str
    order: int


class Frames:
    """All frames of a journal, in columns: some 30 bytes each beside the name."""

    def __init__(self):
        self._numbers = tuple(array("q") for _ in range(4))
        self._names: list[str] = []

    def append(self, frame: Frame) -> None:
        """Add a frame at the end."""
        values = frame.kind, frame.start, frame.length, frame.order
        for column, value in zip(self._numbers, values, strict=True):
            column.append(value)
        self._names.append(frame.name)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Frame:
        kind, start, length, order = (column[i] for column in self._numbers)
        return Frame(kind, start, length, self._names[i], order)


def encode_molecule(packed: PackedRecord) -> bytes:
    """A packed molecule as a frame's payload: length of the JSON text, the text, the arrays.

    The text has numbers and texts by field, ``n_orbitals``, ``asymmetries``, and ``arrays``: [field, type, shape] of
    each array that follows. What a molecule lacks is not there.
    """
    arrays = {field: value for field, value in packed.values.items() if isinstance(value, np.ndarray)}
    meta = {field: value for field, value in packed.values.items() if field not in arrays}
    meta |= {"n_orbitals": packed.n_orbitals, "asymmetries": dict(packed.asymmetries)}
    meta["arrays"] = [[field, value.dtype.str, value.shape] for field, value in arrays.items()]
    text = json.dumps(meta).encode()
    return b"".join([_CRC.pack(len(text)), text, *[np.ascontiguousarray(a).tobytes() for a in arrays.values()]])


def decode_molecule(payload: bytes) -> PackedRecord:
    """The way back from ``encode_molecule``; reads frames of every format."""
    meta, at = decode_meta(payload)
    if "shapes" in meta:
        meta["arrays"] = [[f, t, shape] for (f, t), shape in zip(_ARRAYS_1, meta.pop("shapes"), strict=True)]
        meta["asymmetries"] = {f: meta.pop(f"{f}_asymmetry") for f in ("hamiltonian", "overlap")}
    values = {}
    for field, dtype, shape in meta.pop("arrays"):
        count = int(np.prod(shape))
        values[field] = np.frombuffer(payload, dtype, count, at).reshape(shape)
        at += values[field].nbytes
    if "n_orbitals" not in meta:  # format 1: an empty contraction stood for none
        meta["n_orbitals"] = values["contraction"].shape[1]
        if not len(values["contraction"]):
            del values["contraction"]
    n_orbitals, asymmetries = meta.pop("n_orbitals"), meta.pop("asymmetries")
    return PackedRecord(values | meta, n_orbitals, asymmetries)


def decode_meta(payload) -> tuple[dict, int]:
    """The JSON part of a payload, and where the arrays begin."""
    (length,) = _CRC.unpack_from(payload)
    end = _CRC.size + length
    return json.loads(bytes(payload[_CRC.size : end])), end


def encode_text(meta: dict) -> bytes:
    """A payload without arrays: length of the JSON text, the text."""
    text = json.dumps(meta).encode()
    return _CRC.pack(len(text)) + text


#: (process, journal) pairs that this process writes: POSIX locks do not see a second writer in the same process.
_writing: set[tuple[int, str]] = set()


class Journal:
    """Append-only file of frames, locked against a second writer.

    Args:
        path: the journal's own path.

    Raises:
        UserError: somebody else writes it, or it is no journal.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._key = (os.getpid(), str(self.path.resolve()))
        if self._key in _writing:
            raise UserError(f"{self.path}: this process already writes it; close the first writer")
        self._file = self._open_and_lock()
        _writing.add(self._key)
        try:
            self.frames = self._scan()
        except BaseException:
            self.release()
            raise
        self._end = os.lseek(self._file, 0, os.SEEK_END)
        self._synced = time.monotonic()

    def _open_and_lock(self) -> int:
        while True:
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise write_error(self.path, error) from None
            try:
                # A POSIX lock dies with this process and is not inherited by forked workers.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise UserError(
                    f"{self.path}: another process is writing this file; wait for it or write another file"
                ) from None
            try:
                same = os.stat(self.path).st_ino == os.fstat(file).st_ino
            except FileNotFoundError:
                same = False
            if same:
                return file
            os.close(file)  # removed by a writer that finished meanwhile: begin a new one

    def _scan(self) -> Frames:
        """All whole frames; a torn tail is cut off, damage further up is skipped with a warning."""
        size = os.fstat(self._file).st_size
        start = os.pread(self._file, len(MAGIC), 0)
        if start != MAGIC[: len(start)]:
            raise UserError(f"{self.path}: is not a journal of this package; move it away")
        frames, at = Frames(), 0
        while at < size:
            frame = self._frame_at(at, size)
            if frame is not None:
                frames.append(frame)
                at = frame.start + frame.length
                continue
            following = self._find_magic(at + 1, size)
            if following is None:
                warnings.warn(
                    f"{self.path}: its last {size - at:,} bytes are cut short or damaged and were left out; "
                    "what they held, one molecule at most, has to be added again",
                    stacklevel=2,
                )
                os.ftruncate(self._file, at)
                break
            warnings.warn(
                f"{self.path}: bytes {at} to {following} are damaged and were left out; "
                "the molecule they held has to be added again",
                stacklevel=2,
            )
            at = following
        return frames

    def _frame_at(self, at: int, size: int) -> Frame | None:
        """The frame that begins at a byte, ``None`` if it is torn or damaged."""
        start = at + _HEAD_SIZE
        lead = os.pread(self._file, _HEAD_SIZE, at)
        if len(lead) < _HEAD_SIZE or not lead.startswith(MAGIC):
            return None
        head = lead[len(MAGIC) : -_CRC.size]
        kind, length = _HEAD.unpack(head)
        (crc,) = _CRC.unpack(lead[-_CRC.size :])
        if start + length > size:
            return None
        payload = os.pread(self._file, length, start)
        if zlib.crc32(payload, zlib.crc32(head)) != crc:
            return None
        meta, _ = decode_meta(payload)
        return Frame(kind, start, length, meta.get("name", ""), meta.get("order", 0))

    def _find_magic(self, at: int, size: int) -> int | None:
        """The next place where a frame may begin."""
        step = 1 << 20
        while at < size:
            block = os.pread(self._file, step + len(MAGIC), at)
            found = block.find(MAGIC)
            if found >= 0:
                return at + found
            at += step
        return None

    def append(self, kind: int, payload: bytes, name: str = "", order: int = 0) -> None:
        """Write one frame; when this returns it survives the death of the process.

        Raises:
            UserError: the disk is full or broken; what was there before stays whole.
        """
        head = _HEAD.pack(kind, len(payload))
        frame = b"".join(
            [MAGIC, head, _CRC.pack(zlib.crc32(payload, zlib.crc32(head))), payload],
        )
        view = memoryview(frame)
        try:
            at = self._end
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written
            if time.monotonic() - self._synced > SYNC_EVERY:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise write_error(self.path, error, "free the disk and continue: nothing is lost") from None
        self.frames.append(Frame(kind, self._end + _HEAD_SIZE, len(payload), name, order))
        self._end = at

    def payload(self, frame: Frame) -> bytes:
        """Read a frame's payload."""
        return os.pread(self._file, frame.length, frame.start)

    def sync(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            OSError: the disk refuses.
        """
        os.fsync(self._file)

    def remove(self) -> None:
        """Delete the journal while still holding its lock."""
        os.unlink(self.path)

    def release(self) -> None:
        """Close the file and give the lock back; the frames stay."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            _writing.discard(self._key)
