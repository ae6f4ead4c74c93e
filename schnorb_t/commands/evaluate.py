"""``schnorb_t evaluate MODEL DATA``: errors of a model on labelled molecules it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import PositiveInt

from schnorb_t.errors import UserError


def evaluate(
    model: str,
    data: str,
    *,
    split: Literal["test", "val", "train", "all"] = "test",
    batch_size: PositiveInt | None = None,
    device: str | None = None,
    plot: Path | None = None,
) -> dict[str, Any]:
    """Mean absolute errors of H, S and orbital energies on labelled molecules.

    Of a model that knows doubt also how far its standard deviations of levels can be trusted.

    Args:
        model: checkpoint of ``schnorb_t fit``, or the name of a model that comes with the package
        data: HDF5 file of labelled molecules; 'sample': the set that comes with the package
        split: which molecules of the file
        batch_size: molecules at once (default: by their size)
        device: cpu, cuda, cuda:1, ... (default: cuda where there is one)
        plot: PNG of a model that knows doubt: error of the gap against doubt, and the reliability curve

    Returns:
        the metrics of ``schnorb_t.training.evaluation.evaluate_model`` (with ``doubt`` of a model that knows it), and
        ``about``: model, data, split, device and warnings.

    Raises:
        UserError: the file's basis is not the model's, no molecule in the split, molecules seen in training, or a
            picture of doubt from a model that has none.
    """
    from schnorb_t.data.store import Store
    from schnorb_t.files import check_output
    from schnorb_t.predictor import load
    from schnorb_t.progress import progress_bar
    from schnorb_t.training.doubt_metrics import DoubtErrors
    from schnorb_t.training.doubt_report import plot_doubt
    from schnorb_t.training.evaluation import evaluate_model
    from schnorb_t.training.suitability import check_basis, check_charges, check_seen, level_difference

    predictor = load(model, device)
    doubts = DoubtErrors() if predictor.knows_doubt else None
    if plot is not None:
        if doubts is None:
            raise UserError(f"{model}: knows no doubt, which is what --plot draws; schnorb_t calibrate adds it")
        check_output(plot, [Path(data)], force=True)
    if data == "sample":
        from schnorb_t.data.datamodule import SAMPLE

        data = str(SAMPLE)
    store = Store(data)
    card = predictor.card
    indices = store.indices(split)
    if not len(indices):
        counts = ", ".join(f"{s or 'none'} {len(store.indices(s))}" for s in ("train", "val", "test", ""))
        raise UserError(
            f"{store.path}: no molecule in split {split!r} (there are: {counts}); "
            "name another with --split, or set splits with schnorb_t splits"
        )
    check_basis(card.basis, store, model)
    store.require_matrices(indices)
    check_charges(predictor.charges, store, indices, model)
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

        metrics = evaluate_model(
            predictor.model, store, indices.tolist(), batch_size=batch_size, doubts=doubts, progress=progress
        )
    if plot is not None and doubts is not None:
        plot_doubt(doubts, plot)
    about = {
        "model": str(model),
        "data": str(store.path),
        "split": split,
        "device": str(predictor.device),
        "warnings": list(filter(None, warnings)),
        **({"picture": str(plot)} if plot is not None else {}),
    }
    return {**metrics, "about": about}


def show(result: dict[str, Any]) -> None:
    """Print what ``evaluate`` returned as a table, with its warnings."""
    from rich.console import Console

    from schnorb_t.training.report import print_table

    console, about = Console(), result["about"]
    title = f"{about['model']} on {about['data']}, {about['split']}: mean absolute errors, "
    metrics = {key: value for key, value in result.items() if key not in ("about", "doubt")}
    print_table({"model": metrics}, title + f"{result['n_molecules']:,} molecules", console)
    if "doubt" in result:
        from schnorb_t.training.doubt_report import print_doubt

        print_doubt(result["doubt"], console)
    if "picture" in about:
        console.print(f"picture: {about['picture']}", markup=False, highlight=False, soft_wrap=True)
    for warning in about["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
