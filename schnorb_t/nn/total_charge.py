"""Ions: what the total charge of a molecule tells its atoms, and the potential that it makes. Nothing at charge 0.

A molecule's total charge Q is an input that belongs to no atom. It enters in three places, each of which gives exactly
0 for Q = 0, so that neutral molecules are predicted as by a network without this part:

1. the atoms' first features: Q per eight valence electrons of the molecule times a learned vector per element and sign
   (the total charge as an input: Unke et al., SpookyNet, Nat. Commun. 12, 7273 (2021));
2. each atom's share of it after the messages, q_i = Q p_i with p_i > 0 read from its features and normalised in the
   molecule, so that together with the neutral sets of ``electrostatics`` the latent charges sum to Q; it returns into
   the features by a learned vector per sign;
3. the potential of these shares, V_i = -sum_j q_j k(R_ij), k(R) = erf(R / (sqrt(2) s)) / R and k(0) = sqrt(2/pi) / s,
   Eh, which shifts H as any slowly varying potential does, H_ij += (V_i + V_j) S_ij / 2: levels of cations sink, those
   of anions rise. Even shares and s = 1 Bohr explain most of it without training; the closed-form start of a model is
   fitted to what they leave.

The shares are normalised over the whole molecule: of two fragments far apart the features decide which one is charged,
and nothing can tell an input with another intention (an excited charge-transfer state, say).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.nn.constants import Constants
from schnorb_t.nn.electrostatics import smeared_coulomb
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.o2 import Features
from schnorb_t.nn.scatter import scatter_sum
from schnorb_t.units import BOHR


class TotalCharge(nn.Module):
    """Total charge -> contributions to features and H. ``batch`` holds ``keys.TOTAL_CHARGE`` [B].

    Args:
        basis: tells the valence electrons of the elements.
        scalars: 0e channels of the features.
        constants: numbers of ``nn.constants``.
    """

    def __init__(self, basis: Basis, scalars: int, constants: Constants):
        super().__init__()
        self.per_electrons, self.least_share = constants.charge_per_electrons, constants.charge_least_share
        valence = torch.from_numpy(basis.nuclear_charge_table - 2 * basis.core_orbital_table)
        self.register_buffer("valence", valence, persistent=False)
        #: [sign, element, scalars] and [sign, scalars], cations first
        self.first = nn.Parameter(torch.zeros(2, len(basis.elements), scalars))
        self.later = nn.Parameter(torch.zeros(2, scalars))
        self.share = nn.Linear(scalars, 1)
        nn.init.zeros_(self.share.weight)
        nn.init.zeros_(self.share.bias)
        self.log_width = nn.Parameter(torch.zeros(()))

    @staticmethod
    def _signed(charge: Tensor, table: Tensor) -> Tensor:
        """Positive part times the first, negative part times the second of a table [2, ...]: [N], [2, ..., C]."""
        return charge.clamp(min=0)[:, None] * table[0] + (-charge).clamp(min=0)[:, None] * table[1]

    def first_features(self, g: PairGeometry) -> Tensor:
        """[N, 1, scalars], to be added to the embedding of the elements."""
        molecule, charge = g.batch[keys.MOLECULE], g.batch[keys.TOTAL_CHARGE]
        valence = self.valence[g.batch[keys.ATOMIC_NUMBERS]]
        electrons = torch.zeros_like(charge).index_add_(0, molecule, valence) - charge
        each = (self.per_electrons * charge / electrons.clamp(min=1)).to(self.first.dtype)[molecule]
        return self._signed(each, self.first[:, g.element])[:, None]

    def charges(self, x: Features | None, g: PairGeometry) -> Tensor:
        """[N], e: the shares, which sum to the total charge of each molecule; even ones without features."""
        molecule, charge = g.batch[keys.MOLECULE], g.batch[keys.TOTAL_CHARGE]
        if x is None:
            weight = torch.ones(len(molecule), dtype=torch.float64, device=molecule.device)
        else:
            weight = nn.functional.softplus(self.share(x["0e"][:, 0])[:, 0]) + self.least_share
        total = scatter_sum(weight, molecule, len(charge))
        return weight * (charge / total)[molecule]

    def later_features(self, charges: Tensor) -> Tensor:
        """[N, 1, scalars], to be added to features, from the shares [N]."""
        return self._signed(charges, self.later)[:, None]

    def potential(self, charges: Tensor, g: PairGeometry) -> Tensor:
        """[N], Eh: what the shares [N] add to an electron's energy at each atom; never cut off."""
        batch = g.batch
        n, a = batch[keys.ATOM_MASK].shape
        place = batch[keys.ATOM_PLACE]

        def dense(t: Tensor) -> Tensor:
            return t.new_zeros(n * a, *t.shape[1:]).index_copy(0, place, t).reshape(n, a, *t.shape[1:])

        q, r = dense(charges), dense(batch[keys.POSITIONS].double()) / BOHR
        # differences before rounding, so that translation costs nothing
        r = r[:, :, None] - r[:, None]
        own = torch.eye(a, dtype=torch.bool, device=r.device)
        distance = torch.where(own, 1.0, r.square().sum(-1)).sqrt().to(charges.dtype)
        # padding stands at the origin, where an atom may be: its charge is 0, its distance must not be
        distance = torch.where(distance > 0, distance, 1.0)
        width = self.log_width.exp().to(charges.dtype)
        k = torch.where(own, math.sqrt(2 / math.pi) / width, smeared_coulomb(distance, width)[0])
        return -(k * q[:, None]).sum(2).flatten()[place]

    def forget(self) -> None:
        """Back to the start, in place: even shares, no features."""
        with torch.no_grad():
            for part in self.parameters():
                part.zero_()

    def extra_repr(self):
        """What ``print(model)`` shows of it."""
        return "shares of the molecule's charge"
