"""Losses as named outputs: each names a quantity, a loss, a weight and a schedule. A new one is a config entry.

Quantities are computed once per batch, on demand, from the matrices alone; the same function gives the prediction
and, with the reference matrices, the target. A quantity is a tensor and the mask of what in it is real.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.physics.eigen import solve

Masked = tuple[Tensor, Tensor]


class Quantities:
    """What can be computed from H and S of a batch; cached, so that several losses share one diagonalisation.

    Args:
        batch: inputs and labels (``data.batch``).
        hamiltonian, overlap: [B, M, M], predicted or reference.
        reference: the quantities of the reference matrices, for those that are expressed in its orbitals.
    """

    def __init__(
        self, batch: dict[str, Tensor], hamiltonian: Tensor, overlap: Tensor, reference: Quantities | None = None
    ):
        self.batch, self.h, self.s, self.reference = batch, hamiltonian, overlap, reference
        self._cache: dict[str, object] = {}

    def __getitem__(self, name: str) -> Masked:
        if name not in QUANTITIES:
            raise KeyError(f"no quantity {name!r}; known: {', '.join(sorted(QUANTITIES))}")
        if name not in self._cache:
            self._cache[name] = QUANTITIES[name](self)
        return self._cache[name]

    @property
    def matrix_mask(self) -> Tensor:
        mask = self.batch[keys.ORBITAL_MASK]
        return mask[:, :, None] & mask[:, None]

    def orbitals(self) -> tuple[Tensor, Tensor]:
        """Energies [B, M] and coefficients [B, M, M], float64."""
        if "orbitals" not in self._cache:
            self._cache["orbitals"] = solve(self.h, self.s, self.batch[keys.ORBITAL_MASK])
        return self._cache["orbitals"]

    def levels(self, below: int | None, above: int) -> Tensor:
        """[B, M] bool: the ``below`` highest occupied levels (all if ``None``) and ``above`` virtual ones."""
        n = self.batch[keys.N_OCCUPIED][:, None]
        k = torch.arange(self.h.shape[-1], device=self.h.device)
        mask = (k < n + above) & (k < self.batch[keys.ORBITAL_MASK].sum(1, keepdim=True))
        return mask if below is None else mask & (k >= n - below)


def _hamiltonian(q: Quantities) -> Masked:
    return q.h, q.matrix_mask


def _overlap(q: Quantities) -> Masked:
    return q.s, q.matrix_mask


def _orbital_energies(q: Quantities) -> Masked:
    """All occupied levels and the LUMO, Eh."""
    return q.orbitals()[0], q.levels(None, 1)


def _frontier_energies(q: Quantities) -> Masked:
    """HOMO and LUMO, Eh."""
    return q.orbitals()[0], q.levels(1, 1)


def _gap(q: Quantities) -> Masked:
    energies, n = q.orbitals()[0], q.batch[keys.N_OCCUPIED][:, None]
    gap = energies.gather(1, n) - energies.gather(1, n - 1)
    return gap, torch.ones_like(gap, dtype=torch.bool)


def _hamiltonian_in_orbitals(q: Quantities) -> Masked:
    """c_i^T (H - (e_i + e_j) S / 2) c_j in the reference's orbitals, Eh; 0 for the reference itself.

    The diagonal is the first-order error of orbital energy i, off-diagonal elements mix orbitals. Occupied levels
    and as many virtual ones as a minimal basis has below 1 Eh.
    """
    reference = q.reference or q
    with torch.no_grad():
        e, c = reference.orbitals()
        wanted = reference.levels(None, 1) | ((e < 1.0) & reference.levels(None, e.shape[-1]))
        c = torch.where(wanted[:, None], c, 0.0)
        e = torch.where(wanted, e, 0.0)
    mean = 0.5 * (e[:, :, None] + e[:, None])
    h, s = q.h.double(), q.s.double()
    return c.mT @ h @ c - mean * (c.mT @ s @ c), wanted[:, :, None] & wanted[:, None]


QUANTITIES: dict[str, Callable[[Quantities], Masked]] = {
    keys.HAMILTONIAN: _hamiltonian,
    keys.OVERLAP: _overlap,
    keys.ORBITAL_ENERGIES: _orbital_energies,
    "frontier_energies": _frontier_energies,
    "gap": _gap,
    "hamiltonian_in_orbitals": _hamiltonian_in_orbitals,
}

#: name -> function of the masked differences; all give the mean over what is real
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": torch.abs,
    "l2": torch.square,
    # quadratic within 1e-4 of the target, so that the last digits are not noise
    "huber": lambda d: torch.where(d.abs() < 1e-4, d.square() / 2e-4, d.abs() - 5e-5),
}


@dataclass
class Output:
    """One named loss.

    Attributes:
        name: the quantity, one of ``QUANTITIES`` (``hamiltonian``, ``overlap``, ``orbital_energies``, ...).
        loss: ``l1``, ``l2`` or ``huber``.
        weight: factor, per Eh (or per unit of the quantity; squared for ``l2``).
        start: first epoch in which it counts.
        ramp: epochs over which its weight grows linearly from 0.
    """

    name: str
    loss: str = "l1"
    weight: float = 1.0
    start: int = 0
    ramp: int = 0

    def __post_init__(self):
        if self.name not in QUANTITIES:
            raise ValueError(f"no quantity {self.name!r} to train on; known: {', '.join(sorted(QUANTITIES))}")
        if self.loss not in LOSSES:
            raise ValueError(f"no loss {self.loss!r}; known: {', '.join(sorted(LOSSES))}")

    def weight_at(self, epoch: int) -> float:
        if epoch < self.start:
            return 0.0
        return self.weight * min(1.0, (epoch - self.start + 1) / (self.ramp + 1))

    def __call__(self, prediction: Quantities, target: Quantities) -> Tensor:
        """Mean loss over real elements, float64 scalar."""
        value, _ = prediction[self.name]
        wanted, mask = target[self.name]
        d = torch.where(mask, value - wanted, 0.0)
        return LOSSES[self.loss](d).sum() / mask.sum()
