"""Numbers that decide what a network computes, beside its arguments and weights.

They stand where they are used and explained. A model keeps those that it was built with, and its checkpoint names them,
so that editing one changes new models and no published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schnorb_t.nn import limit, overlap
from schnorb_t.nn.electrostatics import Response
from schnorb_t.nn.interaction import Interaction
from schnorb_t.nn.prior import Prior
from schnorb_t.nn.two_centre import TwoCentre

#: name in checkpoints -> where it stands
_PLACES: dict[str, tuple[Any, str]] = {
    "limit_atoms": (limit, "ATOMS"),
    "limit_pairs": (limit, "PAIRS"),
    "neighbours": (Interaction, "NEIGHBOURS"),
    "response_potential": (Response, "POTENTIAL"),
    "response_field": (Response, "FIELD"),
    "two_centre_decay": (TwoCentre, "DECAY"),
    "shrink": (overlap, "SHRINK"),
    "shrink_orthogonal": (overlap, "SHRINK_ORTHOGONAL"),
    "prior_widths": (Prior, "WIDTHS"),
    "prior_ranges": (Prior, "RANGES"),
    "prior_limit": (Prior, "LIMIT"),
}


def complete(given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All constants: those given, and today's for the others; tuples as lists, as checkpoints hold them.

    Raises:
        ValueError: an unknown name.
    """
    given = given or {}
    if unknown := sorted(given.keys() - _PLACES.keys()):
        raise ValueError(f"no constant of networks is called {', '.join(unknown)}")
    out = {name: given.get(name, getattr(*place)) for name, place in _PLACES.items()}
    return {name: list(x) if isinstance(x, tuple) else x for name, x in out.items()}
