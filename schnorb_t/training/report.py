"""What a run shows at its end: a table against the baselines, a learning curve, parity plots, one matrix, one page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table

from schnorb_t.basis import Basis
from schnorb_t.files import atomic_write, write_text
from schnorb_t.training.evaluation import BlockModel, OrbitalLevels, evaluate_model, matrices_of
from schnorb_t.units import HARTREE, MILLI

#: (what, key, factor, unit) of a table's rows.
ROWS = (
    ("H", "hamiltonian_mae_eh", MILLI, "mEh"),
    ("H on-site", "hamiltonian_onsite_mae_eh", MILLI, "mEh"),
    ("H off-site", "hamiltonian_offsite_mae_eh", MILLI, "mEh"),
    ("S", "overlap_mae", MILLI, "1e-3"),
    ("occupied", "occupied_energy_mae_ev", MILLI, "meV"),
    ("HOMO", "homo_mae_ev", MILLI, "meV"),
    ("LUMO", "lumo_mae_ev", MILLI, "meV"),
    ("gap", "gap_mae_ev", MILLI, "meV"),
    ("occupied, large basis", "occupied_energy_mae_ev_large_basis", MILLI, "meV"),
    ("HOMO, large basis", "homo_mae_ev_large_basis", MILLI, "meV"),
    ("LUMO, large basis", "lumo_mae_ev_large_basis", MILLI, "meV"),
    ("gap, large basis", "gap_mae_ev_large_basis", MILLI, "meV"),
    ("orbital similarity", "occupied_similarity", 1.0, "0..1"),
    ("lowest eigenvalue of S", "min_overlap_eigenvalue", 1.0, ""),
)
TITLES = {"model": "model", "two_centre": "two-centre fit", "mean_block": "mean blocks"}


@dataclass(frozen=True)
class MatrixExample:
    """One molecule's predicted and reference Hamiltonian, [m, m] Eh, our orbital order."""

    name: str
    atomic_numbers: np.ndarray
    basis: Basis
    prediction: np.ndarray
    reference: np.ndarray


def _number(value: float, digits: int = 3) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 6)}f}"


def _ordered(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The model first."""
    return {name: metrics[name] for name in sorted(metrics, key=[*TITLES, *metrics].index)}


def _cells(metrics: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of text: what, unit, one number per column."""
    out = []
    for what, key, factor, unit in ROWS:
        values = [m.get(key) for m in metrics.values()]
        digits = 5 if key == "occupied_similarity" else 3
        out.append([what, unit, *("-" if v is None else _number(v * factor, digits) for v in values)])
    return out


def _footnote(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{TITLES.get(name, name)}: the overlap of {m['n_without_solution']} of {m['n_molecules']} molecules is not "
        "positive definite; they have no orbitals and are left out of the energies"
        for name, m in metrics.items()
        if m.get("n_without_solution")
    ]


def print_table(metrics: Mapping[str, Mapping[str, Any]], title: str = "", console: Console | None = None) -> None:
    """Mean absolute errors, one column per entry.

    Args:
        metrics: ``{"model": ..., "two_centre": ..., "mean_block": ...}``, any of them, dicts of ``evaluate_model``.
        title: above the table; the number of molecules if left out.
    """
    console = console or Console()
    metrics = _ordered(metrics)
    n = next(iter(metrics.values()))["n_molecules"]
    table = Table()
    table.add_column("")
    table.add_column("unit")
    for name in metrics:
        table.add_column(TITLES.get(name, name), justify="right", style="bold" if name == "model" else None)
    sections = {"S", "gap", "gap, large basis"}
    for row in _cells(metrics):
        table.add_row(*row, end_section=row[0] in sections)
    title = title or f"mean absolute errors, {n:,} molecules"
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for line in _footnote(metrics):
        console.print(line, style="dim", highlight=False)
    seconds = next(iter(metrics.values())).get("seconds_per_molecule")
    if seconds:
        parts = ", ".join(f"{stage} {1e3 * s:.2f}" for stage, s in seconds.items())
        console.print(f"ms per molecule, {TITLES.get(next(iter(metrics)), 'model')}: {parts}", highlight=False)


def json_text(content: Any) -> str:
    """As JSON; NaN and infinity become null, so that every reader can read it."""

    def clean(x):
        if isinstance(x, Mapping):
            return {str(k): clean(v) for k, v in x.items()}
        if isinstance(x, (list, tuple)):
            return [clean(v) for v in x]
        if isinstance(x, (float, np.floating)):
            return float(x) if math.isfinite(x) else None
        return x

    return json.dumps(clean(content), indent=2)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``json_text`` in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json_text(content) + "\n")


# ---- pictures: draw_* on given axes or subfigure, plot_* to a file -------------------------------------------------


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure, path: str | Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_parity(figure, levels: OrbitalLevels) -> None:
    """Predicted against reference levels, eV: occupied valence, HOMO, LUMO, each with the distribution of errors."""
    axes, histograms = figure.subplots(2, 3, height_ratios=[4.5, 1])
    colours = ("tab:blue", "tab:green", "tab:red")
    names = (("occupied", "occupied valence levels"), ("homo", "HOMO"), ("lumo", "LUMO"))
    for axis, below, colour, (name, title) in zip(axes, histograms, colours, names, strict=True):
        predicted, reference = levels.pairs(name) * HARTREE
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("reference / eV")
        if name == "occupied":
            axis.set_ylabel("predicted / eV")
        if not len(reference):
            axis.text(0.5, 0.5, "no levels", ha="center", transform=axis.transAxes)
            below.set_axis_off()
            continue
        error = predicted - reference
        if len(predicted) > 50_000:  # a page of vector graphics must stay small
            keep = np.random.default_rng(0).choice(len(predicted), 50_000, replace=False)
            predicted, reference = predicted[keep], reference[keep]
        # a few wild levels must not shrink all others to a spot
        low, high = np.quantile(predicted, (0.005, 0.995))
        low, high = min(low, reference.min()), max(high, reference.max())
        margin = 0.04 * (high - low) + 0.05
        limits = low - margin, high + margin
        axis.plot(limits, limits, color="0.6", linewidth=0.8, zorder=0)
        size = float(np.clip(3000 / len(predicted), 2, 16))
        axis.scatter(reference, predicted, s=size, alpha=0.5, color=colour, linewidths=0, rasterized=True)
        axis.set_xlim(limits)
        axis.set_ylim(limits)
        axis.set_box_aspect(1)
        text = f"MAE {_number(MILLI * np.abs(error).mean())} meV\nlargest {_number(MILLI * np.abs(error).max())} meV"
        outside = int(((predicted < limits[0]) | (predicted > limits[1])).sum())
        if outside:
            text += f"\n{outside} outside the frame"
        axis.text(0.04, 0.96, text, va="top", fontsize=8, transform=axis.transAxes)
        spread = max(MILLI * float(np.quantile(np.abs(error), 0.98)), 1e-6)
        below.hist(MILLI * error, bins=41, range=(-spread, spread), color=colour, alpha=0.8)
        below.axvline(0, color="0.6", linewidth=0.8)
        below.set_xlim(-spread, spread)
        below.set_yticks([])
        below.locator_params(axis="x", nbins=5)
        below.set_xlabel("predicted - reference / meV")


def plot_parity(levels: OrbitalLevels, png: str | Path) -> None:
    """``draw_parity`` to a file."""
    figure = _figure(11, 5.6)
    draw_parity(figure, levels)
    _save(figure, png)


def read_log(paths: str | Path | Sequence[str | Path]) -> dict[str, np.ndarray]:
    """Column -> [2, n] (step, value), from one or more ``metrics.csv`` of Lightning's CSVLogger.

    A resumed run has one file per part; where parts overlap, the later one counts.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    columns: dict[str, dict[int, float]] = {}
    for path in map(Path, paths):
        if not path.is_file():
            continue
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if name not in ("step", "epoch", None) and text not in ("", None):
                        columns.setdefault(name, {})[int(row["step"])] = float(text)
    return {name: np.array(sorted(points.items()), dtype=float).T for name, points in columns.items()}


#: validation column -> (label, factor)
_CURVES = {
    "val/hamiltonian_mae_eh": ("H / mEh", MILLI),
    "val/overlap_mae": ("S / 1e-3", MILLI),
    "val/occupied_energy_mae_eh": ("occupied / meV", MILLI * HARTREE),
    "val/homo_mae_eh": ("HOMO / meV", MILLI * HARTREE),
    "val/lumo_mae_eh": ("LUMO / meV", MILLI * HARTREE),
}


def _running_median(values: np.ndarray, width: int) -> np.ndarray:
    half = width // 2
    return np.array([np.median(values[max(0, k - half) : k + half + 1]) for k in range(len(values))])


def _log_axes(axis, label: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("training step")
    axis.set_ylabel(label)
    axis.grid(True, which="major", color="0.88", linewidth=0.6)
    for side, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        if high / low < 300:  # a decade or two need more than the powers of ten
            side.set_major_locator(LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}"))
        side.set_minor_formatter(NullFormatter())


def draw_learning_curve(figure, log: Mapping[str, np.ndarray]) -> None:
    """Losses, and errors on the validation molecules, against the step, both axes logarithmic."""
    left, right = figure.subplots(1, 2)

    def points(name):
        step, value = log[name]
        good = np.isfinite(value) & (value > 0)
        return step[good] + 1, value[good]

    train = next((n for n in ("train/loss", "train/loss_step", "train/loss_epoch") if n in log), None)
    if train:
        step, value = points(train)
        left.plot(step, value, color="tab:blue", alpha=0.25, linewidth=0.7)
        if len(value) > 10:
            value = _running_median(value, max(5, len(value) // 40))
        left.plot(step, value, color="tab:blue", linewidth=1.5, label="training")
    if "val/loss" in log:
        left.plot(*points("val/loss"), color="tab:orange", marker=".", linewidth=1.5, label="validation")
    for name, (label, factor) in _CURVES.items():
        if name in log:
            step, value = points(name)
            if len(value):
                text = f"{label}: {_number(value[-1] * factor)}"
                right.plot(step, value * factor, marker=".", linewidth=1.3, label=text)
    places = (dict(loc="best"), dict(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3))
    for axis, label, place in ((left, "loss", places[0]), (right, "mean absolute error, validation", places[1])):
        _log_axes(axis, label)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False, **place)
        else:
            axis.text(0.5, 0.5, "nothing logged", ha="center", transform=axis.transAxes)


def plot_learning_curve(csv_path: str | Path | Sequence[str | Path], png_path: str | Path) -> None:
    """``draw_learning_curve`` of a run's ``metrics.csv`` (several of a resumed run) to a file."""
    figure = _figure(10, 4)
    draw_learning_curve(figure, read_log(csv_path))
    _save(figure, png_path)


def draw_matrix(figure, example: MatrixExample) -> None:
    """Predicted H, reference H (logarithmic colours, sign kept) and their difference in mEh; lines part the atoms."""
    from matplotlib.colors import SymLogNorm

    axes = figure.subplots(1, 3)
    z = np.asarray(example.atomic_numbers)
    edges = np.concatenate(([0], np.cumsum(example.basis.n_orbitals(z))))
    counts: dict[int, int] = {}
    labels = []
    for q in z.tolist():
        counts[q] = counts.get(q, 0) + 1
        labels.append(f"{chemical_symbols[q]}{counts[q]}")
    largest = float(np.abs(example.reference).max())
    colours = SymLogNorm(linthresh=0.01, vmin=-largest, vmax=largest, base=10)
    difference = MILLI * (example.prediction - example.reference)
    spread = max(float(np.quantile(np.abs(difference), 0.995)), 1e-9)
    panels = (
        ("predicted H", example.prediction, dict(norm=colours, cmap="RdBu_r")),
        ("reference H", example.reference, dict(norm=colours, cmap="RdBu_r")),
        ("predicted - reference", difference, dict(vmin=-spread, vmax=spread, cmap="PuOr_r")),
    )
    m, n = edges[-1], len(z)
    for k, (axis, (title, matrix, style)) in enumerate(zip(axes, panels, strict=True)):
        image = axis.imshow(matrix, interpolation="nearest", **style)
        for edge in edges[1:-1] - 0.5:
            axis.axhline(edge, color="0.5", linewidth=0.3, alpha=0.6)
            axis.axvline(edge, color="0.5", linewidth=0.3, alpha=0.6)
        axis.set_title(title, fontsize=10)
        # a label needs about a fortieth of the side; leave out atoms that are too close to the last one
        kept, last = [], -np.inf
        for a in range(n):
            centre = 0.5 * (edges[a] + edges[a + 1]) - 0.5
            if centre - last >= m / 26:
                kept.append((centre, labels[a]))
                last = centre
        centres, texts = zip(*kept, strict=True)
        axis.set_xticks(centres, texts, rotation=90, fontsize=6)
        axis.set_yticks(centres, texts if k == 0 else [""] * len(texts), fontsize=6)
        axis.tick_params(length=2, pad=1)
        bar = figure.colorbar(image, ax=axis, shrink=0.8, pad=0.02, extend="both" if k == 2 else "neither")
        bar.ax.tick_params(labelsize=6)
        bar.set_label("mEh" if k == 2 else "Eh", fontsize=7)
        if k < 2:
            bar.set_ticks([s * 10.0**p for p in range(-2, 3) for s in (-1, 1) if 10.0**p <= largest] + [0])
            bar.ax.yaxis.set_major_formatter(lambda x, _: f"{x:g}")
            bar.ax.minorticks_off()
    mean = _number(float(np.abs(difference).mean()))
    figure.suptitle(f"Hamiltonian of {example.name}, mean absolute error {mean} mEh", fontsize=10)


def plot_matrix(example: MatrixExample, png: str | Path) -> None:
    """``draw_matrix`` to a file."""
    figure = _figure(12, 4.2)
    draw_matrix(figure, example)
    _save(figure, png)


def _draw_table(figure, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    axis = figure.subplots()
    axis.axis("off")
    metrics = _ordered(metrics)
    cells = _cells(metrics)
    head = ["mean absolute error", "unit", *(TITLES.get(name, name) for name in metrics)]
    widths = [0.34, 0.08, *[0.58 / len(metrics)] * len(metrics)]
    table = axis.table(cells, colLabels=head, colWidths=widths, loc="center", cellLoc="right", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.scale(1, 1.12)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("0.85")
        if column < 2:
            cell.set_text_props(ha="left")
        if row == 0 or (column == 2 and head[2] == "model"):
            cell.set_text_props(weight="bold")
    for k, line in enumerate(_footnote(metrics)):
        axis.text(0.0, -0.02 - 0.06 * k, line, fontsize=6, color="0.4", transform=axis.transAxes, va="top")


def one_page(
    path: str | Path,
    metrics: Mapping[str, Mapping[str, Any]],
    levels: OrbitalLevels,
    csv_path: str | Path | Sequence[str | Path],
    example: MatrixExample,
    title: str,
) -> None:
    """Everything of a run on one page: ``path`` ends in .png or .pdf."""
    figure = _figure(10, 16)
    figure.suptitle(title, fontsize=13, weight="bold")
    table, curve, parity, matrix = figure.subfigures(4, 1, height_ratios=[3.9, 3.3, 4.4, 3.4], hspace=0.03)
    _draw_table(table, metrics)
    draw_learning_curve(curve, read_log(csv_path))
    draw_parity(parity, levels)
    draw_matrix(matrix, example)
    _save(figure, path)


def write_pictures(
    folder: str | Path,
    model: BlockModel,
    data: Any,
    metrics: Mapping[str, Mapping[str, Any]],
    levels: OrbitalLevels | None = None,
) -> None:
    """All pictures of a finished run: ``learning_curve.png``, ``parity.png``, ``hamiltonian.png``, ``report.png``.

    Args:
        folder: of the run; holds ``metrics.csv``.
        model: on its device.
        data: a ``MatrixDataModule``: its ``store`` and ``split``. Pictures show the test molecules, or the validation
            molecules where there are none.
        metrics: ``{"model": ..., ...}``, for the table.
        levels: of the model on those molecules; computed if left out.
    """
    folder, store = Path(folder), data.store
    shown = data.split["test"] if len(data.split["test"]) else data.split["val"]
    if levels is None or not levels.parts:
        levels = OrbitalLevels()
        evaluate_model(model, store, shown, levels=levels)
    middle = int(shown[np.argsort(store.n_orbitals[shown], kind="stable")[len(shown) // 2]])
    record = store[middle]
    hamiltonian, _ = matrices_of(model, record)
    example = MatrixExample(record.name, record.atomic_numbers, model.basis, hamiltonian, record.hamiltonian)
    log = folder / "metrics.csv"
    plot_learning_curve(log, folder / "learning_curve.png")
    plot_parity(levels, folder / "parity.png")
    plot_matrix(example, folder / "hamiltonian.png")
    counts = ", ".join(f"{len(data.split[name]):,} {name}" for name in ("train", "val", "test"))
    one_page(folder / "report.png", metrics, levels, log, example, f"{store.path.name}: {counts} molecules")
