"""What a model sees in molecules and how much it doubts them: the two things a choice of molecules is made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.data.batch import structures_to_batch, to_device
from schnorb_t.data.batch_sizes import batches_by_size
from schnorb_t.errors import UserError
from schnorb_t.nn.ensemble import EnsembleModel
from schnorb_t.physics.eigen import orbitals_checked
from schnorb_t.predictor import Predictor
from schnorb_t.structures import Structure, describe
from schnorb_t.units import HARTREE


@dataclass(frozen=True)
class View:
    """What a model says of n molecules.

    Attributes:
        features: [n, elements x channels] float32 (``pooled``), or None where they were not wanted.
        doubt: [n], eV, as ``Prediction.doubt``, or None.
    """

    features: np.ndarray | None
    doubt: np.ndarray | None


def pooled(scalars: Tensor, element: Tensor, molecule: Tensor, n_molecules: int, n_elements: int) -> Tensor:
    """Scalars of atoms -> features of molecules, element by element.

    Of the n_e atoms of an element in a molecule of n: sqrt(n_e / n) times their mean, so that the squared distance of
    two molecules weighs each element by its share, and size alone is no distance.

    Args:
        scalars: [N, C] of atoms.
        element: [N], row of each atom's element.
        molecule: [N], of each atom.
        n_molecules, n_elements: how many.

    Returns:
        [n_molecules, n_elements * C].
    """
    sums = scalars.new_zeros(n_molecules * n_elements, scalars.shape[1])
    place = molecule * n_elements + element
    sums.index_add_(0, place, scalars)
    count = torch.bincount(place, minlength=len(sums)).reshape(n_molecules, n_elements).to(scalars)
    weight = (count.clamp(min=1) * count.sum(1, keepdim=True)).rsqrt()
    return (sums.reshape(n_molecules, n_elements, -1) * weight[..., None]).flatten(1)


@torch.no_grad()
def look(
    predictor: Predictor,
    structures: Sequence[Structure],
    *,
    features: bool = True,
    doubt: bool = True,
    batch_size: int | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> View:
    """Pass molecules through a model, batch after batch; nothing but features and doubt is kept.

    Args:
        predictor: the model; of an ensemble the first member gives the features.
        structures: sound ones, of elements that it knows.
        features, doubt: what is wanted; without doubt no level is computed.
        batch_size: molecules at once; by default by their size.
        progress: called with the number of molecules of each finished batch.

    Raises:
        UserError: doubt is wanted of a model that knows none; a molecule without levels.
    """
    if doubt and not predictor.knows_doubt:
        raise UserError("this model knows no doubt; give it one with schnorb_t calibrate, or choose by another method")
    model, device = predictor.model, predictor.device
    first = model.members[0] if isinstance(model, EnsembleModel) else model
    n_elements = len(first.basis.elements)
    seen: np.ndarray | None = None
    doubts = np.zeros(len(structures))
    for places in batches_by_size([len(s) for s in structures], batch_size, device.type) if structures else []:
        chosen = [structures[p] for p in places]
        batch = structures_to_batch(
            [s.numbers for s in chosen],
            [s.positions for s in chosen],
            first.basis,
            model.cutoff,
            [s.charge for s in chosen],
        )
        batch = to_device(batch, device)
        known = first.features(batch) if features or not isinstance(model, EnsembleModel) else None
        if features:
            g, x, _, _ = known
            rows = pooled(x["0e"].flatten(1), g.element, batch[keys.MOLECULE], len(places), n_elements).cpu().numpy()
            if seen is None:
                seen = np.zeros((len(structures), rows.shape[1]), dtype=np.float32)
            seen[places] = rows
        if doubt:
            if isinstance(model, EnsembleModel):
                out = model(batch)
            else:
                out = model.matrices(model.blocks_from(known, batch), batch)
            mask = batch[keys.ORBITAL_MASK]
            names = [describe(p, s) for p, s in zip(places, chosen, strict=True)]
            levels = orbitals_checked(out, mask, names)
            spread = model.standard_deviations(out, *levels, mask).cpu().numpy()
            for p, s, row in zip(places, chosen, spread, strict=True):
                homo = first.basis.n_electrons(s.numbers, s.charge) // 2 - 1
                orbitals = int(first.basis.n_orbitals(s.numbers).sum())
                doubts[p] = HARTREE * row[max(homo, 0) : min(homo + 2, orbitals)].max()
        progress(len(places))
    if features and seen is None:
        seen = np.zeros((0, 0), dtype=np.float32)
    return View(seen, doubts if doubt else None)
