"""HOMO, LUMO, gap and valence levels against the large-basis values: a model beside what chemists have without it.

    python benchmarks/orbital_energies.py runs/qm9/version_0/checkpoints/best.ckpt
    python benchmarks/orbital_energies.py run.ckpt --data labels.h5 --molecules 20 --skip sto-3g

In one run, on the test molecules of --data: the model, GFN2-xTB (tblite), the labels' own SCF in the STO-3G basis
(PySCF), and a two-centre least-squares fit of H and S to all training molecules. Every method is judged as it is, and
after a linear correction of each quantity fitted on some training molecules (--correction) of the same file. Times are
processor time of one thread, which other programs on the machine hardly disturb, for everything from atoms and
positions to orbital energies. Prints a table, writes JSON and parity plots (PNG).
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before any library starts its threads

import argparse  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from importlib.metadata import PackageNotFoundError, version  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

from schnorb_t.basis import core_shells, electrons_in  # noqa: E402
from schnorb_t.commands.parser import positive  # noqa: E402
from schnorb_t.data.batch import records_to_batch, structures_to_batch  # noqa: E402
from schnorb_t.data.batch_sizes import batches_by_size  # noqa: E402
from schnorb_t.data.store import MoleculeRecord, Store  # noqa: E402
from schnorb_t.errors import UserError, run_command  # noqa: E402
from schnorb_t.files import atomic_write  # noqa: E402
from schnorb_t.nn.baselines import TwoCentreModel  # noqa: E402
from schnorb_t.predictor import load  # noqa: E402
from schnorb_t.training.evaluation import BlockModel, StageClock, predict_batch  # noqa: E402
from schnorb_t.training.report import write_json  # noqa: E402
from schnorb_t.training.suitability import check_basis, check_seen, level_difference  # noqa: E402
from schnorb_t.units import BOHR, HARTREE  # noqa: E402

TITLES = {"model": "model", "gfn2": "GFN2-xTB", "sto-3g": "STO-3G SCF", "two-centre": "two-centre fit"}
QUANTITIES = {"homo": "HOMO", "lumo": "LUMO", "gap": "gap", "occupied": "valence levels"}


@dataclass(frozen=True)
class Levels:
    """Occupied valence energies [v], ascending, and the LUMO of one molecule, Eh."""

    occupied: np.ndarray
    lumo: float


#: ``None`` for a molecule that the method has no orbitals for.
Method = Callable[[Sequence[MoleculeRecord]], list[Levels | None]]


def n_valence(record: MoleculeRecord) -> int:
    """Occupied valence orbitals of a neutral closed shell, whether or not the record counts the cores' electrons."""
    return sum(int(z) - electrons_in(core_shells(int(z))) for z in record.atomic_numbers) // 2


def levels_of(energies: np.ndarray, record: MoleculeRecord, n_electrons: int | None = None) -> Levels:
    """Levels from a closed shell's orbital energies, ascending, which hold ``n_electrons`` (default: the record's).

    The record of a valence-only basis counts no core electrons, and its large-basis energies hold no core levels.
    """
    occupied = (record.n_electrons if n_electrons is None else n_electrons) // 2
    return Levels(energies[occupied - n_valence(record) : occupied], float(energies[occupied]))


# ---- methods ---------------------------------------------------------------------------------------------------------


def network(model: BlockModel, batch_size: int | None = None) -> Method:
    """A model or a two-centre fit; ``None`` where the predicted S is not positive definite."""

    @torch.no_grad()
    def run(records: Sequence[MoleculeRecord]) -> list[Levels | None]:
        out: list[Levels | None] = [None] * len(records)
        for places in batches_by_size([len(r.atomic_numbers) for r in records], batch_size):
            part = [records[p] for p in places]
            batch = structures_to_batch(
                [r.atomic_numbers for r in part], [r.positions for r in part], model.basis, model.cutoff
            )
            energies = predict_batch(model, batch, StageClock(torch.device("cpu")))[2].numpy()
            for p, e in zip(places, energies, strict=True):
                if not np.isnan(e[0]):
                    out[p] = levels_of(e, records[p])
        return out

    return run


def two_centre_fit(store: Store, indices: Sequence[int], cutoff: float) -> TwoCentreModel:
    """Least squares to the H and S of these molecules, as ``schnorb_t fit`` reports it beside a model."""
    fit = TwoCentreModel(store.basis, cutoff)

    def batches():
        for places in batches_by_size(store.n_atoms[indices]):
            yield records_to_batch([store[int(indices[p])] for p in places], store.basis, cutoff)

    fit.fit(batches)
    return fit


def gfn2(records: Sequence[MoleculeRecord]) -> list[Levels | None]:
    """GFN2-xTB (Bannwarth, Ehlert, Grimme, JCTC 15, 1652 (2019)): valence electrons only, neutral closed shells."""
    try:
        from tblite.interface import Calculator
    except ImportError:
        raise UserError('GFN2-xTB needs tblite: pip install "schnorb_t[xtb]"; or leave it out: --skip gfn2') from None
    out: list[Levels | None] = []
    for record in _tracked(records, "GFN2-xTB"):
        calculator = Calculator("GFN2-xTB", record.atomic_numbers, record.positions / BOHR)
        calculator.set("verbosity", 0)
        try:
            energies = np.asarray(calculator.singlepoint().get("orbital-energies"))
        except RuntimeError:  # not converged
            out.append(None)
            continue
        occupied = n_valence(record)
        out.append(Levels(energies[:occupied], float(energies[occupied])))
    return out


def small_basis_scf(level: dict, basis: str = "STO-3G") -> Method:
    """The SCF of a file's level of theory, in another basis."""
    from schnorb_t.reference.pyscf import LabelError, Level, check_level, label

    fields = Level.__dataclass_fields__
    small = replace(Level(**{k: v for k, v in level.items() if k in fields}), basis=basis)
    check_level(small, [1])

    def run(records: Sequence[MoleculeRecord]) -> list[Levels | None]:
        from pyscf import lib

        lib.num_threads(1)
        out: list[Levels | None] = []
        for record in _tracked(records, f"{basis} SCF"):
            try:
                energies = label(record.atomic_numbers, record.positions, small).energies
                out.append(levels_of(energies, record, int(record.atomic_numbers.sum())))  # core levels included
            except LabelError:
                out.append(None)
        return out

    return run


def _tracked(records: Sequence[MoleculeRecord], text: str):
    return track(records, text, console=Console(stderr=True), transient=True, disable=len(records) < 2)


# ---- comparison ------------------------------------------------------------------------------------------------------


def values(levels: Sequence[Levels], quantity: str) -> np.ndarray:
    """One quantity of many molecules, Eh: [molecules], or all their valence levels."""
    if quantity == "occupied":
        return np.concatenate([x.occupied for x in levels])
    lumo, homo = np.array([x.lumo for x in levels]), np.array([x.occupied[-1] for x in levels])
    return {"homo": homo, "lumo": lumo, "gap": lumo - homo}[quantity]


def pairs(levels: Sequence[Levels | None], records: Sequence[MoleculeRecord], quantity: str) -> np.ndarray:
    """[2, n]: a method's values and the large-basis ones, Eh, of the molecules that it has orbitals for."""
    there = [(x, levels_of(r.large_basis_energies, r)) for x, r in zip(levels, records, strict=True) if x is not None]
    if not there:
        return np.zeros((2, 0))
    return np.stack([values(column, quantity) for column in zip(*there, strict=True)])


def linear_correction(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope and offset of y = slope x + offset; NaN with fewer than three points."""
    return tuple(np.polyfit(x, y, 1)) if len(x) > 2 else (np.nan, np.nan)


def timed(method: Method, records: Sequence[MoleculeRecord]) -> tuple[list[Levels | None], float]:
    """A method's levels and its processor time per molecule, s."""
    start = time.process_time()
    levels = method(records)
    return levels, (time.process_time() - start) / len(records)


def judge(method: Method, correction: Sequence[MoleculeRecord], test: Sequence[MoleculeRecord]) -> tuple[dict, dict]:
    """Errors of a method, and {quantity: [3, n]} of its values, the reference and its corrected values, Eh."""
    method(correction[:1])  # what is loaded or compiled at the first call
    of_correction = method(correction)
    levels, seconds = timed(method, test)
    out = {
        "seconds_per_molecule": seconds,
        "n_without_orbitals": sum(x is None for x in levels),
        "n_correction": sum(x is not None for x in of_correction),
    }
    points = {}
    for quantity in QUANTITIES:
        slope, offset = linear_correction(*pairs(of_correction, correction, quantity))
        value, reference = pairs(levels, test, quantity)
        corrected = slope * value + offset
        out[quantity] = {
            "mae_ev": HARTREE * _mean(np.abs(value - reference)),
            "mae_ev_corrected": HARTREE * _mean(np.abs(corrected - reference)),
            "largest_ev": HARTREE * float(np.abs(value - reference).max(initial=0.0)),
            "slope": slope,
            "offset_eh": offset,
        }
        points[quantity] = np.stack((value, reference, corrected))
    return out, points


def _mean(x: np.ndarray) -> float:
    return float(x.mean()) if len(x) else np.nan


# ---- output ----------------------------------------------------------------------------------------------------------


def print_result(result: dict, console: Console) -> None:
    n = result["molecules"]
    table = Table(title=f"{n} molecules of {result['data']}: mean absolute errors, meV", title_justify="left")
    table.add_column("")
    for title in QUANTITIES.values():
        table.add_column(title.replace(" ", "\n"), justify="right")
    table.add_column("ms per\nmolecule", justify="right")
    for name, row in result["methods"].items():
        ms = 1e3 * row["seconds_per_molecule"]
        cells = [f"{1e3 * row[q]['mae_ev']:,.0f}" for q in QUANTITIES]
        style = "bold" if name == "model" else None
        table.add_row(TITLES[name], *cells, f"{ms:,.1f}", style=style)
        cells = [f"{1e3 * row[q]['mae_ev_corrected']:,.0f}" for q in QUANTITIES]
        table.add_row(f"  corrected on {row['n_correction']}", *cells, "", style=style, end_section=True)
    console.print(table)
    lines = [
        f"reference: {result['level']}, the large basis; training molecules: {result['n_train']}",
        "time: one thread, " + result["processor"],
    ]
    if "model" in result["methods"]:
        single = result["methods"]["model"]["seconds_per_molecule_single"]
        lines.append(f"model: {result['model']}; one molecule at a time {1e3 * single:.1f} ms")
    for name, row in result["methods"].items():
        if row["n_without_orbitals"]:
            lines.append(f"{TITLES[name]}: {row['n_without_orbitals']} of {n} molecules without orbitals, left out")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def draw(result: dict, points: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Each method against the reference, eV: grey as it is, in colour after its linear correction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(points) + 0.4, 12.4), layout="constrained")
    axes = figure.subplots(len(QUANTITIES), len(points), squeeze=False)
    for row, (quantity, title) in zip(axes, QUANTITIES.items(), strict=True):
        everything = np.concatenate([p[quantity].ravel() for p in points.values()]) * HARTREE
        everything = everything[np.isfinite(everything)]
        low, high = everything.min(), everything.max()
        limits = low - 0.04 * (high - low), high + 0.04 * (high - low)
        size = 3 if quantity == "occupied" else 12
        for axis, (name, of_method) in zip(row, points.items(), strict=True):
            value, reference, corrected = of_method[quantity] * HARTREE
            axis.plot(limits, limits, color="0.6", linewidth=0.8, zorder=0)
            axis.scatter(reference, value, s=size, color="0.6", linewidths=0, label="as it is")
            axis.scatter(reference, corrected, s=size, color="tab:blue", alpha=0.7, linewidths=0, label="corrected")
            errors = result["methods"][name][quantity]
            text = f"MAE {1e3 * errors['mae_ev']:,.0f} meV\ncorrected {1e3 * errors['mae_ev_corrected']:,.0f} meV"
            axis.text(0.04, 0.96, text, va="top", fontsize=8, transform=axis.transAxes)
            axis.set_xlim(limits)
            axis.set_ylim(limits)
            axis.set_box_aspect(1)
            axis.locator_params(nbins=5)
            if quantity == next(iter(QUANTITIES)):
                axis.set_title(TITLES[name], fontsize=11)
            if quantity == list(QUANTITIES)[-1]:
                axis.set_xlabel("large basis / eV")
        row[0].set_ylabel(f"{title} / eV")
    axes[0, -1].legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(f"{result['molecules']} molecules of {result['data']}, against {result['level']}", fontsize=11)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint, or the name of a model that comes with the package")
    parser.add_argument("--data", type=Path, default=Path("data/qm9.h5"), help="HDF5 file of labelled molecules")
    parser.add_argument("--molecules", type=positive, help="test molecules at most (default: all)")
    parser.add_argument("--correction", type=positive, default=60, help="training molecules for linear corrections")
    parser.add_argument("--skip", nargs="+", choices=[x for x in TITLES if x != "model"], default=[], metavar="METHOD")
    parser.add_argument(
        "--output", type=Path, default=Path("orbital_energies"), help="writes OUTPUT.json and OUTPUT.png"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.output.parent.is_dir():
        raise UserError(f"{arguments.output.parent}: no such folder; make it first")
    predictor = load(arguments.model, "cpu")
    model, store = predictor.model, Store(arguments.data)
    train, test = store.indices("train"), store.indices("test")[: arguments.molecules]
    for name, indices in (("train", train), ("test", test)):
        if not len(indices):
            raise UserError(f"{arguments.data}: no molecule in split {name!r}; set splits: schnorb_t.data.splits")
    check_basis(predictor.card.basis, store, arguments.model)
    check_seen(predictor.card, store, test, "test")
    console = Console()
    if difference := level_difference(predictor.card, store):
        console.print(f"warning: the model learned another level of theory: {difference}", style="yellow")
    chosen = np.random.default_rng(0).permutation(train)[: arguments.correction]
    correction, test = [store[int(i)] for i in chosen], [store[int(i)] for i in test]

    methods: dict[str, Method] = {"model": network(model)}
    if "gfn2" not in arguments.skip:
        methods["gfn2"] = gfn2
    if "sto-3g" not in arguments.skip:
        methods["sto-3g"] = small_basis_scf(store.level)
    if "two-centre" not in arguments.skip:
        methods["two-centre"] = network(two_centre_fit(store, train, model.cutoff))
    result: dict = {
        "model": str(arguments.model),
        "data": arguments.data.name,
        "level": f"{store.level.get('functional')}/{store.level.get('basis')}",
        "molecules": len(test),
        "n_train": len(train),
        "names": [r.name for r in test],
        "processor": processor(),
        "methods": {},
        "versions": {p: installed(p) for p in ("schnorb_t", "torch", "tblite", "pyscf")},
    }
    points = {}
    for name, method in methods.items():
        result["methods"][name], points[name] = judge(method, correction, test)
    result["methods"]["model"]["seconds_per_molecule_single"] = timed(network(model, 1), test)[1]
    print_result(result, console)
    paths = [arguments.output.with_name(f"{arguments.output.name}{suffix}") for suffix in (".json", ".png")]
    write_json(paths[0], result)
    draw(result, points, paths[1])
    console.print(f"written: {paths[0]}, {paths[1]}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
