"""A GPU against the CPU, in one command without a network, below ten minutes.

    python benchmarks/gpu.py --output gpu

1. agreement: H, S, orbital energies and forces on the atoms of every shipped model, CPU against GPU (relative);
2. synchronisation: whether network and assembly make the host wait (``torch.cuda.set_sync_debug_mode``);
3. prediction: molecules per second, largest memory and shares of network, assembly, eigenproblem against batch size;
4. training: steps per second in float32, TF32 and bf16, and what each precision costs in meV of HOMO and LUMO;
5. eigensolvers: many small matrices by ``torch.linalg.eigh`` with each library, and by Jacobi rotations.

Without a GPU it does what the CPU can and says what it left out. Prints tables, writes JSON and a PNG.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import schnorb_t
from schnorb_t import keys
from schnorb_t.commands.parser import positive
from schnorb_t.data.batch import records_to_batch, structures_to_batch, to_device
from schnorb_t.data.datamodule import SAMPLE
from schnorb_t.data.store import MoleculeRecord, Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.files import atomic_write
from schnorb_t.physics.eigen import energies_only, occupations
from schnorb_t.predictor import choose_device
from schnorb_t.training.checkpoint import MODELS, find_model, load_model
from schnorb_t.training.evaluation import STAGES, StageClock, predict_batch
from schnorb_t.training.module import MatrixModule
from schnorb_t.training.report import write_json
from schnorb_t.units import HARTREE

BATCH_SIZES = (1, 16, 64, 256, 1024)
PRECISIONS = ("float32", "tf32", "bf16")
#: Orbitals, and matrices at once, of the comparison of eigensolvers.
MATRICES = ((24, 512), (48, 512), (96, 256), (192, 64))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of one call: the mean over as many as fit into ``seconds``, one at least, after one of warming up."""
    work()
    wait(device)
    start, n = time.perf_counter(), 0
    while n == 0 or time.perf_counter() - start < seconds:
        work()
        wait(device)
        n += 1
    return (time.perf_counter() - start) / n


@contextmanager
def precision(kind: str, device: torch.device):
    """Inside, networks work in this precision; the electronic structure stays float64."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16) if kind == "bf16" else nullcontext():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


# ---- 1 and 2 --------------------------------------------------------------------------------------------------------


def results(model, records: list[MoleculeRecord], device: torch.device) -> dict[str, Tensor]:
    """H, S, levels, and the gradient of the sum of occupied levels by the positions, on the CPU."""
    model = copy.deepcopy(model).to(device)
    batch = to_device(records_to_batch(records, model.basis, model.cutoff), device)
    batch[keys.POSITIONS].requires_grad_()
    out = model(batch)
    mask = batch[keys.ORBITAL_MASK]
    h, s = out[keys.HAMILTONIAN], out[keys.OVERLAP]
    e = energies_only(h, s, mask)
    electrons = torch.tensor([model.basis.n_electrons(r.atomic_numbers) for r in records], device=device)
    (e * occupations(e, electrons // 2)).sum().backward()
    real = torch.arange(e.shape[1], device=device) < mask.sum(1, keepdim=True)
    found = {"hamiltonian": h, "overlap": s, "orbital energies": torch.where(real, e, 0.0)}
    found["gradient"] = batch[keys.POSITIONS].grad
    return {name: x.detach().cpu() for name, x in found.items()}


def agreement(model, records: list[MoleculeRecord], device: torch.device) -> dict[str, float]:
    """Largest difference from the CPU of each result, relative to its largest element."""
    cpu, other = (results(model, records, d) for d in (torch.device("cpu"), device))
    return {name: float((cpu[name] - other[name]).abs().max() / cpu[name].abs().max()) for name in cpu}


def synchronisation(model, records: list[MoleculeRecord], device: torch.device) -> dict[str, str]:
    """Of network and assembly: ``"none"``, or where the host waits first."""
    batch = to_device(records_to_batch(records, model.basis, model.cutoff), device)
    found, blocks = {}, None
    with torch.no_grad():
        model(batch)  # constants are copied to the device once
        for name in ("network", "assembly"):
            torch.cuda.set_sync_debug_mode("error")
            try:
                if name == "network":
                    blocks = model.blocks(batch)
                else:
                    model.learned_matrices(blocks, batch)
                found[name] = "none"
            except RuntimeError as error:
                where = error.__traceback__
                while where.tb_next is not None:
                    where = where.tb_next
                found[name] = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
            finally:
                torch.cuda.set_sync_debug_mode("default")
            blocks = model.blocks(batch)
    return found


# ---- 3 --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def prediction(model, records: list[MoleculeRecord], size: int, device: torch.device, seconds: float) -> dict:
    """Rate, stages and memory of batches of one size; molecules repeat where there are too few."""
    chosen = [records[k % len(records)] for k in range(size)]
    batch = to_device(
        structures_to_batch(
            [r.atomic_numbers for r in chosen], [r.positions for r in chosen], model.basis, model.cutoff
        ),
        device,
    )
    predict_batch(model, batch, StageClock(device))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clock, start, n = StageClock(device), time.perf_counter(), 0
    while n == 0 or time.perf_counter() - start < seconds:
        predict_batch(model, batch, clock)
        n += 1
    total = sum(clock.seconds.values())
    return {
        "molecules_per_second": n * size / total,
        "shares": {stage: clock.seconds[stage] / total for stage in STAGES},
        "memory_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
    }


# ---- 4 --------------------------------------------------------------------------------------------------------------


def training(store: Store, device: torch.device, size: int, kind: str, seconds: float) -> float:
    """Steps per second of the default network on batches of ``size``, optimiser included."""
    torch.manual_seed(0)
    module = MatrixModule(store.basis)
    records = [store[i % len(store)] for i in range(size)]
    batch = records_to_batch(records, store.basis, module.model.cutoff)
    module.model.fit_reference(lambda: [batch])
    module, batch = module.to(device).train(), to_device(batch, device)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision(kind, device):
            loss, _ = module._loss(*module._quantities(batch), 0)
        loss.backward()
        optimizer.step()

    return 1 / timed(step, device, seconds)


@torch.no_grad()
def cost(model, records: list[MoleculeRecord], device: torch.device, kind: str) -> float:
    """Mean change of HOMO and LUMO, meV, from those of a float64 network."""

    def levels(network, kind: str) -> Tensor:
        batch = to_device(records_to_batch(records, network.basis, network.cutoff), device)
        with precision(kind, device):
            out = network(batch)
        e = energies_only(out[keys.HAMILTONIAN], out[keys.OVERLAP], batch[keys.ORBITAL_MASK])
        filled = torch.tensor([network.basis.n_electrons(r.atomic_numbers) // 2 for r in records], device=device)
        return e.gather(1, torch.stack((filled - 1, filled), 1))

    exact = levels(copy.deepcopy(model).double().to(device), "float32")
    return float((levels(copy.deepcopy(model).to(device), kind) - exact).abs().mean()) * HARTREE * 1e3


# ---- 5 --------------------------------------------------------------------------------------------------------------


def jacobi(matrices: Tensor, sweeps: int = 10) -> Tensor:
    """Eigenvalues [B, M], ascending, by Jacobi rotations of M / 2 pairs at a time (Golub and Van Loan, 8.5)."""
    a = matrices.clone()
    b, m, _ = a.shape
    if m % 2:
        raise ValueError("an even number of rows")
    order = torch.arange(m, device=a.device)
    for _ in range(sweeps * (m - 1)):
        p, q = order[: m // 2], order[m // 2 :].flip(0)
        app, aqq, apq = a[:, p, p], a[:, q, q], a[:, p, q]
        # the smaller of the two angles that bring a_pq to 0
        tau = (aqq - app) / torch.where(apq == 0, 1.0, 2 * apq)
        sign = torch.where(tau < 0, -1.0, 1.0)
        t = torch.where(apq == 0, 0.0, sign / (tau.abs() + (1 + tau * tau).sqrt()))
        c = (1 + t * t).rsqrt()
        s = t * c
        rows_p, rows_q = a[:, p], a[:, q]
        a[:, p], a[:, q] = c[..., None] * rows_p - s[..., None] * rows_q, s[..., None] * rows_p + c[..., None] * rows_q
        columns_p, columns_q = a[:, :, p], a[:, :, q]
        a[:, :, p], a[:, :, q] = (
            c[:, None] * columns_p - s[:, None] * columns_q,
            s[:, None] * columns_p + c[:, None] * columns_q,
        )
        order = torch.cat((order[:1], order[1:].roll(1)))  # the tournament: every pair meets once in m - 1 rounds
    return a.diagonal(dim1=1, dim2=2).sort().values


def eigensolvers(device: torch.device, seconds: float, sizes=MATRICES) -> list[dict]:
    """Microseconds per matrix of each solver, float64, eigenvalues and, except Jacobi, vectors."""
    rows = []
    generator = torch.Generator().manual_seed(0)
    for m, count in sizes:
        a = torch.randn(count, m, m, generator=generator, dtype=torch.float64)
        a = ((a + a.mT) / 2).to(device)
        row = {"orbitals": m, "matrices": count, "us_per_matrix": {}}
        libraries = ("default", "cusolver", "magma") if device.type == "cuda" else ("default",)
        for library in libraries:
            try:
                if device.type == "cuda":
                    torch.backends.cuda.preferred_linalg_library(library)
                row["us_per_matrix"][f"eigh {library}"] = (
                    1e6 * timed(partial(torch.linalg.eigh, a), device, seconds) / count
                )
            except RuntimeError:
                row["us_per_matrix"][f"eigh {library}"] = None
            finally:
                if device.type == "cuda":
                    torch.backends.cuda.preferred_linalg_library("default")
        exact = torch.linalg.eigvalsh(a)
        row["jacobi_error"] = float((jacobi(a) - exact).abs().max())
        row["us_per_matrix"]["jacobi"] = 1e6 * timed(partial(jacobi, a), device, seconds) / count
        rows.append(row)
    return rows


# ---- all ------------------------------------------------------------------------------------------------------------


def known(records: list[MoleculeRecord], model, most: int) -> list[MoleculeRecord]:
    """Those of elements that the model knows."""
    elements = set(model.basis.elements)
    return [r for r in records if set(r.atomic_numbers.tolist()) <= elements][:most]


def run(arguments: argparse.Namespace, console: Console) -> dict:
    begin = time.perf_counter()
    gpu = None if arguments.cpu_only or not torch.cuda.is_available() else choose_device("cuda")
    cpu = torch.device("cpu")
    devices = [cpu] if gpu is None else [cpu, gpu]
    result: dict = {
        "gpu": torch.cuda.get_device_name(gpu) if gpu else None,
        "cpu_threads": torch.get_num_threads(),
        "versions": {"schnorb_t": schnorb_t.__version__, "torch": torch.__version__},
        "left_out": [],
    }

    def left_out(what: str) -> None:
        result["left_out"].append(what)
        console.print(f"left out: {what}", style="yellow", highlight=False)

    def late() -> bool:
        return time.perf_counter() - begin > arguments.seconds

    store = Store(SAMPLE)
    chosen = np.random.default_rng(0).permutation(len(store))[: 4 * arguments.molecules]
    records = [store[int(i)] for i in chosen]
    names = arguments.models or sorted(p.stem for p in MODELS.glob("*.ckpt"))
    result["agreement"], result["synchronisation"] = {}, {}
    if gpu is None:
        left_out("agreement of CPU and GPU, and waits of the host: no CUDA device")
    else:
        for name in names:
            model = load_model(find_model(name))[0].eval()
            some = known(records, model, arguments.molecules)
            result["agreement"][name] = agreement(model, some, gpu)
            result["synchronisation"][name] = synchronisation(copy.deepcopy(model).to(gpu), some, gpu)
    model = load_model(find_model(arguments.model))[0].eval()
    some = known(records, model, len(records))
    each = arguments.seconds / 60
    result["prediction"] = {}
    for device in devices:
        moved = copy.deepcopy(model).to(device)
        rows = result["prediction"].setdefault(str(device), {})
        for size in arguments.batch_sizes:
            if late() or (device.type == "cpu" and size > arguments.cpu_batch):
                left_out(
                    f"prediction on {device} in batches of {size:,}: {'no time' if late() else 'a GPU is for that'}"
                )
                continue
            try:
                rows[str(size)] = prediction(moved, some, size, device, each)
            except torch.OutOfMemoryError:
                left_out(f"prediction on {device} in batches of {size:,}: out of memory")
    result["training"] = {}
    for device in devices:
        rows = result["training"].setdefault(str(device), {})
        for kind in PRECISIONS:
            if kind == "tf32" and device.type == "cpu":
                left_out("training in TF32 on the CPU: there is none")
                continue
            if late():
                left_out(f"training in {kind} on {device}: no time")
                continue
            rows[kind] = {"level_cost_mev": cost(model, some[: arguments.molecules], device, kind)}
            try:
                rows[kind]["steps_per_second"] = training(store, device, arguments.training_batch, kind, each)
            except RuntimeError as error:
                left_out(f"training in {kind} on {device}: {str(error).splitlines()[0]}")
    result["eigensolvers"] = {}
    for device in devices:
        if late():
            left_out(f"eigensolvers on {device}: no time")
            continue
        result["eigensolvers"][str(device)] = eigensolvers(device, each / 8, arguments.matrices)
    result["seconds"] = time.perf_counter() - begin
    return result


def show(result: dict, console: Console) -> None:
    if result["agreement"]:
        table = Table(title=f"largest difference, CPU - {result['gpu']}, relative", title_justify="left")
        columns = list(next(iter(result["agreement"].values())))
        for heading in ("model", *columns, "the host waits"):
            table.add_column(heading)
        for name, row in result["agreement"].items():
            waits = ", ".join(f"{k}: {v}" for k, v in result["synchronisation"][name].items())
            table.add_row(name, *(f"{row[c]:.1e}" for c in columns), waits)
        console.print(table)
    table = Table(title="prediction", title_justify="left")
    for heading in ("device", "batch", "molecules\nper s", *(f"{s}\n%" for s in STAGES), "GiB"):
        table.add_column(heading, justify="right")
    for device, rows in result["prediction"].items():
        for size, row in rows.items():
            shares = [f"{100 * row['shares'][s]:.0f}" for s in STAGES]
            memory = "" if row["memory_gib"] is None else f"{row['memory_gib']:.2f}"
            table.add_row(device, size, f"{row['molecules_per_second']:,.0f}", *shares, memory)
    console.print(table)
    table = Table(title="training", title_justify="left")
    for heading in ("device", "precision", "steps per s", "HOMO, LUMO\nmeV"):
        table.add_column(heading, justify="right")
    for device, rows in result["training"].items():
        for kind, row in rows.items():
            rate = f"{row['steps_per_second']:.2f}" if "steps_per_second" in row else ""
            table.add_row(device, kind, rate, f"{row['level_cost_mev']:.3g}")
    console.print(table)
    for device, rows in result["eigensolvers"].items():
        table = Table(title=f"eigensolvers on {device}, µs per matrix", title_justify="left")
        names = list(rows[0]["us_per_matrix"])
        for heading in ("orbitals", "matrices", *names):
            table.add_column(heading, justify="right")
        for row in rows:
            times = [row["us_per_matrix"][k] for k in names]
            shown = ["" if t is None else f"{t:,.0f}" for t in times]
            table.add_row(str(row["orbitals"]), str(row["matrices"]), *shown)
        console.print(table)


def draw(result: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for device, rows in result["prediction"].items():
        sizes = [int(b) for b in rows]
        left.loglog(sizes, [r["molecules_per_second"] for r in rows.values()], marker="o", label=device)
    left.set(xlabel="batch size", ylabel="molecules per second")
    left.legend(frameon=False)
    for device, rows in result["eigensolvers"].items():
        for name in rows[0]["us_per_matrix"]:
            points = [(r["orbitals"], r["us_per_matrix"][name]) for r in rows if r["us_per_matrix"][name]]
            if points:
                right.loglog(*zip(*points, strict=True), marker="o", ms=3, label=f"{name}, {device}")
    right.set(xlabel="orbitals", ylabel="µs per matrix")
    right.legend(frameon=False, fontsize=8)
    figure.suptitle(result["gpu"] or "CPU alone", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="organic", help="of the rates: checkpoint or name")
    parser.add_argument("--models", nargs="+", help="to compare on both devices (default: all that ship)")
    parser.add_argument("--molecules", type=positive, default=32, help="of the sample, for each comparison")
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=list(BATCH_SIZES))
    parser.add_argument("--cpu-batch", type=positive, default=64, help="largest batch on the CPU")
    parser.add_argument("--training-batch", type=positive, default=32, help="molecules of a training step")
    parser.add_argument("--seconds", type=positive, default=420, help="begin nothing new after so long")
    parser.add_argument("--cpu-only", action="store_true", help="as if there were no GPU")
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="writes OUTPUT.json and OUTPUT.png")
    arguments = parser.parse_args()
    arguments.matrices = MATRICES
    if not arguments.output.parent.is_dir():
        raise UserError(f"{arguments.output.parent}: no such folder; make it first")
    console = Console()
    result = run(arguments, console)
    show(result, console)
    paths = [arguments.output.with_name(f"{arguments.output.name}{suffix}") for suffix in (".json", ".png")]
    write_json(paths[0], result)
    draw(result, paths[1])
    console.print(f"{result['seconds']:.0f} s; written: {paths[0]}, {paths[1]}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
