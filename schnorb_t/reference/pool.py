"""Work on many molecules at once: a pool of worker processes on this machine, or a dask.distributed cluster.

Both yield (task, True, result) or (task, False, reason) in the order of completion; a reason is one line, and carries
the traceback of a fault (``Reason``). Neither loses a task when a
worker dies: it is given to another worker, ``RETRIES`` times at most. Workers run one thread each.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from schnorb_t.errors import UserError
from schnorb_t.files import write_error
from schnorb_t.reference.pyscf import LabelError

#: How often a task whose worker died is tried again.
RETRIES = 2
#: Variables that numerical libraries read once, when they load.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

Outcome = tuple[Any, bool, Any]


class Reason(str):
    """Why a task failed, in one line; ``traceback`` is where, if it is a fault of a program, else empty."""

    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Reason:
        """One line, and the traceback unless the error is a ``LabelError``, which says all that there is to say."""
        if isinstance(error, LabelError):
            return cls(error)
        reason = cls(" ".join(f"{type(error).__name__}: {error}".split()))
        reason.traceback = "".join(traceback.format_exception(error))
        return reason


def guarded(function: Callable, task) -> tuple[bool, Any]:
    """(True, result) or (False, ``Reason``). One molecule that breaks the program must not end the others' run."""
    try:
        return True, function(task)
    except Exception as error:
        return False, Reason.of(error)


def log_traceback(path: str | Path, name: str, reason: Any) -> None:
    """Append where a molecule's calculation broke to a log file; nothing for reasons that are no fault of a program.

    Args:
        path: the log; made if it is not there.
        name: of the molecule.
        reason: of ``guarded``.

    Raises:
        UserError: the file cannot be written.
    """
    if text := getattr(reason, "traceback", ""):
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"{name}: {reason}\n{text}\n")
        except OSError as error:
            raise write_error(path, error) from None


def failure_log(store: str | Path) -> Path:
    """Where the tracebacks of a store's failed molecules stand: ``labels.h5`` -> ``labels.failures.log``."""
    return Path(store).with_suffix(".failures.log")


# ---- processes on this machine -------------------------------------------------------------------------------


@contextmanager
def single_threaded_children():
    """Processes started inside see thread counts of 1 before they load any numerical library."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _serve(connection: Connection, function: Callable) -> None:
    """A worker's life: tasks in, outcomes out, until the pipe closes (also when the parent is killed)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    while True:
        try:
            task = connection.recv()
            connection.send(guarded(function, task))
        except (EOFError, OSError):
            return


class _Worker:
    def __init__(self, context, function: Callable):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with single_threaded_children():
            self.process.start()
        theirs.close()  # or its end of file would never be seen
        self.task = None

    def give(self, task) -> None:
        self.task = task
        try:
            self.connection.send(task)
        except OSError:
            pass  # it died; ``wait`` reports that next

    def stop(self) -> None:
        self.connection.close()
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()


def run_processes(function: Callable, tasks: Iterable, n_workers: int) -> Iterator[Outcome]:
    """``function`` of every task on ``n_workers`` processes; both must be picklable.

    Yields:
        (task, True, result) or (task, False, reason), as they finish.
    """
    context = multiprocessing.get_context("spawn")  # forked children would inherit loaded libraries and their threads
    waiting = iter(tasks)
    again: deque = deque()
    deaths: dict[int, int] = {}  # id of a task in the works or in ``again`` -> workers it cost
    workers: list[_Worker] = []

    def next_task():
        return again.popleft() if again else next(waiting, None)

    try:
        while True:
            while len(workers) < n_workers and (task := next_task()) is not None:
                worker = _Worker(context, function)
                workers.append(worker)
                worker.give(task)
            if not workers:
                return
            ready = set(wait([w.connection for w in workers]))
            for worker in [w for w in workers if w.connection in ready]:
                task = worker.task
                try:
                    ok, value = worker.connection.recv()
                except (EOFError, OSError):
                    worker.stop()
                    workers.remove(worker)
                    deaths[id(task)] = deaths.get(id(task), 0) + 1
                    if deaths[id(task)] <= RETRIES:
                        again.append(task)
                        continue
                    ok, value = False, f"its worker process died {RETRIES + 1} times (killed, or out of memory)"
                else:
                    if (following := next_task()) is not None:
                        worker.give(following)
                    else:
                        worker.stop()
                        workers.remove(worker)
                deaths.pop(id(task), None)
                yield task, ok, value
    finally:
        for worker in workers:
            worker.stop()


# ---- a cluster -----------------------------------------------------------------------------------------------


def run_dask(function: Callable, tasks: Iterable, scheduler: str, timeout: float = 60.0) -> Iterator[Outcome]:
    """The same on a dask.distributed cluster; start its workers with ``--nthreads 1``.

    Args:
        function: picklable.
        tasks: picklable.
        scheduler: address (``tcp://host:8786``) or path of a scheduler file.
        timeout: seconds to wait for the scheduler.

    Raises:
        UserError: dask is not installed, or nobody answers.
    """
    try:
        from distributed import Client, as_completed
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise UserError('dask.distributed is not installed; pip install "schnorb_t[dask]"') from error
    where = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    try:
        client = Client(**where, timeout=timeout, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UserError(
            f"no dask scheduler answers at {scheduler} ({error}); start one with `dask scheduler`"
        ) from None
    with client:
        # enough in flight to keep every worker busy, few enough that 100,000 molecules do not fill the scheduler
        window = 4 * max(1, sum(client.nthreads().values()))
        waiting = iter(tasks)
        in_flight = {}

        def submit(task):
            future = client.submit(guarded, function, task, pure=False)
            in_flight[future] = task
            return future

        done = as_completed([submit(task) for task in islice(waiting, window)], loop=client.loop)
        for future in done:
            task = in_flight.pop(future)
            try:
                ok, value = future.result()
            except CancelledError:
                raise UserError(
                    f"the dask scheduler at {scheduler} is gone; start it and run the command again"
                ) from None
            except KilledWorker:
                ok, value = False, "its dask workers died again and again (killed, or out of memory)"
            future.release()
            if (following := next(waiting, None)) is not None:
                done.add(submit(following))
            yield task, ok, value
