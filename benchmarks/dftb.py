"""DFTB3 of this package: isomerisation energies of ISO34, and how well dynamics conserve the energy.

    python benchmarks/dftb.py --skf 3ob-3-1 --iso34 iso34
    python benchmarks/dftb.py --skf 3ob-3-1 --iso34 iso34 --relax --dynamics 10 --out results/dftb

ISO34 (Grimme, Steinmetz, Korth, J. Org. Chem. 72, 2118 (2007)): a folder with one xyz file per isomer and
``reactions.csv`` (educt, product, reference_kcal_mol). Energies are taken at the geometries of the files; with --relax
also after relaxation by DFTB3. Beside it GFN2-xTB at the same geometries, where tblite is installed. --dynamics runs
that many ps at constant energy (velocity Verlet, 0.5 fs, 300 K) of one molecule, 20,000 steps for 10 ps, and fits the
drift of the total energy as a temperature. Prints tables, writes JSON and a PNG.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from rich.console import Console
from rich.table import Table

from schnorb_t.data.batch import structures_to_batch
from schnorb_t.errors import UserError, run_command
from schnorb_t.files import atomic_write, write_text
from schnorb_t.interfaces.ase import DFTB

KCAL = units.kcal / units.mol
#: fs
STEP = 0.5
#: eV/Å, largest force of a relaxed isomer
RELAXED = 0.01


def read_reactions(folder: Path) -> list[tuple[str, str, float]]:
    """(educt, product, kcal/mol) of ``reactions.csv``."""
    path = folder / "reactions.csv"
    if not path.is_file():
        raise UserError(f"{path}: not there; give --iso34 the folder with reactions.csv and the xyz files")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return [(row["educt"], row["product"], float(row["reference_kcal_mol"])) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected columns educt, product, reference_kcal_mol ({error})") from None


def read_isomers(folder: Path, reactions: list[tuple[str, str, float]]) -> dict[str, Atoms]:
    isomers = {}
    for name in sorted({name for educt, product, _ in reactions for name in (educt, product)}):
        path = folder / f"{name}.xyz"
        if not path.is_file():
            raise UserError(f"{path}: not there; reactions.csv names it")
        isomers[name] = read(path)
        isomers[name].info = {"name": name}
    return isomers


def dftb_energies(isomers: dict[str, Atoms], calculator: DFTB) -> dict[str, float]:
    """eV, all isomers in one padded batch."""
    atoms = list(isomers.values())
    model = calculator.model(np.concatenate([a.numbers for a in atoms]))
    batch = structures_to_batch([a.numbers for a in atoms], [a.positions for a in atoms], model.basis, 1.0)
    with torch.no_grad():
        energies = model(batch, names=list(isomers)).energy * units.Hartree
    return dict(zip(isomers, energies.tolist(), strict=True))


def relaxed(isomers: dict[str, Atoms], calculator: DFTB) -> dict[str, Atoms]:
    out = {}
    for name, atoms in isomers.items():
        out[name] = atoms.copy()
        out[name].calc = calculator
        if not BFGS(out[name], logfile=None).run(fmax=RELAXED, steps=500):
            raise UserError(f"{name}: not relaxed after 500 steps")
        out[name].calc = None
    return out


def gfn2_energies(isomers: dict[str, Atoms]) -> dict[str, float] | None:
    """eV; ``None`` without tblite."""
    try:
        from tblite.interface import Calculator
    except ImportError:
        return None
    out = {}
    for name, atoms in isomers.items():
        calculator = Calculator("GFN2-xTB", atoms.numbers, atoms.positions / units.Bohr)
        calculator.set("verbosity", 0)
        out[name] = float(calculator.singlepoint().get("energy")) * units.Hartree
    return out


def errors(energies: dict[str, float], reactions: list[tuple[str, str, float]]) -> np.ndarray:
    """kcal/mol, calculated less reference."""
    return np.array([(energies[p] - energies[e]) / KCAL - reference for e, p, reference in reactions])


def drift(atoms: Atoms, calculator: DFTB, picoseconds: float) -> dict[str, float]:
    """Dynamics at constant energy from 300 K: drift (K per ps, of 2 E / (3 n k_B)) and spread of the total energy."""
    atoms = atoms.copy()
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=RELAXED, steps=200)
    velocities = np.random.default_rng(0).normal(size=(len(atoms), 3))
    # potential energy takes half of it, so it begins with twice as much
    atoms.set_velocities(velocities * np.sqrt(600 * units.kB / atoms.get_masses())[:, None])
    steps = round(1000 * picoseconds / STEP)
    dynamics, energies = VelocityVerlet(atoms, STEP * units.fs), []
    dynamics.attach(
        lambda: energies.append(atoms.get_potential_energy(force_consistent=True) + atoms.get_kinetic_energy())
    )
    start = time.perf_counter()
    dynamics.run(steps)
    seconds = time.perf_counter() - start
    kelvin = 2 * np.array(energies) / (3 * len(atoms) * units.kB)
    slope = np.polyfit(np.arange(len(kelvin)) * STEP / 1000, kelvin, 1)[0]
    return {
        "molecule": atoms.get_chemical_formula(),
        "picoseconds": picoseconds,
        "drift_kelvin_per_ps": float(slope),
        "spread_kelvin": float(kelvin.std()),
        "ms_per_step": 1000 * seconds / steps,
    }


def draw(methods: dict[str, np.ndarray], reactions: list[tuple[str, str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 4))
    width, places = 0.8 / len(methods), np.arange(len(reactions))
    for k, (name, error) in enumerate(methods.items()):
        axis.bar(
            places + (k - (len(methods) - 1) / 2) * width, error, width, label=f"{name}: {np.abs(error).mean():.2f}"
        )
    axis.axhline(0, color="black", lw=0.6)
    axis.set_xticks(places, [f"{e}-{p}" for e, p, _ in reactions], rotation=90, fontsize=7)
    axis.set(ylabel="error / kcal/mol", title="ISO34: isomerisation energies")
    axis.legend(title="mean absolute error, kcal/mol", loc="lower left", fontsize=8)
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skf", type=Path, required=True, help="folder of the Slater-Koster set")
    parser.add_argument("--iso34", type=Path, required=True, help="folder of ISO34")
    parser.add_argument("--order", type=int, default=3, choices=(2, 3))
    parser.add_argument("--repulsion", type=Path, help="network in place of the set's repulsion, beside it")
    parser.add_argument("--relax", action="store_true", help="also relax the isomers with DFTB")
    parser.add_argument("--dynamics", type=float, default=0.0, metavar="PS", help="ps of dynamics, of CH3OH")
    parser.add_argument("--out", type=Path, default=Path("results/dftb"), help="writes OUT.json and OUT.png")
    args = parser.parse_args()
    calculator = DFTB(args.skf, order=args.order)
    reactions = read_reactions(args.iso34)
    isomers = read_isomers(args.iso34, reactions)
    name = f"DFTB{args.order}/{args.skf.resolve().name}"
    sources: dict[str, Callable[[], dict[str, float] | None]] = {
        name: lambda: dftb_energies(isomers, calculator),
        "GFN2-xTB": lambda: gfn2_energies(isomers),
    }
    if args.repulsion:
        learned = DFTB(args.skf, order=args.order, repulsion=args.repulsion)
        sources[f"{name}, learned repulsion"] = lambda: dftb_energies(isomers, learned)
    if args.relax:
        sources[f"{name}, relaxed"] = lambda: dftb_energies(relaxed(isomers, calculator), calculator)
    methods, console = {}, Console()
    for method, source in sources.items():
        energies = source()
        if energies is None:
            console.print("without GFN2-xTB: tblite is not installed (pip install tblite)")
        else:
            methods[method] = errors(energies, reactions)
    table = Table(title=f"ISO34, {len(reactions)} reactions: errors of isomerisation energies, kcal/mol")
    for column in ("method", "mean absolute", "mean", "root mean square", "largest"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, error in methods.items():
        numbers = (np.abs(error).mean(), error.mean(), np.sqrt((error**2).mean()), np.abs(error).max())
        table.add_row(method, *(f"{x:.2f}" for x in numbers))
    console.print(table)
    result: dict[str, object] = {
        "reactions": [{"educt": e, "product": p, "reference_kcal_mol": r} for e, p, r in reactions],
        "errors_kcal_mol": {method: error.tolist() for method, error in methods.items()},
        "mean_absolute_error_kcal_mol": {method: float(np.abs(error).mean()) for method, error in methods.items()},
    }
    if args.dynamics > 0:
        found = drift(molecule("CH3OH"), calculator, args.dynamics)
        result["dynamics"] = found
        console.print(
            f"{args.dynamics:g} ps of {found['molecule']} at constant energy, {STEP} fs: drift "
            f"{found['drift_kelvin_per_ps']:.3f} K/ps, spread {found['spread_kelvin']:.2f} K, "
            f"{found['ms_per_step']:.1f} ms per step"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out.with_suffix(".json"), json.dumps(result, indent=1))
    draw(methods, reactions, args.out.with_suffix(".png"))
    console.print(f"written: {args.out.with_suffix('.json')}, {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    run_command(main)
