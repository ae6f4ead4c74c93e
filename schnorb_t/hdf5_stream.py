"""A file for HDF5 to write to that survives a full disk.

HDF5 has no way to give up: when the system refuses a write, closing a dataset fails where Python can only print, the
library goes on, and it may crash the process at the end. This stream takes the first refusal down, lets every later
write pass without doing anything, and tells the refusal when it is asked.
"""

from __future__ import annotations

import io
import os
from pathlib import Path


class PatientFile(io.RawIOBase):
    """A new file, opened for reading and writing, whose writes never fail.

    ``h5py.File(PatientFile(path), "w")``; call ``check`` after every unit of work.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self._file = open(path, "w+b", buffering=0)
        self.refusal: OSError | None = None

    def check(self) -> None:
        """Raise what the system refused, if it did.

        Raises:
            OSError: the first refusal.
        """
        if self.refusal is not None:
            raise self.refusal

    def _attempt(self, operation, *arguments) -> None:
        if self.refusal is None:
            try:
                operation(*arguments)
            except OSError as error:
                self.refusal = error

    def write(self, data, /) -> int:
        """All of the data, or nothing once the system has refused."""
        view = memoryview(data).cast("B")
        self._attempt(self._write_all, view)
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        while len(view):
            view = view[self._file.write(view) :]

    def readinto(self, buffer, /) -> int:
        """Zeros where nothing was written because the system refused."""
        view = memoryview(buffer).cast("B")
        n = self._file.readinto(view)
        if n < len(view):
            view[n:] = bytes(len(view) - n)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """As of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()

    def truncate(self, size: int | None = None, /) -> int:
        """As of a file, or nothing once the system has refused."""
        self._attempt(self._file.truncate, size)
        return self.tell() if size is None else size

    def flush(self) -> None:
        """Put everything on the disk's way."""
        if not self._file.closed:
            self._attempt(self._file.flush)

    def close(self) -> None:
        """Close the file; a refusal stays to be told."""
        self._attempt(self._file.close)
        super().close()

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True
