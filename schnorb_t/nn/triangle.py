"""Triangles: what a third atom k does to the pair (i, j), summed over all k near both.

T_ij^(lm) = sum_k a^l(i, k) Y_lm(r_ik) b(j, k): the leading many-body term of an off-site block is the field of third
atoms on the bond, which products of the two atoms' own neighbourhoods only reach indirectly. The sum is a matrix
product per channel over the molecule's atoms (the triangular update of Jumper et al., Nature 596, 583 (2021), made
equivariant), so no list of triples is built.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.nn.constants import Constants, today
from schnorb_t.nn.embedding import RadialMLP, polynomial_cutoff
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.o2 import Features


class Triangles(nn.Module):
    """Atom features -> tensors of natural parity [P, 2l+1, C] of every pair, l = 0..l_max.

    Args:
        scalars: 0e channels of the atoms' features; they say what kind of atom k is.
        channels: C.
        n_elements, n_radial, hidden: of the filter network.
        cutoff: Å, k counts if it is nearer than that to i and to j.
        constants: ``triangle_l_max``, ``cutoff_power``, ``filter_channels``.
    """

    def __init__(
        self,
        scalars: int,
        channels: int,
        n_elements: int,
        n_radial: int,
        hidden: int,
        cutoff: float,
        constants: Constants | None = None,
    ):
        super().__init__()
        constants = constants or today()
        l_max, self.cutoff_power = constants.triangle_l_max, constants.cutoff_power
        self.channels, self.cutoff, self.l_max = channels, cutoff, l_max
        self.irreps = "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(l_max + 1))
        self.filters = RadialMLP(n_elements, cutoff, n_radial, hidden, channels * (l_max + 2), constants)
        self.third = nn.Linear(scalars, channels)

    def factors(self, x: Features, g: PairGeometry) -> tuple[Tensor, Tensor]:
        """a(i, k) Y(r_ik) [P, (l_max+1)^2, C] and b(j, k) [P, C] of pairs (i, k) and (j, k); 0 beyond the cutoff."""
        k = g.batch[keys.PAIR_INDEX][1]
        dtype = x["0e"].dtype
        distance = g.distance.to(dtype)
        weights = self.filters(g.element_i, g.element_j, distance)
        weights = weights * polynomial_cutoff(distance, self.cutoff, self.cutoff_power)[:, None]
        *first, second = weights.split(self.channels, 1)
        third = self.third(x["0e"][:, 0])[k]
        # Y^l of the bond is the m = 0 row of the rotation into its frame
        harmonics = [g.wigner[l][:, l].to(dtype) for l in range(self.l_max + 1)]
        near_i = torch.cat([(w * third)[:, None] * y[:, :, None] for w, y in zip(first, harmonics, strict=True)], 1)
        return near_i, second

    def named(self, total: Tensor) -> Features:
        """[P, (l_max+1)^2, C] of pairs, cut into tensors of each l."""
        sizes = [2 * l + 1 for l in range(self.l_max + 1)]
        names = [f"{l}{'eo'[l % 2]}" for l in range(self.l_max + 1)]
        return dict(zip(names, total.split(sizes, 1), strict=True))

    def forward(self, x: Features, g: PairGeometry) -> Features:
        """Features of atoms and the geometry of pairs -> what third atoms add to each pair."""
        place = g.batch[keys.PAIR_PLACE]
        n, a = g.batch[keys.ATOM_MASK].shape
        near_i, second = self.factors(x, g)
        m = near_i.shape[1]
        # [B, C, i m, k] @ [B, C, k, j]
        left = near_i.new_zeros(n * a * a, m, self.channels).index_copy(0, place, near_i)
        left = left.reshape(n, a, a, m, self.channels).permute(0, 4, 1, 3, 2).reshape(n, self.channels, a * m, a)
        right = second.new_zeros(n * a * a, self.channels).index_copy(0, place, second)
        right = right.reshape(n, a, a, self.channels).permute(0, 3, 2, 1)
        total = (left @ right).reshape(n, self.channels, a, m, a).permute(0, 2, 4, 3, 1)
        return self.named(total.reshape(n * a * a, m, self.channels)[place])

    def extra_repr(self):
        """What ``print(model)`` shows of it."""
        return f"{self.irreps}, within {self.cutoff} Å"
