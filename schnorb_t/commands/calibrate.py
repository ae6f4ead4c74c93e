"""``schnorb_t calibrate MODEL labels.h5 -o NEW.ckpt``: a trained model learns how sure its levels are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from schnorb_t.errors import UserError


def calibrate_model(
    model: str,
    data: Path,
    *,
    output: Path,
    members: PositiveInt = 16,
    batch_size: PositiveInt | None = None,
    device: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Give a trained model a calibrated standard deviation of each level; its predictions stay as they are.

        schnorb_t calibrate best.ckpt labels.h5 -o sure.ckpt

    Draws of the last layer come from the molecules it was trained on (split train of the file), factor and floor from
    those of split val, which should be as varied as what the model will be used for. A model that has them already gets
    them anew.

    Args:
        model: checkpoint of ``schnorb_t fit``, or the name of a model that comes with the package
        data: HDF5 file of labelled molecules with splits train and val
        output: checkpoint to write
        members: draws of the last layer, 2 or more
        batch_size: molecules at once (default: by their size)
        device: cpu, cuda, cuda:1, ... (default: cuda where there is one)
        force: overwrite the output

    Returns:
        ``output``, ``members``, ``ridge``, ``factor``, ``floor_eh``, ``floor_ev``, ``negative_log_likelihood``, counts
        ``training`` and ``validation``, and on the validation molecules ``coverage_1_sigma``, ``coverage_2_sigma``,
        ``frontier_coverage_1_sigma``, ``frontier_coverage_2_sigma``.

    Raises:
        UserError: an ensemble, labels in another basis, a split without molecules.
    """
    import torch

    from schnorb_t.data.batch import records_to_batch, to_device
    from schnorb_t.data.batch_sizes import batches_by_size
    from schnorb_t.data.store import Store
    from schnorb_t.files import check_output
    from schnorb_t.nn.model import MatrixModel
    from schnorb_t.predictor import choose_device
    from schnorb_t.training.calibration import calibrate, level_errors
    from schnorb_t.training.checkpoint import KEY, find_model, load_single, read_checkpoint, write_checkpoint
    from schnorb_t.training.doubt_metrics import coverage
    from schnorb_t.training.networks import build_network
    from schnorb_t.training.suitability import check_basis

    if members < 2:
        raise UserError(f"--members {members}: a spread needs two or more")
    path = find_model(model)
    output = check_output(output, [path, Path(data)], force)
    plain, card = load_single(path)
    where = choose_device(device)
    with Store(data) as store:
        check_basis(card.basis, store, model)
        rows = {split: store.indices(split) for split in ("train", "val")}
        for split, indices in rows.items():
            if not len(indices):
                raise UserError(f"{store.path}: no molecule in split {split!r}; set splits with schnorb_t splits")
        if "doubt_members" not in plain.defaults():
            raise UserError(f"{path}: a network of the kind {card.network!r} has no draws of its last layer")
        arguments = {**card.arguments, "doubt_members": int(members)}
        new = build_network(card.network, card.basis, arguments)
        assert isinstance(new, MatrixModel)  # none else has that argument so far
        kept = {k: v for k, v in plain.state_dict().items() if not k.startswith("doubt.")}
        missing, unexpected = new.load_state_dict(kept, strict=False)
        if unexpected or any(not k.startswith("doubt.") for k in missing):
            raise UserError(f"{path}: its weights do not fit the model described beside them")
        new = new.to(where).eval()

        def batches(split: str) -> Callable[[], Iterable[dict[str, torch.Tensor]]]:
            indices = rows[split]

            def read():
                for places in batches_by_size(store.n_atoms[indices], batch_size, where.type):
                    chosen = [int(indices[p]) for p in places]
                    yield to_device(records_to_batch([store[i] for i in chosen], card.basis, new.cutoff, chosen), where)

            return read

        found = calibrate(new, batches("train"), batches("val"))
        levels = level_errors(new, batches("val")())
    error, near = levels.error.cpu().numpy(), levels.frontier.cpu().numpy()
    assert new.doubt is not None  # ``calibrate`` has filled it
    deviation = new.doubt.standard_deviation(levels.spread).cpu().numpy()
    shares = {
        f"{prefix}coverage_{times}_sigma": coverage(error[which], deviation[which], times)
        for prefix, which in (("frontier_", near), ("", slice(None)))
        for times in (1, 2)
    }
    card = dataclasses.replace(card, arguments=arguments)
    write_checkpoint(output, new.cpu(), card, read_checkpoint(path)[KEY].get("config", ""))
    return {
        "output": str(output),
        "members": int(members),
        "training": len(rows["train"]),
        "validation": len(rows["val"]),
        **found,
        "floor_ev": _in_ev(found["floor_eh"]),
        **shares,
    }


def _in_ev(energy: float) -> float:
    from schnorb_t.units import HARTREE

    return energy * HARTREE


def show(result: dict[str, Any]) -> None:
    """Print what ``calibrate_model`` returned."""
    print(
        f"{result['output']}: {result['members']} draws of the last layer from {result['training']:,} molecules, "
        f"calibrated on {result['validation']:,}"
    )
    print(f"ridge {result['ridge']:.0e}, factor {result['factor']:.3g}, floor {1e3 * result['floor_ev']:.2g} meV")
    for prefix, text in (("frontier_", "HOMO, LUMO"), ("", "all occupied levels and LUMO")):
        one, two = (result[f"{prefix}coverage_{k}_sigma"] for k in (1, 2))
        print(f"{text}: {100 * one:.0f} % within 1 sigma (ideal 68), {100 * two:.0f} % within 2 (ideal 95)")
