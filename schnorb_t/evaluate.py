"""``python -m schnorb_t.evaluate MODEL DATA``: errors of a model on labelled molecules it was not trained on."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from schnorb_t.basis import Basis
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError, run_command
from schnorb_t.predict import positive
from schnorb_t.training.checkpoint import ModelCard


def check_basis(model: Basis, store: Store, name: str) -> None:
    """Refuse data whose matrices stand in another basis than the model's.

    Raises:
        UserError: names what differs.
    """
    from ase.data import chemical_symbols

    unknown = [chemical_symbols[z] for z in store.elements if z not in model.shells]
    if unknown:
        raise UserError(
            f"{store.path}: holds {', '.join(unknown)}, and the model {name} knows only {model.symbols()}; "
            "evaluate it on other data, or train one on these elements"
        )
    mine, theirs = model.restricted(store.elements), store.basis.restricted(store.elements)
    if mine != theirs:
        same = " (their Gaussian functions differ)" if str(mine) == str(theirs) else ""
        raise UserError(
            f"{store.path}: its matrices stand in the basis {theirs}, those of the model {name} in {mine}{same}; "
            "label or project the molecules again for this model's basis"
        )


def check_seen(card: ModelCard, store: Store, indices: np.ndarray, split: str) -> str:
    """A warning if the model has seen some of these molecules in training, else ``""``.

    Raises:
        UserError: some molecules of the test split were seen.
    """
    if split == "train":
        return "these molecules were trained on: the errors say nothing about others"
    seen = np.isin(store.groups[indices], np.array(card.training_groups, dtype=str))
    if not seen.any():
        return ""
    example = store.names[indices][seen][0]
    what = (
        f"{seen.sum():,} of {len(indices):,} molecules (such as {example}) were in the model's training or validation"
    )
    if split == "test":
        raise UserError(
            f"{store.path}: {what}, so this is no test; evaluate on other molecules, or with --split train or all"
        )
    return f"{what}: their errors are too small"


def level_difference(card: ModelCard, store: Store) -> str:
    """What differs between the level of theory the model learned and that of the labels, ``""`` if nothing."""
    keys = sorted({*card.level, *store.level} - {"structures"})
    parts = [
        f"{k}: model {card.level.get(k, 'none')}, data {store.level.get(k, 'none')}"
        for k in keys
        if card.level.get(k) != store.level.get(k)
    ]
    return "; ".join(parts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m schnorb_t.evaluate",
        description="Mean absolute errors of H, S and orbital energies on labelled molecules.",
    )
    parser.add_argument("model", help="checkpoint of schnorb_t.fit, or the name of a model that comes with the package")
    parser.add_argument("data", help="HDF5 file of labelled molecules; 'sample': the set that comes with the package")
    parser.add_argument("--split", choices=("test", "val", "train", "all"), default="test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--batch-size", type=positive, help="molecules at once (default: by their size)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    arguments = parser.parse_args(argv)

    from schnorb_t.predictor import load, progress_bar
    from schnorb_t.training.evaluation import evaluate_model
    from schnorb_t.training.report import print_table, write_json

    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise UserError(f"{arguments.json.parent}: no such folder; make it first")
    predictor = load(arguments.model, arguments.device)
    path = arguments.data
    if path == "sample":
        from schnorb_t.data.datamodule import SAMPLE

        path = SAMPLE
    store = Store(path)
    card, split = predictor.card, arguments.split
    indices = store.indices(split)
    if not len(indices):
        counts = ", ".join(f"{s or 'none'} {len(store.indices(s))}" for s in ("train", "val", "test", ""))
        raise UserError(
            f"{store.path}: no molecule in split {split!r} (there are: {counts}); "
            "name another with --split, or set splits with python -m schnorb_t.data.splits"
        )
    check_basis(card.basis, store, arguments.model)
    warnings = [check_seen(card, store, indices, split)]
    difference = level_difference(card, store)
    if difference:
        warnings.append(f"the labels differ in their level of theory from those the model learned: {difference}")
    with progress_bar(len(indices), "evaluating") as advance:
        done = 0

        def progress(n: int) -> None:
            nonlocal done
            advance(n - done)
            done = n

        metrics = evaluate_model(predictor.model, store, indices, batch_size=arguments.batch_size, progress=progress)
    console = Console()
    title = f"{arguments.model} on {store.path}, {split}: mean absolute errors, {metrics['n_molecules']:,} molecules"
    print_table({"model": metrics}, title, console)
    for warning in filter(None, warnings):
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if arguments.json is not None:
        about = {
            "model": str(arguments.model),
            "data": str(store.path),
            "split": split,
            "device": str(predictor.device),
        }
        write_json(arguments.json, metrics | {"about": about})
        console.print(f"numbers: {arguments.json}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
