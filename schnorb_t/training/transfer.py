"""Begin a training from another model: all of it, or what it knows of chemistry.

From a model of the same basis everything is taken (fine-tuning, more epochs with a fresh schedule, more molecules; a
prior may be added), also where one of the two knows elements that the other does not: what belongs to these keeps the
start that it has. From one of another basis or level of theory, say GFN2-xTB's valence shells, the parts that do not
speak of orbitals are taken: embedding, interactions, electrostatics, pairs, chains. Two-centre functions, scales and
orbital blocks then start from the new labels.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from ase.data import chemical_symbols
from torch import Tensor

from schnorb_t.errors import UserError
from schnorb_t.nn.model import MatrixModel
from schnorb_t.training.checkpoint import load_single

#: Parts whose weights have nothing to do with the basis.
TRUNK = ("embedding", "interactions", "electrostatics", "response", "pair", "chains", "chain_residual")
#: Tables with one row per element or per pair of elements, by the names that they have in a network.
_PER_ELEMENT = re.compile(
    r"embedding\.table\.weight|(chains\.onsite|onsite_blocks)\.weights\.\d+"
    r"|(overlap_)?(two_centre|scale)\.onsite"
)
_PER_PAIR = re.compile(
    r"(?!prior\.).*filters\.pair\.weight|(overlap_)?two_centre\.coefficients|(overlap_)?scale\.(height|slope)"
)
#: Those whose last columns are scalars of the prior: so many of the atom itself, then per kind one per element.
_PRIOR_SCALARS = re.compile(r"prior\.(mean|width)|prior_scalars\.weight")
#: Parts that every model has for itself: deviations of the last layer follow from its own training molecules.
_OWN = ("doubt",)


def start_from(model: MatrixModel, path: str | Path) -> bool:
    """Copy weights of a trained model into ``model``, in place.

    Args:
        model: to be trained; its closed-form start, if wanted, has been made.
        path: checkpoint of a model with the same network. Elements may differ: those that it does not know keep the
            weights that they have.

    Returns:
        whether everything was taken (same basis) rather than the parts of ``TRUNK``.

    Raises:
        UserError: no checkpoint, an ensemble, another network, no element in common.
    """
    other, _ = load_single(path)
    mine, theirs = model.state_dict(), other.state_dict()
    here, there = model.basis.elements, other.basis.elements
    common = [z for z in here if z in there]
    if not common:
        symbols = ", ".join(chemical_symbols[z] for z in there)
        raise UserError(f"{path}: knows {symbols} only, none of the elements to be learned")
    names = [name for name in mine if name.split(".")[0] not in _OWN]
    everything = _same_functions(model, other, common)
    if not everything:
        names = [name for name in names if name.split(".")[0] in TRUNK]
    if other.prior is None:  # what a prior adds begins anew
        names = [name for name in names if not name.startswith("prior")]
    to, of = (torch.tensor([elements.index(z) for z in common]) for elements in (here, there))
    pairs_to, pairs_of = ((t[:, None] * len(e) + t).flatten() for t, e in ((to, here), (of, there)))

    def scalars(name: str, old: Tensor, new: Tensor) -> Tensor | None:
        """Columns of the prior's scalars; what those of an element unknown so far say is not listened to at first."""
        if old.shape[1] != model.prior.n_scalars or new.shape[1] != other.prior.n_scalars:
            return None
        kinds = 1 + len(model.prior.RANGES)
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
        rows = (to, of) if _PER_ELEMENT.fullmatch(name) else (pairs_to, pairs_of) if _PER_PAIR.fullmatch(name) else None
        if rows is None:
            return new if new.shape == old.shape else None
        if new.shape[1:] != old.shape[1:]:
            return None
        out = old.clone()
        out[rows[0]] = new[rows[1]].to(out)
        return out

    copied = {name: merged(name, mine[name], theirs[name]) if name in theirs else None for name in names}
    wrong = [name for name, value in copied.items() if value is None]
    if wrong:
        raise UserError(
            f"{path}: of another network ({', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''} differ); "
            "give both trainings the same model.network and cutoff"
        )
    model.load_state_dict({**mine, **copied})
    return everything


def _same_functions(model: MatrixModel, other: MatrixModel, common: list[int]) -> bool:
    """Whether H and S of both stand in the same functions of common elements, in blocks of the same form."""
    return (
        model.basis.restricted(common) == other.basis.restricted(common)
        and model.basis.layout == other.basis.layout
        and model.orthogonal == other.orthogonal
    )
