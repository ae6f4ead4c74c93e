"""The atoms of the light network: geometry of unordered pairs, filters that all parts share, rounds of messages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.nn.constants import Constants
from schnorb_t.nn.embedding import BesselBasis, polynomial_cutoff
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.scatter import scatter_sum
from schnorb_t.nn.spherical import SphericalLinear, SphericalProduct, degrees


@dataclass
class LightGeometry:
    """What the parts of a light network read of a batch; u counts unordered pairs i < j, Q messages.

    Attributes:
        pairs: ordered pairs, [2, 2U]: each (i, j), i < j, then each (j, i); distances and elements in this order.
        half: elements, distances and rotations of the first half alone, with ``half.index`` for both.
        half's wigner: in the network's precision; slots are rotated in float64.
        rotation: [U, R, R], into the bonds' frames (``spherical.FrameRotations``).
        mirrored: the same for the bonds turned round by a mirror.
        place, place_back: [U] of (i, j) and (j, i) in [B, A, A] flattened.
        messages: [Q], those of the ordered pairs that are near.
        message_rotation: [Q, R, R].
    """

    pairs: PairGeometry
    half: PairGeometry
    rotation: Tensor
    mirrored: Tensor
    place: Tensor
    place_back: Tensor
    messages: Tensor
    message_rotation: Tensor

    @property
    def element(self) -> Tensor:
        """[N] rows of tables over the basis's elements."""
        return self.half.element


class SharedFilters(nn.Module):
    """Distance and the two elements of ordered pairs -> [P, hidden], of which each part makes its own weights."""

    def __init__(self, n_elements: int, cutoff: float, n_radial: int, hidden: int, constants: Constants):
        super().__init__()
        channels = constants.filter_channels
        self.n_elements = n_elements
        self.bessel = BesselBasis(n_radial, cutoff)
        self.pair = nn.Embedding(n_elements * n_elements, channels)
        self.mlp = nn.Sequential(
            nn.Linear(n_radial + channels, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )

    def forward(self, g: LightGeometry, dtype: torch.dtype) -> Tensor:
        """For ``g.pairs``; without a cutoff."""
        radial = self.bessel(g.half.distance.to(dtype))
        pair = self.pair(g.pairs.element_i * self.n_elements + g.pairs.element_j)
        return self.mlp(torch.cat((torch.cat((radial, radial)), pair), 1))


class LightInteraction(nn.Module):
    """One round of messages: [R, N, C] -> [R, N, C], as ``nn.interaction`` with few channels in the messages.

    Args:
        l_max, channels: of the atoms' features.
        message_channels: of messages.
        first: the features are scalars alone, so are the messages before they meet the bond.
        cutoff: Å.
        hidden: width of the shared filters.
        product_channels: of the self-product.
        constants: ``neighbours``, ``cutoff_power``, ``product_l_max``.
    """

    def __init__(
        self,
        l_max: int,
        channels: int,
        message_channels: int,
        first: bool,
        cutoff: float,
        hidden: int,
        product_channels: int,
        constants: Constants,
    ):
        super().__init__()
        self.l_max, self.first, self.cutoff, c = l_max, first, cutoff, message_channels
        self.channels, self.width = channels, c
        self.norm, self.cutoff_power = constants.neighbours**-0.5, constants.cutoff_power
        self.sizes = [l_max + 1 - m for m in range(l_max + 1)]  # how many l have each |m|
        if first:
            self.down = nn.Linear(channels, channels)
            self.filters = nn.Linear(hidden, channels + self.sizes[0] * c, bias=False)
            self.mix = nn.Linear(channels, self.sizes[0] * c, bias=False)
            self.own = nn.Linear(channels, channels)
        else:
            self.down = SphericalLinear(l_max, channels, c)
            self.filters = nn.Linear(hidden, sum(self.sizes) * c, bias=False)
            self.mix = nn.ModuleList(nn.Linear(n * c, n * c, bias=False) for n in self.sizes)
            self.own = SphericalLinear(l_max, channels, channels, bias=True)
        self.register_buffer("degree", torch.tensor(degrees(l_max)), persistent=False)
        self.up = SphericalLinear(l_max, c, channels)
        self.product = SphericalProduct(l_max, channels, channels, product_channels, constants.product_l_max)
        self.gate = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels * (l_max + 1)))

    def _messages(self, x: Tensor, weights: Tensor, g: LightGeometry, j: Tensor) -> Tensor:
        """[Q, R, c] in the molecule's frame."""
        c, turn = self.width, g.message_rotation
        if self.first:
            near, far = weights.split((self.channels, self.sizes[0] * c), 1)
            even = self.mix(self.down(x[0]).index_select(0, j) * near)
            even = torch.addcmul(even, even, far, value=1 / self.norm)
            # harmonics are the m = 0 rows of the rotation into the bond's frame
            harmonics = turn[:, : self.l_max + 1].sum(1)
            parts = [y[:, None] for y in even.split(c, 1)]
            rows = harmonics.split([2 * l + 1 for l in range(self.l_max + 1)], 1)
            return torch.cat([y * r[:, :, None] for y, r in zip(parts, rows, strict=True)], 1)
        y = turn @ self.down(x).transpose(0, 1).contiguous().index_select(0, j)
        parts, at = [], 0
        filters = weights.split([n * c for n in self.sizes], 1)
        for m, (n, w, mix) in enumerate(zip(self.sizes, filters, self.mix, strict=True)):
            rows = n if m == 0 else 2 * n
            z = y[:, at : at + rows].reshape(len(y), rows // n, n * c) * w[:, None]
            parts.append(mix(z).reshape(len(y), rows, c))
            at += rows
        return turn.mT @ torch.cat(parts, 1)

    def near(self, hidden: Tensor, g: LightGeometry) -> Tensor:
        """Shared filters of ``g.messages``, brought to 0 at the cutoff; the same for all rounds."""
        distance = g.pairs.distance.index_select(0, g.messages).to(hidden.dtype)
        ends = polynomial_cutoff(distance, self.cutoff, self.cutoff_power) * self.norm
        return hidden.index_select(0, g.messages) * ends[:, None]

    def forward(self, x: Tensor, near: Tensor, g: LightGeometry) -> Tensor:
        """Features of atoms, [1, N, C] in the first round, and ``near`` -> features."""
        i, j = g.pairs.batch[keys.PAIR_INDEX].index_select(1, g.messages)
        gathered = scatter_sum(self._messages(x, self.filters(near), g, j), i, x.shape[1])
        gathered = self.up(gathered.transpose(0, 1).contiguous())
        y = gathered + self.product(gathered)
        if self.first:
            y = torch.cat((y[:1] + self.own(x), y[1:]))
        else:
            y = y + self.own(x)
        scalars, *gates = self.gate(y[0]).split(self.channels, 1)
        factors = [torch.ones_like(scalars), *(2 * torch.sigmoid(gate) for gate in gates)]
        y = y * torch.stack(factors).index_select(0, self.degree)
        return torch.cat((y[:1] + scalars, y[1:]))

    def extra_repr(self):
        """What ``print(model)`` shows of it."""
        return f"l <= {self.l_max}, {self.channels} channels, {self.width} in messages, cutoff {self.cutoff} Å"
