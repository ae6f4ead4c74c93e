"""What a training of energies and forces leaves: errors on the test molecules beside a baseline, and one picture."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from schnorb_t import keys
from schnorb_t.data.batch import to_device
from schnorb_t.files import atomic_write
from schnorb_t.nn.base import EnergyNetwork
from schnorb_t.training.checkpoint import load_network
from schnorb_t.training.report import read_log, write_json
from schnorb_t.units import BOHR, KCAL_PER_MOL

#: (what, key, unit) of a table's rows.
ROWS = (
    ("energy", "energy_mae_kcal", "kcal/mol"),
    ("energy per atom", "energy_per_atom_mae_kcal", "kcal/mol"),
    ("forces", "forces_mae_kcal_per_angstrom", "kcal/mol/Å"),
    ("forces, rms", "forces_rmse_kcal_per_angstrom", "kcal/mol/Å"),
    ("net force", "net_force_kcal_per_angstrom", "kcal/mol/Å"),
)
_CURVES = {"val/energy_mae_kcal": "energy, kcal/mol", "val/forces_mae_kcal_per_angstrom": "forces, kcal/mol/Å"}


class EnergyErrors:
    """Collects predicted and labelled energies and forces, and says how far they are apart.

    Attributes:
        energies, forces: pairs [n, 2] (predicted, labelled), kcal/mol and kcal/mol/Å.
    """

    def __init__(self) -> None:
        self._energies: list[np.ndarray] = []
        self._forces: list[np.ndarray] = []
        self._atoms: list[np.ndarray] = []
        self._net: list[np.ndarray] = []
        self.n_molecules, self.seconds = 0, 0.0

    def add(self, out: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """One batch of predictions with its labels."""
        unit = KCAL_PER_MOL / BOHR
        n = len(batch[keys.N_ATOMS])
        self.n_molecules += n
        if keys.present(keys.TOTAL_ENERGY) in batch:
            there = batch[keys.present(keys.TOTAL_ENERGY)]
            pair = torch.stack((out[keys.TOTAL_ENERGY][there], batch[keys.TOTAL_ENERGY][there]), 1)
            self._energies.append(KCAL_PER_MOL * pair.double().cpu().numpy())
            self._atoms.append(batch[keys.N_ATOMS][there].cpu().numpy())
        if keys.present(keys.FORCES) in batch:
            there = batch[keys.present(keys.FORCES)][batch[keys.MOLECULE]]
            pair = torch.stack((out[keys.FORCES][there].flatten(), batch[keys.FORCES][there].flatten()), 1)
            self._forces.append(unit * pair.double().cpu().numpy())
        net = torch.zeros(n, 3, dtype=torch.float64, device=out[keys.FORCES].device)
        net.index_add_(0, batch[keys.MOLECULE], out[keys.FORCES].double())
        self._net.append(unit * net.norm(dim=1).cpu().numpy())

    @property
    def energies(self) -> np.ndarray:
        """[n, 2], kcal/mol."""
        return np.concatenate(self._energies) if self._energies else np.zeros((0, 2))

    @property
    def forces(self) -> np.ndarray:
        """[n, 2], one row per component, kcal/mol/Å."""
        return np.concatenate(self._forces) if self._forces else np.zeros((0, 2))

    def result(self) -> dict[str, Any]:
        """Mean absolute errors by the keys of ``ROWS``, and ``seconds_per_molecule``."""
        out: dict[str, Any] = {"n_molecules": self.n_molecules}
        if len(e := self.energies):
            error = np.abs(e[:, 0] - e[:, 1])
            out["energy_mae_kcal"] = float(error.mean())
            out["energy_per_atom_mae_kcal"] = float((error / np.concatenate(self._atoms)).mean())
        if len(f := self.forces):
            error = f[:, 0] - f[:, 1]
            out["forces_mae_kcal_per_angstrom"] = float(np.abs(error).mean())
            out["forces_rmse_kcal_per_angstrom"] = float(np.sqrt(np.square(error).mean()))
        out["net_force_kcal_per_angstrom"] = float(np.concatenate(self._net).mean())
        out["seconds_per_molecule"] = self.seconds / max(1, self.n_molecules)
        return out


def energy_errors(
    model: EnergyNetwork, batches: Iterable[dict[str, Tensor]], device: torch.device | str = "cpu"
) -> EnergyErrors:
    """Errors of a model on labelled batches."""
    errors = EnergyErrors()
    for batch in batches:
        batch = to_device(batch, device)
        start = time.perf_counter()
        with torch.no_grad():
            out = model(batch)
        errors.seconds += time.perf_counter() - start
        errors.add(out, batch)
    return errors


def reference_errors(model: Any, batches: Iterable[dict[str, Tensor]], device: torch.device | str) -> EnergyErrors:
    """Errors of the energies of the elements alone, without forces: what a model has to beat."""
    errors = EnergyErrors()
    for batch in batches:
        batch = to_device(batch, device)
        energy = model.mean_energy.repeat(len(batch[keys.N_ATOMS]))
        energy.index_add_(0, batch[keys.MOLECULE], model.element_energy[model.lookup[batch[keys.ATOMIC_NUMBERS]]])
        out = {keys.TOTAL_ENERGY: energy, keys.FORCES: torch.zeros_like(batch[keys.POSITIONS])}
        errors.add(out, batch)
    return errors


def print_energy_table(results: dict[str, dict[str, Any]], title: str, console: Console | None = None) -> None:
    """Mean absolute errors, one column per entry of ``results``."""
    console = console or Console()
    table = Table()
    for name in ("", "unit", *results):
        table.add_column(name, justify="right" if name in results else "left")
    for what, key, unit in ROWS:
        values = [r.get(key) for r in results.values()]
        if any(v is not None for v in values):
            table.add_row(what, unit, *("-" if v is None else f"{v:.4g}" for v in values))
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def finish_energies(folder: Path, best: str | Path, data: Any, device: torch.device | str) -> dict[str, Any]:
    """Test the best checkpoint; write ``test_metrics.json`` and ``report.png`` into the run's folder.

    Args:
        folder: of the run.
        best: checkpoint to test.
        data: a ``MatrixDataModule``; without test molecules nothing is done.
        device: where.

    Returns:
        the content of ``test_metrics.json``: ``{"model": {...}, "elements": {...}}``.
    """
    if not len(data.split["test"]):
        return {}
    model, _ = load_network(best)
    model = model.to(device)
    assert isinstance(model, EnergyNetwork)
    errors = energy_errors(model, data.test_dataloader(), device)
    result = {
        "model": errors.result(),
        "elements": reference_errors(model, data.test_dataloader(), device).result(),
    }
    write_json(folder / "test_metrics.json", result)
    write_energy_picture(folder / "report.png", errors, folder / "metrics.csv")
    return result


def write_energy_picture(path: Path, errors: EnergyErrors, metrics: Path | None = None) -> None:
    """Predicted against labelled energies and forces, and the learning curve, on one page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    pairs = (("energy less its mean", "kcal/mol", errors.energies), ("forces", "kcal/mol/Å", errors.forces))
    for axis, (what, unit, pair) in zip(axes, pairs, strict=False):
        axis.set(xlabel=f"labelled {what}, {unit}", ylabel=f"predicted {what}, {unit}")
        if len(pair):
            shifted = pair - pair[:, 1].mean() if unit == "kcal/mol" else pair
            axis.hexbin(shifted[:, 1], shifted[:, 0], gridsize=60, bins="log", cmap="Blues", mincnt=1)
            ends = [shifted.min(), shifted.max()]
            axis.plot(ends, ends, "k", linewidth=0.5)
            axis.set_title(f"mean absolute error {np.abs(pair[:, 0] - pair[:, 1]).mean():.3g} {unit}")
    log = read_log(metrics) if metrics is not None and metrics.is_file() else {}
    for name, label in _CURVES.items():
        if name in log:
            axes[2].plot(*log[name], marker=".", label=label)
    axes[2].set(xlabel="step", ylabel="mean absolute error, validation", yscale="log")
    if axes[2].get_legend_handles_labels()[0]:
        axes[2].legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
