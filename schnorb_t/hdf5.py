"""Write an HDF5 file as a whole or not at all.

When a disk refuses a write, the HDF5 library can neither flush nor close the file any more: it prints paragraphs, keeps
the file open and crashes the process at its end. So it writes through an object whose writes always succeed in its
eyes; what the system really said is kept and raised as one ``UserError``.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path

import h5py

from schnorb_t.errors import uninterrupted
from schnorb_t.files import atomic_write, write_error


class _Disk:
    """A file for h5py. The first error of the system is kept in ``error``; from then on writes go nowhere."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self.error: OSError | None = None
        self.place = self.size = 0

    def write(self, data) -> int:
        view = memoryview(data).cast("B")
        end = self.place + len(view)
        try:
            while self.error is None and view:
                written = os.pwrite(self.descriptor, view, self.place)
                view, self.place = view[written:], self.place + written
        except OSError as error:
            self.error = error
        self.place, self.size = end, max(self.size, end)
        return len(data)

    def read(self, count: int) -> bytes:  # h5py tells file objects from names by it
        data = bytearray(count)
        self.readinto(data)
        return bytes(data)

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        found = os.pread(self.descriptor, len(view), self.place)
        view[: len(found)] = found
        view[len(found) :] = bytes(len(view) - len(found))
        self.place += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def truncate(self, size: int) -> int:
        try:
            if self.error is None:
                os.ftruncate(self.descriptor, size)
        except OSError as error:
            self.error = error
        self.size = size
        return size

    def flush(self) -> None:
        pass  # nothing is buffered

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class HDF5Output:
    """``with HDF5Output(path) as output:`` fill ``output.file``; the file appears, whole, when the block ends.

    Args:
        path: the file; one that exists is replaced at the end.
        remedy: ends the message where the disk refuses, in place of the usual advice.
        temporary: where to write until then (default: a hidden file in the same folder).
        options: of ``h5py.File``.

    Attributes:
        file: the open ``h5py.File``.

    Raises:
        UserError: the system refuses. An error of the block leaves ``path`` as it was.
    """

    file: h5py.File

    def __init__(self, path: str | Path, *, remedy: str = "", temporary: Path | None = None, **options):
        self.path, self.remedy = Path(path), remedy
        self._temporary, self._options = temporary, options

    def check(self) -> None:
        """Whether all that left the caches so far could be written.

        Raises:
            UserError: it could not.
        """
        if self._disk.error is not None:
            raise write_error(self.path, self._disk.error, self.remedy)

    def __enter__(self) -> HDF5Output:
        with ExitStack() as stack:
            place = stack.enter_context(atomic_write(self.path, remedy=self.remedy, temporary=self._temporary))
            self._disk = _Disk(place)
            stack.callback(self._disk.close)
            with uninterrupted():
                self.file = h5py.File(self._disk, "w", **self._options)
            stack.push(self._close)
            self._stack = stack.pop_all()
        return self

    def _close(self, kind, *_) -> None:
        if kind is None:
            with uninterrupted():
                self.file.close()
            self.check()
        else:
            with suppress(Exception), uninterrupted():  # the first error is the one to tell
                self.file.close()

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)
