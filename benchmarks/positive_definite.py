"""Smallest eigenvalue of the predicted overlap S on every molecule of a geometry table, and on distorted molecules.

    python benchmarks/positive_definite.py runs/qm9/version_0/checkpoints/best.ckpt qm9_geometries.npz.xz

The table is swept in a fixed random order, so that a sweep that was cut short (--molecules, --minutes, Ctrl-C) is a
fair sample. Values per molecule go into OUTPUT.npz all along: the same command goes on where it stopped, as long as
model and table are the same. Then the test molecules of --data, stretched and squeezed by up to 30 %, all of the
molecule or along its longest axis alone. S = S0 - a Q is positive definite by construction; how often the factor a had
to be less than 1 (schnorb_t/nn/overlap.py) is told as well. Prints a table, writes JSON and a PNG.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from rich.console import Console
from rich.table import Table

import schnorb_t
from schnorb_t import keys
from schnorb_t.commands.parser import positive
from schnorb_t.data.batch import structures_to_batch, to_device
from schnorb_t.data.batch_sizes import batches_by_size
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.files import atomic_write
from schnorb_t.nn.base import MatrixNetwork
from schnorb_t.physics.eigen import pad
from schnorb_t.predictor import load
from schnorb_t.progress import progress_bar
from schnorb_t.reference.qm9 import QM9Molecule, read
from schnorb_t.structures import check_structures
from schnorb_t.training.report import write_json

#: Lengths are multiplied by these.
STRETCHES = tuple(round(0.70 + 0.05 * k, 2) for k in range(13))
#: Molecules whose batches are sorted by size together.
CHUNK = 4096
SAVE_EVERY = 30.0  # s


@torch.no_grad()
def overlap_values(
    model: MatrixNetwork, molecules: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest eigenvalue of S [n] and the factor a [n] of S = S0 - a Q, for one batch of (numbers, positions in Å)."""
    device = next(model.parameters()).device
    numbers, positions = zip(*molecules, strict=True)
    batch = to_device(structures_to_batch(numbers, positions, model.basis, model.cutoff), device)
    blocks = model.blocks(batch)
    overlap = model.matrices(blocks, batch)[keys.OVERLAP]
    # the padding stands above what can be the smallest eigenvalue of an overlap of normalised functions
    smallest = torch.linalg.eigvalsh(pad(overlap, batch[keys.ORBITAL_MASK], 10.0))[:, 0]
    factor = torch.ones_like(smallest)
    if "overlap_change" in blocks:
        change = blocks["overlap_change"].padded()
        applied = overlap - blocks["overlap0"].padded()
        factor = (applied * change).sum((1, 2)) / change.square().sum((1, 2))
    return smallest.cpu().numpy(), factor.cpu().numpy()


def sweep(
    model: MatrixNetwork, molecules: Sequence[tuple[np.ndarray, np.ndarray]], batch_size: int | None = None
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Batch by batch: places in ``molecules``, smallest eigenvalues, factors."""
    device = next(model.parameters()).device.type
    for start in range(0, len(molecules), CHUNK):
        chunk = molecules[start : start + CHUNK]
        for places in batches_by_size([len(z) for z, _ in chunk], batch_size, device):
            yield [start + p for p in places], *overlap_values(model, [chunk[p] for p in places])


def stretch(positions: np.ndarray, factor: float, along: str) -> np.ndarray:
    """Positions [n, 3] scaled about their centre, ``along`` all directions or the ``"longest axis"`` alone."""
    centred = positions - positions.mean(0)
    if along == "all directions":
        return centred * factor
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    return centred + (factor - 1.0) * np.outer(centred @ axis, axis)


class Progress:
    """Values per molecule of a table, NaN where not yet known, kept in a file that a later run goes on with.

    Args:
        path: of the file.
        stamp: what the values belong to; a file with another one is overwritten.
        n: molecules.
    """

    def __init__(self, path: Path, stamp: str, n: int):
        self.path, self.stamp = path, stamp
        self.smallest, self.factor = np.full(n, np.nan), np.full(n, np.nan)
        self.seconds = 0.0
        self._saved = time.monotonic()
        if path.is_file():
            try:
                with np.load(path) as old:
                    if str(old["stamp"]) == stamp:
                        self.smallest, self.factor, self.seconds = old["smallest"], old["factor"], float(old["seconds"])
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise UserError(f"{path}: not a file of this benchmark ({error}); remove it") from None

    @property
    def done(self) -> np.ndarray:
        return ~np.isnan(self.smallest)

    def save(self, every: float = 0.0) -> None:
        if time.monotonic() - self._saved < every:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.npz")
        np.savez(temporary, stamp=self.stamp, smallest=self.smallest, factor=self.factor, seconds=self.seconds)
        os.replace(temporary, self.path)
        self._saved = time.monotonic()


def sweep_table(
    model: MatrixNetwork,
    molecules: Sequence[QM9Molecule],
    progress: Progress,
    most: int,
    seconds: float,
    batch_size: int | None,
    advance: Callable[[int], None],
) -> None:
    """Fill ``progress`` up to ``most`` molecules, in a fixed random order, for so many ``seconds`` at most."""
    order = np.random.default_rng(0).permutation(len(molecules))[:most]
    left = order[~progress.done[order]]
    advance(len(order) - len(left))
    start = last = time.perf_counter()
    try:
        for places, smallest, factor in sweep(
            model, [(molecules[k].atomic_numbers, molecules[k].positions) for k in left], batch_size
        ):
            progress.smallest[left[places]], progress.factor[left[places]] = smallest, factor
            now = time.perf_counter()
            progress.seconds, last = progress.seconds + now - last, now
            progress.save(SAVE_EVERY)
            advance(len(places))
            if now - start > seconds:
                break
    finally:
        progress.save()


def sweep_distorted(
    model: MatrixNetwork, store: Store, indices: Sequence[int], batch_size: int | None
) -> dict[str, np.ndarray]:
    """Per direction [len(STRETCHES), n, 2]: smallest eigenvalue and factor of each molecule."""
    records = [store[i] for i in indices]
    out = {}
    for along in ("all directions", "longest axis"):
        molecules = [(r.atomic_numbers, stretch(r.positions, f, along)) for f in STRETCHES for r in records]
        values = np.empty((len(molecules), 2))
        for places, smallest, factor in sweep(model, molecules, batch_size):
            values[places] = np.stack((smallest, factor), axis=1)
        out[along] = values.reshape(len(STRETCHES), len(records), 2)
    return out


def summary(smallest: np.ndarray, factor: np.ndarray, names: Sequence[str]) -> dict:
    """What a table's row says of molecules [n]."""
    worst, least = int(np.argmin(smallest)), int(np.argmin(factor))
    return {
        "molecules": len(smallest),
        "not_positive_definite": int((~(smallest > 0)).sum()),
        "smallest_eigenvalue": float(smallest[worst]),
        "smallest_on": names[worst],
        "quantiles_of_smallest_eigenvalue": {
            str(q): float(np.quantile(smallest, q)) for q in (0.001, 0.01, 0.1, 0.5, 0.9)
        },
        "touched_by_factor": int((factor < 1 - 1e-9).sum()),
        "least_factor": float(factor[least]),
        "least_factor_on": names[least],
    }


def print_result(result: dict, console: Console) -> None:
    groups = result["groups"]
    table = Table(title=f"Predicted S of {result['model']}", title_justify="left")
    table.add_column("")
    for name in groups:
        table.add_column(name, justify="right")
    lines: tuple[tuple[str, Callable[[dict], str]], ...] = (
        ("molecules", lambda g: f"{g['molecules']:,}"),
        ("S not positive definite", lambda g: f"{g['not_positive_definite']:,}"),
        ("smallest eigenvalue", lambda g: f"{g['smallest_eigenvalue']:.5f}"),
        ("  on", lambda g: g["smallest_on"]),
        ("  of one in 1,000", lambda g: f"{g['quantiles_of_smallest_eigenvalue']['0.001']:.5f}"),
        ("  median", lambda g: f"{g['quantiles_of_smallest_eigenvalue']['0.5']:.5f}"),
        ("touched by a < 1", lambda g: f"{g['touched_by_factor']:,}"),
        ("  least a", lambda g: f"{g['least_factor']:.4f}"),
        ("  on", lambda g: g["least_factor_on"] if g["touched_by_factor"] else "-"),
    )
    for what, text in lines:
        table.add_row(what, *(text(g) for g in groups.values()))
    console.print(table)
    console.print(
        f"{result['swept']:,} of {result['in_table']:,} molecules of {result['table']}, "
        f"{result['molecules_per_second'] or 0:,.0f} per s ({result['device']})",
        highlight=False,
        soft_wrap=True,
    )


def draw(result: dict, smallest: np.ndarray, distorted: dict[str, np.ndarray], path: Path) -> None:
    """How often which smallest eigenvalue occurs, and how it changes when molecules are stretched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if len(smallest):
        edges = np.geomspace(smallest.min() * 0.9, smallest.max() * 1.1, 80)
        left.hist(smallest, bins=edges, color="tab:blue", alpha=0.85)
        left.set_yscale("log")
        left.set_xscale("log")
        left.axvline(smallest.min(), color="tab:red", linewidth=1, linestyle="--")
        left.annotate(
            f"smallest: {smallest.min():.4f}",
            (smallest.min(), 0.96),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            xytext=(6, 0),
            va="top",
            fontsize=9,
            color="tab:red",
        )
    left.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    left.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "235" else "")
    left.set_xlabel("smallest eigenvalue of S")
    left.set_ylabel("molecules")
    left.set_title(f"{len(smallest):,} molecules of the table", fontsize=10)
    for colour, (along, values) in zip(("tab:blue", "tab:orange"), distorted.items(), strict=True):
        x, y = np.array(STRETCHES), values[:, :, 0]
        right.plot(x, np.median(y, axis=1), color=colour, marker=".", label=f"{along}: median")
        right.plot(x, y.min(1), color=colour, marker=".", linestyle="--", label=f"{along}: smallest")
    right.set_yscale("log")
    right.set_xlabel("lengths times")
    right.set_ylabel("smallest eigenvalue of S")
    n = next(iter(distorted.values())).shape[1]
    right.set_title(f"{n} test molecules, stretched and squeezed", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint, or the name of a model that comes with the package")
    parser.add_argument("table", type=Path, help="geometry table (.npz.xz) or QM9's archive (.tar.bz2)")
    parser.add_argument("--data", type=Path, default=Path("data/qm9.h5"), help="whose test molecules to distort")
    parser.add_argument("--molecules", type=positive, help="sweep so many at most (default: all)")
    parser.add_argument(
        "--minutes", type=float, default=np.inf, help="of the sweep; the next run goes on with the rest"
    )
    parser.add_argument("--batch-size", type=positive, help="molecules at once (default: by their size)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument(
        "--output", type=Path, default=Path("positive_definite"), help="writes OUTPUT.json, OUTPUT.png, OUTPUT.npz"
    )
    arguments = parser.parse_args()
    if not arguments.output.parent.is_dir():
        raise UserError(f"{arguments.output.parent}: no such folder; make it first")
    if not arguments.table.is_file():
        raise UserError(f"{arguments.table}: no such file")
    predictor = load(arguments.model, arguments.device)
    model = predictor.model
    store = Store(arguments.data)
    tests = store.indices("test")
    if not len(tests):
        raise UserError(f"{arguments.data}: no molecule in split 'test'; give another file with --data")
    check_structures([Atoms(store[i].atomic_numbers, store[i].positions) for i in tests], model.basis.elements)
    molecules = list(read(arguments.table))
    unknown = {int(z) for m in molecules for z in np.unique(m.atomic_numbers)} - set(model.basis.elements)
    if unknown:
        raise UserError(f"{arguments.table}: the model {arguments.model} does not know the elements {sorted(unknown)}")
    paths = {s: arguments.output.with_name(f"{arguments.output.name}.{s}") for s in ("json", "png", "npz")}
    weights = b"".join(p.detach().cpu().numpy().tobytes() for p in model.state_dict().values())
    stamp = f"{hashlib.sha256(weights).hexdigest()} {arguments.table.name} {len(molecules)}"
    progress = Progress(paths["npz"], stamp, len(molecules))

    most = min(arguments.molecules or len(molecules), len(molecules))
    with progress_bar(most, "sweeping") as advance:
        sweep_table(model, molecules, progress, most, 60 * arguments.minutes, arguments.batch_size, advance)
    distorted = sweep_distorted(model, store, tests, arguments.batch_size)

    done = np.flatnonzero(progress.done)
    groups = {}
    if len(done):
        names = [f"{molecules[k].name} {Atoms(molecules[k].atomic_numbers).get_chemical_formula()}" for k in done]
        groups["table"] = summary(progress.smallest[done], progress.factor[done], names)
    for along, values in distorted.items():
        names = [f"{store.name_of(i)} x {f:.2f}" for f in STRETCHES for i in tests]
        groups[f"stretched,\n{along}"] = summary(*values.reshape(-1, 2).T, names)
    result = {
        "model": str(arguments.model),
        "table": arguments.table.name,
        "in_table": len(molecules),
        "swept": len(done),
        "molecules_per_second": len(done) / progress.seconds if progress.seconds else None,
        "device": f"{predictor.device}, {torch.get_num_threads()} threads",
        "data": arguments.data.name,
        "groups": {name.replace("\n", " "): group for name, group in groups.items()},
        "stretches": STRETCHES,
        "smallest_by_stretch": {along: values[:, :, 0].min(1).tolist() for along, values in distorted.items()},
        "versions": {"schnorb_t": schnorb_t.__version__, "torch": torch.__version__},
    }
    console = Console()
    print_result(result, console)
    write_json(paths["json"], result)
    draw(result, progress.smallest[done], distorted, paths["png"])
    console.print(f"written: {paths['json']}, {paths['png']}, {paths['npz']}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
