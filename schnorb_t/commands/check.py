"""``schnorb_t check FILE``: validate a store and print what it holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from schnorb_t import keys, units
from schnorb_t.data import validation
from schnorb_t.data.reader import Store, journal_path
from schnorb_t.data.records import SPLITS
from schnorb_t.data.validation import Report, formula_of_counts
from schnorb_t.data.writer import finish as merge_interrupted
from schnorb_t.errors import UserError
from schnorb_t.files import atomic_write
from schnorb_t.progress import columns, messages


def _range(values: np.ndarray, pattern: str = "{:,.0f}") -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return "-"
    return " / ".join(pattern.format(x) for x in (values.min(), values.mean(), values.max()))


def print_contents(store: Store, report: Report, console: Console) -> None:
    """Counts, elements, sizes, level, splits, extremes."""
    table = Table(title=str(store.path), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    measures = report.measures
    table.add_row("molecules", f"{len(store):,}, {len(np.unique(store.column('group', decode=False))):,} groups")
    table.add_row("atoms", formula_of_counts(report.element_counts) or "-")
    table.add_row("basis, target", f"{store.basis}, {store.target}")
    for key, value in sorted(store.level.items()):
        table.add_row(f"level: {key}", str(value))
    table.add_row("programs", ", ".join(f"{p} {v}" for p, v in sorted(store.programs.items())) or "-")
    for what, values in (("atoms", store.n_atoms), ("orbitals", store.n_orbitals), ("electrons", store.n_electrons)):
        table.add_row(f"{what} per molecule, min / mean / max", _range(values.astype(float)))
    table.add_row("smallest distance, Å", _range(measures["smallest_distance"], "{:.3f}"))
    table.add_row("smallest overlap eigenvalue", _range(measures["overlap_eigenvalue"], "{:.2e}"))
    held = [q for q in keys.stored() if q.field in store.fields]
    for q in (q for q in held if q.optional):
        table.add_row(f"with {q.field}", f"{int(store.has(q.field).sum()):,}")
    for q in (q for q in held if q.symmetric):
        asymmetry = store.column(f"{q.field}_asymmetry")
        largest = f"{asymmetry.max():.1e} {q.unit}".rstrip() if len(asymmetry) else "-"
        table.add_row(f"largest asymmetry of the {q.field}", largest)
    table.add_row("occupied levels against large basis, Eh", _range(measures["occupied_error"], "{:.1e}"))
    gap = (measures["lumo"] - measures["homo"]) * units.HARTREE
    large_gap = (measures["lumo_large_basis"] - measures["homo_large_basis"]) * units.HARTREE
    table.add_row("gap, eV", _range(gap, "{:.2f}"))
    table.add_row("gap of the large basis, eV", _range(large_gap, "{:.2f}"))
    console.print(table)

    table = Table(title="splits")
    for heading in ("split", "molecules", "groups", "atoms min / mean / max"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    groups = store.column("group", decode=False)
    for split in (*SPLITS, ""):
        here = store.indices(split)
        if len(here):
            sizes = _range(store.n_atoms[here].astype(float))
            table.add_row(split or "(none)", f"{len(here):,}", f"{len(np.unique(groups[here])):,}", sizes)
    console.print(table)

    if store.failures:
        reasons = Counter(reason for _, reason, _ in store.failures)
        table = Table(title=f"{len(store.failures):,} failures recorded in the file")
        table.add_column("reason", overflow="fold")
        table.add_column("molecules", justify="right")
        table.add_column("such as", overflow="fold")
        for reason, count in reasons.most_common(20):
            example = next(name for name, r, _ in store.failures if r == reason)
            table.add_row(reason, f"{count:,}", example)
        console.print(table)
    for line in report.warnings.lines():
        console.print(f"warning: {line}", style="yellow", markup=False, highlight=False)


def draw(store: Store, report: Report, path: Path) -> None:
    """Sizes, elements, distances, overlap eigenvalues, frontier levels and occupied errors as histograms."""
    from matplotlib.figure import Figure

    measures = report.measures
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3).ravel()

    def histogram(axis, values, label=None, log=False, bins=60):
        values = values[np.isfinite(values)]
        if log:
            values = np.log10(np.maximum(values, 1e-17))
        if len(values):
            axis.hist(values, bins=bins, label=label, alpha=0.7)

    for split in (*SPLITS, ""):
        here = store.indices(split)
        if len(here):
            counts = np.bincount(store.n_atoms[here])
            axes[0].step(np.arange(len(counts)), counts, where="mid", label=split or "no split")
    axes[0].set_xlabel("atoms per molecule")
    axes[0].set_yscale("log")
    if len(store):
        axes[0].legend()
    present = np.flatnonzero(report.element_counts)
    from ase.data import chemical_symbols

    axes[1].bar([chemical_symbols[z] for z in present], report.element_counts[present])
    axes[1].set_xlabel("element")
    axes[1].set_ylabel("atoms")
    histogram(axes[2], measures["smallest_distance"])
    axes[2].set_xlabel("smallest distance / Å")
    histogram(axes[3], measures["overlap_eigenvalue"], log=True)
    axes[3].set_xlabel("log10 of the smallest overlap eigenvalue")
    for level in ("homo", "lumo", "lumo_large_basis"):
        histogram(axes[4], measures[level] * units.HARTREE, label=level.replace("_", " "))
    axes[4].set_xlabel("orbital energy / eV")
    if axes[4].patches:
        axes[4].legend()
    histogram(axes[5], measures["occupied_error"], log=True)
    axes[5].set_xlabel("log10 of the largest occupied-level error / Eh")
    for axis in (axes[0], *axes[2:]):
        axis.set_ylabel("molecules")
    figure.suptitle(f"{store.path.name}: {len(store):,} molecules, {store.target}")
    kind = path.suffix[1:].lower()
    with atomic_write(path, remedy="name another place for the picture with --png") as temporary:
        figure.savefig(temporary, dpi=110, format=kind if kind in figure.canvas.get_supported_filetypes() else "png")


def check(file: Path, *, png: Path | None = None, no_png: bool = False, finish: bool = False) -> dict[str, Any]:
    """Validate a file of molecules and print what it holds.

    Exits with code 2 and names the molecules if something would poison training; draws the distributions beside the
    file.

    Args:
        file: the store
        png: picture of the distributions (default: FILE.png)
        no_png: no picture
        finish: first merge what an interrupted writer left

    Returns:
        ``file``, ``errors`` and ``warnings`` (lines), ``n_errors``, ``merged`` (of an interrupted writer, or None),
        ``png``, and ``_report``, which ``show`` prints.

    Raises:
        UserError: no such file, or the picture cannot be written.
    """
    merged = merge_interrupted(file) if finish and journal_path(file).exists() else None
    with Progress(*columns(), console=messages(), transient=True) as bar:
        task = bar.add_task("checking", total=None)
        report = validation.check(file, lambda done, n: bar.update(task, completed=done, total=n))
    picture = None if no_png else png or Path(f"{file}.png")
    if picture is not None:
        with Store(file) as store:
            draw(store, report, picture)
    return {
        "file": str(file),
        "n_errors": sum(report.errors.counts.values()),
        "errors": report.errors.lines(),
        "warnings": report.warnings.lines(),
        "merged": merged,
        "png": None if picture is None else str(picture),
        "_report": report,
    }


def show(result: dict[str, Any]) -> None:
    """Print what the file holds and what is wrong with it.

    Raises:
        UserError: something is wrong.
    """
    console, file = Console(), result["file"]
    if result["merged"] is not None:
        console.print(f"finished: {result['merged']:,} molecules and failures merged")
    with Store(file) as store:
        print_contents(store, result["_report"], console)
    if result["png"]:
        console.print(f"distributions: {result['png']}")
    if result["errors"]:
        listing = "\n  ".join(result["errors"])
        n = result["n_errors"]
        raise UserError(f"{file}: {n:,} problems; leave these molecules out or make them again\n  {listing}")
    console.print(f"{file}: sound", style="green")
