"""``schnorb_t fit-dftb --config configs/dftb.yaml``: train Slater-Koster tables, leave files for DFTB programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def fit_dftb(
    *,
    config: str,
    skf: Path | None = None,
    data: Path | None = None,
    folder: Path | None = None,
    epochs: int | None = None,
    max_train: int | None = None,
) -> dict[str, Any]:
    """Train the tables of a Slater-Koster set on labels: H0, S, U, on-site energies, repulsions; write files of them.

        schnorb_t fit-dftb --config dftb --skf 3ob-3-1 --data labels.h5

    Everything stands in one folder: tables.pt, the best epoch; skf/, the trained set, for this package, DFTB+ and
    others; metrics.csv; result.json. Killed at any moment, the same command goes on after the last epoch.

    Args:
        config: YAML, see configs/dftb.yaml, or the name of a configuration that ships
        skf: in place of the configuration's, folder of the published set
        data: in place of the configuration's, store with labels
        folder: in place of the configuration's
        epochs: in place of the configuration's
        max_train: in place of the configuration's, training molecules

    Returns:
        ``folder``, ``tables``, ``skf`` (folder of the trained set), ``epochs``, ``split``, ``before`` and ``after``
        (mean absolute errors by target), ``units``.

    Raises:
        UserError: a configuration, set or store that cannot be used.
    """
    from rich.console import Console

    from schnorb_t.files import write_text
    from schnorb_t.interfaces.trained_tables import trained_set
    from schnorb_t.training.table_configuration import read_table_settings
    from schnorb_t.training.tables import TableTraining

    changes = {"skf": skf and str(skf), "data": data and str(data), "folder": folder and str(folder)}
    settings = read_table_settings(config, {**changes, "epochs": epochs, "max_train": max_train})
    console = Console(stderr=True)
    training = TableTraining(settings, lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))
    result = training.run()
    output = Path(result["folder"]) / "skf"
    output.mkdir(exist_ok=True)
    note = f"{Path(settings.skf).resolve().name}, trained further by schnorb_t on {Path(settings.data).name}"
    for name, text in trained_set(training.model, note).items():
        write_text(output / name, text)
    return {**result, "skf": str(output)}


def show(result: dict[str, Any]) -> None:
    """Print errors before and after, and where the files are."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"mean absolute errors, split {result['split']}")
    table.add_column("target")
    for column in ("published", "trained", "unit"):
        table.add_column(column, justify="right")
    for name, unit in result["units"].items():
        table.add_row(name, f"{result['before'][name]:.3f}", f"{result['after'][name]:.3f}", unit)
    Console().print(table)
    print(f"{result['skf']}: the trained set; {result['tables']}: what it was made of")
