"""SCF cycles and time to convergence, by what the SCF starts from.

    python benchmarks/scf_guess.py --data data/qm9_full.h5 --full def2svp --minimal hcnof

Starts: PySCF's default guess (minao: superposed free atoms), a minimal-basis model with the way back to the large
basis (schnorb_t/interfaces/contraction.py), a model of the large basis itself, and the converged Fock matrix, which
nothing can beat. Molecules: the first --n test molecules of a file, and the larger ones below, which no training
molecule matches in size (ETKDGv3 and MMFF94 geometries by RDKit). All starts have the same settings, one thread, one
process.

Every finished SCF is kept in OUTPUT.jsonl, converged Fock matrices in OUTPUT_fock/: the same command goes on where it
stopped. Prints a table, names every molecule where a start of ours needs more cycles than the default, and writes
OUTPUT.json and OUTPUT.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from ase import Atoms
from rich.console import Console
from rich.table import Table

from schnorb_t.data.store import Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.files import atomic_write
from schnorb_t.interfaces.pyscf import initial_guess
from schnorb_t.predictor import Predictor, load
from schnorb_t.reference.pyscf import Level
from schnorb_t.training.checkpoint import find_model
from schnorb_t.training.report import write_json
from schnorb_t.units import BOHR

#: 12 to 18 heavy atoms; QM9 and the embedded sample have 9 at most.
LARGER = {
    "nicotine": "CN1CCCC1c1cccnc1",
    "glucose": "OCC1OC(O)C(O)C(O)C1O",
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "trialanine": "CC(N)C(=O)NC(C)C(=O)NC(C)C(=O)O",
    "flurbiprofen": "CC(C(=O)O)c1ccc(c(F)c1)-c1ccccc1",
}
DEFAULT, MINIMAL, FULL, EXACT = "PySCF default", "minimal-basis model", "large-basis model", "exact Fock matrix"
STARTS = (DEFAULT, MINIMAL, FULL, EXACT)
TEST, LARGE = "test molecules", "larger molecules"
COLOURS = {DEFAULT: "0.45", MINIMAL: "tab:orange", FULL: "tab:blue", EXACT: "tab:green"}
MAX_CYCLE = 60


@dataclass(frozen=True)
class Run:
    """One SCF.

    Attributes:
        molecule, kind: name; ``TEST`` or ``LARGE``.
        heavy_atoms, functions: size.
        start: of ``STARTS``; ``model`` tells which file it came from (empty for PySCF's and the exact one).
        cycles: diagonalisations until convergence.
        seconds, cpu_seconds: of the SCF; wall clock and processor.
        guess_seconds: wall clock of the prediction, orbitals included.
        misplaced: electrons of the start's density outside the converged occupied orbitals.
        energy: Eh.
    """

    molecule: str
    kind: str
    heavy_atoms: int
    functions: int
    start: str
    model: str
    converged: bool
    cycles: int
    seconds: float
    cpu_seconds: float
    guess_seconds: float
    misplaced: float
    energy: float


def larger_molecule(smiles: str) -> Atoms:
    """By ETKDGv3 (seed 2026) and MMFF94."""
    try:
        from rdkit import Chem
        from rdkit.Chem import AllChem
    except ImportError as error:
        raise UserError('RDKit is not installed; pip install "schnorb_t[sample]"') from error
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = 2026
    if AllChem.EmbedMolecule(mol, parameters) != 0 or AllChem.MMFFOptimizeMolecule(mol, maxIters=2000) != 0:
        raise UserError(f"SMILES {smiles}: RDKit finds no relaxed MMFF94 geometry")
    return Atoms([a.GetAtomicNum() for a in mol.GetAtoms()], mol.GetConformer().GetPositions())


def molecule_of(atoms: Atoms, level: Level):
    """PySCF's ``Mole``."""
    from pyscf import gto

    atom = [(int(z), x) for z, x in zip(atoms.numbers, atoms.positions / BOHR, strict=True)]
    return gto.M(atom=atom, unit="Bohr", basis=level.basis, verbose=0)


def mean_field(mol, level: Level):
    """As the labels are made (``schnorb_t.reference.pyscf.label``)."""
    from pyscf import dft

    mf = dft.RKS(mol, xc=level.functional)
    if level.density_fitting:
        mf = mf.density_fit()
    mf.grids.level, mf.conv_tol, mf.max_cycle, mf.chkfile = level.grid_level, level.conv_tol, MAX_CYCLE, None
    return mf


def density_of_fock(mf, fock: np.ndarray):
    energies, coefficients = mf.eig(fock, mf.get_ovlp())
    return mf.make_rdm1(coefficients, mf.get_occ(energies, coefficients))


def misplaced_electrons(density: np.ndarray, fock: np.ndarray, overlap: np.ndarray, n_occupied: int) -> float:
    """tr(D S) - tr(C^T S D S C), C the occupied orbitals of the converged Fock matrix."""
    occupied = scipy.linalg.eigh(fock, overlap, subset_by_index=(0, n_occupied - 1))[1]
    inside = occupied.T @ overlap
    return float(np.trace(density @ overlap) - np.einsum("im,mn,in->", inside, density, inside))


def converge(mf, guess: Callable[[], np.ndarray]) -> dict:
    """Cycles are counted by a callback, which PySCF calls once per cycle."""
    begin = time.perf_counter()
    density = guess()
    guessed = time.perf_counter()
    count = 0

    def one_more(_):
        nonlocal count
        count += 1

    mf.callback = one_more
    cpu = time.process_time()
    mf.kernel(density)
    return {
        "guess_seconds": guessed - begin,
        "seconds": time.perf_counter() - guessed,
        "cpu_seconds": time.process_time() - cpu,
        "cycles": count,
        "converged": bool(mf.converged),
        "energy": float(mf.e_tot),
        "density": np.asarray(density),
    }


class Benchmark:
    """Runs what is missing in the file of runs."""

    def __init__(self, output: Path, level: Level, full: str | None, minimal: str | None):
        self.level, self.output = level, output
        self.models: dict[str, Predictor] = {}
        self.tags = dict.fromkeys(STARTS, "")
        for start, name in ((MINIMAL, minimal), (FULL, full)):
            if name:
                self.models[start] = load(name)
                self.tags[start] = hashlib.sha256(find_model(name).read_bytes()).hexdigest()[:12]
        self.starts = [s for s in STARTS if s in self.models or s in (DEFAULT, EXACT)]
        self.file, self.folder = output.with_suffix(".jsonl"), output.with_name(output.name + "_fock")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.runs: list[Run] = []
        if self.file.exists():
            self.runs = [Run(**json.loads(line)) for line in self.file.read_text().splitlines()]

    def find(self, molecule: str, start: str) -> Run | None:
        wanted = molecule, start, self.tags[start]
        return next((r for r in self.runs if (r.molecule, r.start, r.model) == wanted), None)

    def molecule(self, name: str, kind: str, atoms: Atoms, report: Callable[[Run], None]) -> None:
        """All starts of one molecule. The default comes first: its Fock matrix is the exact one."""
        mol = molecule_of(atoms, self.level)
        cache = self.folder / (name.replace("/", "_").replace(":", "_") + ".npy")
        overlap = mol.intor_symmetric("int1e_ovlp")
        for start in self.starts:
            if self.find(name, start) and cache.exists():
                continue
            mf = mean_field(mol, self.level)
            if start == DEFAULT:
                result = converge(mf, mf.get_init_guess)
                temporary = cache.with_suffix(".part")
                with open(temporary, "wb") as file:
                    np.save(file, np.asarray(mf.get_fock()))
                os.replace(temporary, cache)
            elif start == EXACT:
                result = converge(mf, lambda mf=mf: density_of_fock(mf, np.load(cache)))
            else:
                model = self.models[start]
                result = converge(mf, lambda model=model: initial_guess(model.predict(atoms), mol))
            lost = misplaced_electrons(result.pop("density"), np.load(cache), overlap, mol.nelectron // 2)
            heavy = int((atoms.numbers > 1).sum())
            run = Run(name, kind, heavy, mol.nao, start, self.tags[start], misplaced=lost, **result)
            self.runs.append(run)
            with open(self.file, "a") as file:
                file.write(json.dumps(asdict(run)) + "\n")
            report(run)


def summary(runs: list[Run]) -> dict:
    """Means per kind and start, over the molecules that have all starts; ratios are means of molecules' ratios."""
    out: dict = {}
    starts = [s for s in STARTS if any(r.start == s for r in runs)]
    for kind in (TEST, LARGE):
        table: dict[str, dict[str, Run]] = {}
        for r in runs:
            if r.kind == kind:
                table.setdefault(r.molecule, {})[r.start] = r
        rows = [row for row in table.values() if len(row) == len(starts)]
        if not rows:
            continue
        out[kind] = {"molecules": len(rows), "starts": {}}
        for start in starts:
            mine, default = [row[start] for row in rows], [row[DEFAULT] for row in rows]
            total = [a.cpu_seconds + a.guess_seconds * (start in (MINIMAL, FULL)) for a in mine]
            out[kind]["starts"][start] = {
                "cycles": float(np.mean([a.cycles for a in mine])),
                "most_cycles": max(a.cycles for a in mine),
                "cpu_seconds": float(np.mean([a.cpu_seconds for a in mine])),
                "seconds": float(np.mean([a.seconds for a in mine])),
                "guess_seconds": float(np.mean([a.guess_seconds for a in mine])),
                "time_ratio": float(np.mean([t / d.cpu_seconds for t, d in zip(total, default, strict=True)])),
                "misplaced_electrons": float(np.mean([a.misplaced for a in mine])),
                "fewer_cycles_than_default": sum(a.cycles < d.cycles for a, d in zip(mine, default, strict=True)),
                "more_cycles_than_default": [
                    f"{a.molecule} ({a.cycles} against {d.cycles})"
                    for a, d in zip(mine, default, strict=True)
                    if a.cycles > d.cycles
                ],
                "more_time_than_default": [
                    f"{a.molecule} ({t:.1f} s against {d.cpu_seconds:.1f})"
                    for a, t, d in zip(mine, total, default, strict=True)
                    if t > d.cpu_seconds
                ],
                "not_converged": [a.molecule for a in mine if not a.converged],
                "largest_energy_difference": max(abs(a.energy - d.energy) for a, d in zip(mine, default, strict=True)),
            }
    return out


def print_summary(result: dict) -> None:
    """Means; ratio: of processor time to the default's, prediction included; misplaced: electrons, in the start's
    density; fewer/more: molecules with fewer and with more cycles than the default."""
    console = Console()
    for kind, part in result.items():
        table = Table(title=f"{part['molecules']} {kind}", title_justify="left")
        for name in ("start", "cycles", "most", "CPU s", "ratio", "misplaced", "fewer/more"):
            table.add_column(name, justify="left" if name == "start" else "right", no_wrap=True)
        for start, x in part["starts"].items():
            table.add_row(
                start,
                f"{x['cycles']:.2f}",
                str(x["most_cycles"]),
                f"{x['cpu_seconds']:.1f}",
                f"{x['time_ratio']:.2f}",
                f"{x['misplaced_electrons']:.2g}" if x["misplaced_electrons"] > 1e-6 else "0",
                "" if start == DEFAULT else f"{x['fewer_cycles_than_default']}/{len(x['more_cycles_than_default'])}",
            )
        console.print(table)
        for start in (MINIMAL, FULL):
            if start in part["starts"]:
                x = part["starts"][start]
                for what, key in (
                    ("more cycles than the default", "more_cycles_than_default"),
                    ("more processor time than the default", "more_time_than_default"),
                    ("not converged", "not_converged"),
                ):
                    if x[key] or key == "more_cycles_than_default":
                        console.print(f"{start}, {what}: {', '.join(x[key]) or 'nowhere'}")


def draw(runs: list[Run], result: dict, path: Path, title: str) -> None:
    """Cycles of every molecule, one row each, and the time beside the default's."""
    from matplotlib.figure import Figure

    starts = [s for s in STARTS if any(r.start == s for r in runs)]
    order: dict[str, tuple] = {}
    for r in runs:
        order[r.molecule] = (r.kind == LARGE, r.heavy_atoms, r.functions, r.molecule)
    names = sorted(order, key=order.get)
    by = {(r.molecule, r.start): r for r in runs}
    names = [n for n in names if all((n, s) in by for s in starts)]
    figure = Figure(figsize=(10, 1.6 + 0.27 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2], sharey=True)
    place = {}
    at = 0.0
    for k, name in enumerate(names):
        at += 1.0 + (0.8 if k and order[name][0] != order[names[k - 1]][0] else 0.0)
        place[name] = at
    for name in names:
        values = [by[name, s].cycles for s in starts]
        left.plot([min(values), max(values)], [place[name]] * 2, color="0.88", linewidth=5, zorder=1)
    for s in starts:
        x, y = [by[n, s].cycles for n in names], [place[n] for n in names]
        # equal counts would hide each other: a small shift per start
        shift = 0.16 * (starts.index(s) - 0.5 * (len(starts) - 1))
        left.scatter(x, [v + shift for v in y], s=34, color=COLOURS[s], label=s, zorder=3, linewidths=0)
        if s == DEFAULT:
            continue
        guess = s in (MINIMAL, FULL)
        ratio = [(by[n, s].cpu_seconds + guess * by[n, s].guess_seconds) / by[n, DEFAULT].cpu_seconds for n in names]
        right.scatter(ratio, [v + shift for v in y], s=34, color=COLOURS[s], zorder=3, linewidths=0)
    right.axvline(1.0, color=COLOURS[DEFAULT], linewidth=1.2)
    labels = [f"{n}  ({by[n, starts[0]].heavy_atoms})" for n in names]
    left.set_yticks([place[n] for n in names], labels, fontsize=8)
    left.invert_yaxis()
    left.set_xlim(0, None)
    left.set_xlabel("SCF cycles")
    left.set_ylabel("molecule (heavy atoms)")
    right.set_xlim(0, None)
    right.set_xlabel("processor time, prediction included / default's")
    for axis in (left, right):
        axis.grid(axis="x", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, title=title)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="file whose test molecules are taken (its matrices are not read)")
    parser.add_argument("--n", type=int, default=12, help="test molecules (default: 12)")
    parser.add_argument("--larger", default=",".join(LARGER), help="names of larger molecules, or none")
    parser.add_argument("--full", help="model of the large basis (target: full)")
    parser.add_argument(
        "--minimal", default="hcnof", help="model of a projected minimal basis, or none (default: hcnof)"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("scf_guess"), help="name of all outputs")
    args = parser.parse_args()
    from pyscf import lib

    lib.num_threads(1)
    torch.set_num_threads(1)
    level = Level()
    benchmark = Benchmark(args.output, level, args.full, None if args.minimal == "none" else args.minimal)
    jobs: list[tuple[str, str, Atoms]] = []
    if args.data:
        seen = {g for model in benchmark.models.values() for g in model.card.training_groups}
        with Store(args.data) as store:
            for index in store.indices("test")[: args.n]:
                r = store[index]
                if r.group in seen:
                    raise UserError(f"{args.data}: test molecule {r.name} was trained on by one of the models")
                jobs.append((r.name, TEST, Atoms(r.atomic_numbers, r.positions)))
    for name in [] if args.larger == "none" else args.larger.split(","):
        if name not in LARGER:
            raise UserError(f"no larger molecule {name!r}; known: {', '.join(LARGER)}")
        jobs.append((name, LARGE, larger_molecule(LARGER[name])))
    console = Console(stderr=True)
    for name, kind, atoms in jobs:
        benchmark.molecule(
            name,
            kind,
            atoms,
            lambda r: console.print(f"{r.molecule}: {r.start}, {r.cycles} cycles, {r.cpu_seconds:.1f} s"),
        )
    chosen = {name for name, *_ in jobs}
    runs = [r for r in benchmark.runs if r.molecule in chosen and benchmark.find(r.molecule, r.start) is r]
    result = summary(runs)
    print_summary(result)
    models = {s: {"file": benchmark.tags[s], "model": repr(m)} for s, m in benchmark.models.items()}
    write_json(
        args.output.with_suffix(".json"),
        {"level": str(level), "models": models, "summary": result, "runs": [asdict(r) for r in runs]},
    )
    draw(runs, result, args.output.with_suffix(".png"), str(level))


if __name__ == "__main__":
    run_command(main)
