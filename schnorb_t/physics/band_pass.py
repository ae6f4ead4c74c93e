"""The band-pass projected density-of-states loss: levels near the Fermi level, compared by transport distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.physics.density_of_states import (
    Broadening,
    frontier_window,
    group_by,
    projected_density_of_states,
    projected_dos_loss,
    projected_levels,
)
from schnorb_t.physics.orbitals import angular_momentum, atom_and_slot, first_atoms, shell_of_slot
from schnorb_t.physics.state import ElectronicState

GROUPINGS = ("total", "angular momentum", "shell", "element", "element and angular momentum", "atom")


def groups_of(batch: dict[str, Tensor], basis: Basis, by: str) -> Tensor:
    """Groups of orbitals [B, G, M] float64; together they hold every orbital once.

    Args:
        batch: ``keys.ATOMIC_NUMBERS``, ``MOLECULE``, ``ORBITAL_INDEX``, ``ORBITAL_MASK``.
        by: one of ``GROUPINGS``. G follows from the basis (its elements, l, or slot shells), except for ``"atom"``:
            there group a holds the a-th atom of each molecule.

    Raises:
        ValueError: ``by`` is none of ``GROUPINGS``.
    """
    atom, slot = atom_and_slot(batch[keys.ORBITAL_INDEX], batch[keys.MOLECULE], batch[keys.ORBITAL_MASK])
    z = batch[keys.ATOMIC_NUMBERS][atom.clamp_min(0)]
    l, width = angular_momentum(slot, basis), basis.l_max + 1
    labels: Sequence[int]
    if by == "total":
        label, labels = torch.zeros_like(z), [0]
    elif by == "angular momentum":
        label, labels = l, range(width)
    elif by == "shell":
        label, labels = shell_of_slot(slot, basis), range(len(basis.layout))
    elif by == "element":
        label, labels = z, basis.elements
    elif by == "element and angular momentum":
        label, labels = z * width + l, [e * width + k for e in basis.elements for k in range(width)]
    elif by == "atom":
        first, counts = first_atoms(batch[keys.MOLECULE], len(atom))
        label, labels = atom - first.unsqueeze(-1), range(int(counts.max()))
    else:
        raise ValueError(f"cannot group orbitals by {by!r}; known: {', '.join(GROUPINGS)}")
    return group_by(torch.where(atom >= 0, label, -1), torch.tensor(list(labels), device=z.device))


@dataclass(frozen=True)
class BandPassLoss:
    """Distance of predicted and reference projected densities of states near the Fermi level, Eh per molecule.

    Attributes:
        n_below, n_above: how many occupied and virtual levels count.
        by: how orbitals are grouped, one of ``GROUPINGS``.
        width: Eh, standard deviation of a level.
        n_grid: points of the energy grid, which spans both spectra's windows and at least 6 widths on either side.
        transfer_cost: Eh, price of mass in a wrong group (``density_of_states.projected_dos_loss``).
    """

    n_below: int = 4
    n_above: int = 1
    by: str = "element and angular momentum"
    width: float = 0.01
    n_grid: int = 256
    transfer_cost: float = 0.1

    def __post_init__(self):
        if self.by not in GROUPINGS:
            raise ValueError(f"cannot group orbitals by {self.by!r}; known: {', '.join(GROUPINGS)}")
        if self.n_below < 0 or self.n_above < 0 or self.n_below + self.n_above == 0:
            raise ValueError(f"no level counts with n_below={self.n_below}, n_above={self.n_above}")

    def window(self, state: ElectronicState, n_occupied: Tensor) -> Tensor:
        """Weights of levels [B, M]."""
        return frontier_window(state.energies, n_occupied, state.orbital_mask, self.n_below, self.n_above)

    def grid(self, *spectra: tuple[Tensor, Tensor]) -> Tensor:
        """[B, E], Eh, around all levels (energies [B, L], weights [B, L]) that count.

        Its ends are multiples of 0.25 Eh: a grid that followed the levels would have to be differentiated too.
        """
        reach = 6 * self.width
        low = [torch.where(w != 0, e.detach(), torch.inf).amin(-1) for e, w in spectra]
        high = [torch.where(w != 0, e.detach(), -torch.inf).amax(-1) for e, w in spectra]
        bottom, top = torch.stack(low).amin(0) - reach, torch.stack(high).amax(0) + reach
        bottom, top = (4 * bottom).floor() / 4, (4 * top).ceil() / 4
        t = torch.linspace(0, 1, self.n_grid, dtype=bottom.dtype, device=bottom.device)
        return bottom.unsqueeze(-1) + t * (top - bottom).unsqueeze(-1)

    def __call__(
        self,
        batch: dict[str, Tensor],
        prediction: ElectronicState,
        reference: ElectronicState,
        basis: Basis,
        counted: Tensor | None = None,
    ) -> Tensor:
        """Against reference matrices of the same orbitals, [B], Eh.

        Args:
            batch: ``keys.ATOMIC_NUMBERS``, ``MOLECULE``, ``ORBITAL_INDEX``, ``ORBITAL_MASK``, ``N_OCCUPIED``.
            prediction, reference: states of predicted and reference H and S.
            counted: [B, M] bool, orbitals that count; all if left out.
        """
        groups, window = self._groups(batch, basis, counted), self.window(reference, batch[keys.N_OCCUPIED])
        predicted_window = self.window(prediction, batch[keys.N_OCCUPIED])
        grid = self.grid((prediction.energies, predicted_window), (reference.energies, window))
        shape = Broadening("gaussian", self.width)
        wanted = projected_density_of_states(reference, groups, grid, shape, window, cumulative=True)
        predicted = projected_density_of_states(prediction, groups, grid, shape, predicted_window, cumulative=True)
        return projected_dos_loss(predicted, wanted.detach(), grid, self.transfer_cost)

    def against_levels(
        self,
        batch: dict[str, Tensor],
        prediction: ElectronicState,
        energies: Tensor,
        weights: Tensor,
        basis: Basis,
        counted: Tensor | None = None,
    ) -> Tensor:
        """Against levels of another calculation (a larger basis), [B], Eh.

        Args:
            energies: [B, L], Eh, finite.
            weights: [B, G, L], share of each group in each level; 0 for levels outside the window.
        """
        predicted_window = self.window(prediction, batch[keys.N_OCCUPIED])
        grid = self.grid((prediction.energies, predicted_window), (energies, weights.abs().sum(1)))
        shape = Broadening("gaussian", self.width)
        wanted = projected_levels(energies, weights, grid, shape, cumulative=True)
        groups = self._groups(batch, basis, counted)
        predicted = projected_density_of_states(prediction, groups, grid, shape, predicted_window, cumulative=True)
        return projected_dos_loss(predicted, wanted, grid, self.transfer_cost)

    def _groups(self, batch: dict[str, Tensor], basis: Basis, counted: Tensor | None) -> Tensor:
        groups = groups_of(batch, basis, self.by)
        return groups if counted is None else groups * counted.unsqueeze(1)
