"""Whether labelled molecules can judge a model: the same basis, not seen in training, the same level of theory."""

from __future__ import annotations

import numpy as np

from schnorb_t.basis import Basis
from schnorb_t.data.header import theory
from schnorb_t.data.store import Store
from schnorb_t.errors import UserError
from schnorb_t.structures import charges_text
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


def check_charges(known: tuple[int, ...], store: Store, indices: np.ndarray, name: str) -> None:
    """Refuse ions of charges that a model was not trained on.

    Args:
        known: total charges, e, that it can treat.
        store: the data.
        indices: the molecules to judge it by.
        name: of the model.

    Raises:
        UserError: names the first of them.
    """
    charges = store.total_charges[indices]
    wrong = ~np.isin(charges, known)
    if wrong.any():
        example = f"{store.name_of(indices[wrong][0])!r} with charge {charges[wrong][0]:+d}"
        knows = "neutral molecules" if set(known) <= {0} else f"charges {charges_text(known)}"
        raise UserError(
            f"{store.path}: {wrong.sum():,} of {len(indices):,} molecules, such as {example}, are ions, and the model "
            f"{name} knows {knows} only; evaluate it on other data, or train one on such ions"
        )


def level_difference(card: ModelCard, store: Store) -> str:
    """What differs between the level of theory the model learned and that of the labels, ``""`` if nothing."""
    mine, theirs = theory(card.level), theory(store.level)
    parts = [
        f"{k}: model {mine.get(k, 'none')}, data {theirs.get(k, 'none')}"
        for k in sorted({*mine, *theirs})
        if mine.get(k) != theirs.get(k)
    ]
    return "; ".join(parts)
