"""The one place where networks are built: by name, with the electronic structure that some of them take as input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schnorb_t.basis import Basis
from schnorb_t.nn.base import Network, network
from schnorb_t.physics.state import thermal_density_matrix

#: What a training builds, and what checkpoints hold that do not say.
DEFAULT = "matrix"


def build_network(name: str, basis: Basis, arguments: Mapping[str, Any]) -> Network:
    """A network with random weights.

    Args:
        name: of the architecture.
        basis: of what it predicts.
        arguments: besides the basis, as checkpoints hold them.

    Raises:
        ValueError: unknown name, arguments that cannot be.
    """
    return network(name).build(basis, arguments, thermal_density_matrix)
