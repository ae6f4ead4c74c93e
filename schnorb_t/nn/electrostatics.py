"""Electrostatics: latent charges and dipoles of all atoms of a molecule, and the potential and field they make.

Messages end after a few Å, the Coulomb potential does not: a dipole of 0.8 e Bohr shifts every level of an atom 6 Å
away by 6 mEh. Here atoms carry charges q and dipoles d read from their features, and feel

    V_i = sum_j q_j k(R_ij) + d_j . r_ij k1(R_ij)        E_i = -grad V_i        r_ij = r_i - r_j,  k1 = -k' / R,

with k(R) = erf(R / (sqrt(2) s)) / R, the potential of a Gaussian charge of width s (Jackson, Classical
Electrodynamics, section 4.1, with the point charges smeared). What an atom's features say of its charge is taken from
the atoms around it, q_i = s_i - sum_k s_k w_ki / sum_j w_kj with w a smooth cutoff of 1 at distance 0, so that every
molecule, and each of several molecules far apart, is neutral. Every channel has its own charges and width. Potential
and field return into the features (``Response``). The first channel moreover shifts H as any slowly varying potential
does, H_ij += (V_i + V_j) S_ij / 2, the form of self-consistent-charge tight binding (Elstner et al., Phys. Rev. B 58,
7260 (1998), eq. 17). The potential is not cut off.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.nn.constants import Constants, today
from schnorb_t.nn.embedding import polynomial_cutoff
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.interaction import IrrepsLinear, SelfProduct, add
from schnorb_t.nn.o2 import Features
from schnorb_t.nn.scatter import scatter_sum
from schnorb_t.units import BOHR


def smeared_coulomb(distance: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k, k1 = -k'/R and k2 = k1'/R of k(R) = erf(R / (sqrt(2) width)) / R; Bohr."""
    u = distance / (math.sqrt(2.0) * width)
    erf, gauss = torch.erf(u), (2 / math.sqrt(math.pi)) * u * torch.exp(-u * u)
    k1 = (erf - gauss) / distance**3
    return erf / distance, k1, (2 * u * u * gauss / distance**3 - 3 * k1) / distance**2


class Electrostatics(nn.Module):
    """Atom features -> potential and field at every atom, in atomic units.

    Args:
        scalars, vectors: 0e and 1o channels of the features.
        channels: sets of charges and dipoles.
        cutoff: Å, of w.
        constants: ``charge_widths``, ``cutoff_power``.
    """

    def __init__(self, scalars: int, vectors: int, channels: int, cutoff: float, constants: Constants | None = None):
        super().__init__()
        constants = constants or today()
        self.cutoff_power = constants.cutoff_power
        self.channels, self.cutoff = channels, cutoff
        self.charge = nn.Sequential(nn.Linear(scalars, scalars), nn.SiLU(), nn.Linear(scalars, channels))
        self.dipole = nn.Linear(vectors, channels, bias=False)
        # charges of some 0.1 e, as those of molecules
        nn.init.normal_(self.charge[2].weight, std=0.1 * scalars**-0.5)
        nn.init.zeros_(self.charge[2].bias)
        nn.init.normal_(self.dipole.weight, std=0.1 * vectors**-0.5)
        narrow, wide = (math.log(w) for w in constants.charge_widths)
        self.log_width = nn.Parameter(torch.linspace(narrow, wide, channels))

    def charges(self, x: Features, g: PairGeometry) -> Tensor:
        """[N, C], e; of every molecule they sum to 0."""
        i, j = g.batch[keys.PAIR_INDEX]
        s = self.charge(x["0e"][:, 0])
        w = polynomial_cutoff(g.distance, self.cutoff, self.cutoff_power).to(s.dtype)[:, None]
        share = s / (1 + scatter_sum(w, i, len(s)))
        return s - share - scatter_sum(w * share[j], i, len(s))

    def forward(self, x: Features, g: PairGeometry) -> tuple[Tensor, Tensor]:
        """Potential [N, C] (Eh per electron charge) and field [N, 3, C] (our order of m: y, z, x)."""
        batch = g.batch
        n, a = batch[keys.ATOM_MASK].shape
        place, mask = batch[keys.ATOM_PLACE], batch[keys.ATOM_MASK]

        def dense(t: Tensor) -> Tensor:
            return t.new_zeros(n * a, *t.shape[1:]).index_copy(0, place, t).reshape(n, a, *t.shape[1:])

        q, d = dense(self.charges(x, g)), dense(self.dipole(x["1o"]))
        r = dense(batch[keys.POSITIONS].double()) / BOHR
        others = mask[:, :, None] & mask[:, None] & ~torch.eye(a, dtype=torch.bool, device=r.device)
        v, e = self.potential_at(r, others, q, d, r)
        return v.flatten(0, 1)[place], e.flatten(0, 1)[place]

    def potential_at(self, points: Tensor, others: Tensor, q: Tensor, d: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Potential [B, T, C] and field [B, T, 3, C] of charges and dipoles.

        Args:
            points: [B, T, 3], Bohr, float64.
            others: [B, T, A] bool, which atoms act on a point.
            q, d: [B, A, C] and [B, A, 3, C], charges and dipoles.
            r: [B, A, 3], Bohr, float64, of the atoms.
        """
        dtype = q.dtype
        # differences before rounding, so that translation costs nothing
        r = points[:, :, None] - r[:, None]
        distance = torch.where(others, r.square().sum(-1), 1.0).sqrt().to(dtype)[..., None]
        r = r.roll(-1, -1).to(dtype)
        kernels = smeared_coulomb(distance, self.log_width.exp().to(dtype))
        k, k1, k2 = (torch.where(others[..., None], t, 0.0) for t in kernels)
        dr = torch.einsum("njxc,nijx->nijc", d, r)
        v = (q[:, None] * k + dr * k1).sum(2)
        e = torch.einsum("nijc,nijx->nixc", q[:, None] * k1 - dr * k2, r) - torch.einsum("njxc,nijc->nixc", d, k1)
        return v, e

    def extra_repr(self):
        """What ``print(model)`` shows of it."""
        return f"{self.channels} sets of charges and dipoles"


class Response(nn.Module):
    """Features, potential and field -> features: how an atom answers the potential it sits in.

    Args:
        irreps: of the features.
        channels: potentials and fields.
        product_channels: of the self-product.
        constants: ``response_potential``, ``response_field``, ``product_l_max``.
    """

    def __init__(self, irreps: str, channels: int, product_channels: int, constants: Constants | None = None):
        super().__init__()
        constants = constants or today()
        self.potential_scale, self.field_scale = constants.response_potential, constants.response_field
        self.potential = IrrepsLinear(f"{channels}x0e+{channels}x1o", irreps)
        self.mix = IrrepsLinear(irreps, irreps)
        self.product = SelfProduct(irreps, irreps, product_channels, constants)

    def forward(self, x: Features, potential: Tensor, field: Tensor) -> Features:
        """Features of the atoms, potential [N, C] and field [N, 3, C] at them -> features."""
        outer = self.potential({"0e": self.potential_scale * potential[:, None], "1o": self.field_scale * field})
        return add(x, self.product(add(self.mix(x), outer)))
