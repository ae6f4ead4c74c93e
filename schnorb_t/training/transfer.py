"""Begin a training from another model: all of it, all but what labels give in closed form, or its chemistry alone.

From a model of the same basis and level of theory everything is taken (fine-tuning, more epochs with a fresh schedule,
more molecules; a prior may be added). From one of the same basis and another level of theory (GFN2-xTB in the same
valence-only basis, say) everything but the two-centre functions and the scales, which the new labels give in closed
form: the network then starts as the correction to the new two-centre functions that it was to the old ones. From one of
another basis the parts that do not speak of orbitals are taken: embedding, interactions, electrostatics, pairs, chains.
Where one of the two knows elements that the other does not, what belongs to these keeps the start that it has.
``nn.base.Transfer`` says of every network which parts these are.
"""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import torch
from ase.data import chemical_symbols
from torch import Tensor

from schnorb_t.data.header import Header, theory
from schnorb_t.errors import UserError
from schnorb_t.nn.model import MatrixModel
from schnorb_t.training.checkpoint import ModelCard, load_single

#: Those whose last columns are scalars of the prior: so many of the atom itself, then per kind one per element.
_PRIOR_SCALARS = re.compile(r"prior\.(mean|width)|prior_scalars\.weight")


class Taken(IntEnum):
    """What a training took from another model."""

    TRUNK = 0
    ALL_BUT_CLOSED_FORM = 1
    EVERYTHING = 2

    def __str__(self) -> str:
        return {
            Taken.TRUNK: "what does not depend on the basis (its own is another)",
            Taken.ALL_BUT_CLOSED_FORM: "all but two-centre functions and scales (it learned another level of theory)",
            Taken.EVERYTHING: "everything",
        }[self]


def start_from(model: MatrixModel, path: str | Path, labels: Header | None = None) -> Taken:
    """Copy weights of a trained model into ``model``, in place.

    Args:
        model: to be trained; its closed-form start, if wanted, has been made.
        path: checkpoint of a model with the same network. Elements may differ: those that it does not know keep the
            weights that they have.
        labels: what is to be learned; left out: what the other model learned.

    Returns:
        what was taken; false where the basis differs.

    Raises:
        UserError: no checkpoint, an ensemble, another network, no element in common.
    """
    other, card = load_single(path)
    mine, theirs = model.state_dict(), other.state_dict()
    here, there = model.basis.elements, other.basis.elements
    common = [z for z in here if z in there]
    if not common:
        symbols = ", ".join(chemical_symbols[z] for z in there)
        raise UserError(f"{path}: knows {symbols} only, none of the elements to be learned")
    parts = model.transfer
    taken = Taken.TRUNK
    if _same_functions(model, other, common):
        taken = Taken.EVERYTHING if _same_labels(card, labels) else Taken.ALL_BUT_CLOSED_FORM

    def wanted(part: str) -> bool:
        if taken is Taken.TRUNK:
            return part in parts.trunk and not (part in parts.ions and not other.knows_charge)
        if other.prior is None and part in parts.prior:  # what a prior adds begins anew
            return False
        if not other.knows_charge and part in parts.ions:
            return False
        return taken is Taken.EVERYTHING or part not in (*parts.closed_form, *parts.doubt)

    names = [name for name in mine if wanted(name.split(".")[0])]
    to, of = (torch.tensor([elements.index(z) for z in common]) for elements in (here, there))
    pairs_to, pairs_of = ((t[:, None] * len(e) + t).flatten() for t, e in ((to, here), (of, there)))

    def scalars(name: str, old: Tensor, new: Tensor) -> Tensor | None:
        """Columns of the prior's scalars; what those of an element unknown so far say is not listened to at first."""
        if old.shape[1] != model.prior.n_scalars or new.shape[1] != other.prior.n_scalars:
            return None
        kinds = 1 + len(model.prior.ranges)
        fixed, kind = model.prior.n_scalars - kinds * len(here), torch.arange(kinds)[:, None]
        into, out_of = (
            torch.cat((torch.arange(fixed), (fixed + kind * len(e) + t).flatten()))
            for t, e in ((to, here), (of, there))
        )
        if name == "prior_scalars.weight":
            out = torch.zeros_like(old)
            out[:, into] = new[:, out_of].to(out)
        else:
            out = old.clone()
            out[to[:, None], into] = new[of[:, None], out_of].to(out)
        return out

    def merged(name: str, old: Tensor, new: Tensor) -> Tensor | None:
        if _PRIOR_SCALARS.fullmatch(name):
            return scalars(name, old, new)
        rows = None
        if parts.per_element.fullmatch(name):
            rows = to, of
        elif parts.per_pair.fullmatch(name):
            rows = pairs_to, pairs_of
        if rows is None:
            return new if new.shape == old.shape else None
        if new.shape[1:] != old.shape[1:]:
            return None
        out = old.clone()
        out[rows[0]] = new[rows[1]].to(out)
        return out

    copied = {name: merged(name, mine[name], theirs[name]) if name in theirs else None for name in names}
    copied = {k: v for k, v in copied.items() if v is not None or k.split(".")[0] not in parts.doubt}
    wrong = [name for name, value in copied.items() if value is None]
    if wrong:
        raise UserError(
            f"{path}: of another network ({', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''} differ); "
            "give both trainings the same model.network and cutoff"
        )
    model.load_state_dict({**mine, **copied})
    return taken


def _same_functions(model: MatrixModel, other: MatrixModel, common: list[int]) -> bool:
    """Whether H and S of both stand in the same functions of common elements, in blocks of the same form."""
    return (
        model.basis.restricted(common) == other.basis.restricted(common)
        and model.basis.layout == other.basis.layout
        and model.orthogonal == other.orthogonal
    )


def _same_labels(card: ModelCard, labels: Header | None) -> bool:
    """Whether a model learned the same quantity, of the same level of theory, as is to be learned."""
    return labels is None or (card.target == labels.target and theory(card.level) == theory(labels.level))
