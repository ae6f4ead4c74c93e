"""Files are written whole or not at all: a temporary file beside the target, flushed to the disk, then one rename.

Whatever the system refuses (full disk, limit on file sizes, no permission) becomes one ``UserError`` that names the
file and what to do, and nothing stays behind.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from schnorb_t.errors import REMEDIES, UserError, brief, error_number

#: For errors that ``errors.REMEDIES`` has no advice for.
DEFAULT_REMEDY = "check the disk and the rights of its folder, or write elsewhere"

#: First bytes of what is often found in place of a file -> what it is, and what to do.
_SIGNS = {
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"\x89HDF\r\n": "is an HDF5 file",
    b"\x1f\x8b": "is compressed by gzip; unpack it",
    b"BZh": "is compressed by bzip2; unpack it",
    b"\xfd7zXZ": "is compressed by xz; unpack it",
    b"%PDF": "is a PDF file",
    b"\x80\x02": "is a pickle, which could run anything and is not opened",
    b"\x80\x03": "is a pickle, which could run anything and is not opened",
    b"\x80\x04": "is a pickle, which could run anything and is not opened",
    b"\x80\x05": "is a pickle, which could run anything and is not opened",
}
#: Bytes that tell.
_HEAD = 2000


def foreign_content(head: bytes) -> str:
    """What the first bytes of a file say that it is, with a remedy where there is one; ``""`` if nothing known."""
    for sign, what in _SIGNS.items():
        if head.startswith(sign):
            return what
    lower = head[:_HEAD].lstrip().lower()
    if lower.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file behind it; download it again"
    if lower.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not the file itself; get it by `git lfs pull`"
    return ""


def wrong_file(path: str | Path, wanted: str) -> str:
    """Why something cannot be the file that is wanted: a folder, missing, empty, or of another kind.

    Args:
        path: of the file.
        wanted: what to give instead, as a clause; ends sentences that have no remedy of their own.

    Returns:
        a sentence without subject; ``""`` if nothing can be said.
    """
    path = Path(path)
    if path.is_dir():
        return f"is a folder; {wanted}"
    if not path.exists():
        return f"no such file; {wanted}"
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        return f"cannot be read ({brief(error)}); mend its permissions or copy it again"
    if not head:
        return f"is empty, so it was never written or copied whole; {wanted}"
    what = foreign_content(head)
    if what.startswith("is a zip"):
        what = "is a zip archive, as PyTorch's checkpoints are"
    return what if not what or ";" in what else f"{what}; {wanted}"


@contextmanager
def removed_at_the_end(path: Path) -> Iterator[None]:
    """``with removed_at_the_end(path):`` whatever happens, the file is gone afterwards."""
    try:
        yield
    finally:
        _remove(path)


def is_system_error(error: BaseException) -> bool:
    """Whether the system refused, in contrast to a mistake of a program."""
    if isinstance(error, OSError):
        return True
    written_by_torch = ("PytorchStreamWriter", "inline_container", "unexpected pos", "iostream error")
    return isinstance(error, RuntimeError) and (
        error_number(error) is not None or any(text in str(error) for text in written_by_torch)
    )


def write_error(path: str | Path, error: BaseException, remedy: str = "") -> UserError:
    """One line for a write that the system refused: file, reason, remedy.

    Args:
        path: the file as the user knows it.
        error: what the system, HDF5 or torch raised.
        remedy: in place of the usual one where the disk takes no more.
    """
    number = error_number(error)
    if number == errno.ENOSPC and not isinstance(error, OSError) and _limited(Path(path)):
        number = errno.EFBIG  # torch hides which of both it is
    if not number:
        return UserError(f"{path}: cannot be written ({brief(error)}); {remedy or DEFAULT_REMEDY}")
    usual = REMEDIES.get(number, DEFAULT_REMEDY)
    advice = remedy or usual
    if number in (errno.EFBIG, errno.EMFILE, errno.ENFILE):  # room on the disk is not what is missing
        advice = "; ".join([usual, *remedy.split("; ")[1:]])
    return UserError(f"{path}: cannot be written ({os.strerror(number)}); {advice}")


def _limited(path: Path) -> bool:
    """Whether a limit on the size of files (``ulimit -f``) is reached before the disk is full."""
    try:
        import resource  # Unix only

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return limit != resource.RLIM_INFINITY and limit < shutil.disk_usage(path.parent).free
    except (ImportError, OSError):
        return False


def temporary_name(path: str | Path) -> Path:
    """Where this process writes a file before it takes its name: in the same folder, hidden, with the same ending."""
    path = Path(path)
    # the second dot: torch refuses a name that has nothing before its last one
    return path.with_name(f".tmp.{os.getpid()}-{path.stem[:100]}{path.suffix}")


@contextmanager
def atomic_write(path: str | Path, *, remedy: str = "", temporary: Path | None = None) -> Iterator[Path]:
    """``with atomic_write(path) as temporary:`` write ``temporary``; it takes the name ``path`` when the block ends.

    The content is on the disk before the name changes, and the temporary file is gone whatever happens. An error of
    the block itself leaves ``path`` as it was.

    Args:
        path: the file; one that exists is replaced.
        remedy: ends the message in place of the usual advice.
        temporary: another place for the temporary file, on the same disk.

    Raises:
        UserError: the system refuses.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.exists() and not target.is_file():
        raise UserError(f"{path}: is no ordinary file and cannot be replaced; name another file")
    place = temporary_name(target) if temporary is None else temporary
    try:
        yield place
        _to_disk(place)
        os.replace(place, target)
        _to_disk(target.parent, folder=True)
    except (OSError, RuntimeError) as error:
        if not is_system_error(error):
            raise
        raise write_error(path, error, remedy) from None
    finally:
        _remove(place)


def write_text(path: str | Path, text: str) -> None:
    """Write a text (UTF-8) as a whole or not at all.

    Raises:
        UserError: the system refuses.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_output(path: str | Path, inputs: Iterable[str | Path] = (), force: bool = False) -> Path:
    """Find out before any work whether a file can be written there.

    Args:
        path: the file to be written.
        inputs: files that it must not be.
        force: it may exist.

    Returns:
        ``path``.

    Raises:
        UserError: it is an input or no ordinary file, its folder is missing or not writable, or it exists (without
            ``force``).
    """
    path = Path(path)
    if any(p.exists() and path.exists() and p.samefile(path) for p in map(Path, inputs)):
        raise UserError(f"{path}: is an input of this command; name another output")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no ordinary file and cannot be replaced; name another file")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent}: may not be written to; name another folder")
    if path.exists() and not force:
        raise UserError(f"{path}: exists; name another file, or overwrite it with --force")
    return path


def _to_disk(path: Path, folder: bool = False) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if folder:  # may be written to but not read: nothing to be done
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network disks
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # its folder vanished or may no longer be written to: the first error is the one to tell
        pass
