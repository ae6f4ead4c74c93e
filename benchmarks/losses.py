"""What each loss buys: one short training with different losses, each with several seeds.

    python benchmarks/losses.py
    python benchmarks/losses.py --rows matrices "+ H in orbitals" --steps 3000 --seeds 0 1 2

Every row trains the network of --config on the first --molecules training molecules for --steps optimiser steps, with
the losses of that row (ROWS below) instead of the configuration's. Validation molecules, because this is how a loss is
chosen; test molecules stay unseen. A finished training goes into OUTPUT.json at once, and the same command goes on with
what is missing. Prints a table, writes JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning_curve import QUANTITIES, Points, cells, fingerprint, quiet, read_config, train, value_of  # beside this
from rich.console import Console
from rich.table import Table

from schnorb_t.commands.parser import positive
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.training.evaluation import evaluate_model

_MATRICES = (
    {"name": "hamiltonian", "weight": 1000.0},
    {"name": "overlap", "weight": 10000.0},
)
#: row -> losses (``schnorb_t.training.losses.Output``), all l1. Each row adds one to the matrices' own, with a weight
#: that makes all additions about equally large near the end of a training; the density matrix stands for the occupied
#: subspace, which is all that it depends on.
ROWS: dict[str, tuple[dict[str, Any], ...]] = {
    "matrices": _MATRICES,
    "+ orbital energies": (*_MATRICES, {"name": "orbital_energies", "weight": 300.0}),
    "+ H in orbitals": (*_MATRICES, {"name": "hamiltonian_in_orbitals", "weight": 1000.0}),
    "+ density matrix": (*_MATRICES, {"name": "density", "weight": 200.0}),
}


def print_table(points: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Per row the mean over seeds, below it every seed."""
    n = points[0]["metrics"]["n_molecules"]
    table = Table(title=f"{n} validation molecules of {about['data']}: mean absolute errors", title_justify="left")
    table.add_column("losses", no_wrap=True)
    for title, *_ in QUANTITIES.values():
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("ms per\nstep", justify="right")
    for row in dict.fromkeys(p["row"] for p in points):
        of_row = [p for p in points if p["row"] == row]
        ms = [1e3 * p["seconds"] / about["steps"] for p in of_row]
        means = {key: np.mean([value_of(p["metrics"], key) for p in of_row]) for _, key, *_ in QUANTITIES.values()}
        table.add_row(row, *cells({**means, "n_without_solution": 0}), f"{np.mean(ms):.0f}", style="bold")
        for p, of_seed in zip(of_row, ms, strict=True):
            cost = f"{of_seed:.0f}"
            table.add_row(f"  seed {p['seed']}", *cells(p["metrics"]), cost, end_section=p is of_row[-1])
    console = Console()
    console.print(table)
    console.print(
        f"* against the large basis, {about['level']}\n"
        f"{about['molecules']} training molecules, {about['steps']:,} steps; processor time of one thread\n"
        "-: without orbitals, because S of some molecules is not positive definite",
        highlight=False,
        soft_wrap=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/qm9.yaml"), help="of schnorb_t fit")
    parser.add_argument("--data", type=Path, default=Path("data/qm9.h5"), help="HDF5 file of labelled molecules")
    parser.add_argument("--molecules", type=positive, default=219, help="to train on")
    parser.add_argument("--steps", type=positive, default=1000, help="of the optimiser")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of initial weights and order of batches")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--output", type=Path, default=Path("losses"), help="writes OUTPUT.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    config, store = read_config(arguments.config), Store(arguments.data)
    n_train, val = len(store.indices("train")), store.indices("val")
    if arguments.molecules > n_train:
        raise UserError(f"{arguments.data}: has {n_train} training molecules; ask for at most as many with --molecules")
    config["model"] = {k: v for k, v in config["model"].items() if k != "outputs"}
    about = {
        "config": config,
        "data": arguments.data.name,
        "fingerprint": fingerprint(store),
        "level": f"{store.level.get('functional')}/{store.level.get('basis')}",
        "molecules": arguments.molecules,
        "steps": arguments.steps,
    }
    points = Points(arguments.output.with_name(f"{arguments.output.name}.json"), about)

    def point(outputs: list[dict[str, Any]], seed: int) -> dict[str, Any]:
        module, data, seconds = train(config, arguments.data, arguments.molecules, arguments.steps, seed, outputs)
        return {"seconds": seconds, "metrics": evaluate_model(module.model, data.store, val)}

    console, wanted = Console(), []
    for seed in arguments.seeds:
        for row in arguments.rows:
            outputs = [dict(o) for o in ROWS[row]]
            p = points.get(lambda o=outputs, s=seed: point(o, s), row=row, outputs=outputs, seed=seed)
            h = 1e3 * p["metrics"]["hamiltonian_mae_eh"]
            console.print(
                f"{row}, seed {seed}: H {h:.3f} mEh, {p['seconds'] / 60:.1f} min of training", highlight=False
            )
            wanted.append(p)
    wanted.sort(key=lambda p: list(ROWS).index(p["row"]))  # stable: seeds stay in their order
    print_table(wanted, about)
    console.print(f"written: {points.path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
