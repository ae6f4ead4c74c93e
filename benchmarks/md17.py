"""MD17: forces of small molecules from 1,000 frames of dynamics, conservative and direct, each in so many minutes.

    python benchmarks/md17.py --minutes 60                        # all eight, both kinds
    python benchmarks/md17.py toluene benzene --kinds conservative --minutes 8
    python benchmarks/md17.py --labels rmd17                      # the labels of rMD17 instead of the original ones

DATA holds one compressed numpy file per molecule (``nuclear_charges``; ``train_``/``test_`` ``coords``,
``old_energies``, ``old_forces``, ``energies``, ``forces``; kcal/mol, Å), 1,000 frames each to train on and to test
with. Of the training frames the last 50 choose the best epoch. The network and everything else is
``configs/md17.yaml``, the seed is there; the number of epochs follows from ``--minutes`` of processor time and the time
of a step, measured at the start.

Whatever is finished is kept in FOLDER: the same command continues where it was stopped. With more ``--minutes`` than a
finished model has had, its training goes on from its weights at a lower rate; all its minutes are counted. Writes
docs/md17.json: ``{"benzene": {"direct": ..., "conservative": ...}, ...}``, mean absolute errors of force components on
the test frames in kcal/mol/Å, and docs/md17_details.json with energies, times and settings.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before any library starts its threads

import argparse  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from itertools import cycle  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from schnorb_t import keys  # noqa: E402
from schnorb_t.commands.import_energies import import_energies  # noqa: E402
from schnorb_t.data.batch import structures_to_batch  # noqa: E402
from schnorb_t.data.datamodule import MatrixDataModule  # noqa: E402
from schnorb_t.data.store import Store  # noqa: E402
from schnorb_t.errors import UserError, run_command  # noqa: E402
from schnorb_t.files import atomic_write  # noqa: E402
from schnorb_t.training.checkpoint import load_network  # noqa: E402
from schnorb_t.training.configuration import parse_configuration  # noqa: E402
from schnorb_t.training.energy_module import EnergyModule  # noqa: E402
from schnorb_t.training.report import write_json  # noqa: E402
from schnorb_t.training.run import train  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("conservative", "direct")
#: kcal/mol/Å of (Tensor Field Networks with direct forces, SchNet), 1,000 training frames, original labels.
PUBLISHED = {
    "benzene": (0.19, 0.31),
    "toluene": (0.39, 0.57),
    "malonaldehyde": (1.00, 0.66),
    "salicylic": (0.78, 0.85),
    "aspirin": (1.09, 1.35),
    "ethanol": (0.73, 0.39),
    "uracil": (0.60, 0.56),
    "naphthalene": (0.30, 0.58),
}
#: Training frames that choose the best epoch.
VALIDATION = 50
LABELS = {"md17": "old_", "rmd17": ""}
#: Part of the time that is left for validation and tests.
RESERVE = 0.08


def data_folder() -> Path:
    """Where the files of MD17 are expected."""
    return Path(os.environ.get("SCHNORB_T_DATA", ROOT.parent / "shared" / "data")) / "md17"


def make_store(molecule: str, data: Path, labels: str, path: Path) -> None:
    """A store with 950 frames to train on, 50 to validate and 1,000 to test with."""
    if path.is_file():
        return
    source = data / f"{molecule}.npz"
    if not source.is_file():
        raise UserError(f"{source}: no such file; --data names the folder with MD17's molecules")
    frames = np.load(source)
    n = len(frames["train_coords"])
    parts = {"train": ("train", slice(0, n - VALIDATION)), "val": ("train", slice(n - VALIDATION, n))}
    parts["test"] = ("test", slice(None))
    written = path.with_suffix(".part.h5")
    written.unlink(missing_ok=True)
    for split, (name, rows) in parts.items():
        part = path.parent / f"{molecule}_{split}.npz"
        which = LABELS[labels]
        np.savez(
            part,
            nuclear_charges=frames["nuclear_charges"],
            coords=frames[f"{name}_coords"][rows],
            energies=frames[f"{name}_{which}energies"][rows],
            forces=frames[f"{name}_{which}forces"][rows],
        )
        import_energies([part], output=written, split=split, unit="kcal/mol", level=labels)
        part.unlink()
    os.replace(written, path)


def seconds_per_epoch(options: dict[str, Any], path: Path) -> float:
    """Processor time of an epoch of training, from a dozen steps."""
    config = parse_configuration(options)
    data = MatrixDataModule(str(path), config.data.cutoff, config.data.batch_size)
    network = {k: v for k, v in vars(config.model.network).items()}
    module = EnergyModule(data.basis, network, config.data.cutoff)
    optimizer = torch.optim.AdamW(module.model.parameters(), lr=0.0)
    batches = cycle(data.train_dataloader())
    start = 0.0
    for k in range(15):
        if k == 3:
            start = time.process_time()
        loss, *_ = module._loss(next(batches), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.process_time() - start) / 12 * len(data.train_dataloader())


def inference_ms(checkpoint: Path, path: Path, repeats: int = 40) -> float:
    """Processor time of energy and forces of one frame, neighbour list included: median, ms."""
    model, _ = load_network(checkpoint)
    model.requires_grad_(False)
    with Store(path) as store:
        records = [store[int(i)] for i in store.indices("test")[:repeats]]
    times = []
    for r in records:
        start = time.process_time()
        batch = structures_to_batch([r.atomic_numbers], [r.positions], model.basis, model.cutoff)
        with torch.no_grad():
            model(batch)[keys.FORCES].numpy()
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times[5:]))


def run_one(molecule: str, kind: str, args: argparse.Namespace, store: Path) -> dict[str, Any]:
    """Train, or go on with, one model for the time that it may have; its results."""
    folder = args.folder / args.labels / f"{molecule}_{kind}"
    state_file = folder / "state.json"
    state: dict[str, Any] = json.loads(state_file.read_text()) if state_file.is_file() else {"stages": []}
    stages = state["stages"]
    open_stage = stages[-1] if stages and not stages[-1].get("metrics") else None
    had = sum(s["cpu_minutes"] for s in stages)
    if open_stage is None:
        if stages and had > args.minutes - max(2.0, 0.2 * had):
            return state
        stages.append({"stage": len(stages), "cpu_minutes": 0.0, "minutes": args.minutes - had})
        open_stage = stages[-1]
    stage = open_stage
    options: dict[str, Any] = {
        "config": str(ROOT / "configs" / "md17.yaml"),
        "data.path": str(store),
        "model.network.forces": kind,
        "name": f"stage{stage['stage']}",
        "runs": str(folder),
        "trainer.enable_progress_bar": False,
        "trainer.accelerator": "cpu",
        "trainer.enable_model_summary": False,
    }
    started = time.process_time()
    if "epochs" not in stage:
        each = seconds_per_epoch(options, store)
        stage["epochs"] = max(3, int(60 * stage["minutes"] * (1 - RESERVE) / each))
        stage["seconds_per_epoch"] = each
    options["trainer.max_epochs"] = stage["epochs"]
    if stage["stage"]:
        options["model.start_from"] = stages[-2]["checkpoint"]
        options["model.learning_rate"] = args.second_rate
        options["model.warmup_steps"] = 200
    last = sorted((folder / options["name"]).glob("version_*/checkpoints/last.ckpt"))
    if last:
        options["ckpt_path"] = str(max(last, key=lambda p: p.stat().st_mtime))
        options.pop("model.start_from", None)
    write_json(state_file, state)

    def account() -> None:
        nonlocal started
        now = time.process_time()
        stage["cpu_minutes"] += (now - started) / 60
        started = now

    try:
        result = train(options, tell=lambda text: None)
    finally:
        account()
        write_json(state_file, state)
    assert result.best is not None
    stage["checkpoint"], stage["metrics"] = str(result.best), result.metrics["model"]
    state["inference_ms"] = inference_ms(result.best, store)
    account()
    write_json(state_file, state)
    return state


def summary(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is finished, by molecule and kind."""
    out: dict[str, dict[str, Any]] = {}
    for molecule in sorted(p.stem for p in args.data.glob("*.npz")):
        for kind in KINDS:
            file = args.folder / args.labels / f"{molecule}_{kind}" / "state.json"
            state = json.loads(file.read_text()) if file.is_file() else {"stages": []}
            done = [s for s in state["stages"] if s.get("metrics")]
            if not done:
                continue
            # the stage with the lowest validation error is the last one that was better there
            metrics = done[-1]["metrics"]
            out.setdefault(molecule, {})[kind] = {
                "forces": metrics["forces_mae_kcal_per_angstrom"],
                "energy": metrics["energy_mae_kcal"],
                "cpu_minutes": sum(s["cpu_minutes"] for s in done),
                "epochs": sum(s["epochs"] for s in done),
                "inference_ms": state.get("inference_ms"),
                "checkpoint": done[-1]["checkpoint"],
            }
    return out


def write_results(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The two files beside the page."""
    found = summary(args)
    stem = "md17" if args.labels == "md17" else "rmd17"
    short = {m: {k: round(x["forces"], 4) for k, x in kinds.items()} for m, kinds in found.items()}
    more = {
        m: {k: {n: v for n, v in x.items() if n != "checkpoint"} for k, x in kinds.items()}
        for m, kinds in found.items()
    }
    with atomic_write(args.output / f"{stem}.json") as temporary:
        Path(temporary).write_text(json.dumps(short, indent=2) + "\n")
    write_json(args.output / f"{stem}_details.json", more)
    return found


def print_results(found: dict[str, dict[str, Any]], labels: str) -> None:
    """The table of the page."""
    table = Table(title=f"{labels}: forces, mean absolute error, kcal/mol/Å (processor minutes; ms per frame)")
    for name in ("molecule", *KINDS, "published: direct", "SchNet"):
        table.add_column(name)
    for molecule, kinds in found.items():
        cells = []
        for kind in KINDS:
            x = kinds.get(kind)
            ms = "-" if x is None or x["inference_ms"] is None else f"{x['inference_ms']:.1f} ms"
            cells.append("-" if x is None else f"{x['forces']:.3f} ({x['cpu_minutes']:.0f} min; {ms})")
        source = PUBLISHED.get(molecule, ()) if labels == "md17" else ()
        table.add_row(molecule, *cells, *(f"{s:.2f}" for s in source))
    Console().print(table)


def main() -> None:
    """Parse, train what is missing, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("molecules", nargs="*", help="default: the eight of the comparison")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--minutes", type=float, default=60.0, help="processor time per model, all stages together")
    parser.add_argument("--labels", choices=LABELS, default="md17")
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "md17", help="models and their states")
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    parser.add_argument("--second-rate", type=float, default=0.002, help="learning rate of trainings that go on")
    parser.add_argument("--only-print", action="store_true", help="no training: write and print what is finished")
    args = parser.parse_args()
    torch.set_num_threads(1)
    molecules = args.molecules or list(PUBLISHED)
    if not args.only_print:
        args.folder.mkdir(parents=True, exist_ok=True)
        for molecule in molecules:
            store = args.folder / args.labels / f"{molecule}.h5"
            store.parent.mkdir(parents=True, exist_ok=True)
            make_store(molecule, args.data, args.labels, store)
            for kind in args.kinds:
                run_one(molecule, kind, args, store)
                write_results(args)
    print_results(write_results(args), args.labels)


if __name__ == "__main__":
    run_command(main)
