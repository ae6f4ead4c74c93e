"""Time per molecule of every quantity of ``schnorb_t.physics``, forward and backward, in batches and in a loop.

    python benchmarks/physics.py                       # matrices of the packaged sample
    python benchmarks/physics.py --data labels.h5 --skf mio-1-1 --out results/physics

Everything starts from H and S, so each time holds the eigenproblem; backward is the gradient of the sum of squares
with respect to H and S. The loop takes the same molecules one by one, unpadded. With --skf also H0 and S by
Slater-Koster tables and self-consistent charges of the molecules whose elements the set has. Prints a table, writes
JSON and a PNG. On one CPU thread processor time is told, which other programs on the machine do not disturb.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table
from torch import Tensor

from schnorb_t import keys, units
from schnorb_t.data.batch import records_to_batch, structures_to_batch, to_device
from schnorb_t.data.datamodule import SAMPLE
from schnorb_t.data.store import MoleculeRecord, Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.files import atomic_write, write_text
from schnorb_t.physics.band_pass import BandPassLoss, groups_of
from schnorb_t.physics.coulomb import gamma_matrix
from schnorb_t.physics.density_of_states import Broadening, density_of_states, projected_density_of_states
from schnorb_t.physics.eigen import energies_only, solve
from schnorb_t.physics.occupations import Smearing
from schnorb_t.physics.orbitals import atom_and_slot
from schnorb_t.physics.properties import PROPERTIES
from schnorb_t.physics.scc import self_consistent_charges
from schnorb_t.physics.skf import read_skf_set
from schnorb_t.physics.slater_koster import SlaterKoster
from schnorb_t.physics.state import ElectronicState, electronic_state

BATCH_SIZES = (1, 32, 256)
SMEARING = Smearing("fermi-dirac", 1000 * units.KELVIN)
Quantity = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]


CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}


def clock_name() -> str:
    return "wall" if torch.cuda.is_available() or torch.get_num_threads() > 1 else "processor"


def state_of(batch: dict[str, Tensor], h: Tensor, s: Tensor) -> ElectronicState:
    return electronic_state(h, s, batch[keys.ORBITAL_MASK], batch[keys.N_ELECTRONS], SMEARING)


def matrix_quantities(basis) -> dict[str, Quantity]:
    """Name -> function of batch, H and S."""
    grid = torch.linspace(-1.2, 0.6, 200, dtype=torch.float64)

    def by_name(name: str) -> Quantity:
        return lambda batch, h, s: PROPERTIES[name](batch, state_of(batch, h, s), basis)[0]

    def levels(batch, h, s):
        return torch.where(batch[keys.ORBITAL_MASK], energies_only(h, s, batch[keys.ORBITAL_MASK]), 0.0)

    def orbitals(batch, h, s):
        return solve(h, s, batch[keys.ORBITAL_MASK])[1] ** 2

    def dos(batch, h, s):
        state = state_of(batch, h, s)
        return density_of_states(state.energies, state.level_mask, grid.to(h.device), Broadening())

    def pdos(batch, h, s):
        groups = groups_of(batch, basis, "element and angular momentum")
        return projected_density_of_states(state_of(batch, h, s), groups, grid.to(h.device), Broadening())

    loss = BandPassLoss()

    def band_pass(batch, h, s):
        with torch.no_grad():
            reference = state_of(batch, batch[keys.HAMILTONIAN] + 0.01 * batch[keys.OVERLAP], batch[keys.OVERLAP])
        return loss(batch, state_of(batch, h, s), reference, basis)

    return {
        "orbital energies": levels,
        "orbitals": orbitals,
        "occupations": by_name(keys.OCCUPATIONS),
        "density matrix": by_name(keys.DENSITY),
        "Mulliken charges": by_name(keys.CHARGES),
        "Löwdin charges": by_name("lowdin_charges"),
        "bond orders": by_name("bond_orders"),
        "dipole": by_name(keys.DIPOLE),
        "free energy": by_name("free_energy"),
        "density of states": dos,
        "projected DOS": pdos,
        "band-pass loss": band_pass,
    }


def measure(quantity: Quantity, batches: list[dict[str, Tensor]], repeats: int) -> dict[str, float]:
    """Milliseconds per molecule, forward (recorded) and backward; best of some passes over all batches."""
    read = CLOCKS[clock_name()]

    def clock() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return read()

    def step(batch) -> np.ndarray:
        h, s = (batch[k].detach().clone().requires_grad_() for k in (keys.HAMILTONIAN, keys.OVERLAP))
        start = clock()
        value = (quantity(batch, h, s) ** 2).sum()
        middle = clock()
        value.backward()
        return np.array([middle - start, clock() - middle])

    step(batches[0])  # to warm up
    passes = [sum(step(batch) for batch in batches) for _ in range(repeats)]
    forward, backward = 1e3 * np.min(passes, axis=0) / sum(len(b[keys.N_ATOMS]) for b in batches)
    return {"forward_ms": float(forward), "backward_ms": float(backward)}


def split(records: list, size: int, make) -> list[dict[str, Tensor]]:
    return [make(records[at : at + size]) for at in range(0, len(records), size)]


def padded_fraction(batch: dict[str, Tensor]) -> float:
    filled = batch[keys.ORBITAL_MASK].sum(1).double().square().sum()
    return 1.0 - (filled / batch[keys.ORBITAL_MASK].shape[1] ** 2 / len(batch[keys.ORBITAL_MASK])).item()


def covered_records(folder: str, store: Store, rows: np.ndarray, n: int) -> list[MoleculeRecord]:
    """The first n molecules whose elements the set of files has, by size."""
    known = [
        z for z in store.basis.elements if Path(folder, f"{chemical_symbols[z]}-{chemical_symbols[z]}.skf").exists()
    ]
    out: list[MoleculeRecord] = []
    for i in rows:
        record = store[int(i)]
        if np.isin(record.atomic_numbers, known).all():
            out.append(record)
        if len(out) == n:
            break
    if not out:
        raise UserError(f"{folder}: no molecule of the data has only elements of this set")
    return sorted(out, key=lambda r: len(r.hamiltonian))


def table_quantities(folder: str, records: list[MoleculeRecord], device: str):
    """H0, S from tables and self-consistent charges: quantities and how to make a batch."""
    tables = read_skf_set(folder, {int(z) for r in records for z in r.atomic_numbers})
    model = SlaterKoster(tables).to(device)
    hubbard, valence = (torch.tensor(t).to(device) for t in (tables.hubbard, tables.valence_charges))

    def make(chunk: list[MoleculeRecord]) -> dict[str, Tensor]:
        batch = structures_to_batch([r.atomic_numbers for r in chunk], [r.positions for r in chunk], model.basis, 1e3)
        batch = to_device(batch, device)
        with torch.no_grad():
            batch[keys.HAMILTONIAN], batch[keys.OVERLAP] = model(batch)
        return batch

    def assembled(batch, h, s):
        matrices = model(batch)
        # h and s only so that backward has the same ends as elsewhere; the tables' own gradient is what costs
        return matrices[0] + matrices[1] + 0.0 * (h + s)

    def charges(batch, h, s):
        z, molecule, n = batch[keys.ATOMIC_NUMBERS], batch[keys.MOLECULE], len(batch[keys.N_ATOMS])
        atom, _ = atom_and_slot(batch[keys.ORBITAL_INDEX], molecule, batch[keys.ORBITAL_MASK])
        r = units.angstrom_to_bohr(batch[keys.POSITIONS])
        gammas = gamma_matrix(r, hubbard[z], molecule, n, int(batch[keys.N_ATOMS].max()))
        return self_consistent_charges(h, s, batch[keys.ORBITAL_MASK], atom, molecule, gammas, valence[z]).charges

    return {"Slater-Koster H0, S": assembled, "self-consistent charges": charges}, make


def run(records: list[MoleculeRecord], quantities: dict[str, Quantity], make, repeats: int, console: Console) -> dict:
    """Name -> column -> times; columns are batch sizes and ``loop``."""
    middle = records[len(records) // 2]
    columns = {str(size): split(records, size, make) for size in BATCH_SIZES if 1 < size <= len(records)}
    columns = {"1": [make([middle])], **columns, "loop": split(records, 1, make)}
    results: dict = {}
    for name, quantity in quantities.items():
        results[name] = {}
        for column, batches in columns.items():
            results[name][column] = measure(quantity, batches, 1 if column == "loop" else repeats)
        console.print(f"[dim]{name} done[/dim]")
    results["padded_fraction"] = {c: float(np.mean([padded_fraction(b) for b in bs])) for c, bs in columns.items()}
    return results


def picture(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [n for n in results if n != "padded_fraction"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.38 * len(names) + 1.6), sharey=True)
    for axis, key in zip(axes, ("forward_ms", "backward_ms"), strict=True):
        columns = [c for c in results[names[0]]]
        for k, column in enumerate(columns):
            values = [results[n].get(column, {}).get(key, np.nan) for n in names]
            label = "loop over molecules" if column == "loop" else f"batch of {column}"
            axis.barh(np.arange(len(names)) + 0.2 * (k - 1.5), values, 0.2, label=label)
        axis.set(xscale="log", xlabel="ms per molecule", title=key.removesuffix("_ms"))
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=str(SAMPLE), help="a store; the packaged sample if left out")
    parser.add_argument("--skf", help="folder of Slater-Koster files")
    parser.add_argument("-n", type=int, default=256, help="molecules")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", default="physics_benchmark", help="JSON and PNG of this name")
    arguments = parser.parse_args()
    console = Console()
    store = Store(arguments.data)
    rows = np.random.default_rng(0).permutation(len(store))
    # as in training: molecules of like size stand together
    records = sorted((store[int(i)] for i in rows[: arguments.n]), key=lambda r: len(r.hamiltonian))

    def make(chunk: list[MoleculeRecord]) -> dict[str, Tensor]:
        return to_device(records_to_batch(chunk, store.basis, 1e3), arguments.device)

    results = run(records, matrix_quantities(store.basis), make, arguments.repeats, console)
    padded = results.pop("padded_fraction")
    if arguments.skf:
        covered = covered_records(arguments.skf, store, rows, arguments.n)
        quantities, make_tables = table_quantities(arguments.skf, covered, arguments.device)
        more = run(covered, quantities, make_tables, arguments.repeats, console)
        more.pop("padded_fraction")
        results |= more
    report = {
        "data": Path(arguments.data).name,
        "n_molecules": len(records),
        "orbitals_mean": float(np.mean([len(r.hamiltonian) for r in records])),
        "orbitals_max": max(len(r.hamiltonian) for r in records),
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clock": clock_name(),
        "padded_fraction": padded,
        "ms_per_molecule": results,
    }
    Path(f"{arguments.out}.json").parent.mkdir(parents=True, exist_ok=True)
    write_text(Path(f"{arguments.out}.json"), json.dumps(report, indent=1))
    picture(results, Path(f"{arguments.out}.png"))
    size = f"{len(records)} molecules, {report['orbitals_mean']:.0f} orbitals on average"
    place = f"{report['device']}, {report['threads']} thread(s), {report['clock']} time"
    table = Table(title=f"ms per molecule, forward + backward; {size}; {place}")
    columns = list(next(iter(results.values())))
    table.add_column("from H and S to")
    for c in columns:
        table.add_column("loop" if c == "loop" else f"batch {c}", justify="right")
    table.add_column("loop / largest batch", justify="right")
    for name, row in results.items():
        cells = [f"{row[c]['forward_ms']:.2f} + {row[c]['backward_ms']:.2f}" if c in row else "-" for c in columns]
        largest = [c for c in columns if c in row and c != "loop"][-1]
        ratio = sum(row["loop"].values()) / sum(row[largest].values())
        table.add_row(name, *cells, f"{ratio:.1f}")
    table.add_row("padded fraction", *[f"{100 * padded[c]:.0f} %" for c in columns], "")
    console.print(table)


if __name__ == "__main__":
    run_command(main)
