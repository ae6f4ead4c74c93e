"""Processor time of a Kohn-Sham label, step by step of what makes it cheaper, and whether the label stays the same.

    OMP_NUM_THREADS=1 python benchmarks/label_cost.py --qm9 data/qm9.xyz --organic data/pool.extxyz -o label_cost

Takes molecules of nine heavy atoms: five of one file, two with S or Cl of another. All ways of one molecule run one
after the other in one process. Differences are to PySCF's own way; the last column is the way's distance from the
converged limit (conv_tol 1e-12): at the labels' conv_tol orbital energies have 1e-5 Eh to go, whatever the way.

Every finished molecule is kept in OUTPUT.jsonl: the same command goes on where it stopped. Prints a table and writes
OUTPUT.json and OUTPUT.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from schnorb_t.errors import UserError, run_command
from schnorb_t.files import atomic_write
from schnorb_t.reference.pyscf import Level, diagonalise, remember_potential, restricted_kohn_sham
from schnorb_t.structures import Structure, read_structures
from schnorb_t.training.report import write_json
from schnorb_t.units import BOHR

#: Energy at which the SCF on the coarse grid stops, Eh.
COARSE = 1e-4


@dataclass(frozen=True)
class Way:
    """One way to the label.

    Attributes:
        name: in the table.
        grid: orbitals on the grid are kept between cycles.
        exchange: Coulomb and exchange from occupied orbitals by NumPy.
        reuse: the last potential is not computed again.
        start: ``""``, ``"coarse"`` (grid level 0 first) or ``"model"``.
        conv_tol: Eh; None: the level's.
    """

    name: str
    grid: bool = True
    exchange: bool = True
    reuse: bool = True
    start: str = ""
    conv_tol: float | None = None


PLAIN = Way("PySCF as it is", False, False, False)
DEFAULT = Way("no potential twice (default)")
LIMIT = Way("default, conv_tol 1e-12", conv_tol=1e-12)
WAYS = (
    PLAIN,
    Way("orbitals kept on the grid", True, False, False),
    Way("exchange by NumPy too", True, True, False),
    DEFAULT,
    Way("default, coarse grid first", start="coarse"),
    Way("default, start from a model", start="model"),
    LIMIT,
)


def molecule_of(structure: Structure, level: Level):
    """PySCF's ``Mole``."""
    from pyscf import gto

    atom = [(int(z), x) for z, x in zip(structure.atomic_numbers, structure.positions / BOHR, strict=True)]
    return gto.M(atom=atom, unit="Bohr", basis=level.basis, verbose=0)


def mean_field(mol, way: Way, level: Level):
    """PySCF's object with the pieces of one way."""
    from schnorb_t.reference import fast_scf

    mf = restricted_kohn_sham(mol, level, plain=True)
    if way.exchange and level.density_fitting:
        mf.with_df = fast_scf.MemoryDF(mol)
        mf.direct_scf = False
    if way.grid:
        mf._numint = fast_scf.CachedNumInt()
    return mf


def coarse_density(mol, way: Way, level: Level):
    """Density matrix of a loose SCF on grid level 0, and its cycles."""
    mf = mean_field(mol, way, replace(level, grid_level=0, conv_tol=COARSE))
    mf.conv_check = False
    mf.kernel()
    return mf.make_rdm1(), mf.cycles


def calculate(structure: Structure, way: Way, level: Level, guess: Callable | None) -> dict:
    """Processor seconds, cycles and the label itself."""
    level = replace(level, conv_tol=way.conv_tol or level.conv_tol)
    mol = molecule_of(structure, level)
    begin = time.process_time()
    mf = mean_field(mol, way, level)
    density, cycles = None, 0
    if way.start == "coarse":
        density, cycles = coarse_density(mol, way, level)
    elif way.start == "model":
        density = guess(mol)
    last = remember_potential(mf) if way.reuse else {}
    mf.kernel(dm0=density)
    fock = mf.get_fock(vhf=last["veff"], dm=last["dm"]) if last else mf.get_fock()
    seconds = time.process_time() - begin
    if not mf.converged:
        raise UserError(f"{structure.name}: not converged ({way.name})")
    fock = 0.5 * (fock + fock.T)
    levels, _ = diagonalise(np.asarray(fock), mf.get_ovlp())
    return {"seconds": seconds, "cycles": cycles + mf.cycles, "energy": mf.e_tot, "levels": levels, "fock": fock}


def distance(a: dict, b: dict) -> dict[str, float]:
    """Largest differences of two labels, Eh."""
    return {
        "energy": float(abs(a["energy"] - b["energy"])),
        "levels": float(np.abs(a["levels"] - b["levels"]).max()),
        "fock": float(np.abs(a["fock"] - b["fock"]).max()),
    }


def measure(structure: Structure, level: Level, guess: Callable | None) -> dict:
    """All ways of one molecule. ``guess`` (PySCF's molecule -> density matrix) is None where no model knows it."""
    labels = {way.name: calculate(structure, way, level, guess) for way in WAYS if guess or way.start != "model"}
    return {
        "molecule": structure.name,
        "elements": sorted({int(z) for z in structure.atomic_numbers}),
        "functions": len(labels[PLAIN.name]["levels"]),
        "ways": {
            name: {
                "seconds": found["seconds"],
                "cycles": found["cycles"],
                "from_plain": distance(found, labels[PLAIN.name]),
                "from_limit": distance(found, labels[LIMIT.name]),
            }
            for name, found in labels.items()
        },
    }


def summarise(rows: Sequence[dict]) -> list[dict]:
    """One row per way, over the molecules that have it; ratios to PySCF's way molecule by molecule."""
    out = []
    for way in WAYS:
        there = [row for row in rows if way.name in row["ways"]]
        if not there:
            continue
        own = [row["ways"][way.name] for row in there]
        ratios = [row["ways"][PLAIN.name]["seconds"] / row["ways"][way.name]["seconds"] for row in there]
        out.append(
            {
                "way": way.name,
                "molecules": len(there),
                "seconds": float(np.mean([o["seconds"] for o in own])),
                "cycles": float(np.mean([o["cycles"] for o in own])),
                "times_faster": float(np.mean(ratios)),
                **{f"{key}_from_plain": max(o["from_plain"][key] for o in own) for key in ("energy", "levels", "fock")},
                "levels_from_limit": max(o["from_limit"]["levels"] for o in own),
            }
        )
    return out


def draw(summary: list[dict], path: Path) -> None:
    """Bars of processor time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    names = [row["way"] for row in summary][::-1]
    bars = axes.barh(names, [row["seconds"] for row in summary][::-1], color="tab:blue")
    axes.bar_label(bars, [f"{row['times_faster']:.1f}x" for row in summary][::-1], padding=3)
    axes.set_xlabel("processor time of a label, nine heavy atoms, s")
    axes.margins(x=0.12)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def choose(structures: Sequence[Structure], n: int, heavy_atoms: int, elements: frozenset[int]) -> list[Structure]:
    """The first ``n`` of a size, with one of ``elements`` each if there are any."""
    out = []
    for structure in structures:
        z = structure.atomic_numbers
        if int((z > 1).sum()) == heavy_atoms and (not elements or elements & set(z.tolist())):
            out.append(structure)
        if len(out) == n:
            break
    if not out:
        raise UserError(f"no molecule of {heavy_atoms} heavy atoms; take other files or another --heavy-atoms")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qm9", type=Path, required=True, help="structures of H, C, N, O")
    parser.add_argument("--organic", type=Path, required=True, help="structures with S and Cl")
    parser.add_argument("--model", default="def2svp", help="start of one way (default def2svp)")
    parser.add_argument("--heavy-atoms", type=int, default=9)
    parser.add_argument("-o", "--output", type=Path, default=Path("label_cost"), help="without suffix")
    args = parser.parse_args()
    from schnorb_t.interfaces.pyscf import ModelGuess

    structures = choose(read_structures([args.qm9]), 5, args.heavy_atoms, frozenset())
    structures += choose(read_structures([args.organic]), 2, args.heavy_atoms, frozenset((16, 17)))
    journal = args.output.with_suffix(".jsonl")
    rows = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    known = {row["molecule"] for row in rows}
    level = Level()
    for structure in track([s for s in structures if s.name not in known], console=Console(stderr=True)):
        guess: ModelGuess | None = ModelGuess(args.model)
        try:
            guess.check(structure.atomic_numbers.tolist())
        except UserError:
            guess = None
        rows.append(measure(structure, level, guess))
        with journal.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    summary = summarise(rows)
    table = Table("way", "molecules", "CPU s", "cycles", "faster", "dE / Eh", "dlevels", "dF", "levels from limit")
    for row in summary:
        table.add_row(
            row["way"],
            str(row["molecules"]),
            f"{row['seconds']:.1f}",
            f"{row['cycles']:.1f}",
            f"{row['times_faster']:.2f}",
            *(f"{row[f'{key}_from_plain']:.0e}" for key in ("energy", "levels", "fock")),
            f"{row['levels_from_limit']:.0e}",
        )
    Console().print(table)
    write_json(args.output.with_suffix(".json"), {"level": str(level), "summary": summary, "molecules": rows})
    draw(summary, args.output.with_suffix(".png"))


if __name__ == "__main__":
    run_command(main)
