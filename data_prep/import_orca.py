"""ORCA results -> one file of checked Hamiltonians and overlaps in the full basis.

    python data_prep/import_orca.py runs/ -o orca.h5

Reads ``orca_2json`` files of ORCA 5 and 6 and printed outputs of ORCA 2.6 to 6.1; folders are searched. ORCA's output
beside an ``orca_2json`` file (``x.out`` beside ``x.json``) adds energy, convergence and level of theory. Every molecule
is checked (``schnorb_t/reference/orca_checks.py``); the residuals are printed and stored in the file. If any is refused
nothing is written and the exit code is 2, unless ``--skip-bad``. ``data_prep/project.py`` takes the file further.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from schnorb_t.errors import UserError, run_command
from schnorb_t.reference.orca import Report, find_jobs, import_orca, residual_names

#: Molecules listed one by one in the table; the file holds all.
LISTED = 200


def table_of(reports: list[Report]) -> Table:
    """One row per imported molecule, one column per check, the worst of each check at the bottom."""
    good = [r for r in reports if r.molecule is not None]
    names = residual_names(good)
    table = Table(title="Residuals")
    table.add_column("molecule", overflow="fold")
    table.add_column("ORCA")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("H from")

    def cells(report: Report) -> list[str]:
        found = {r.name: r for r in report.molecule.residuals}
        values = [found[name].value if name in found else None for name in names]
        return ["-" if value is None else f"{value:.1e}" for value in values]

    for report in good[:LISTED]:
        row = (escape(report.job.name), escape(report.molecule.calculation.version))
        table.add_row(*row, *cells(report), report.molecule.fock_source)
    if len(good) > LISTED:
        table.add_row(f"and {len(good) - LISTED} more", "", *["" for _ in names], "")
    worst = []
    for name in names:
        every = [x for r in good for x in r.molecule.residuals if x.name == name and x.value is not None]
        pick = min if name == "positive definite" else max
        worst.append(f"{pick(x.value for x in every):.1e}" if every else "-")
    table.add_section()
    table.add_row("worst", "", *worst, "")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="orca_2json files, outputs, or folders of them")
    parser.add_argument("-o", "--output", required=True, type=Path, help="HDF5 file to write")
    parser.add_argument("--skip-bad", action="store_true", help="import the others although some were refused")
    parser.add_argument(
        "--level",
        help="name of the level of theory for the file, in place of what the outputs say; use it where outputs of one "
        "level word it differently",
    )
    parser.add_argument("--ignore-fock", action="store_true", help="build H from the orbitals, not from a given F")
    args = parser.parse_args()
    jobs = find_jobs(args.paths)
    progress_console = Console(stderr=True)
    columns = (
        TextColumn("reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[refused]} refused, left"),
        TimeRemainingColumn(),
    )
    refused = 0
    with Progress(*columns, console=progress_console) as progress:
        bar = progress.add_task("", total=len(jobs), refused=0)

        def step(report: Report) -> None:
            nonlocal refused
            refused += report.molecule is None
            progress.update(bar, advance=1, refused=refused)

        try:
            reports = import_orca(
                jobs,
                args.output,
                skip_bad=args.skip_bad,
                level=args.level,
                ignore_fock=args.ignore_fock,
                on_report=step,
            )
        except KeyboardInterrupt:
            raise UserError(f"interrupted; {args.output} was not written") from None

    good, bad = [r for r in reports if r.molecule is not None], [r for r in reports if r.molecule is None]
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    if good:
        console.print(table_of(reports))
    for residual in {r.name: r for report in good for r in report.molecule.residuals if r.note}.values():
        console.print(f"{residual.name}: {escape(residual.note)}", highlight=False)
    listed = "".join(f"\n  {r.reason}" for r in bad)
    if any(r.mixed for r in bad):
        raise UserError(
            f"{args.output} was not written: different bases or levels of theory cannot share a file{listed}"
        )
    if not good:
        raise UserError(f"{args.output} was not written: all {len(bad)} files were refused{listed}")
    if bad and not args.skip_bad:
        raise UserError(
            f"{args.output} was not written: {len(bad)} of {len(reports)} files were refused; mend or remove them, or "
            f"import the others with --skip-bad{listed}"
        )
    for report in bad:
        console.print(f"refused: {escape(report.reason)}", highlight=False)
    console.print(f"{args.output}: {len(good)} molecules, {len(bad)} refused", highlight=False)


if __name__ == "__main__":
    run_command(main)
