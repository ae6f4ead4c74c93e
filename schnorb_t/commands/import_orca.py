"""``schnorb_t import-orca runs/ -o orca.h5``: ORCA results -> one store of checked Hamiltonians and overlaps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from schnorb_t.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from schnorb_t.reference.orca import Report

#: Molecules listed one by one in the table; the file holds all.
LISTED = 200


def import_orca(
    paths: list[Path],
    *,
    output: Path,
    skip_bad: bool = False,
    level: str | None = None,
    ignore_fock: bool = False,
) -> dict[str, Any]:
    """ORCA results -> one file of checked Hamiltonians and overlaps in the full basis.

        schnorb_t import-orca runs/ -o orca.h5

    Reads ``orca_2json`` files of ORCA 5 and 6 and printed outputs of ORCA 2.6 to 6.1; folders are searched. ORCA's
    output beside an ``orca_2json`` file (``x.out`` beside ``x.json``) adds energy, convergence and level of theory.
    Every molecule is checked (``schnorb_t/reference/orca_checks.py``); the residuals are printed and stored in the
    file. If any is refused nothing is written and the exit code is 2, unless ``--skip-bad``. ``schnorb_t project``
    takes the file further.

    Args:
        paths: orca_2json files, outputs, or folders of them
        output: HDF5 file to write
        skip_bad: import the others although some were refused
        level: name of the level of theory for the file, in place of what the outputs say; use it where outputs of one
            level word it differently
        ignore_fock: build H from the orbitals, not from a given F

    Returns:
        ``output``, ``written``, ``molecules`` (name, version, residuals, source of H), ``notes`` on residuals,
        ``refused`` (reasons), ``mixed`` (whether levels or bases differ) and ``foreign`` (files of other programs).

    Raises:
        UserError: nothing to read, or the output exists or cannot be written.
    """
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    from schnorb_t.progress import columns, messages
    from schnorb_t.reference import orca

    foreign: list[str] = []
    jobs = orca.find_jobs(paths, on_foreign=lambda path: foreign.append(str(path)))
    counts = MofNCompleteColumn(), TextColumn("{task.fields[refused]} refused")
    refused = 0
    with Progress(*columns(*counts), console=messages()) as progress:
        bar = progress.add_task("reading", total=len(jobs), refused=0)

        def step(report: Report) -> None:
            nonlocal refused
            refused += report.molecule is None
            progress.update(bar, advance=1, refused=refused)

        reports = orca.import_orca(
            jobs, output, skip_bad=skip_bad, level=level, ignore_fock=ignore_fock, on_report=step
        )
    good = [(r.job.name, r.molecule) for r in reports if r.molecule is not None]
    bad = [r for r in reports if r.molecule is None]
    return {
        "output": str(output),
        "written": bool(good) and not any(r.mixed for r in bad) and (skip_bad or not bad),
        "molecules": [
            {
                "name": name,
                "version": molecule.calculation.version,
                "residuals": {x.name: x.value for x in molecule.residuals},
                "hamiltonian_from": molecule.fock_source,
            }
            for name, molecule in good
        ],
        "residual_names": orca.residual_names([r for r in reports if r.molecule is not None]),
        "notes": {x.name: x.note for _, molecule in good for x in molecule.residuals if x.note},
        "refused": [r.reason for r in bad],
        "mixed": any(r.mixed for r in bad),
        "foreign": foreign,
    }


def table_of(molecules: list[dict[str, Any]], names: list[str]) -> Table:
    """One row per imported molecule, one column per check, the worst of each check at the bottom."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Residuals")
    table.add_column("molecule", overflow="fold")
    table.add_column("ORCA")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("H from")

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.1e}"

    for molecule in molecules[:LISTED]:
        cells = [text(molecule["residuals"].get(name)) for name in names]
        table.add_row(escape(molecule["name"]), escape(molecule["version"]), *cells, molecule["hamiltonian_from"])
    if len(molecules) > LISTED:
        table.add_row(f"and {len(molecules) - LISTED} more", "", *["" for _ in names], "")
    worst = []
    for name in names:
        every = [x for m in molecules if (x := m["residuals"].get(name)) is not None]
        pick = min if name == "positive definite" else max
        worst.append(text(pick(every)) if every else "-")
    table.add_section()
    table.add_row("worst", "", *worst, "")
    return table


def show(result: dict[str, Any]) -> None:
    """Print the residuals and what was refused.

    Raises:
        UserError: the file was not written.
    """
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    molecules, refused, output = result["molecules"], result["refused"], result["output"]
    if molecules:
        console.print(table_of(molecules, result["residual_names"]))
    for name, note in result["notes"].items():
        console.print(f"{name}: {escape(note)}", highlight=False)
    for path in result["foreign"]:
        console.print(f"left out: {escape(path)}: no file of ORCA", highlight=False)
    listed = "".join(f"\n  {reason}" for reason in refused)
    if result["mixed"]:
        raise UserError(f"{output} was not written: different bases or levels of theory cannot share a file{listed}")
    if not molecules:
        raise UserError(f"{output} was not written: all {len(refused)} files were refused{listed}")
    if not result["written"]:
        raise UserError(
            f"{output} was not written: {len(refused)} of {len(refused) + len(molecules)} files were refused; mend or "
            f"remove them, or import the others with --skip-bad{listed}"
        )
    for reason in refused:
        console.print(f"refused: {escape(reason)}", highlight=False)
    console.print(f"{output}: {len(molecules)} molecules, {len(refused)} refused", highlight=False)
