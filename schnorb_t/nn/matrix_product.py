"""Products of learned matrices: what reaches a pair over chains of other atoms.

The overlap and Hamiltonian of a quasi-atomic basis are functions of whole matrices (projectors, inverses), whose
expansions are sums of products: Z = X Y, Z_ij = sum_k X_ik Y_kj, over the atoms k of the molecule. Here X and Y are
matrices of s and p functions on every atom, predicted from pair and atom features like H itself, so that angles at k
are seen as chemical bonding sees them; the blocks of Z return into pair and atom features. Cheap (dense products) and
not cut at third atoms near both, unlike ``Triangles``. Compare the triangle multiplication of Jumper et al.,
Nature 596, 583 (2021), algorithm 11, whose factors are scalars.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.harmonics import clebsch_gordan, slot_rotations
from schnorb_t.nn.blocks import OffsiteBlocks, OnsiteBlocks, layout_offsets
from schnorb_t.nn.constants import Constants, today
from schnorb_t.nn.embedding import RadialMLP, polynomial_cutoff
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.interaction import IrrepsLinear, SelfProduct, add
from schnorb_t.nn.o2 import Features, O2Features, O2Linear, o2_scale

#: shells of every atom in X, Y and Z
LAYOUT = (0, 1)


def block_irreps() -> dict[str, Tensor]:
    """Irreps of a general block between two atoms' shells: name -> [2l+1, couplings, K * K]."""
    at, k = layout_offsets(LAYOUT), sum(2 * l + 1 for l in LAYOUT)
    out: dict[str, list[Tensor]] = {}
    for a, la in zip(at, LAYOUT, strict=True):
        for b, lb in zip(at, LAYOUT, strict=True):
            for l in range(abs(la - lb), la + lb + 1):
                block = torch.zeros(2 * l + 1, k, k, dtype=torch.float64)
                coupling = clebsch_gordan(la, lb, l).permute(2, 0, 1) * (2 * l + 1) ** 0.5
                block[:, a : a + 2 * la + 1, b : b + 2 * lb + 1] = coupling
                out.setdefault(f"{l}{'eo'[(la + lb) % 2]}", []).append(block.flatten(1))
    return {name: torch.stack(blocks, 1) for name, blocks in out.items()}


class MatrixProduct(nn.Module):
    """Atom and pair features -> the same, with what the blocks of Z = X Y add.

    Args:
        irreps, widths: of atom features (0e, 1o, 1e and 2e are used) and of pair features.
        irreps_out: those of the atom features that are wanted back; the others stay as they are.
        n_elements, cutoff, n_radial, hidden: of the filter network; the cutoff is the pair list's.
        channels: how many products Z.
        product_channels: of the atoms' self-product.
        constants: ``cutoff_power``, and those of its parts.
    """

    def __init__(
        self,
        irreps: str,
        irreps_out: str,
        widths: list[int],
        n_elements: int,
        cutoff: float,
        n_radial: int,
        hidden: int,
        channels: int,
        product_channels: int,
        constants: Constants | None = None,
    ):
        super().__init__()
        constants = constants or today()
        self.channels, self.cutoff, self.cutoff_power = channels, cutoff, constants.cutoff_power
        self.onsite = OnsiteBlocks(LAYOUT, n_elements, irreps, 2 * channels, gain=0.5)
        self.offsite = OffsiteBlocks(LAYOUT, widths, 2 * channels, gain=0.5)
        seen = [count * channels for count in self.offsite.counts]
        self.filters = RadialMLP(n_elements, cutoff, n_radial, hidden, 2 * channels + sum(seen), constants)
        self.to_pairs = O2Linear(seen, widths, bias=False)
        diagonal = block_irreps()
        self.names = list(diagonal)
        for name, pattern in diagonal.items():
            self.register_buffer(f"diagonal_{name}", pattern.flatten(0, 1), persistent=False)
        counts = "+".join(f"{pattern.shape[1] * channels}x{name}" for name, pattern in diagonal.items())
        self.to_atoms = IrrepsLinear(counts, irreps)
        self.mix = IrrepsLinear(irreps, irreps)
        self.product = SelfProduct(irreps, irreps_out, product_channels, constants)

    def _dense(self, onsite: Tensor, offsite: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Blocks [2C, N, K, K] and [P, 2C, K * K] -> matrices [B, 2C, A K, A K]."""
        n, a = batch[keys.ATOM_MASK].shape
        c, k = 2 * self.channels, self.onsite.k
        out = offsite.new_zeros(n * a * a, c, k * k).index_copy(0, batch[keys.PAIR_PLACE], offsite)
        out = out.index_copy(0, self._diagonal(batch), onsite.flatten(2).transpose(0, 1))
        return out.reshape(n, a, a, c, k, k).permute(0, 3, 1, 4, 2, 5).reshape(n, c, a * k, a * k)

    @staticmethod
    def _diagonal(batch: dict[str, Tensor]) -> Tensor:
        """[N] places of on-site blocks in [B, A, A] flattened: B A^2 + i A + i."""
        place, a = batch[keys.ATOM_PLACE], batch[keys.ATOM_MASK].shape[1]
        return place * a + place - batch[keys.MOLECULE] * a

    def turns(self, g: PairGeometry, dtype: torch.dtype) -> Tensor:
        """[P, K^2, K^2]: blocks in the bond frame -> molecule on flattened blocks, B' = D^T B D, D = 1 + D^1."""
        turn, k = slot_rotations(g.rotations(dtype), LAYOUT), self.onsite.k
        return (turn[:, :, None, :, None] * turn[:, None, :, None, :]).reshape(-1, k * k, k * k)

    def weights(self, g: PairGeometry, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Filters of X and Y [P, 2C], 0 at the cutoff, and of what the blocks of Z return to pairs."""
        distance = g.distance.to(dtype)
        sizes = 2 * self.channels, sum(self.to_pairs.widths_in)
        filters, back = self.filters(g.element_i, g.element_j, distance).split(sizes, 1)
        return filters * polynomial_cutoff(distance, self.cutoff, self.cutoff_power)[:, None], back

    def factors(self, pairs: O2Features, filters: Tensor, turn: Tensor) -> Tensor:
        """Blocks of X and Y between atoms, [P, 2C, K^2], in the molecule's frame."""
        return (self.offsite(pairs).flatten(2).transpose(0, 1) * filters[..., None]) @ turn

    def to_pair_features(self, z: Tensor, back: Tensor, turn: Tensor) -> O2Features:
        """Blocks of Z [P, C, K^2] -> what they add to the features of pairs."""
        return self.to_pairs(o2_scale(self.offsite.features(z @ turn.mT), back))

    def to_atom_features(self, x: Features, own: Tensor) -> Features:
        """Features of atoms and their own blocks of Z [N, C, K^2] -> features."""
        parts = {}
        for name in self.names:
            y = own @ getattr(self, f"diagonal_{name}").to(own.dtype).T  # [N, C, (2l+1) couplings]
            parts[name] = y.unflatten(2, (2 * int(name[0]) + 1, -1)).transpose(1, 2).flatten(2)
        return add(x, self.product(add(self.mix(x), self.to_atoms(parts))))

    def forward(self, x: Features, pairs: O2Features, g: PairGeometry) -> tuple[Features, O2Features]:
        """Features of atoms and of pairs -> what products of matrices add to both."""
        batch, dtype, c, k = g.batch, x["0e"].dtype, self.channels, self.onsite.k
        n, a = batch[keys.ATOM_MASK].shape
        filters, back = self.weights(g, dtype)
        turn = self.turns(g, dtype)
        dense = self._dense(self.onsite(x, g.element), self.factors(pairs, filters, turn), batch)
        z = (dense[:, :c] @ dense[:, c:]).reshape(n, c, a, k, a, k).permute(0, 2, 4, 1, 3, 5)
        z = z.reshape(n * a * a, c, k * k)
        more = self.to_pair_features(z[batch[keys.PAIR_PLACE]], back, turn)
        pairs = [u + v for u, v in zip(pairs, more, strict=True)]
        return self.to_atom_features(x, z[self._diagonal(batch)]), pairs

    def extra_repr(self):
        """What ``print(model)`` shows of it."""
        return f"{self.channels} products of matrices of shells {LAYOUT}"
