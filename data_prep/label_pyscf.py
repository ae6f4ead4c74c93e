"""Label structures by restricted Kohn-Sham calculations with PySCF -> one store.

    python data_prep/label_pyscf.py molecules.xyz -o labels.h5 --target wqao --workers 8

STRUCTURES is any file ASE reads (extended xyz with ``name``, ``group``, ``split`` in its comment lines keeps them),
QM9's archive or its geometry table. Killed at any moment, the same command continues where it stopped. Molecules
that get no label (not converged, linearly dependent, open shell) stand in the file with the reason and are listed at
the end.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from schnorb_t.data.store import Store, StoreWriter, journal_path
from schnorb_t.errors import UserError, run_command
from schnorb_t.interfaces.pyscf import ModelGuess
from schnorb_t.reference.labels import TARGETS, LabelJob, header_of
from schnorb_t.reference.pool import run_dask, run_processes
from schnorb_t.reference.pyscf import Level, check_level, versions
from schnorb_t.reference.structures import Structure, fault_of, open_shell, read_structures

#: Failures listed at the end of a run; the file holds all.
LISTED = 50


def inspect(structures: list[Structure], skip_bad: bool, console: Console) -> dict[str, str]:
    """Name -> reason of every structure that cannot be labelled, found before any calculation.

    Raises:
        UserError: a structure is broken and ``skip_bad`` is not given. Open shells are no fault of the input: they are
            announced and recorded as failed.
    """
    faults, shells = {}, {}
    for index, structure in enumerate(structures):
        if fault := fault_of(structure):
            faults[structure.name] = f"structure {index} ({structure.name}): {fault}"
        elif reason := open_shell(structure):
            shells[structure.name] = reason
    if faults and not skip_bad:
        shown = "\n  ".join(list(faults.values())[:10])
        more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise UserError(
            f"{len(faults)} of {len(structures)} structures cannot be labelled:\n  {shown}{more}\n"
            "mend them, or leave them out with --skip-bad"
        )
    for text in [*faults.values(), *(f"{name}: {reason}" for name, reason in list(shells.items())[:LISTED])]:
        console.print(f"skipped: {text}", markup=False, highlight=False)
    return {name: f"bad input: {text}" for name, text in faults.items()} | shells


def label_all(job: LabelJob, structures: list[Structure], refused: dict[str, str], args, header) -> None:
    """Label what the file does not know yet, with a progress bar; every finished molecule is safe at once."""
    console = Console(stderr=True)
    retry: set[str] = set()
    if args.retry_failed and (args.output.exists() or journal_path(args.output).exists()):
        StoreWriter(args.output, header).close()  # merges what an interrupted run left
        with Store(args.output) as store:
            retry = {name for name, _, _ in store.failures}
    with StoreWriter(args.output, header) as writer:
        known = writer.known_names - retry
        todo = [s for s in structures if s.name not in known]
        if len(todo) < len(structures):
            console.print(f"{args.output}: {len(structures) - len(todo)} molecules are there already")
        for structure in todo:
            if structure.name in refused:
                writer.add_failure(structure.name, refused[structure.name], structure.order)
        work = [s for s in todo if s.name not in refused]
        outcomes: Iterable = (
            run_dask(job, work, args.scheduler) if args.scheduler else run_processes(job, work, args.workers)
        )
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]} done, {task.fields[failed]} failed, {task.fields[left]} left"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, speed_estimate_period=600) as progress:
            done, failed = 0, len(todo) - len(work)
            bar = progress.add_task(job.target, total=len(work), done=done, failed=failed, left=len(work))
            for count, (structure, ok, value) in enumerate(outcomes, 1):
                labelled = writer.add_outcome(structure.name, structure.order, ok, value)
                done, failed = done + labelled, failed + (not labelled)
                progress.update(bar, advance=1, done=done, failed=failed, left=len(work) - count)


def summary(path: Path) -> None:
    """Print what the file holds and what failed, with the reasons."""
    console = Console()
    with Store(path) as store:
        console.print(f"{path}: {len(store)} molecules, {len(store.failures)} failed", highlight=False)
        for name, reason, _ in store.failures[:LISTED]:
            console.print(f"  failed: {escape(name)}: {escape(reason)}", highlight=False)
        if len(store.failures) > LISTED:
            console.print(f"  and {len(store.failures) - LISTED} more, see the file's failures/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", nargs="+", type=Path, help="files with structures")
    parser.add_argument("-o", "--output", required=True, type=Path, help="HDF5 file to begin or to continue")
    parser.add_argument(
        "--target",
        default="wqao",
        help=f"what H and S stand in: {', '.join(TARGETS)}, or the name of an atomic-orbital basis, which is then "
        "the basis of the calculation too (default wqao)",
    )
    parser.add_argument("--functional", default="B3LYP", help="PySCF's name (default B3LYP)")
    parser.add_argument("--basis", help="large basis, PySCF's name (default def2-SVP)")
    parser.add_argument("--grid-level", type=int, default=1, help="integration grid, 0-9 (default 1)")
    parser.add_argument("--conv-tol", type=float, default=1e-9, help="SCF convergence in Eh (default 1e-9)")
    parser.add_argument("--max-cycle", type=int, default=100, help="SCF cycles before giving up (default 100)")
    parser.add_argument("--no-density-fitting", action="store_true", help="exact two-electron integrals")
    parser.add_argument("--guess", metavar="MODEL", help="begin every SCF from this model's prediction, e.g. def2svp")
    parser.add_argument("--keep-contraction", action="store_true", help="store the projection A beside H and S")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--scheduler", help="address or scheduler file of a dask.distributed cluster")
    parser.add_argument("--skip-bad", action="store_true", help="record broken structures as failed and go on")
    parser.add_argument("--retry-failed", action="store_true", help="try molecules again that failed before")
    parser.add_argument("--source", default="", help="where the structures come from: a text for the file")
    args = parser.parse_args()
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: at least one process is needed")
    target, basis = args.target, args.basis
    if target not in TARGETS:
        if basis not in (None, target):
            raise UserError(f"--target {target} is an atomic-orbital basis and contradicts --basis {basis}")
        target, basis = "full", target
    level = Level(args.functional, basis or Level.basis, not args.no_density_fitting, args.grid_level, args.conv_tol)
    structures = read_structures(args.structures)
    refused = inspect(structures, args.skip_bad, Console(stderr=True))
    elements = sorted({int(z) for s in structures if not fault_of(s) for z in s.atomic_numbers})
    if not elements:
        raise UserError(f"{', '.join(map(str, args.structures))}: no structure is left to label")
    check_level(level, elements)
    guess = ModelGuess(args.guess) if args.guess else None
    if guess:
        guess.check(elements)
    header = header_of(target, elements, level, versions(), args.source)
    job = LabelJob(level, target, args.keep_contraction, args.max_cycle, guess)
    try:
        label_all(job, structures, refused, args, header)
    except KeyboardInterrupt:
        raise UserError("interrupted; the finished molecules are safe, the same command continues") from None
    summary(args.output)


if __name__ == "__main__":
    run_command(main)
