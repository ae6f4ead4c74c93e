"""What training on properties achieved: their errors on unseen molecules, from the two-centre start and at the end."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from schnorb_t import keys
from schnorb_t.data.batch import records_to_batch, to_device
from schnorb_t.data.batch_sizes import batches_by_size
from schnorb_t.data.store import Store
from schnorb_t.nn.base import MatrixNetwork
from schnorb_t.physics.occupations import Smearing
from schnorb_t.training.losses import PROJECTED_DOS, SMEARING, Output, Quantities
from schnorb_t.training.report import write_json

#: Of quantities that ``keys`` does not declare, and are no energies.
UNITS = {"lowdin_charges": "e", "entropy": "k_B", "bond_orders": ""}


def unit(name: str) -> str:
    """Of a property's error: as declared in ``keys``; energies that are not are in Eh."""
    return keys.KEYS[name].unit if name in keys.KEYS else UNITS.get(name, "Eh")


@torch.no_grad()
def property_errors(
    model: MatrixNetwork, store: Store, indices: Sequence[int], outputs: Sequence[Output], smearing: Smearing = SMEARING
) -> dict[str, float]:
    """Mean absolute error of each property (distance of projected densities of states), in its unit.

    Args:
        model: on its device.
        store: the labels.
        indices: molecules of the store.
        outputs: the properties.
        smearing: how levels are filled, predicted and reference alike.
    """
    device = next(iter(model.parameters())).device
    total, count = defaultdict(float), defaultdict(int)
    training = model.training
    model.eval()
    for places in batches_by_size(store.n_atoms[indices], None, device.type):
        chosen = [int(indices[p]) for p in places]
        batch = to_device(records_to_batch([store[i] for i in chosen], model.basis, model.cutoff, chosen), device)
        out, more = model(batch), {"basis": model.basis, "smearing": smearing}
        reference = Quantities(batch, batch[keys.HAMILTONIAN], batch[keys.OVERLAP], **more)
        prediction = Quantities(batch, out[keys.HAMILTONIAN], out[keys.OVERLAP], reference, **more)
        for output in outputs:
            value, n = output.error(prediction, reference)
            total[output.name] += float(value * n)
            count[output.name] += int(n)
    model.train(training)
    return {output.name: total[output.name] / count[output.name] for output in outputs}


def two_centre_start(model: MatrixNetwork, data: Any) -> MatrixNetwork:
    """The model as it stands before its network has learned anything: two-centre fits to the training matrices alone.

    Args:
        model: trained, on its device.
        data: a ``MatrixDataModule``.
    """
    device = next(iter(model.parameters())).device
    start = copy.deepcopy(model)
    start.fit_reference(lambda: (to_device(batch, device) for batch in data.training_batches()))
    start.drop_learned()
    return start


def compare_with_start(
    model: MatrixNetwork, data: Any, outputs: Sequence[Output], smearing: Smearing = SMEARING
) -> dict[str, Any]:
    """Errors on the test molecules (validation molecules where there are none), start and end.

    Returns:
        ``n_molecules``, and by property ``{"unit", "two_centre_start", "model", "factor"}``.
    """
    split = "test" if len(data.split["test"]) else "val"
    rows = data.split[split]
    start = property_errors(two_centre_start(model, data), data.store, rows, outputs, smearing)
    end = property_errors(model, data.store, rows, outputs, smearing)
    table = {
        name: {
            "unit": unit(name),
            "two_centre_start": start[name],
            "model": end[name],
            "factor": start[name] / end[name] if end[name] else None,
        }
        for name in end
    }
    return {"split": split, "n_molecules": len(rows), "properties": table}


def write_comparison(
    folder: str | Path, model: MatrixNetwork, data: Any, outputs: Sequence[Output], smearing: Smearing = SMEARING
) -> dict[str, Any]:
    """``compare_with_start``, written to ``property_metrics.json``."""
    result = compare_with_start(model, data, outputs, smearing)
    write_json(Path(folder) / "property_metrics.json", result)
    return result


def print_comparison(result: Mapping[str, Any], console: Console | None = None) -> None:
    """What ``write_comparison`` returned, as a table."""
    table = Table("property", "unit", "two-centre start", "model", "lower by", title_justify="left", title_style="bold")
    table.title = f"mean absolute errors of properties, {result['n_molecules']:,} {result['split']} molecules"
    for name, row in result["properties"].items():
        label = "projected DOS, distance" if name == PROJECTED_DOS else name.replace("_", " ")
        factor = "" if row["factor"] is None else f"{row['factor']:.1f} x"
        table.add_row(label, row["unit"], f"{row['two_centre_start']:.5f}", f"{row['model']:.5f}", factor)
    (console or Console()).print(table)
