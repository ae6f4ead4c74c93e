"""Where a model errs: by element, size, temperature and functional group; whether its doubt says so.

    python benchmarks/model_card.py organic data/organic.h5 -o docs/organic_card

Test molecules of a store of labels against their large-basis levels. Writes OUTPUT.json, OUTPUT.md (the tables),
OUTPUT_errors.png (gap error against doubt) and OUTPUT_worst.png (the ten worst molecules). A molecule counts in every
row that it belongs to. Functional groups need a SMILES: the record's group where it is one, else RDKit finds bonds from
the geometry; molecules for which it fails are in no row of a group.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from rdkit import Chem, RDLogger, rdBase
from rdkit.Chem import AllChem, Draw, rdDetermineBonds

from schnorb_t.commands.parser import positive
from schnorb_t.data.store import MoleculeRecord, Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.files import atomic_write, write_text
from schnorb_t.prediction import Prediction
from schnorb_t.predictor import load
from schnorb_t.training.doubt_metrics import attainable_spearman, auroc, spearman
from schnorb_t.training.report import write_json
from schnorb_t.training.suitability import check_basis, check_seen
from schnorb_t.units import HARTREE

#: Functional groups, SMARTS.
GROUPS = {
    "alcohol": "[OX2H][CX4]",
    "phenol": "[OX2H]c",
    "ether": "[OD2]([#6;!$(C=[O,S])])[#6;!$(C=[O,S])]",
    "amine": "[NX3;!$(N[C,S]=[O,S,N]);!$(N=*);!$(N#*);!$([N+])]",
    "amide": "[NX3]C(=O)",
    "acid": "C(=O)[OX2H]",
    "ester": "C(=O)[OX2][#6]",
    "aldehyde or ketone": "[#6][CX3](=O)[#6,#1]",
    "nitrile": "C#N",
    "nitro": "[$([NX3](=O)=O),$([NX3+](=O)[O-])]",
    "halide": "[F,Cl,Br]",
    "thiol or sulfide": "[SX2;!$(S=*)]",
    "sulfone": "S(=O)(=O)",
    "phosphate": "P(=[O,S])[O,S]",
    "silane": "[Si]",
    "borane": "[B,b]",
    "aromatic": "a",
    "zwitterion": "[$([+1,+2]);!$([*+]~[*-])]",  # charges of a nitro group or an ylide stand next to each other
}
SIZES = {"2-8": (2, 8), "9-15": (9, 15), "16-24": (16, 24)}
ERRORS = ("occupied", "homo", "lumo", "gap")
LARGE_EV = 0.3  # a gap error that doubt ought to tell


def molecule_of(record: MoleculeRecord) -> Chem.Mol | None:
    """RDKit's molecule, from the group where it is a SMILES, else from the geometry; ``None`` where that fails."""
    text = record.group.removeprefix("smiles/")
    if text and (mol := Chem.MolFromSmiles(text)) is not None:
        counted = Chem.AddHs(mol)
        if sorted(a.GetAtomicNum() for a in counted.GetAtoms()) == sorted(record.atomic_numbers.tolist()):
            return mol
    atoms = zip(record.atomic_numbers, record.positions, strict=True)
    lines = [f"{chemical_symbols[z]} {x:.6f} {y:.6f} {w:.6f}" for z, (x, y, w) in atoms]
    try:
        mol = Chem.MolFromXYZBlock(f"{len(lines)}\n\n" + "\n".join(lines) + "\n")
        rdDetermineBonds.DetermineBonds(mol, charge=0)
        return Chem.RemoveHs(mol)
    except (ValueError, RuntimeError):
        return None


def temperature(record: MoleculeRecord) -> str:
    """``hot`` or ``relaxed``, as the name says; ``relaxed`` for a name that says nothing."""
    return "hot" if record.name.rsplit(":", 1)[-1] == "hot" else "relaxed"


def source(record: MoleculeRecord) -> str:
    """What the name begins with, to the first colon or slash: ``qm9`` of ``qm9:104``."""
    return re.split("[:/]", record.name)[0]


def errors_of(record: MoleculeRecord, prediction: Prediction) -> dict[str, Any]:
    """Errors of one molecule: levels in eV against the large basis; S absolute, H in Eh, against the label."""
    n, core = record.n_electrons // 2, prediction.basis.n_core_orbitals(record.atomic_numbers)
    e, reference = prediction.orbital_energies, record.large_basis_energies
    homo, lumo = (HARTREE * float(e[k] - reference[k]) for k in (n - 1, n))
    out: dict[str, Any] = {
        "name": record.name,
        "occupied": HARTREE * float(np.abs(e[core:n] - reference[core:n]).mean()),
        "homo": homo,
        "lumo": lumo,
        "gap": lumo - homo,
        "hamiltonian": float(np.abs(prediction.hamiltonian - record.hamiltonian).mean()),
        "overlap": float(np.abs(prediction.overlap - record.overlap).mean()),
        "doubt": prediction.doubt,
        "spread": None
        if prediction.frontier_spread is None
        else [HARTREE * float(x) for x in prediction.frontier_spread],
    }
    return out


def rows_of(records: Sequence[MoleculeRecord], molecules: Sequence[Chem.Mol | None]) -> dict[str, dict[str, list[int]]]:
    """{heading: {row: places of its molecules}}; rows without a molecule are left out."""
    heavy = [int((r.atomic_numbers > 1).sum()) for r in records]
    patterns = {name: Chem.MolFromSmarts(text) for name, text in GROUPS.items()}

    def places(test: Callable[[int], bool]) -> list[int]:
        return [k for k in range(len(records)) if test(k)]

    elements = sorted({int(z) for r in records for z in r.atomic_numbers})
    out = {
        "all": {"all": places(lambda k: True)},
        "element": {chemical_symbols[z]: places(lambda k, z=z: z in records[k].atomic_numbers) for z in elements},
        "heavy atoms": {t: places(lambda k, a=a, b=b: a <= heavy[k] <= b) for t, (a, b) in SIZES.items()},
        "source": {t: places(lambda k, t=t: source(records[k]) == t) for t in dict.fromkeys(map(source, records))},
        "geometry": {t: places(lambda k, t=t: temperature(records[k]) == t) for t in ("relaxed", "hot")},
        "functional group": {
            t: places(lambda k, p=p: molecules[k] is not None and molecules[k].HasSubstructMatch(p))
            for t, p in patterns.items()
        },
    }
    return {head: {name: found for name, found in rows.items() if found} for head, rows in out.items()}


def summary(errors: Sequence[dict[str, Any]]) -> dict[str, float | int]:
    """Mean absolute errors of some molecules: meV, H in mEh, S in 1e-3; and the largest gap error, meV."""
    out: dict[str, float | int] = {"n": len(errors)}
    for key in ERRORS:
        out[f"{key}_mev"] = 1e3 * float(np.mean([abs(e[key]) for e in errors]))
    out["gap_largest_mev"] = 1e3 * max(abs(e["gap"]) for e in errors)
    out["hamiltonian_meh"] = 1e3 * float(np.mean([e["hamiltonian"] for e in errors]))
    out["overlap_1e-3"] = 1e3 * float(np.mean([e["overlap"] for e in errors]))
    return out


def judge_doubt(errors: Sequence[dict[str, Any]]) -> dict[str, float | int | None] | None:
    """Coverage of 1 and 2 sigma of HOMO and LUMO, and how doubt ranks gap errors; ``None`` of a model without doubt.

    What is not defined is ``None``: AUROC where no, or every, gap error exceeds ``LARGE_EV``.
    """

    def known(x: float) -> float | None:
        return None if np.isnan(x) else x

    if any(e["spread"] is None for e in errors):
        return None
    z = np.abs([[e["homo"], e["lumo"]] for e in errors]) / np.array([e["spread"] for e in errors])
    gap, doubt = np.abs([e["gap"] for e in errors]), np.array([e["doubt"] for e in errors])
    large = gap > LARGE_EV
    return {
        "coverage_1_sigma": float((z < 1).mean()),
        "coverage_2_sigma": float((z < 2).mean()),
        "spearman_with_gap_error": known(spearman(doubt, gap)),
        "spearman_of_an_exact_doubt": known(attainable_spearman(gap)),
        "auroc_gap_error": known(auroc(doubt, large)),
        "large_gap_errors": int(large.sum()),
        "threshold_ev": LARGE_EV,
    }


def markdown(result: dict[str, Any]) -> str:
    """The tables of a result."""
    lines = [
        f"`{result['model']}` on {result['molecules']} test molecules of `{result['data']}`, {result['level']};",
        "mean absolute errors against the large basis, meV; H in mEh, S in 1e-3.",
    ]
    titles = "n | occupied | HOMO | LUMO | gap | largest gap error | H | S"
    for head, rows in result["errors"].items():
        lines += ["", f"| {head} | {titles} |", "| --- |" + " ---: |" * 8]
        for name, row in rows.items():
            levels = " | ".join(f"{row[f'{key}_mev']:,.0f}" for key in (*ERRORS, "gap_largest"))
            numbers = f"{row['hamiltonian_meh']:.2f} | {row['overlap_1e-3']:.2f}"
            lines.append(f"| {name} | {row['n']} | {levels} | {numbers} |")
    if (doubt := result["doubt"]) is not None:
        lines += ["", "| doubt | |", "| --- | ---: |"]
        for name, value in doubt.items():
            text = "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
            lines.append(f"| {name.replace('_', ' ')} | {text} |")
    return "\n".join(lines) + "\n"


def draw_worst(errors: Sequence[dict[str, Any]], molecules: Sequence[Chem.Mol | None], path: Path) -> None:
    """The ten molecules of the largest gap errors that RDKit can draw; errors and doubt, eV, below each."""
    worst = [k for k in np.argsort([-abs(e["gap"]) for e in errors]) if molecules[k] is not None][:10]
    flat, texts = [], []
    for k in worst:
        mol, e = Chem.Mol(molecules[k]), errors[k]
        mol.RemoveAllConformers()
        AllChem.Compute2DCoords(mol)
        flat.append(mol)
        doubt = "" if e["doubt"] is None else f", doubt {e['doubt']:.2f}"
        texts.append(f"{e['name']}\ngap {e['gap']:+.2f}{doubt} eV")
    if flat:
        Draw.MolsToGridImage(
            flat, molsPerRow=min(5, len(flat)), subImgSize=(280, 240), legends=texts, returnPNG=False
        ).save(path)


def draw_errors(errors: Sequence[dict[str, Any]], path: Path) -> None:
    """Gap error against doubt, eV, logarithmic; the line is one standard deviation."""
    from matplotlib.figure import Figure

    known = [e for e in errors if e["doubt"] is not None]
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axis = figure.subplots()
    if known:
        doubt, gap = np.array([e["doubt"] for e in known]), np.abs([e["gap"] for e in known])
        ends = np.array([min(doubt.min(), 0.01), max(doubt.max(), gap.max())])
        axis.loglog(ends, ends, color="0.6", linewidth=0.8)
        axis.scatter(doubt, np.maximum(gap, 1e-3), s=12, alpha=0.7, linewidths=0)
        axis.axhline(LARGE_EV, color="tab:red", linewidth=0.8, linestyle="--")
        axis.set_xlabel("doubt / eV")
    else:
        axis.hist(np.abs([e["gap"] for e in errors]), bins=30)
        axis.set_xlabel("gap error / eV")
    axis.set_ylabel("error of the gap / eV" if known else "molecules")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint, or the name of a model that comes with the package")
    parser.add_argument("data", type=Path, help="HDF5 file of labelled molecules")
    parser.add_argument("-o", "--output", type=Path, required=True, help="writes OUTPUT.json, .md and two pictures")
    parser.add_argument("--molecules", type=positive, help="test molecules at most (default: all)")
    arguments = parser.parse_args()
    if not arguments.output.parent.is_dir():
        raise UserError(f"{arguments.output.parent}: no such folder; make it first")
    RDLogger.DisableLog("rdApp.*")
    predictor, store = load(arguments.model, "cpu"), Store(arguments.data)
    indices = store.indices("test")[: arguments.molecules]
    if not len(indices):
        raise UserError(f"{arguments.data}: no molecule in split 'test'; set splits: schnorb_t splits")
    check_basis(predictor.card.basis, store, arguments.model)
    check_seen(predictor.card, store, indices, "test")
    records = [store[int(i)] for i in indices]
    predictions = predictor.predict([Atoms(r.atomic_numbers, r.positions) for r in records])
    errors = [errors_of(r, p) for r, p in zip(records, predictions, strict=True)]
    with rdBase.BlockLogs():
        molecules = [molecule_of(r) for r in records]
    result = {
        "model": Path(arguments.model).name,
        "data": arguments.data.name,
        "level": f"{store.level.get('functional')}/{store.level.get('basis')}",
        "molecules": len(records),
        "without_smiles": sum(m is None for m in molecules),
        "errors": {
            head: {name: summary([errors[k] for k in places]) for name, places in rows.items()}
            for head, rows in rows_of(records, molecules).items()
        },
        "doubt": judge_doubt(errors),
        "of_molecules": errors,
    }
    name = arguments.output.name
    write_json(arguments.output.with_name(f"{name}.json"), result)
    write_text(arguments.output.with_name(f"{name}.md"), markdown(result))
    draw_errors(errors, arguments.output.with_name(f"{name}_errors.png"))
    draw_worst(errors, molecules, arguments.output.with_name(f"{name}_worst.png"))
    print(f"written: {arguments.output}.json, .md, _errors.png, _worst.png")


if __name__ == "__main__":
    run_command(main)
