"""Errors that a user caused and can mend: one line that names file, molecule and remedy, exit code 2, no traceback.

What the operating system refuses (a full disk, no permission) is such an error too, wherever it happens. Ctrl-C and
SIGTERM end a command in one line as well, after the files in the making were removed.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

#: Exit code of bad input, and of whatever the system refuses.
USER_ERROR = 2
#: 128 + number of the signal, as shells tell it.
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143

#: errno of a disk that takes no more.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
#: errno -> remedy: what a user can mend. Others, such as a lost connection, keep their traceback.
REMEDIES = {
    errno.ENOSPC: "make room on the disk, or write to another one",
    errno.EDQUOT: "make room within the quota, or write elsewhere",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or work in parts",
    errno.EROFS: "write to another disk",
    errno.EACCES: "mend its permissions, or name another place",
    errno.EPERM: "mend its permissions, or name another place",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a place in a folder",
    errno.ENOENT: "make its folder first, or name another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the limit on open files",
    errno.EIO: "the disk may be broken; write to another one",
}


#: What PyTorch, HDF5 and C++ say where the system gives no more memory.
_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|std::bad_alloc|memory allocation failed|can't create thread|"
    r"Cannot allocate memory|unable to allocate"
)


class UserError(Exception):
    """Bad input. The message names the file, the molecule and the remedy."""


class ConfigurationError(UserError, ValueError):
    """A value that a user chose and that cannot be. Other ``ValueError``s and ``TypeError``s are faults of the code."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where it arrives so that files in the making are removed."""


def error_number(error: BaseException) -> int | None:
    """The system's number of an error; HDF5 and PyTorch hide it in a text, or tell only that they could not write."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if not isinstance(error, (OSError, RuntimeError)):
        return None
    text = str(error)
    if told := re.search(r"errno = (\d+)", text):
        return int(told[1])
    return errno.ENOSPC if re.search("PytorchStreamWriter failed|inline_container.*unexpected pos", text) else None


def system_fault(error: BaseException, path: object = None) -> str | None:
    """What the operating system refused, with a remedy, or None if an error is nothing of the kind.

    Args:
        error: an ``OSError``, or what HDF5 and PyTorch raise in its place.
        path: the file, where the error names none and the disk takes no more.
    """
    number, name = error_number(error), getattr(error, "filename", None)
    if name is None and (where := re.search(r"(?:file)?name = '([^']*)'", str(error))):
        name = where[1]
    if name is None and number in _FULL:
        name = path
    if number not in REMEDIES or (number == errno.ENOENT and name is None):
        return None
    what = f"{os.fspath(name)}: " if isinstance(name, (str, os.PathLike)) else ""
    return f"{what}{os.strerror(number)}; {REMEDIES[number]}"


def brief(error: BaseException) -> str:
    """An error's reason in one line: what the system says of its number, or its text's first line (HDF5 has many)."""
    number = error_number(error)
    return os.strerror(number) if number else (str(error).strip() or type(error).__name__).splitlines()[0]


def _fault_in(error: BaseException) -> str | None:
    """``system_fault`` of an error or of what caused it; an error on the way out often hides the first one."""
    chain: BaseException | None = error
    while chain is not None:
        if fault := system_fault(chain):
            return fault
        chain = chain.__cause__ or chain.__context__
    return None


def _memory_fault(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return "not enough memory; work in smaller batches or in parts"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, on a GPU
        return "not enough memory on the GPU; give a smaller batch size"
    if isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)):
        return "not enough memory; work in smaller batches or in parts"
    return None


@contextmanager
def signals_end_it() -> Iterator[None]:
    """SIGTERM raises ``Terminated`` inside, unless somebody else heeds it already; no signal is lost.

    The interpreter drops an exception that a signal raises while an object is being cleaned up (``__del__``, a weak
    reference's callback): the signal is then sent again.
    """

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    def dropped(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            number = signal.SIGTERM if isinstance(unraisable.exc_value, Terminated) else signal.SIGINT
            if not any(timer.is_alive() for timer in again):  # one exception may be dropped twice
                again.append(threading.Timer(0.02, os.kill, (os.getpid(), number)))
                again[-1].start()
        else:
            hook(unraisable)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    again: list[threading.Timer] = []
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    if ours:
        signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        for timer in again:
            timer.cancel()
        sys.unraisablehook = hook
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block ends; HDF5, which calls Python to write, would lose them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    for number in before:
        signal.signal(number, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for waiting in dict.fromkeys(arrived):
            signal.raise_signal(waiting)


def _leave(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def run_command(main: Callable[[], None]) -> None:
    """Run a command's ``main``; what a user can mend becomes a line on stderr and an exit code, without a traceback.

    ``UserError``, and what the system refuses: 2; Ctrl-C: 130; SIGTERM: 143; a reader of the output that has gone
    (``| head``): 141, without a word. Anything else is a fault of the program and keeps its traceback.
    """
    try:
        with signals_end_it():
            main()
            sys.stdout.flush()
    except UserError as error:
        _leave(str(error), USER_ERROR)
    except KeyboardInterrupt as error:
        terminated = isinstance(error, Terminated)
        exec("")  # CPython forgets by it that Ctrl-C passed through an exec of its own, and keeps the exit code
        told = str(error) or ("terminated" if terminated else "interrupted")
        _leave(told, TERMINATED if terminated else INTERRUPTED)
    except BrokenPipeError:
        # or the interpreter complains when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except Exception as error:
        if fault := _memory_fault(error) or _fault_in(error):
            _leave(fault, USER_ERROR)
        raise
