"""The pairs of the light network: features with exchange symmetry, third atoms, chains of atoms (``nn.exchange``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.harmonics import slot_rotations
from schnorb_t.nn.blocks import OnsiteBlocks
from schnorb_t.nn.constants import Constants
from schnorb_t.nn.embedding import polynomial_cutoff
from schnorb_t.nn.exchange import (
    ExchangeBlocks,
    ExchangeLinear,
    ExchangeProduct,
    ExchangeResidual,
    flattened,
    turned_blocks,
)
from schnorb_t.nn.light_atoms import LightGeometry
from schnorb_t.nn.matrix_product import LAYOUT, block_irreps
from schnorb_t.nn.o2 import O2Features
from schnorb_t.nn.spherical import SphericalLinear, SphericalProduct, as_features


class LightTriangles(nn.Module):
    """T_ij = sum_k a^l(i, k) Y_lm(r_ik) b(j, k), over third atoms k near both (``nn.triangle``), of ordered pairs.

    Args:
        l_max: of the tensors.
        scalars: channels that tell what atom k is.
        channels: of the tensors.
        cutoff: Å.
        hidden: width of the shared filters.
        constants: ``cutoff_power``.
    """

    def __init__(self, l_max: int, scalars: int, channels: int, cutoff: float, hidden: int, constants: Constants):
        super().__init__()
        self.l_max, self.channels, self.cutoff, self.cutoff_power = l_max, channels, cutoff, constants.cutoff_power
        self.filters = nn.Linear(hidden, channels * (l_max + 2))
        self.third = nn.Linear(scalars, channels)

    def forward(self, x: Tensor, hidden: Tensor, g: LightGeometry) -> tuple[Tensor, Tensor]:
        """Features [R, N, C] -> [U, R, c] in the molecule's frame, of each (i, j) and of each (j, i)."""
        batch, dtype, c = g.pairs.batch, x.dtype, self.channels
        k = batch[keys.PAIR_INDEX][1]
        n, a = batch[keys.ATOM_MASK].shape
        distance = g.half.distance.to(dtype)
        ends = polynomial_cutoff(distance, self.cutoff, self.cutoff_power)
        first, second = (self.filters(hidden) * torch.cat((ends, ends))[:, None]).split((c * (self.l_max + 1), c), 1)
        first = first.unflatten(1, (-1, c)) * self.third(x[0]).index_select(0, k)[:, None]
        # Y^l of the bond is the m = 0 row of the rotation into its frame, (-1)^l of it for the bond turned round
        near = []
        for l in range(self.l_max + 1):
            y = g.half.wigner[l][:, l]
            near.append(first[:, l, None] * torch.cat((y, (-1) ** l * y))[:, :, None])
        both, rows = torch.cat((g.place, g.place_back)), (self.l_max + 1) ** 2
        left = x.new_zeros(n * a * a, rows, c).index_copy_(0, both, torch.cat(near, 1))
        left = left.view(n, a, a, rows, c).permute(0, 4, 1, 3, 2).reshape(n, c, a * rows, a)
        right = x.new_zeros(n * a * a, c).index_copy_(0, both, second)
        right = right.view(n, a, a, c).permute(0, 3, 2, 1)
        total = (left @ right).view(n, c, a, rows, a).permute(0, 2, 4, 3, 1).reshape(n * a * a, rows, c)
        return total.index_select(0, g.place), total.index_select(0, g.place_back)


class LightPairs(nn.Module):
    """Features of pairs from those of both atoms and of third ones, in the frame of the bond.

    Args:
        l_max, channels: of the atoms' features.
        inputs: channels of them that a pair sees.
        widths: of pair features, each kind and sign.
        hidden: width of the shared filters.
        product_channels: of the product.
        triangles: what third atoms add; may be None.
    """

    def __init__(
        self,
        l_max: int,
        channels: int,
        inputs: int,
        widths: Sequence[int],
        hidden: int,
        product_channels: int,
        triangles: LightTriangles | None,
    ):
        super().__init__()
        self.l_max, self.widths, self.inputs = l_max, list(widths), inputs
        self.down, self.triangles = SphericalLinear(l_max, channels, inputs), triangles
        c = self.seen = inputs + (triangles.channels if triangles else 0)
        self.sizes = [l_max + 1 - m for m in range(l_max + 1)]
        given = [(n * c, n * c) for n in self.sizes]
        given = [given[0], (0, 0), *given[1:]]
        given = (given + [(0, 0)] * len(widths))[: len(widths)]
        self.used = [m for m in range(l_max + 1) if m == 0 or m + 1 < len(widths)]
        self.filters = nn.Linear(hidden, sum(self.sizes[m] for m in self.used) * c + widths[0])
        self.mix = ExchangeLinear(given, widths, bias=True)
        self.residual = ExchangeResidual(widths)
        self.product = ExchangeProduct(widths, product_channels)
        self.last = ExchangeResidual(widths)

    def forward(self, x: Tensor, hidden: Tensor, g: LightGeometry) -> O2Features:
        """Features of atoms [R, N, C], shared filters -> features of pairs [2, U, ...]."""
        i, j = g.half.batch[keys.PAIR_INDEX]
        u, c = len(i), self.seen
        a = self.down(x).transpose(0, 1).contiguous()
        one, other = a.index_select(0, i), a.index_select(0, j)
        if self.triangles is not None:
            thirds = self.triangles(x, hidden, g)
            missing = a.shape[1] - thirds[0].shape[1]
            if missing:
                thirds = tuple(nn.functional.pad(t, (0, 0, 0, missing)) for t in thirds)
            one, other = (torch.cat(t, 2) for t in zip((one, other), thirds, strict=True))
        one, other = g.rotation @ one, g.mirrored @ other
        *weights, bond = self.filters(hidden).split([*(self.sizes[m] * c for m in self.used), self.widths[0]], 1)
        symmetric, antisymmetric, at = [], [], 0
        for m, w in zip(self.used, weights, strict=True):
            n = self.sizes[m]
            rows = n if m == 0 else 2 * n
            shape = (u, n * c) if m == 0 else (u, 2, n * c)
            p, q = (t[:, at : at + rows].reshape(shape) for t in (one, other))
            w = w if m == 0 else w[:, None]
            p, far = p * w[:u], w[u:]
            symmetric.append(torch.addcmul(p, q, far))
            antisymmetric.append(torch.addcmul(p, q, far, value=-1))
            if m == 0:
                symmetric.append(p.new_zeros(u, 0))
                antisymmetric.append(p.new_zeros(u, 0))
            at += rows
        missing = [one.new_zeros(u, 2, 0)] * (len(self.widths) - len(symmetric))
        h = self.mix(symmetric + missing, antisymmetric + missing)
        h[0] = h[0] + torch.stack((bond[:u] + bond[u:], bond[:u] - bond[u:]))
        h = self.residual(h)
        return self.last([a + b for a, b in zip(h, self.product(h), strict=True)])


class LightChains(nn.Module):
    """Z = X Y + Y X of learned symmetric matrices: what reaches a pair over chains of atoms (``nn.matrix_product``).

    Args:
        l_max, channels: of the atoms' features.
        widths: of pair features, each kind and sign.
        n_elements, cutoff, hidden: of tables and filters.
        products: how many Z.
        product_channels: of the atoms' self-product.
        constants: ``cutoff_power``, ``product_l_max``.
    """

    def __init__(
        self,
        l_max: int,
        channels: int,
        widths: Sequence[int],
        n_elements: int,
        cutoff: float,
        hidden: int,
        products: int,
        product_channels: int,
        constants: Constants,
    ):
        super().__init__()
        self.products, self.cutoff, self.cutoff_power, self.l_max = products, cutoff, constants.cutoff_power, l_max
        irreps = "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(l_max + 1))
        self.onsite = OnsiteBlocks(LAYOUT, n_elements, irreps, 2 * products, gain=0.5)
        self.offsite = ExchangeBlocks(LAYOUT, widths, 2 * products, gain=0.5)
        counts, kinds = [n * products for n in self.offsite.counts], len(widths)
        self.filters = nn.Linear(hidden, 2 * products + sum(counts))
        self.counts = counts
        self.to_pairs = ExchangeLinear(list(zip(counts[:kinds], counts[kinds:], strict=True)), widths)
        self.back = nn.ParameterList()
        self.names = []
        for name, pattern in block_irreps().items():
            l = int(name[0])
            if l <= l_max and name == f"{l}{'eo'[l % 2]}":
                self.names.append((name, l))
                self.register_buffer(f"diagonal_{name}", pattern.flatten(0, 1), persistent=False)
                size = pattern.shape[1] * products
                self.back.append(nn.Parameter(torch.randn(size, channels) * (3 * size) ** -0.5))
        self.mix = SphericalLinear(l_max, channels, channels)
        self.product = SphericalProduct(l_max, channels, channels, product_channels, constants.product_l_max)

    def forward(self, x: Tensor, pairs: O2Features, hidden: Tensor, g: LightGeometry) -> tuple[Tensor, O2Features]:
        """Features of atoms [R, N, C] and of pairs [2, U, ...] -> both, with what products of matrices add."""
        batch, dtype, c, k = g.pairs.batch, x.dtype, self.products, self.offsite.k
        n, a = batch[keys.ATOM_MASK].shape
        u = len(g.place)
        distance = g.half.distance.to(dtype)
        filters = self.filters(hidden)
        filters, back = (filters[:u] + filters[u:]).split((2 * c, sum(self.counts)), 1)
        filters = filters * polynomial_cutoff(distance, self.cutoff, self.cutoff_power)[:, None]
        turn = slot_rotations(g.half.wigner[:2], LAYOUT)
        # bond's frame -> molecule: D^T B D, D = 1 + D^1
        offsite = turned_blocks(self.offsite.flat(flattened(pairs)) * filters[:, None], turn.mT)
        offsite = offsite.transpose(1, 2)
        place = batch[keys.ATOM_PLACE]
        diagonal = place * a + place - batch[keys.MOLECULE] * a
        onsite = self.onsite(as_features(x, self.l_max), g.element).flatten(2).transpose(0, 1)
        turned = offsite.unflatten(2, (k, k)).mT.flatten(2)
        dense = x.new_zeros(n * a * a, 2 * c, k * k).index_copy_(
            0, torch.cat((g.place, g.place_back, diagonal)), torch.cat((offsite, turned, onsite))
        )
        dense = dense.view(n, a, a, 2, c, k, k).permute(3, 0, 4, 1, 5, 2, 6).reshape(2, n * c, a * k, a * k)
        z = torch.bmm(dense[0], dense[1])
        z = (z + z.mT).view(n, c, a, k, a, k).permute(0, 2, 4, 1, 3, 5).reshape(n * a * a, c, k * k)
        seen = turned_blocks(z.index_select(0, g.place).transpose(1, 2), turn)
        seen = self.offsite.features(seen.transpose(1, 2))
        weights = back.split(self.counts, 1)
        seen = [t * (w if t.dim() == 2 else w[:, None]) for t, w in zip(seen, weights, strict=True)]
        kinds = len(self.to_pairs.widths_out)
        added = self.to_pairs(seen[:kinds], seen[kinds:])
        own = z.index_select(0, diagonal)
        gained = []
        for (name, l), weight in zip(self.names, self.back, strict=True):
            y = own @ getattr(self, f"diagonal_{name}").to(dtype).T  # [N, c, (2l+1) couplings]
            gained.append(y.unflatten(2, (2 * l + 1, -1)).permute(2, 0, 1, 3).flatten(2) @ weight)
        mixed = self.mix(x)
        rows = sum(len(t) for t in gained)
        mixed = torch.cat((mixed[:rows] + torch.cat(gained), mixed[rows:]))
        return x + self.product(mixed), [p + q for p, q in zip(pairs, added, strict=True)]

    def extra_repr(self):
        """What ``print(model)`` shows of it."""
        return f"{self.products} products of symmetric matrices of shells {LAYOUT}"
