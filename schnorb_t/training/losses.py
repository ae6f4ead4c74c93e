"""Losses as named outputs: each names a quantity, a loss, a weight and a schedule. A new one is a config entry.

Quantities are computed once per batch, on demand, from the matrices alone; the same function gives the prediction
and, with the reference matrices, the target. A quantity is a tensor and the mask of what in it is real: the matrices
themselves and their levels (``QUANTITIES``), everything in ``physics.properties.PROPERTIES``, and the projected
density of states near the Fermi level, which is a distance rather than a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.nn.overlap import from_orthogonal
from schnorb_t.physics.band_pass import BandPassLoss
from schnorb_t.physics.density_of_states import Broadening
from schnorb_t.physics.eigen import solve
from schnorb_t.physics.occupations import Smearing
from schnorb_t.physics.properties import PROPERTIES
from schnorb_t.physics.state import ElectronicState, electronic_state

Masked = tuple[Tensor, Tensor]

#: how levels are filled unless told: smooth gradients while levels still cross, filling of gapped molecules unchanged
SMEARING = Smearing("fermi-dirac", 0.005)


class Quantities:
    """What can be computed from H and S of a batch; cached, so that several losses share one diagonalisation.

    Args:
        batch: inputs and labels (``data.batch``).
        hamiltonian, overlap: [B, M, M], predicted or reference.
        orthogonal: ``hamiltonian`` stands in Löwdin's orthogonal functions (``MatrixModel.orthogonal``): levels and
            everything made of matrix elements alone do not feel S then.
        reference: the quantities of the reference matrices, for those that are expressed in its orbitals.
        basis: of the matrices; dipoles and projected densities of states need it.
        smearing: how levels are filled.
    """

    def __init__(
        self,
        batch: dict[str, Tensor],
        hamiltonian: Tensor,
        overlap: Tensor,
        reference: Quantities | None = None,
        basis: Basis | None = None,
        smearing: Smearing = SMEARING,
        orthogonal: bool = False,
    ):
        self.batch, self.learned, self.s, self.reference = batch, hamiltonian, overlap, reference
        self.orthogonal = orthogonal
        self.basis, self.smearing = basis, smearing
        self._cache: dict[str, object] = {}

    def __getitem__(self, name: str) -> Masked:
        if name not in self._cache:
            if name in QUANTITIES:
                self._cache[name] = QUANTITIES[name](self)
            elif name in PROPERTIES:
                self._cache[name] = PROPERTIES[name](self.batch, self.state(), self.basis)
            else:
                raise KeyError(f"no quantity {name!r}; known: {', '.join(sorted({*QUANTITIES, *PROPERTIES}))}")
        return self._cache[name]

    @property
    def matrix_mask(self) -> Tensor:
        """[B, M, M], True where both orbitals are no padding."""
        mask = self.batch[keys.ORBITAL_MASK]
        return mask[:, :, None] & mask[:, None]

    @property
    def h(self) -> Tensor:
        """H in the basis itself, [B, M, M]."""
        if not self.orthogonal:
            return self.learned
        if "h" not in self._cache:
            self._cache["h"] = from_orthogonal(self.learned, self.s, self.batch[keys.ORBITAL_MASK])
        return self._cache["h"]

    @property
    def metric(self) -> Tensor:
        """Overlap [B, M, M] of the functions that ``learned`` stands in."""
        return torch.diag_embed(self.batch[keys.ORBITAL_MASK].to(self.s)) if self.orthogonal else self.s

    def orbitals(self) -> tuple[Tensor, Tensor]:
        """Energies [B, M] and coefficients [B, M, M], float64, in the functions that ``learned`` stands in."""
        if "state" in self._cache and not self.orthogonal:
            return self.state().energies, self.state().coefficients
        if "orbitals" not in self._cache:
            self._cache["orbitals"] = solve(self.learned, self.metric, self.batch[keys.ORBITAL_MASK])
        return self._cache["orbitals"]

    def state(self) -> ElectronicState:
        """Orbitals and how they are filled."""
        if "state" not in self._cache:
            mask, n_electrons = self.batch[keys.ORBITAL_MASK], self.batch[keys.N_ELECTRONS]
            self._cache["state"] = electronic_state(self.h, self.s, mask, n_electrons, self.smearing)
        return self._cache["state"]

    def levels(self, below: int | None, above: int) -> Tensor:
        """[B, M] bool: the ``below`` highest occupied levels (all if ``None``) and ``above`` virtual ones."""
        n = self.batch[keys.N_OCCUPIED][:, None]
        k = torch.arange(self.learned.shape[-1], device=self.learned.device)
        mask = (k < n + above) & (k < self.batch[keys.ORBITAL_MASK].sum(1, keepdim=True))
        return mask if below is None else mask & (k >= n - below)


def _hamiltonian(q: Quantities) -> Masked:
    return q.learned, q.matrix_mask


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
    h, s = q.learned.double(), q.metric.double()
    return c.mT @ h @ c - mean * (c.mT @ s @ c), wanted[:, :, None] & wanted[:, None]


def _occupied_virtual_mixing(q: Quantities) -> Masked:
    """c_i^T (H - e_i S) c_a / (e_a - e_i) of the reference's occupied orbitals i and virtual orbitals a, all of them.

    The first-order change of the occupied orbitals, hence of the density matrix: what an SCF that starts from H has to
    repair. 0 for the reference itself.
    """
    reference = q.reference or q
    with torch.no_grad():
        e, c = reference.orbitals()
        occupied, real = reference.levels(None, 0), reference.levels(None, e.shape[-1])
        wanted = occupied[:, :, None] & (real & ~occupied)[:, None]
        gap = torch.where(wanted, e[:, None] - e[:, :, None], 1.0)
    h, s = q.learned.double(), q.metric.double()
    return (c.mT @ h @ c - e[:, :, None] * (c.mT @ s @ c)) / gap, wanted


QUANTITIES: dict[str, Callable[[Quantities], Masked]] = {
    keys.HAMILTONIAN: _hamiltonian,
    keys.OVERLAP: _overlap,
    keys.ORBITAL_ENERGIES: _orbital_energies,
    "frontier_energies": _frontier_energies,
    "gap": _gap,
    "hamiltonian_in_orbitals": _hamiltonian_in_orbitals,
    "occupied_virtual_mixing": _occupied_virtual_mixing,
}

#: name -> function of the masked differences; all give the mean over what is real
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": torch.abs,
    "l2": torch.square,
    # quadratic within 1e-4 of the target, so that the last digits are not noise
    "huber": lambda d: torch.where(d.abs() < 1e-4, d.square() / 2e-4, d.abs() - 5e-5),
    # lengths of vectors, invariant where their components are not; the root's slope at 0 is infinite
    "norm": lambda d: (d.square().sum(-1) + 1e-16).sqrt(),
}


#: the one quantity that is compared as a distribution, and the loss that does so
PROJECTED_DOS, WASSERSTEIN = "projected_density_of_states", "wasserstein"

#: what is compared element by element of a matrix; everything else can be measured or is a level
MATRICES = (keys.HAMILTONIAN, keys.OVERLAP, "hamiltonian_in_orbitals", "occupied_virtual_mixing")
#: what models of energies and forces are trained on, and they alone (``training.energy_module``)
ENERGIES = (keys.TOTAL_ENERGY, keys.FORCES)


def band_pass(options: dict[str, Any]) -> BandPassLoss:
    """The distance of projected densities of states that a configuration asks for.

    Raises:
        ValueError: an option that does not exist, or a value that cannot be.
    """
    known = {f.name: type(f.default) for f in fields(BandPassLoss)}
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"{PROJECTED_DOS}: no option {name!r}; known: {', '.join(known)}")
        wanted = (int, float) if known[name] is float else known[name]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"{PROJECTED_DOS}: option {name} must be of type {known[name].__name__}, got {value!r}")
    loss = BandPassLoss(**options)
    Broadening("gaussian", loss.width)
    if loss.n_grid < 2 or loss.transfer_cost < 0:
        raise ValueError(
            f"{PROJECTED_DOS}: n_grid must be 2 or more and transfer_cost not negative, got {loss.n_grid}, "
            f"{loss.transfer_cost}"
        )
    return loss


@dataclass
class Output:
    """One named loss.

    Attributes:
        name: the quantity: ``hamiltonian``, ``overlap``, ``hamiltonian_in_orbitals``, ``occupied_virtual_mixing``;
            ``orbital_energies``, ``frontier_energies``, ``gap``; ``charges``, ``dipole``, ``band_energy``,
            ``free_energy`` and all others of ``PROPERTIES``; ``projected_density_of_states``; of a model of energies
            ``total_energy`` and ``forces``, and only these.
        loss: ``l1``, ``l2`` or ``huber``, for forces also ``norm``, lengths instead of components; for the projected
            density of states ``wasserstein``.
        weight: factor, per Eh (or per unit of the quantity; squared for ``l2``).
        start: first epoch in which it counts.
        ramp: epochs over which its weight grows linearly from 0.
        options: of ``projected_density_of_states``: ``n_below``, ``n_above``, ``by``, ``width``, ``n_grid``,
            ``transfer_cost`` (``physics.band_pass.BandPassLoss``).
    """

    name: str
    loss: str = "l1"
    weight: float = 1.0
    start: int = 0
    ramp: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        known = sorted({*QUANTITIES, *PROPERTIES, PROJECTED_DOS, *ENERGIES})
        if self.name not in known:
            raise ValueError(f"no quantity {self.name!r} to train on; known: {', '.join(known)}")
        if self.loss not in (*LOSSES, WASSERSTEIN):
            raise ValueError(f"no loss {self.loss!r}; known: {', '.join(sorted((*LOSSES, WASSERSTEIN)))}")
        if (self.name == PROJECTED_DOS) != (self.loss == WASSERSTEIN):
            raise ValueError(
                f"{self.name} cannot have the loss {self.loss}; known: {WASSERSTEIN} for {PROJECTED_DOS}, "
                f"{', '.join(sorted({*LOSSES} - {'norm'}))} for all others, norm for {keys.FORCES} too"
            )
        if self.loss == "norm" and self.name != keys.FORCES:
            raise ValueError(f"{self.name} cannot have the loss norm, which is the length of the vectors of forces")
        if self.loss == WASSERSTEIN:
            self._distance = band_pass(self.options)
        elif self.options:
            raise ValueError(f"{self.name}: no option {', '.join(self.options)}; known: only {PROJECTED_DOS} has any")

    def weight_at(self, epoch: float) -> float:
        """Weight in an epoch: 0 before ``start``, then rising over ``ramp`` epochs."""
        if epoch < self.start:
            return 0.0
        return self.weight * min(1.0, (epoch - self.start + 1) / (self.ramp + 1))

    def __call__(self, prediction: Quantities, target: Quantities) -> Tensor:
        """Mean loss over real elements (over molecules for the projected density of states), float64 scalar."""
        return self._mean(prediction, target, self.loss)[0]

    def error(self, prediction: Quantities, target: Quantities) -> tuple[Tensor, Tensor]:
        """What the loss is to lower, in the quantity's own unit: mean absolute error (or distance) and its count."""
        return self._mean(prediction, target, WASSERSTEIN if self.loss == WASSERSTEIN else "l1")

    def _mean(self, prediction: Quantities, target: Quantities, loss: str) -> tuple[Tensor, Tensor]:
        if loss == WASSERSTEIN:
            if prediction.basis is None:
                raise ValueError(f"{PROJECTED_DOS} needs the basis of the matrices")
            d = self._distance(prediction.batch, prediction.state(), target.state(), prediction.basis)
            return d.mean(), torch.tensor(len(d), device=d.device)
        value, _ = prediction[self.name]
        wanted, mask = target[self.name]
        d = torch.where(mask, value - wanted, 0.0)
        return LOSSES[loss](d).sum() / mask.sum(), mask.sum()
