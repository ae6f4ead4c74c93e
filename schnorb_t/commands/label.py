"""``schnorb_t label molecules.xyz -o labels.h5``: restricted Kohn-Sham calculations with PySCF -> one store."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schnorb_t.errors import UserError

if TYPE_CHECKING:
    from schnorb_t.data.store import StoreWriter
    from schnorb_t.reference.labels import LabelJob
    from schnorb_t.structures import LabelFiles, Structure

#: Failures listed at the end of a run; the file holds all.
LISTED = 50


def inspect(structures: Iterable[Structure], skip_bad: bool) -> tuple[dict[str, str], list[str]]:
    """Name -> reason of every structure that cannot be labelled, found before any calculation, and lines to print.

    Raises:
        UserError: a structure is broken and ``skip_bad`` is not given, or none is left. Open shells are no fault of the
            input: they are announced and recorded as failed.
    """
    from schnorb_t.structures import sort_out

    refused = sort_out(structures, skip_bad, charges=None)
    return refused, [f"{name}: {reason}" for name, reason in list(refused.items())[:LISTED]]


def label(
    structures: Sequence[Structure] | LabelFiles,
    job: LabelJob,
    writer: StoreWriter,
    *,
    refused: Mapping[str, str] | None = None,
    retry: Collection[str] = (),
    workers: int = 1,
    scheduler: str | None = None,
) -> tuple[int, int]:
    """Label what a store does not know yet; every finished molecule is safe at once. Progress goes to stderr.

    Args:
        structures: to label, each under its name; gone through more than once.
        job: what to calculate.
        writer: of the store.
        refused: name -> reason of structures that are recorded as failed without a calculation.
        retry: names to label again although the store knows them.
        workers: processes on this machine.
        scheduler: address or file of a dask.distributed scheduler, in place of them.

    Returns:
        how many were labelled, and how many failed.
    """
    from rich.progress import Progress, TextColumn

    from schnorb_t.progress import columns, messages
    from schnorb_t.reference.pool import failure_log, log_traceback, run_dask, run_processes

    refused = refused or {}
    console = messages()
    known = writer.known_names - set(retry)
    orders = {s.name: s.order for s in structures} if isinstance(structures, Sequence) else structures.orders
    todo = [name for name in orders if name not in known]
    if len(todo) < len(orders):
        console.print(f"{writer.path}: {len(orders) - len(todo)} molecules are there already")
    for name in todo:
        if name in refused:
            writer.add_failure(name, refused[name], orders[name])
    wanted = frozenset(name for name in todo if name not in refused)
    work = (s for s in structures if s.name in wanted)
    outcomes: Iterable = run_dask(job, work, scheduler) if scheduler else run_processes(job, work, workers)
    counts = TextColumn("{task.fields[done]} done, {task.fields[failed]} failed, {task.fields[left]} left")
    with Progress(*columns(counts), console=console, speed_estimate_period=600) as progress:
        done, failed = 0, len(todo) - len(wanted)
        bar = progress.add_task(job.target, total=len(wanted), done=done, failed=failed, left=len(wanted))
        for count, (structure, ok, value) in enumerate(outcomes, 1):
            labelled = writer.add_outcome(structure.name, structure.order, ok, value)
            log_traceback(failure_log(writer.path), structure.name, value)
            done, failed = done + labelled, failed + (not labelled)
            progress.update(bar, advance=1, done=done, failed=failed, left=len(wanted) - count)
    return done, failed


def label_files(
    structures: list[Path],
    *,
    output: Path,
    target: str = "wqao",
    functional: str = "B3LYP",
    basis: str | None = None,
    grid_level: int = 1,
    conv_tol: float = 1e-9,
    max_cycle: int = 100,
    no_density_fitting: bool = False,
    forces: bool = False,
    plain_scf: bool = False,
    memory: float = 2000.0,
    guess: str | None = None,
    keep_contraction: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    skip_bad: bool = False,
    retry_failed: bool = False,
    source: str = "",
) -> dict[str, Any]:
    """Label structures by restricted Kohn-Sham calculations with PySCF -> one store.

        schnorb_t label molecules.xyz -o labels.h5 --target wqao --workers 8

    STRUCTURES is any file with molecules (extended xyz with ``name``, ``group``, ``split`` in its comment lines keeps
    them), QM9's archive, the folder it was unpacked to, or its geometry table. Killed at any
    moment, the same command continues where it stopped.
    Molecules that get no label (not converged, linearly dependent, open shell) stand in the file with the reason and
    are listed at the end.

    Args:
        structures: files with structures
        output: HDF5 file to begin or to continue
        target: what H and S stand in: full, wqao, iao, quambo, or the name of an atomic-orbital basis, which is then
            the basis of the calculation too
        functional: PySCF's name
        basis: large basis, PySCF's name (default: def2-SVP)
        grid_level: integration grid, 0-9
        conv_tol: SCF convergence in Eh
        max_cycle: SCF cycles before giving up
        no_density_fitting: exact two-electron integrals
        forces: store forces (Eh/Bohr) and dipole moment (e*Bohr) too
        plain_scf: PySCF's own code throughout; the same labels to 1e-10 Eh in three times the time
        memory: MB per process for orbitals on the grid that are kept between SCF cycles
        guess: begin every SCF from this model's prediction, e.g. def2svp
        keep_contraction: store the projection A beside H and S
        workers: processes (default: all cores)
        scheduler: address or scheduler file of a dask.distributed cluster
        skip_bad: record broken structures as failed and go on
        retry_failed: try molecules again that failed before
        source: where the structures come from; a text for the file

    Returns:
        ``output``, ``molecules`` (count), ``failures`` ([name, reason]).

    Raises:
        UserError: broken structures, unknown level of theory, another kind of file.
    """

    from schnorb_t.data.store import Store, StoreWriter, journal_path
    from schnorb_t.interfaces.pyscf import ModelGuess
    from schnorb_t.progress import messages
    from schnorb_t.reference.labels import TARGETS, LabelJob, header_of
    from schnorb_t.reference.pyscf import Level, check_level, versions
    from schnorb_t.structures import LabelFiles

    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: at least one process is needed")
    if target not in TARGETS:
        if basis not in (None, target):
            raise UserError(f"--target {target} is an atomic-orbital basis and contradicts --basis {basis}")
        target, basis = "full", target
    level = Level(functional, basis or Level.basis, not no_density_fitting, grid_level, conv_tol)
    if memory < 0:
        raise UserError(f"--memory {memory:g}: megabytes cannot be negative")
    read = LabelFiles(structures)
    refused, lines = inspect(read.without_groups(), skip_bad)
    for line in lines:
        messages().print(f"skipped: {line}", markup=False, highlight=False)
    elements = sorted({z for name, found in read.elements.items() if name not in refused for z in found})
    check_level(level, elements)
    model = ModelGuess(guess) if guess else None
    if model:
        model.check(elements)
    header = header_of(target, elements, level, versions(), source)
    job = LabelJob(level, target, keep_contraction, max_cycle, model, plain_scf, memory, forces)
    retry: set[str] = set()
    if retry_failed and (output.exists() or journal_path(output).exists()):
        StoreWriter(output, header).close()  # merges what an interrupted run left
        with Store(output) as store:
            retry = {name for name, _, _ in store.failures}
    with StoreWriter(output, header) as writer:
        n_workers = workers or os.cpu_count() or 1
        label(read, job, writer, refused=refused, retry=retry, workers=n_workers, scheduler=scheduler)
    with Store(output) as store:
        failures = [[name, reason] for name, reason, _ in store.failures]
        return {"output": str(output), "molecules": len(store), "failures": failures}


def show(result: dict[str, Any]) -> None:
    """Print what the file holds and what failed, with the reasons."""
    failures = result["failures"]
    print(f"{result['output']}: {result['molecules']} molecules, {len(failures)} failed")
    for name, reason in failures[:LISTED]:
        print(f"  failed: {name}: {reason}")
    if len(failures) > LISTED:
        print(f"  and {len(failures) - LISTED} more, see the file's failures/")
