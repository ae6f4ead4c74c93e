"""Which module trains which architecture."""

from __future__ import annotations

from schnorb_t.nn.base import EnergyNetwork, network
from schnorb_t.training.energy_module import EnergyModule
from schnorb_t.training.module import MatrixModule


def module_of(architecture: str) -> type[MatrixModule] | type[EnergyModule]:
    """The module that trains networks of this name.

    Raises:
        ValueError: unknown; lists those there are.
    """
    return EnergyModule if issubclass(network(architecture), EnergyNetwork) else MatrixModule
