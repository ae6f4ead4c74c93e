"""Errors on test molecules against the number of training molecules, beside fits without a network.

    python benchmarks/learning_curve.py
    python benchmarks/learning_curve.py --data labels.h5 --molecules 50 500 --steps 5000 --seeds 0 1

The network of --config is trained on the first 25, 50, ... training molecules of --data, from its closed-form start and
for equally many optimiser steps (batch size, averaging and everything else as the configuration says, and those of its
losses that count from the start; the learning rate falls over exactly these steps; the weights after the last step
count, nothing is chosen by validation).
Beside it, on the same molecules: least-squares two-centre functions of distance, and mean blocks. A finished point goes
into OUTPUT.json at once, and the same command goes on with what is missing. Prints a table, writes JSON and a PNG.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before any library starts its threads

import argparse  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pytorch_lightning as L  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from schnorb_t import keys  # noqa: E402
from schnorb_t.commands.parser import positive  # noqa: E402
from schnorb_t.data.batch import records_to_batch  # noqa: E402
from schnorb_t.data.batch_sizes import batches_by_size  # noqa: E402
from schnorb_t.data.datamodule import MatrixDataModule  # noqa: E402
from schnorb_t.data.store import Store  # noqa: E402
from schnorb_t.errors import UserError, run_command  # noqa: E402
from schnorb_t.files import atomic_write  # noqa: E402
from schnorb_t.physics.eigen import solve  # noqa: E402
from schnorb_t.training.evaluation import MatrixErrors, test_against_baselines  # noqa: E402
from schnorb_t.training.losses import Output  # noqa: E402
from schnorb_t.training.module import MatrixModule  # noqa: E402
from schnorb_t.training.report import write_json  # noqa: E402
from schnorb_t.training.run import fit  # noqa: E402

METHODS = {"model": "network", "two_centre": "two-centre fit", "mean_block": "mean blocks"}
#: what -> (title, key of ``evaluate_model``, factor, digits after the point)
QUANTITIES = {
    "hamiltonian": ("H\nmEh", "hamiltonian_mae_eh", 1e3, 3),
    "overlap": ("S\n1e-3", "overlap_mae", 1e3, 3),
    "occupied": ("occ.\nmeV", "occupied_energy_mae_ev", 1e3, 0),
    "homo": ("HOMO*\nmeV", "homo_mae_ev_large_basis", 1e3, 0),
    "lumo": ("LUMO*\nmeV", "lumo_mae_ev_large_basis", 1e3, 0),
    "gap": ("gap*\nmeV", "gap_mae_ev_large_basis", 1e3, 0),
}


# ---- training of one point -------------------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, Any]:
    """The sections of a configuration of ``schnorb_t fit`` that a training of a fixed number of steps needs.

    Losses that begin later are left out: their schedules count epochs, which are not equally long at all points.
    """
    try:
        content = yaml.safe_load(path.read_text())
        model = dict(content["model"])
        if "outputs" in model:
            model["outputs"] = [o for o in model["outputs"] if not o.get("start") and not o.get("ramp")]
        return {
            "data": {k: v for k, v in content["data"].items() if k not in ("path", "max_train", "seed")},
            "model": model,
            "ema": content.get("ema", {}),
            "gradient_clip_val": content["trainer"].get("gradient_clip_val"),
        }
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a configuration of schnorb_t fit") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: no configuration of schnorb_t fit with sections data, model and trainer") from None


def train(
    config: dict[str, Any], data_path: Path, molecules: int, steps: int, seed: int, outputs: list[dict] | None = None
) -> tuple[MatrixModule, MatrixDataModule, float]:
    """Train on the first molecules of a file for exactly so many steps.

    Args:
        config: of ``read_config``.
        data_path: file of labelled molecules.
        molecules: training molecules.
        steps: of the optimiser; the learning rate falls to its final value over these.
        seed: of initial weights and of the order of batches.
        outputs: other losses than the configuration's.

    Returns:
        module with averaged weights, its data, processor time of the training, s.
    """
    L.seed_everything(seed, verbose=False)
    data = MatrixDataModule(str(data_path), **config["data"], max_train=molecules, seed=seed)
    model = dict(config["model"])
    losses = [Output(**o) for o in outputs or model.pop("outputs", [])]
    model.pop("outputs", None)
    module = MatrixModule(data.basis, cutoff=data.cutoff, outputs=losses, **model)
    start = time.process_time()
    module.prepare(data)
    fit(
        module,
        data,
        ema=config["ema"].get("decay", 0.998),
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=config["gradient_clip_val"],
        limit_val_batches=0,
    )
    return module, data, time.process_time() - start


def fingerprint(store: Store) -> str:
    """Which molecules are in which split, in their order."""
    digest = hashlib.sha256()
    for split in ("train", "val", "test"):
        digest.update("\n".join((split, *map(str, store.names[store.indices(split)]))).encode())
    return digest.hexdigest()[:16]


def quiet() -> None:
    """No advice of Lightning's about devices, workers and loggers."""
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Points:
    """Finished points in a JSON file, ``{"about": {...}, "points": [{...}]}``.

    Args:
        path: the file; read if it is there.
        about: what all points of a file have in common.

    Raises:
        UserError: the file's points were made with other settings.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self.path, self.about, self.points = path, json.loads(json.dumps(about)), []
        if not path.parent.is_dir():
            raise UserError(f"{path.parent}: no such folder; make it first")
        if path.exists():
            try:
                content = json.loads(path.read_text())
                theirs, self.points = content["about"], content["points"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}: not a file of this benchmark; name another --output") from None
            differs = sorted(k for k in {*theirs, *self.about} if theirs.get(k) != self.about.get(k))
            if differs:
                raise UserError(
                    f"{path}: its points were made with other settings ({', '.join(differs)}); "
                    "name another --output, or remove the file"
                )

    def find(self, **which: Any) -> dict[str, Any] | None:
        return next((p for p in self.points if all(p[k] == v for k, v in which.items())), None)

    def get(self, make: Callable[[], dict[str, Any]], **which: Any) -> dict[str, Any]:
        """The point of these keys; made, added and written if it is not there."""
        if self.find(**which) is None:
            self.points.append({**which, **make()})
            write_json(self.path, {"about": self.about, "points": self.points})
            self.points[-1] = json.loads(json.dumps(self.points[-1]))  # as it is read again
        return self.find(**which)


# ---- the curve -------------------------------------------------------------------------------------------------------


def limit_of_basis(store: Store, indices: Sequence[int], cutoff: float) -> dict[str, Any]:
    """Errors of the reference matrices themselves: only those against the large basis are not 0."""
    errors = MatrixErrors(store.basis)
    for places in batches_by_size(store.n_atoms[indices]):
        batch = records_to_batch([store[int(indices[p])] for p in places], store.basis, cutoff)
        h, s = batch[keys.HAMILTONIAN], batch[keys.OVERLAP]
        errors.update(batch, h, s, *solve(h, s, batch[keys.ORBITAL_MASK]))
    return errors.metrics()


def cells(metrics: dict[str, Any]) -> list[str]:
    """One number per quantity; "-" where no molecule has it, or where a molecule has no orbitals."""
    out = []
    for _, key, factor, digits in QUANTITIES.values():
        value = value_of(metrics, key)
        out.append(f"{factor * value:,.{digits}f}" if np.isfinite(value) else "-")
    return out


def value_of(metrics: dict[str, Any], key: str) -> float:
    """NaN also for levels of a method that has no orbitals for some molecules: the others are not a fair sample."""
    value = metrics.get(key)
    if value is None or (metrics["n_without_solution"] and key not in ("hamiltonian_mae_eh", "overlap_mae")):
        return np.nan
    return value


def print_table(points: Sequence[dict[str, Any]], limit: dict[str, Any], about: dict[str, Any]) -> None:
    table = Table(title=f"{limit['n_molecules']} test molecules of {about['data']}: mean absolute errors")
    table.add_column("training molecules:", no_wrap=True)
    for title, *_ in QUANTITIES.values():
        table.add_column(title, justify="right", no_wrap=True)
    several = len({p["seed"] for p in points}) > 1
    for method, title in METHODS.items():
        # the baselines have no random start
        rows = points if method == "model" else [p for p in points if p["seed"] == points[0]["seed"]]
        table.add_row(title, style="bold" if method == "model" else None)
        for p in rows:
            seed = f", seed {p['seed']}" if several and method == "model" else ""
            table.add_row(f"  {p['molecules']}{seed}", *cells(p[method]), end_section=p is rows[-1])
    table.add_row("limit of the basis", "", "", "", *cells(limit)[3:])
    console = Console()
    console.print(table)
    console.print(
        f"* against the large basis, {about['level']}\n"
        f"{about['steps']:,} steps of {about['config']['data']['batch_size']} molecules at every point\n"
        "-: without orbitals, because S of some molecules is not positive definite",
        highlight=False,
        soft_wrap=True,
    )


PANELS = (
    ("H / mEh", ("hamiltonian",)),
    ("S / 10⁻³", ("overlap",)),
    ("levels / meV", ("lumo", "homo", "occupied")),
)
#: of the last panel; the others have one quantity each
LEVELS = {"lumo": ("LUMO", "tab:red"), "homo": ("HOMO", "tab:green"), "occupied": ("occupied", "tab:blue")}
STYLES = {"model": ("-", "o"), "two_centre": ("--", "s"), "mean_block": (":", "^")}


def spread(positions: Sequence[float], gap: float) -> np.ndarray:
    """Positions moved apart to at least ``gap``, in their order, as a whole where they were."""
    order = np.argsort(positions)
    out = np.array(positions, dtype=float)[order]
    for _ in range(100):
        for i in range(len(out) - 1):
            missing = gap - (out[i + 1] - out[i])
            if missing > 0:
                out[i] -= 0.5 * missing
                out[i + 1] += 0.5 * missing
    back = np.empty_like(out)
    back[order] = out
    return back


def draw(points: Sequence[dict[str, Any]], limit: dict[str, Any], about: dict[str, Any], path: Path) -> None:
    """H, S and levels on logarithmic axes: the network's mean over seeds, every seed, both baselines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    sizes = np.array(sorted({p["molecules"] for p in points}))
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    for axis, (title, quantities) in zip(figure.subplots(1, 3), PANELS, strict=True):
        labels: list[tuple[float, str, str]] = []
        for quantity in quantities:
            name, colour = LEVELS.get(quantity, ("", "tab:blue"))
            _, key, factor, _ = QUANTITIES[quantity]
            for method, (line, marker) in STYLES.items():
                values = [[factor * value_of(p[method], key) for p in points if p["molecules"] == n] for n in sizes]
                mean = np.array([np.mean(v) for v in values])
                there = np.isfinite(mean)
                if not there.any():
                    continue
                look = {"color": colour, "alpha": 1.0 if method == "model" else 0.6}
                if method != "model" and not name:
                    look = {"color": "0.45"}
                axis.plot(sizes[there], mean[there], line, marker=marker, markersize=4, **look)
                if method == "model" and len(values[0]) > 1:
                    for n, of_seeds in zip(sizes, values, strict=True):
                        axis.plot([n] * len(of_seeds), of_seeds, "_", color=colour, markersize=9)
                last = mean[there][-1]
                number = f"{last:,.0f}" if name else f"{last:.3g}"
                labels.append((last, f"{METHODS[method]}{name and ', '}{name} {number}", look["color"]))
            floor = factor * (limit.get(key) or 0.0)
            if name and floor > 5.0:  # meV; less is no limit to anybody
                axis.axhline(floor, color=colour, linewidth=1.0, alpha=0.6, linestyle=(0, (1, 2)))
                labels.append((floor, f"limit of the basis, {name} {floor:,.0f}", colour))
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("training molecules")
        axis.set_xticks(sizes, [str(n) for n in sizes])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.grid(color="0.92", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        low, high = np.log(axis.get_ylim())
        heights = spread([(np.log(value) - low) / (high - low) for value, *_ in labels], 0.05)
        for height, (_, text, colour) in zip(heights, labels, strict=True):
            axis.text(1.01, height, text, transform=axis.transAxes, va="center", fontsize=8, color=colour)
    figure.suptitle(
        f"{limit['n_molecules']} test molecules; {about['steps']:,} training steps of "
        f"{about['config']['data']['batch_size']} molecules at every point; HOMO and LUMO against {about['level']}",
        fontsize=11,
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/qm9.yaml"), help="of schnorb_t fit")
    parser.add_argument("--data", type=Path, default=Path("data/qm9.h5"), help="HDF5 file of labelled molecules")
    parser.add_argument("--molecules", type=positive, nargs="+", default=[25, 50, 100, 200, 500], help="to train on")
    parser.add_argument("--steps", type=positive, default=2000, help="of the optimiser, at every point")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of initial weights and order of batches")
    parser.add_argument("--output", type=Path, default=Path("learning_curve"), help="writes OUTPUT.json and OUTPUT.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    config, store = read_config(arguments.config), Store(arguments.data)
    n_train, test = len(store.indices("train")), store.indices("test")
    if max(arguments.molecules) > n_train:
        raise UserError(f"{arguments.data}: has {n_train} training molecules; ask for at most as many with --molecules")
    if not len(test):
        raise UserError(f"{arguments.data}: no molecule in split 'test'; set splits: schnorb_t.data.splits")
    about = {
        "config": config,
        "data": arguments.data.name,
        "fingerprint": fingerprint(store),
        "level": f"{store.level.get('functional')}/{store.level.get('basis')}",
        "steps": arguments.steps,
    }
    points = Points(arguments.output.with_name(f"{arguments.output.name}.json"), about)

    def point(molecules: int, seed: int) -> dict[str, Any]:
        module, data, seconds = train(config, arguments.data, molecules, arguments.steps, seed)
        return {"seconds": seconds, **test_against_baselines(module.model, data)}

    console, wanted = Console(), []
    for seed in arguments.seeds:
        for n in dict.fromkeys(arguments.molecules):
            p = points.get(lambda n=n, seed=seed: point(n, seed), molecules=n, seed=seed)
            h = 1e3 * p["model"]["hamiltonian_mae_eh"]
            text = f"{n} molecules, seed {seed}: H {h:.3f} mEh, {p['seconds'] / 60:.1f} min of training"
            console.print(text, highlight=False)
            wanted.append(p)
    wanted.sort(key=lambda p: (p["molecules"], p["seed"]))
    limit = limit_of_basis(store, test, config["data"].get("cutoff", 10.0))
    print_table(wanted, limit, about)
    picture = arguments.output.with_name(f"{arguments.output.name}.png")
    draw(wanted, limit, about, picture)
    console.print(f"written: {points.path}, {picture}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
