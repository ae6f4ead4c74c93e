"""Molecules per second of a model for several batch sizes, beside PySCF's SCF at the labels' level of theory.

    python benchmarks/throughput.py                  # the embedded sample, on the CPU and on a GPU where there is one
    python benchmarks/throughput.py --model qm9 --data data/qm9.h5 --heavy-atoms 9 --xtb 40 --threads 2

Times building the batch (neighbour search, transfer), network, assembly and eigenproblem apart, and in the same run the
SCF of some of the same molecules, chosen evenly by size, with as many threads, and GFN2-xTB with ``--xtb``. Where there
is a GPU, also compares the predictions of both devices. Prints a table, writes JSON and a PNG. Rates do not depend on
the weights: ``--config organic_light`` times the untrained network of a configuration, and without a model one of the
default size is timed.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import schnorb_t
from schnorb_t import keys
from schnorb_t.commands.parser import positive
from schnorb_t.data.batch import structures_to_batch, to_device
from schnorb_t.data.datamodule import SAMPLE
from schnorb_t.data.store import MoleculeRecord, Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.files import atomic_write
from schnorb_t.nn.base import MatrixNetwork
from schnorb_t.nn.model import MatrixModel
from schnorb_t.predictor import choose_device
from schnorb_t.training.checkpoint import find_model, load_model, load_single
from schnorb_t.training.configuration import parse_configuration
from schnorb_t.training.evaluation import STAGES, StageClock, predict_batch
from schnorb_t.training.networks import build_network
from schnorb_t.training.report import write_json
from schnorb_t.units import BOHR

BATCH_SIZES = (1, 8, 64, 256)
ALL_STAGES = ("batch", *STAGES)


def build(records: list[MoleculeRecord], model: MatrixModel, device: torch.device) -> dict[str, torch.Tensor]:
    numbers, positions = [r.atomic_numbers for r in records], [r.positions for r in records]
    return to_device(structures_to_batch(numbers, positions, model.basis, model.cutoff), device)


@torch.no_grad()
def time_model(model: MatrixModel, records: list[MoleculeRecord], batch_size: int) -> dict[str, float]:
    """Seconds per molecule and stage, after one batch of warming up; molecules are sorted by size."""
    device = next(model.parameters()).device
    batches = [records[k : k + batch_size] for k in range(0, len(records), batch_size)]
    predict_batch(model, build(batches[0], model, device), StageClock(device))
    clock, building = StageClock(device), 0.0
    for part in batches:
        start = time.perf_counter()
        batch = build(part, model, device)
        if device.type == "cuda":
            torch.cuda.synchronize()
        building += time.perf_counter() - start
        predict_batch(model, batch, clock)
    seconds = {"batch": building, **clock.seconds}
    return {stage: s / len(records) for stage, s in seconds.items()}


def time_pyscf(records: list[MoleculeRecord], store: Store) -> list[float]:
    """Seconds of each molecule's SCF, as the labels were made."""
    from schnorb_t.reference.pyscf import Level, label

    fields = Level.__dataclass_fields__
    level = Level(**{k: v for k, v in store.level.items() if k in fields})
    from pyscf import lib

    lib.num_threads(torch.get_num_threads())
    out = []
    for record in track(records, "PySCF", console=Console(stderr=True), transient=True):
        start = time.perf_counter()
        label(record.atomic_numbers, record.positions, level)
        out.append(time.perf_counter() - start)
    return out


def time_xtb(records: list[MoleculeRecord]) -> list[float]:
    """Seconds of each molecule's GFN2-xTB calculation, orbital energies included."""
    try:
        from tblite.interface import Calculator
    except ImportError:
        raise UserError('--xtb needs tblite: pip install "schnorb_t[xtb]"') from None
    out = []
    for record in track(records, "GFN2-xTB", console=Console(stderr=True), transient=True):
        start = time.perf_counter()
        calculator = Calculator("GFN2-xTB", record.atomic_numbers, record.positions / BOHR)
        calculator.set("verbosity", 0)
        calculator.singlepoint().get("orbital-energies")
        out.append(time.perf_counter() - start)
    return out


@torch.no_grad()
def compare_devices(model: MatrixModel, records: list[MoleculeRecord], device: torch.device) -> dict[str, float]:
    """Largest difference of CPU and GPU predictions, relative to the largest element."""
    results = []
    for where in (torch.device("cpu"), device):
        moved = copy.deepcopy(model).to(where)
        batch = build(records, moved, where)
        h, s, e, _ = (x.cpu() for x in predict_batch(moved, batch, StageClock(where)))
        e = torch.where(torch.arange(e.shape[1]) < batch[keys.ORBITAL_MASK].cpu().sum(1, keepdim=True), e, 0.0)
        results.append({keys.HAMILTONIAN: h, keys.OVERLAP: s, keys.ORBITAL_ENERGIES: e})
    cpu, gpu = results
    return {k: float((cpu[k] - gpu[k]).abs().max() / cpu[k].abs().max()) for k in cpu}


def untrained(config: str, store: Store) -> MatrixNetwork:
    """The network of a configuration, of the data's basis, with random weights."""
    settings = parse_configuration([f"--config={config}"])
    arguments = settings.model.network.as_dict() | {"cutoff": settings.data.cutoff}
    if arguments.get("prior"):
        _, card = load_single(find_model(arguments["prior"]))
        arguments["prior"] = {"basis": card.basis.to_json(), "arguments": card.arguments}
    torch.manual_seed(0)
    return build_network(settings.model.architecture, store.basis, arguments).eval()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def draw(result: dict, path: Path) -> None:
    """Rates against batch size, and what a molecule's time is spent on."""
    from matplotlib.figure import Figure

    devices = list(result["devices"])
    figure = Figure(figsize=(5.2 * (1 + len(devices)), 4.2), layout="constrained")
    left, *bars = figure.subplots(1, 1 + len(devices))
    for device in devices:
        rows = result["devices"][device]["batch_sizes"]
        sizes = [int(b) for b in rows]
        rates = [x["molecules_per_second"] for x in rows.values()]
        left.plot(sizes, rates, marker="o", label=f"model, {device}")
        for x, y in zip(sizes, rates, strict=True):
            left.annotate(f"{y:,.0f}", (x, y), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
    if result["pyscf"]:
        rate = result["pyscf"]["molecules_per_second"]
        left.axhline(rate, color="0.4", linestyle="--")
        left.annotate(
            f"PySCF's SCF: {rate:.2g}", (sizes[0], rate), textcoords="offset points", xytext=(0, 5), fontsize=8
        )
    if result["xtb"]:
        rate = result["xtb"]["molecules_per_second"]
        left.axhline(rate, color="0.4", linestyle=":")
        left.annotate(
            f"GFN2-xTB: {rate:,.0f}",
            (sizes[-1], rate),
            textcoords="offset points",
            xytext=(0, -10),
            fontsize=8,
            ha="right",
        )
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xticks(sizes, [str(b) for b in sizes])
    left.minorticks_off()
    low, high = left.get_ylim()
    left.set_ylim(low / 1.5, high * 2)
    left.set_xlabel("batch size")
    left.set_ylabel("molecules per second")
    left.legend(frameon=False, loc="center right", fontsize=8)
    for axis, device in zip(bars, devices, strict=True):
        rows = result["devices"][device]["batch_sizes"]
        bottom = np.zeros(len(rows))
        for stage in ALL_STAGES:
            height = np.array([1e3 * x["seconds_per_molecule"][stage] for x in rows.values()])
            axis.bar(list(rows), height, bottom=bottom, label=stage, width=0.6)
            bottom += height
        for k, total in enumerate(bottom):
            axis.annotate(
                f"{total:.3g}", (k, total), textcoords="offset points", xytext=(0, 2), ha="center", fontsize=8
            )
        axis.set_ylim(0, 1.12 * bottom.max())
        axis.set_xlabel("batch size")
        axis.set_ylabel("ms per molecule")
        axis.set_title(device, fontsize=10)
        axis.legend(frameon=False, fontsize=8)
    m = result["mean_orbitals"]
    figure.suptitle(f"{result['molecules']} molecules of {result['data']}, {m:.0f} orbitals on average", fontsize=11)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def print_result(result: dict, console: Console) -> None:
    console.print(
        f"{result['molecules']} molecules of {result['data']}, {result['mean_atoms']:.1f} atoms and "
        f"{result['mean_orbitals']:.1f} orbitals on average; {result['model']}, {result['parameters']:,} parameters",
        highlight=False,
        soft_wrap=True,
    )
    scf = result["pyscf"]
    for device, rows in result["devices"].items():
        table = Table(title=f"{device}: {rows['name']}", title_justify="left")
        for heading in ("batch\nsize", "molecules\nper s", *(f"{stage}\nms" for stage in ALL_STAGES)):
            table.add_column(heading, justify="right")
        if scf:
            table.add_column("times\nPySCF", justify="right")
        for size, row in rows["batch_sizes"].items():
            stages = [f"{1e3 * row['seconds_per_molecule'][s]:.3f}" for s in ALL_STAGES]
            times = [f"{row['molecules_per_second'] / scf['molecules_per_second']:,.0f}"] if scf else []
            table.add_row(str(size), f"{row['molecules_per_second']:,.1f}", *stages, *times)
        console.print(table)
    if scf:
        console.print(
            f"PySCF: {scf['molecules_per_second']:.3f} molecules per s ({scf['level']}; {len(scf['seconds'])} of the "
            f"molecules, {scf['mean_orbitals']:.1f} orbitals on average, {scf['threads']} threads)",
            highlight=False,
            soft_wrap=True,
        )
    if result["xtb"]:
        rate = result["xtb"]["molecules_per_second"]
        console.print(f"GFN2-xTB: {rate:.1f} molecules per s, {1e3 / rate:.1f} ms each", highlight=False)
    if result["cpu_gpu_difference"]:
        parts = ", ".join(f"{k} {v:.1e}" for k, v in result["cpu_gpu_difference"].items())
        console.print(f"largest CPU - GPU difference, relative to the largest element: {parts}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint or name (default: an untrained network of the default size)")
    parser.add_argument("--config", help="configuration (a path or the name of one that ships) whose network to time")
    parser.add_argument("--data", type=Path, default=SAMPLE, help="HDF5 file of labelled molecules (default: sample)")
    parser.add_argument("--molecules", type=positive, default=256, help="how many to predict")
    parser.add_argument("--pyscf", type=int, default=6, help="how many of them to calculate with PySCF; 0: none")
    parser.add_argument(
        "--xtb", type=int, default=0, help="how many of them to calculate with GFN2-xTB (default: none)"
    )
    parser.add_argument("--heavy-atoms", type=positive, help="only molecules with so many atoms heavier than H")
    parser.add_argument("--device", help="cpu or cuda (default: both where there is a GPU)")
    parser.add_argument("--threads", type=positive, help="of the CPU (default: as PyTorch finds it)")
    parser.add_argument("--output", type=Path, default=Path("throughput"), help="writes OUTPUT.json and OUTPUT.png")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if not arguments.output.parent.is_dir():
        raise UserError(f"{arguments.output.parent}: no such folder; make it first")
    default = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    devices = [choose_device(d) for d in ([arguments.device] if arguments.device else default)]

    store = Store(arguments.data)
    if arguments.model and arguments.config:
        raise UserError("--model and --config: give one of them")
    if arguments.model:
        model, name = load_model(find_model(arguments.model))[0], arguments.model
    elif arguments.config:
        model, name = untrained(arguments.config, store), f"untrained network of {arguments.config}"
    else:
        torch.manual_seed(0)
        model, name = MatrixModel(store.basis).eval(), "untrained network"
    there = np.arange(len(store))
    if arguments.heavy_atoms:
        there = np.array([i for i in there if (store[i].atomic_numbers > 1).sum() == arguments.heavy_atoms], dtype=int)
        if not len(there):
            raise UserError(f"{arguments.data}: no molecule with {arguments.heavy_atoms} heavy atoms")
    chosen = np.random.default_rng(0).permutation(there)[: arguments.molecules]
    records = [store[i] for i in chosen]
    unknown = {z for r in records for z in r.atomic_numbers.tolist()} - set(model.basis.elements)
    if unknown:
        raise UserError(f"{arguments.data}: the model {name} does not know the elements {sorted(unknown)}")
    records.sort(key=lambda r: len(r.hamiltonian), reverse=True)
    orbitals = np.array([len(r.hamiltonian) for r in records])

    result = {
        "model": name,
        "parameters": model.n_parameters(),
        "data": str(arguments.data.name),
        "molecules": len(records),
        "mean_atoms": float(np.mean([len(r.atomic_numbers) for r in records])),
        "mean_orbitals": float(orbitals.mean()),
        "devices": {},
        "heavy_atoms": arguments.heavy_atoms,
        "pyscf": None,
        "xtb": None,
        "cpu_gpu_difference": None,
        "versions": {"schnorb_t": schnorb_t.__version__, "torch": torch.__version__},
    }
    for device in devices:
        moved = copy.deepcopy(model).to(device)
        rows = {}
        for batch_size in BATCH_SIZES:
            seconds = time_model(moved, records, batch_size)
            rows[str(batch_size)] = {
                "molecules_per_second": 1 / sum(seconds.values()),
                "seconds_per_molecule": seconds,
            }
        result["devices"][str(device)] = {"name": device_name(device), "batch_sizes": rows}
        if device.type == "cuda":
            result["cpu_gpu_difference"] = compare_devices(model, records[:: max(1, len(records) // 64)], device)
    if arguments.pyscf > 0:
        # the middle of each of n equally large groups by size, so that their mean is that of all molecules
        places = (np.arange(arguments.pyscf) + 0.5) / arguments.pyscf * len(records)
        some = [records[int(p)] for p in places]
        seconds = time_pyscf(some, store)
        result["pyscf"] = {
            "molecules_per_second": len(seconds) / sum(seconds),
            "seconds": seconds,
            "names": [r.name for r in some],
            "mean_orbitals": float(np.mean([len(r.hamiltonian) for r in some])),
            "level": f"{store.level.get('functional')}/{store.level.get('basis')}",
            "threads": torch.get_num_threads(),
        }
    if arguments.xtb > 0:
        places = (np.arange(arguments.xtb) + 0.5) / arguments.xtb * len(records)
        seconds = time_xtb([records[int(p)] for p in places])
        result["xtb"] = {"molecules_per_second": len(seconds) / sum(seconds), "seconds": seconds}
    console = Console()
    print_result(result, console)
    paths = [arguments.output.with_name(f"{arguments.output.name}{suffix}") for suffix in (".json", ".png")]
    write_json(paths[0], result)
    draw(result, paths[1])
    console.print(f"written: {paths[0]}, {paths[1]}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
