"""Error against labels: every method of ``schnorb_t select`` beside random selection, on labels that exist already.

    python benchmarks/active_learning.py labels.h5 -o active_learning

The molecules of a store of labels play the pool; their labels are looked at only once a molecule is chosen. Of each
seed: a pool of --pool molecules of split train, the first of --labels of them at random; a network is trained on these
from its closed-form start and calibrated on split val; it chooses the next molecules, a network is trained anew on all
that are labelled now, and so on. Every training has equally many steps and, of one seed, the same initial weights, so
that a method differs from another by its molecules alone. Test molecules: split test and, up to --test, others of split
train that are in no pool. "all": trained on the whole pool, the end of every method.

A finished point goes into OUTPUT.json at once, and the same command goes on with what is missing. Prints a table of
errors and of the labels that each method needs for the error of random selection at its last point; writes a PNG.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before any library starts its threads

import argparse  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pytorch_lightning as L  # noqa: E402
import torch  # noqa: E402
from learning_curve import Points, fingerprint, quiet  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from schnorb_t import keys  # noqa: E402
from schnorb_t.active.features import look  # noqa: E402
from schnorb_t.active.methods import METHODS, choose, needs  # noqa: E402
from schnorb_t.commands.parser import positive  # noqa: E402
from schnorb_t.data.batch import records_to_batch  # noqa: E402
from schnorb_t.data.batch_sizes import batches_by_size  # noqa: E402
from schnorb_t.data.datamodule import MatrixDataModule, RecordDataset  # noqa: E402
from schnorb_t.data.store import Store  # noqa: E402
from schnorb_t.errors import UserError, run_command  # noqa: E402
from schnorb_t.nn.model import MatrixModel  # noqa: E402
from schnorb_t.physics.eigen import solve  # noqa: E402
from schnorb_t.predictor import Predictor  # noqa: E402
from schnorb_t.structures import Structure  # noqa: E402
from schnorb_t.training.calibration import calibrate  # noqa: E402
from schnorb_t.training.checkpoint import ModelCard  # noqa: E402
from schnorb_t.training.losses import Output  # noqa: E402
from schnorb_t.training.module import MatrixModule  # noqa: E402
from schnorb_t.training.run import fit  # noqa: E402
from schnorb_t.units import HARTREE  # noqa: E402

#: A small one: what is compared is molecules, not networks.
NETWORK = {
    "irreps": "24x0e+8x1o+4x1e+8x2e+4x2o",
    "interactions": 1,
    "pair_channels": (24, 8, 8, 8),
    "hidden": 24,
    "product_channels": 8,
    "triangle_channels": 0,
    "charge_channels": 0,
    "chain_channels": 0,
    "doubt_members": 16,
}
LOSSES = (("hamiltonian", 1000.0), ("overlap", 2000.0), ("hamiltonian_in_orbitals", 1000.0))
BATCH = 4
CUTOFF = 10.0  # Å
CALIBRATION = 30  # molecules of split val that doubt is calibrated on
#: What is compared: title, molecules' errors [n] of HOMO, LUMO and gap in eV -> a number in meV.
MEASURES = {
    "frontier": ("HOMO, LUMO MAE", lambda e: 1e3 * float(np.abs(e[:, :2]).mean())),
    "gap": ("gap MAE", lambda e: 1e3 * float(np.abs(e[:, 2]).mean())),
    "gap_rmse": ("gap RMSE", lambda e: 1e3 * float(np.sqrt(np.square(e[:, 2]).mean()))),
    "gap_p95": ("gap, 95th percentile", lambda e: 1e3 * float(np.percentile(np.abs(e[:, 2]), 95))),
}
MAIN = "gap"


class Bench:
    """Trainings on parts of one store.

    Args:
        path: of the store.
        largest: atoms of the largest molecules that take part.
        n_test: test molecules.
        steps: of each training.
    """

    def __init__(self, path: Path, largest: int, n_test: int, steps: int):
        self.path, self.steps, self.store = path, steps, Store(path)
        self.first: dict[int, MatrixModel] = {}  # seed -> the model that all methods begin with
        small = self.store.n_atoms <= largest
        split = {s: self.store.indices(s)[small[self.store.indices(s)]] for s in ("train", "val", "test")}
        rest = np.random.default_rng(0).permutation(split["train"])
        more = max(0, n_test - len(split["test"]))
        self.test, self.rest = np.concatenate([split["test"], rest[:more]]), rest[more:]
        self.val = split["val"][:CALIBRATION]
        if not len(self.val) or not len(self.test) or not len(self.rest):
            raise UserError(f"{path}: molecules in splits train and val are needed; set splits with schnorb_t splits")

    def batches(self, rows: Sequence[int]) -> Iterable[dict[str, torch.Tensor]]:
        for places in batches_by_size(self.store.n_atoms[rows]):
            chosen = [int(rows[p]) for p in places]
            yield records_to_batch([self.store[i] for i in chosen], self.store.basis, CUTOFF, chosen)

    def train(self, rows: Sequence[int], seed: int) -> MatrixModel:
        """A network trained on these molecules, from its closed-form start."""
        L.seed_everything(seed, verbose=False)
        data = MatrixDataModule(str(self.path), CUTOFF, BATCH, seed=seed)
        data.split["train"] = np.asarray(rows)
        data.datasets["train"] = RecordDataset(self.store, data.split["train"], True)
        network = {**NETWORK, "orthogonal": self.store.basis.projected}
        outputs = [Output(name, weight=weight) for name, weight in LOSSES]
        module = MatrixModule(data.basis, network, CUTOFF, outputs, learning_rate=5e-3)
        module.model.fit_reference(data.training_batches)
        module.describe(data)
        fit(module, data, max_steps=self.steps, max_epochs=-1, gradient_clip_val=100.0, limit_val_batches=0)
        return module.model.eval()

    @torch.no_grad()
    def errors(self, model: MatrixModel) -> np.ndarray:
        """[test molecules, 3], eV: signed errors of HOMO, LUMO and gap against the labels' own levels."""
        out = []
        for batch in self.batches(self.test):
            mask, homo = batch[keys.ORBITAL_MASK], batch[keys.N_OCCUPIED][:, None] - 1
            found = model(batch)
            levels = [solve(x[keys.HAMILTONIAN].double(), x[keys.OVERLAP].double(), mask)[0] for x in (found, batch)]
            h, l = ((levels[0] - levels[1]).gather(1, homo + k)[:, 0].numpy() * HARTREE for k in (0, 1))
            out.append(np.stack([h, l, l - h], 1))
        return np.concatenate(out)

    def structures(self, rows: Sequence[int]) -> list[Structure]:
        records = (self.store[int(i)] for i in rows)
        return [Structure(r.atomic_numbers, r.positions, r.name, r.group) for r in records]

    def select(self, model: MatrixModel, method: str, pool: np.ndarray, labelled: list[int], n: int, seed: int):
        """The next n places in ``pool``; ``labelled`` are places too."""
        free = np.setdiff1d(np.arange(len(pool)), labelled)
        features, doubt = needs(method)
        view = seen = None
        if features or doubt:
            predictor = Predictor(model, ModelCard({}, model.basis, {}, ""))
            if doubt:
                rows = pool[labelled]
                calibrate(model, lambda: self.batches(rows), lambda: self.batches(self.val))
            view = look(predictor, self.structures(pool[free]), features=features, doubt=doubt)
            if features:
                seen = look(predictor, self.structures(pool[labelled]), doubt=False).features
        found = choose(
            method,
            n,
            len(free),
            features=view.features if view else None,
            doubt=view.doubt if view else None,
            labelled=seen,
            seed=seed,
        )
        return free[found].tolist()

    def run(self, points: Points, method: str, seed: int, counts: Sequence[int], n_pool: int) -> None:
        """All points of one method and seed that are not there yet."""
        pool = np.random.default_rng(1000 + seed).permutation(self.rest)[:n_pool]
        console = Console()
        labelled: list[int] = []
        model: MatrixModel | None = None
        for n in counts:
            there = points.find(method=method, seed=seed, labels=n)
            if there is None:
                shared = points.find(seed=seed, labels=n, method="random") if n == counts[0] else None
                if shared is not None:  # the first molecules are the same in all methods
                    copied = {k: shared[k] for k in ("errors_ev", "places")}
                    there = points.get(lambda p=copied: p, **_key(method, seed, n))
                    labelled, model = there["places"], self.first.get(seed)
                    continue
                start = time.process_time()
                if not labelled:
                    labelled = list(range(n))
                else:
                    if model is None and any(needs(method)):
                        model = self.train(pool[labelled], seed)
                        if len(labelled) == counts[0]:
                            self.first[seed] = model
                    labelled = labelled + self.select(model, method, pool, labelled, n - len(labelled), seed)
                model = self.train(pool[labelled], seed)
                if n == counts[0]:
                    self.first[seed] = model
                errors = self.errors(model)
                there = points.get(
                    lambda e=errors, p=labelled: {"errors_ev": np.round(e, 5).tolist(), "places": p},
                    **_key(method, seed, n),
                )
                value = MEASURES[MAIN][1](errors)
                text = f"seed {seed}, {method}, {n} labels: gap {value:.0f} meV, {time.process_time() - start:.0f} s"
                console.print(text, highlight=False)
            else:
                labelled, model = there["places"], None

    def ceiling(self, points: Points, seed: int, n_pool: int) -> None:
        """The point "all"."""
        pool = np.random.default_rng(1000 + seed).permutation(self.rest)[:n_pool]

        def make() -> dict[str, Any]:
            errors = self.errors(self.train(pool, seed))
            return {"errors_ev": np.round(errors, 5).tolist(), "places": list(range(len(pool)))}

        points.get(make, **_key("all", seed, len(pool)))


def _key(method: str, seed: int, labels: int) -> dict[str, Any]:
    return {"method": method, "seed": seed, "labels": labels}


# ---- what comes of it ------------------------------------------------------------------------------------------------


def curve(points: Points, method: str, seed: int, counts: Sequence[int], measure: str) -> np.ndarray | None:
    """[counts] a measure of a method and seed; None unless all points are there."""
    found = [points.find(**_key(method, seed, n)) for n in counts]
    if any(p is None for p in found):
        return None
    return np.array([MEASURES[measure][1](np.array(p["errors_ev"])) for p in found])


def labels_for(counts: Sequence[int], errors: np.ndarray, wanted: float) -> float:
    """Labels at which a falling curve reaches an error, between points linear in both logarithms; NaN: not reached."""
    best = np.minimum.accumulate(errors)
    if best[-1] > wanted:
        return float("nan")
    k = int(np.argmax(best <= wanted))
    if k == 0:
        return float(counts[0])
    x, y = np.log(counts[k - 1 : k + 1]), np.log(best[k - 1 : k + 1])
    return float(np.exp(x[0] + (np.log(wanted) - y[0]) / (y[1] - y[0]) * (x[1] - x[0])))


def savings(points: Points, method: str, seeds: Sequence[int], counts: Sequence[int], measure: str) -> list[float]:
    """Of each seed, the share of labels that a method saves for random selection's mean error at the last point.

    Negative where random selection needs fewer: what its curve reaches with the labels at which the method ends.
    """
    curves = [curve(points, "random", s, counts, measure) for s in seeds]
    if any(c is None for c in curves):
        return []
    random = np.mean(curves, 0)
    out = []
    for seed in seeds:
        mine = curve(points, method, seed, counts, measure)
        if mine is None:
            continue
        needed = labels_for(counts, mine, random[-1])
        if np.isnan(needed):
            out.append(1.0 - counts[-1] / labels_for(counts, random, mine.min()))
        else:
            out.append(1.0 - needed / counts[-1])
    return out


def summary(points: Points, methods: Sequence[str], seeds: Sequence[int], counts: Sequence[int]) -> dict[str, Any]:
    """Per method and measure: mean and spread of the error at each count, and of the share of labels saved."""
    out: dict[str, Any] = {}
    for method in methods:
        for measure in MEASURES:
            found = [c for s in seeds if (c := curve(points, method, s, counts, measure)) is not None]
            if not found:
                continue
            saved = savings(points, method, seeds, counts, measure)
            out.setdefault(method, {})[measure] = {
                "seeds": len(found),
                "mean": np.mean(found, 0).tolist(),
                "spread": np.std(found, 0, ddof=min(1, len(found) - 1)).tolist(),
                "saved": saved,
            }
    return out


def print_tables(found: dict[str, Any], counts: Sequence[int], console: Console) -> None:
    table = Table(title=f"{MEASURES[MAIN][0]} / meV, mean and standard deviation over seeds, against labels")
    table.add_column("method")
    for n in counts:
        table.add_column(str(n), justify="right", no_wrap=True)
    for method, measures in found.items():
        m = measures[MAIN]
        cells = [f"{a:.0f} ± {b:.0f}" for a, b in zip(m["mean"], m["spread"], strict=True)]
        table.add_row(method, *cells)
    console.print(table)
    table = Table(
        title=f"labels saved for the error of random selection at {counts[-1]}, mean and std. dev. over seeds"
    )
    table.add_column("method")
    for title, _ in MEASURES.values():
        table.add_column(title, justify="right", no_wrap=True)
    for method, measures in found.items():
        if method != "random":
            shares = [measures[k]["saved"] for k in MEASURES]
            cells = [f"{100 * np.mean(x):+.0f} ± {100 * np.std(x, ddof=min(1, len(x) - 1)):.0f} %" for x in shares if x]
            table.add_row(method, *cells)
    console.print(table)


def draw(found: dict[str, Any], ceiling: dict[str, float], counts: Sequence[int], title: str, path: Path) -> None:
    """Two measures against labels, one line per method, a band of one standard deviation about random selection."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    colours = dict(zip(METHODS, ("tab:orange", "tab:blue", "tab:green", "tab:red", "tab:purple", "0.3"), strict=True))
    axes = figure.subplots(1, 2)
    for axis, measure in zip(axes, (MAIN, "gap_p95"), strict=True):
        for method, measures in found.items():
            mean, spread = (np.array(measures[measure][k]) for k in ("mean", "spread"))
            plain = method == "random"
            axis.plot(
                counts, mean, "--" if plain else "-", marker="o", markersize=4, color=colours[method], label=method
            )
            if plain:
                axis.fill_between(counts, mean - spread, mean + spread, color="0.3", alpha=0.15, linewidth=0)
        if measure in ceiling:
            axis.axhline(ceiling[measure], color="0.6", linewidth=1, linestyle=":")
            axis.text(counts[0], ceiling[measure], "whole pool", fontsize=8, color="0.4", va="bottom")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(counts, [str(n) for n in counts])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("labels")
        axis.set_title(f"{MEASURES[measure][0]} / meV", fontsize=11)
        axis.grid(color="0.92", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="HDF5 file of labelled molecules, with splits")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labels", type=positive, nargs="+", default=[15, 25, 40, 65], help="labels of each round")
    parser.add_argument("--pool", type=positive, default=500, help="molecules in the pool of a seed")
    parser.add_argument("--test", type=positive, default=200, help="test molecules")
    parser.add_argument("--largest", type=positive, default=18, help="atoms of the largest molecules that take part")
    parser.add_argument("--steps", type=positive, default=400, help="of each training")
    parser.add_argument("--output", "-o", type=Path, default=Path("active_learning"), help="OUTPUT.json and OUTPUT.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    bench = Bench(arguments.data, arguments.largest, arguments.test, arguments.steps)
    counts = sorted(set(arguments.labels))
    if counts[-1] > min(arguments.pool, len(bench.rest)):
        raise UserError(f"--labels {counts[-1]}: the pool has {min(arguments.pool, len(bench.rest))} molecules")
    about = {
        "data": arguments.data.name,
        "fingerprint": fingerprint(bench.store),
        "level": f"{bench.store.level.get('functional')}/{bench.store.level.get('basis')}",
        "test": len(bench.test),
        "pool": arguments.pool,
        "labels": counts,
        "largest": arguments.largest,
        "steps": arguments.steps,
        "network": NETWORK,
    }
    points = Points(arguments.output.with_name(f"{arguments.output.name}.json"), about)
    methods = sorted(set(arguments.methods) | {"random"}, key=lambda m: (m != "random", METHODS.index(m)))
    for seed in arguments.seeds:
        for method in methods:
            bench.run(points, method, seed, counts, arguments.pool)
    bench.ceiling(points, arguments.seeds[0], arguments.pool)
    found = summary(points, methods, arguments.seeds, counts)
    whole = next(p for p in points.points if p["method"] == "all")
    ceiling = {k: f(np.array(whole["errors_ev"])) for k, (_, f) in MEASURES.items()}
    console = Console()
    print_tables(found, counts, console)
    console.print(f"trained on the whole pool of {whole['labels']}: gap {ceiling[MAIN]:.0f} meV", highlight=False)
    picture = arguments.output.with_name(f"{arguments.output.name}.png")
    title = f"{len(bench.test)} test molecules, {about['level']}; {arguments.steps} steps of {BATCH} at each point"
    draw(found, ceiling, counts, title, picture)
    console.print(f"written: {points.path}, {picture}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
