"""HOMO, LUMO and gap of many molecules of QM9 against its published B3LYP/6-31G(2df,p) values: models beside GFN2-xTB.

    pip install qm9pack                      # QM9 as published, 104 MB
    python benchmarks/qm9_published.py organic qm9
    python benchmarks/qm9_published.py organic --data folder/of/qm9_part1.csv --molecules 5000

The published values are of another basis set than the models' labels (def2-SVP), so that every method is judged after
a linear correction of each quantity, fitted on other molecules (--correction). What the change of basis leaves even so,
the floor of every model, is told by labels where a file of them is given (--labels: one group per molecule with
``mo_energy``, Eh, and an attribute ``qm9_index``). Molecules that a model was trained on are left out. Prints a table,
writes JSON and a picture.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before any library starts its threads

import argparse  # noqa: E402
import csv  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402

import h5py  # noqa: E402
import numpy as np  # noqa: E402
from ase import Atoms  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from schnorb_t.basis import all_electrons  # noqa: E402
from schnorb_t.commands.parser import positive  # noqa: E402
from schnorb_t.errors import UserError, run_command  # noqa: E402
from schnorb_t.files import atomic_write  # noqa: E402
from schnorb_t.predictor import load  # noqa: E402
from schnorb_t.progress import tracked  # noqa: E402
from schnorb_t.training.report import write_json  # noqa: E402
from schnorb_t.units import BOHR, HARTREE  # noqa: E402

QUANTITIES = ("HOMO", "LUMO", "gap")


@dataclass(frozen=True)
class Molecule:
    """One of QM9: its index, SMILES, geometry and published HOMO and LUMO, eV."""

    index: int
    smiles: str
    atoms: Atoms
    homo: float
    lumo: float


def published(folder: Path, wanted: set[int]) -> list[Molecule]:
    """Molecules of QM9 by index, from the tables of qm9pack.

    Raises:
        UserError: no tables there.
    """
    files = sorted(folder.glob("qm9_part*.csv"))
    if not files:
        raise UserError(f"{folder}: no qm9_part1.csv here; pip install qm9pack, or name the folder with --data")
    csv.field_size_limit(10**9)
    out = []
    for path in files:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                if int(row["Index"]) in wanted:
                    symbols = row["Elements"].strip("[]").replace("'", "").replace(" ", "").split(",")
                    atoms = Atoms(symbols, np.array(json.loads(row["XYZ_Ang"])))
                    values = (HARTREE * float(row[f"{name}_au"]) for name in ("HOMO", "LUMO"))
                    out.append(Molecule(int(row["Index"]), row["SMILES"], atoms, *values))
    return out


def identities(molecule: Molecule) -> set[str]:
    """Names under which stores may have it as a group: QM9's index, SMILES as published and canonical."""
    smiles = {molecule.smiles}
    if find_spec("rdkit"):
        from rdkit import Chem, RDLogger

        RDLogger.DisableLog("rdApp.*")
        if (parsed := Chem.MolFromSmiles(molecule.smiles)) is not None:
            smiles |= {Chem.MolToSmiles(parsed), Chem.MolToSmiles(parsed, isomericSmiles=False)}
    return {f"qm9:{molecule.index}"} | smiles | {f"smiles/{x}" for x in smiles}


def default_folder() -> Path:
    """Where an installed qm9pack keeps its tables.

    Raises:
        UserError: it is not installed.
    """
    found = find_spec("qm9pack")
    if found is None or not found.submodule_search_locations:
        raise UserError("QM9's published values come with qm9pack: pip install qm9pack; or name a folder with --data")
    return Path(found.submodule_search_locations[0]) / "data"


def gfn2(molecules: list[Molecule]) -> np.ndarray:
    """HOMO and LUMO [n, 2] by GFN2-xTB, eV; NaN where it does not converge."""
    from tblite.interface import Calculator

    out = np.full((len(molecules), 2), np.nan)
    for row, m in zip(out, tracked(molecules, "GFN2-xTB"), strict=True):
        calculator = Calculator("GFN2-xTB", m.atoms.numbers, m.atoms.positions / BOHR)
        calculator.set("verbosity", 0)
        try:
            result = calculator.singlepoint()
        except RuntimeError:
            continue
        energies, filled = result.get("orbital-energies"), result.get("orbital-occupations")
        n = int((np.asarray(filled) > 1).sum())
        row[:] = HARTREE * np.asarray(energies)[n - 1 : n + 1]
    return out


def of_labels(path: Path, molecules: list[Molecule]) -> np.ndarray:
    """HOMO and LUMO [n, 2] of full-basis labels, eV; NaN of molecules that have none."""
    out = np.full((len(molecules), 2), np.nan)
    place = {m.index: k for k, m in enumerate(molecules)}
    with h5py.File(path) as file:
        for group in file.values():
            k = place.get(int(group.attrs["qm9_index"]))
            if k is not None:
                n = all_electrons(molecules[k].atoms.numbers) // 2
                out[k] = HARTREE * group["mo_energy"][n - 1 : n + 1]
    return out


def labelled(path: Path) -> set[int]:
    """QM9's indices of the molecules of a file of labels."""
    with h5py.File(path) as file:
        return {int(group.attrs["qm9_index"]) for group in file.values()}


def candidates(rng: np.random.Generator, n: int) -> set[int]:
    """Indices of QM9 at random; not all of them have published values."""
    return {int(k) for k in rng.choice(133_885, n, replace=False) + 1}


def judge(values: np.ndarray, reference: np.ndarray, correction: np.ndarray, test: np.ndarray) -> dict:
    """Mean absolute errors of HOMO, LUMO and gap, eV, as they are and after a line fitted on ``correction``.

    Args:
        values, reference: [n, 2] HOMO and LUMO, eV; rows with NaN are left out.
        correction, test: [n] bool.
    """
    out = {"n": int((test & np.isfinite(values).all(1)).sum())}
    for k, name in enumerate(QUANTITIES):
        x, y = (v[:, k] if k < 2 else v[:, 1] - v[:, 0] for v in (values, reference))
        fine = np.isfinite(x)
        slope, offset = np.polyfit(x[fine & correction], y[fine & correction], 1)
        x, y = x[fine & test], y[fine & test]
        error = np.abs(slope * x + offset - y)
        out[name] = {
            "mae_ev": float(np.abs(x - y).mean()),
            "mae_ev_corrected": float(error.mean()),
            "percentile_95_ev_corrected": float(np.percentile(error, 95)),
            "slope": float(slope),
        }
    return out


def compare(models: list[str], folder: Path, n: int, n_correction: int, labels: Path | None, seed: int) -> dict:
    """Errors of all methods on the same molecules."""
    rng = np.random.default_rng(seed)
    drawn = candidates(rng, 2 * (n + n_correction))
    extra = labelled(labels) if labels else set()
    molecules = published(folder, drawn | extra)
    predictors = {name: load(name) for name in models}
    seen = {group for p in predictors.values() for group in p.card.training_groups}
    elements = set.intersection(*(set(p.basis.elements) for p in predictors.values()))
    fit = [m for m in molecules if elements.issuperset(m.atoms.numbers.tolist())]
    fresh = [m for m in fit if m.index in drawn and not identities(m) & seen]
    fresh = [fresh[k] for k in rng.permutation(len(fresh))[: n + n_correction]]
    if len(fresh) < n + n_correction:
        raise UserError(f"{folder}: only {len(fresh)} molecules that no model was trained on; ask for fewer")
    correction = np.arange(len(fresh)) < n_correction
    reference = np.array([[m.homo, m.lumo] for m in fresh])
    methods = {}
    for name, predictor in predictors.items():
        start = time.process_time()
        found = predictor.predict([m.atoms for m in fresh])
        ms = 1e3 * (time.process_time() - start) / len(fresh)
        values = HARTREE * np.array([[x.homo, x.lumo] for x in found])
        methods[name] = judge(values, reference, correction, ~correction) | {"ms_per_molecule": ms}
        methods[name]["_points"] = values
        if predictor.knows_doubt:
            error = np.abs(np.subtract(*(values - reference)[~correction].T[::-1]))
            methods[name]["doubt_median_ev"] = float(np.median([x.doubt for x in found]))
            methods[name]["gap_error_max_ev"] = float(error.max())
    start = time.process_time()
    values = gfn2(fresh)
    ms = 1e3 * (time.process_time() - start) / len(fresh)
    methods["GFN2-xTB"] = judge(values, reference, correction, ~correction) | {"ms_per_molecule": ms}
    methods["GFN2-xTB"]["_points"] = values
    if labels:
        known = [m for m in fit if m.index in extra]
        values, truth = of_labels(labels, known), np.array([[m.homo, m.lumo] for m in known])
        half = np.arange(len(known)) % 2 == 0
        methods["labels themselves"] = judge(values, truth, half, ~half)
    return {"molecules": n, "correction": n_correction, "seed": seed, "methods": methods, "_reference": reference}


def print_result(result: dict, console: Console) -> None:
    """A table: corrected errors, and in brackets those as they are."""
    title = f"{result['molecules']:,} molecules of QM9 against B3LYP/6-31G(2df,p): mean absolute errors, meV"
    table = Table(title=f"{title}\nafter a linear correction (as they are)", title_justify="left")
    for name in ("", *QUANTITIES, "gap, 95 %", "ms each"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in result["methods"].items():
        cells = [f"{1e3 * row[q]['mae_ev_corrected']:,.0f} ({1e3 * row[q]['mae_ev']:,.0f})" for q in QUANTITIES]
        last = f"{row['ms_per_molecule']:.1f}" if "ms_per_molecule" in row else ""
        table.add_row(name, *cells, f"{1e3 * row['gap']['percentile_95_ev_corrected']:,.0f}", last)
    console.print(table)


def draw(result: dict, path: Path) -> None:
    """Gap of each method against the published one, eV."""
    from matplotlib.figure import Figure

    shown = {k: v for k, v in result["methods"].items() if "_points" in v}
    figure = Figure(figsize=(3.6 * len(shown) + 0.3, 3.8), layout="constrained")
    truth = np.subtract(*result["_reference"].T[::-1])
    for axis, (name, row) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        gap = np.subtract(*row["_points"].T[::-1])
        axis.scatter(truth, gap, s=4, alpha=0.4, linewidths=0, color="tab:blue")
        axis.axline((7, 7), slope=1, color="0.6", linewidth=0.8)
        axis.set_title(f"{name}\ncorrected: {1e3 * row['gap']['mae_ev_corrected']:,.0f} meV", fontsize=10)
        axis.set_xlabel("published gap / eV")
        axis.set_box_aspect(1)
    figure.axes[0].set_ylabel("predicted gap / eV")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoints, or names of models that come with the package")
    parser.add_argument("--data", type=Path, help="folder of qm9_part1.csv ... (default: that of qm9pack)")
    parser.add_argument("--molecules", type=positive, default=1000)
    parser.add_argument("--correction", type=positive, default=100, help="further molecules for linear corrections")
    parser.add_argument("--labels", type=Path, help="full-basis labels, for what the change of basis leaves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", "-o", type=Path, default=Path("qm9_published"), help="OUTPUT.json and OUTPUT.png")
    args = parser.parse_args(argv)
    folder = args.data or default_folder()
    result = compare(args.models, folder, args.molecules, args.correction, args.labels, args.seed)
    console = Console()
    print_result(result, console)
    draw(result, args.output.with_suffix(".png"))
    kept = {k: {n: x for n, x in v.items() if n != "_points"} for k, v in result["methods"].items()}
    result = {k: v for k, v in result.items() if k != "_reference"} | {"methods": kept}
    write_json(args.output.with_suffix(".json"), result)
    console.print(f"written: {args.output}.json, {args.output}.png", soft_wrap=True)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
