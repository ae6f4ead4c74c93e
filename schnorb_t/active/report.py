"""What a loop of active learning has reached: a table row per round, and errors against labels as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from schnorb_t.active.loop import row
from schnorb_t.active.state import Round, State
from schnorb_t.files import atomic_write

#: What is shown: title, name in the metrics, factor.
COLUMNS = (
    ("HOMO", "homo_mae_ev", 1e3),
    ("LUMO", "lumo_mae_ev", 1e3),
    ("gap", "gap_mae_ev", 1e3),
    ("occupied", "occupied_energy_mae_ev", 1e3),
    ("H / mEh", "hamiltonian_mae_eh", 1e3),
)


def table(rounds: Sequence[Round]) -> Table:
    """Rounds that are judged: labels and errors on the test molecules (validation where there are none)."""
    judged = [r for r in rounds if r.metrics]
    split = "test" if any("test" in r.metrics for r in judged) else "val"
    out = Table(title=f"mean absolute errors on split {split}, levels in meV")
    for title in ("round", "labels", *(c[0] for c in COLUMNS)):
        out.add_column(title, justify="right", no_wrap=True)
    for k, r in enumerate(judged, 1):
        values = np.array(row(r, split, [c[1] for c in COLUMNS])) * [c[2] for c in COLUMNS]
        texts = [
            "-" if np.isnan(v) else f"{v:.2f}" if "mEh" in c[0] else f"{v:.0f}"
            for v, c in zip(values, COLUMNS, strict=True)
        ]
        out.add_row(str(k), f"{r.labels:,}", *texts)
    return out


def print_row(state: State, console: Console) -> None:
    """The table of the last round alone."""
    last = state.rounds[-1]
    split = "test" if "test" in last.metrics else "val"
    values = row(last, split, [c[1] for c in COLUMNS])
    texts = [f"{c[0]} {c[2] * v:.3g}" for v, c in zip(values, COLUMNS, strict=True)]
    text = f"round {len(state.rounds)}, {last.labels:,} labels, {split}: {', '.join(texts)} (levels in meV)"
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def draw(state: State, path: Path) -> None:
    """PNG of errors of HOMO, LUMO and gap against labels, of all splits.

    Raises:
        UserError: the system refuses.
    """
    from matplotlib.figure import Figure

    judged = [r for r in state.rounds if r.metrics]
    splits = [x for x in ("test", "val") if any(x in r.metrics for r in judged)]
    figure = Figure(figsize=(5.0 * max(len(splits), 1), 4.0), layout="constrained")
    axes = figure.subplots(1, max(len(splits), 1), squeeze=False)[0]
    labels = [r.labels for r in judged]
    for axis, split in zip(axes, splits, strict=False):
        for (title, name, factor), colour in zip(COLUMNS[:3], ("tab:green", "tab:red", "tab:blue"), strict=True):
            axis.plot(
                labels,
                [factor * row(r, split, [name])[0] for r in judged],
                "o-",
                color=colour,
                label=title,
                markersize=4,
            )
        axis.set_xlabel("training labels")
        axis.set_ylabel("mean absolute error / meV")
        axis.set_title({"test": "test molecules", "val": "validation molecules"}[split], fontsize=11)
        axis.set_ylim(bottom=0.0)
        axis.grid(color="0.92", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
