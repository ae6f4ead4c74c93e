"""Doubt beside errors, as a table and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from schnorb_t.files import atomic_write
from schnorb_t.training.doubt_metrics import LARGE_ERROR, DoubtErrors

#: Nominal shares of the reliability curve.
SHARES = np.linspace(0.05, 0.95, 19)
_NORMAL = {1: "0.683", 2: "0.954"}


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def print_doubt(metrics: Mapping[str, Any], console: Any = None) -> None:
    """``DoubtErrors.metrics`` as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("doubt", title="how far to trust the standard deviations of levels", title_justify="left")
    for heading in ("HOMO, LUMO", "all occupied, LUMO", "ideal"):
        table.add_column(heading, justify="right")
    for times in (1, 2):
        key = f"coverage_{times}_sigma"
        numbers = _number(metrics[f"frontier_{key}"]), _number(metrics[key])
        table.add_row(f"share of errors within {times} sigma", *numbers, _NORMAL[times], end_section=times == 2)
    attainable = _number(metrics["attainable_spearman"])
    table.add_row("rank correlation of doubt and gap error", _number(metrics["spearman_gap_error"]), "", attainable)
    n = metrics["large_gap_errors"]
    text = f"AUROC of gap errors above {LARGE_ERROR} eV ({n:,} of {metrics['n_molecules']:,})"
    table.add_row(text, _number(metrics["auroc_gap_error"]), "", "1")
    (console or Console()).print(table)


def reliability(error: np.ndarray, deviation: np.ndarray, shares: np.ndarray = SHARES) -> np.ndarray:
    """Share of errors within the central interval of a normal distribution that should hold each share; [k]."""
    scaled = np.abs(error) / np.maximum(deviation, np.finfo(float).tiny)
    return np.array([(scaled <= norm.ppf(0.5 + 0.5 * share)).mean() for share in shares])


def draw_doubt(figure: Any, doubts: DoubtErrors) -> None:
    """Gap error against doubt (logarithmic), and the reliability curve, on an empty figure."""
    left, right = figure.subplots(1, 2)
    doubt, gap_error = doubts.values("doubt"), doubts.values("gap_error")
    if len(doubt):
        least = 1e-4  # eV; nothing smaller matters, and 0 has no logarithm
        x, y = np.maximum(doubt, least), np.maximum(gap_error, least)
        left.loglog(x, y, ".", markersize=4, alpha=0.6, color="tab:blue")
        ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
        # of a gap whose HOMO and LUMO are equally uncertain and err independently
        for times, style in ((1, "-"), (2, "--")):
            left.plot(ends, times * math.sqrt(2) * ends, style, color="0.5", linewidth=1, label=f"{times} sigma")
        left.axhline(LARGE_ERROR, color="tab:red", linewidth=0.8, linestyle=":", label=f"{LARGE_ERROR} eV")
        left.legend(frameon=False, fontsize=8)
    left.set_xlabel("doubt / eV")
    left.set_ylabel("error of the gap / eV")
    error, deviation, near = (doubts.values(k) for k in ("error", "deviation", "is_frontier"))
    right.plot([0, 1], [0, 1], color="0.5", linewidth=1)
    for label, which in (("HOMO, LUMO", near), ("all occupied, LUMO", np.ones_like(near))):
        if which.any():
            right.plot(SHARES, reliability(error[which], deviation[which]), marker=".", label=label)
    if len(error):
        right.legend(frameon=False, fontsize=8)
    right.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    right.set_xlabel("share of errors expected within the interval")
    right.set_ylabel("share found")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)


def plot_doubt(doubts: DoubtErrors, png: str | Path) -> None:
    """``draw_doubt`` to a file, whole or not at all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    draw_doubt(figure, doubts)
    with atomic_write(png) as temporary:
        figure.savefig(temporary, dpi=150)
