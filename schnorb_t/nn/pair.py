"""Pair features: both atoms' surroundings, seen in the frame of their bond, mixed and multiplied."""

from __future__ import annotations

import torch
from e3nn import o3
from torch import nn

from schnorb_t import keys
from schnorb_t.nn.constants import Constants, today
from schnorb_t.nn.embedding import RadialMLP
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.o2 import Features, O2Features, O2Gate, O2Linear, O2Product, ToBondFrame, o2_scale, o2_widths
from schnorb_t.nn.triangle import Triangles


class O2Residual(nn.Module):
    """x + linear(gate(linear(x)))."""

    def __init__(self, widths: list[int]):
        super().__init__()
        gate = O2Gate(widths)
        self.first, self.gate, self.second = O2Linear(widths, gate.widths_in), gate, O2Linear(widths, widths)

    def forward(self, x: O2Features) -> O2Features:
        """O(2) features of pairs -> the same plus a gated correction."""
        return [a + b for a, b in zip(x, self.second(self.gate(self.first(x))), strict=True)]


class PairFeatures(nn.Module):
    """Features of every ordered pair (i, j), as representations of O(2) about the bond.

    Args:
        irreps: of the atoms' features.
        widths: channels ``[even, odd, m=1, ...]`` of a pair.
        n_elements, cutoff, n_radial, hidden: of the filter network; the cutoff is the pair list's.
        product_channels: channels of the pair's self-product.
        layers: rounds of (residual, product).
        triangle_channels: of what third atoms contribute; 0 leaves them out.
        triangle_cutoff: Å, of third atoms.
        constants: those of its parts.
    """

    def __init__(
        self,
        irreps: str,
        widths: list[int],
        n_elements: int,
        cutoff: float,
        n_radial: int,
        hidden: int,
        product_channels: int,
        layers: int = 1,
        triangle_channels: int = 16,
        triangle_cutoff: float = 6.0,
        constants: Constants | None = None,
    ):
        super().__init__()
        constants = constants or today()
        self.irreps, self.widths = irreps, list(widths)
        self.to_frame = ToBondFrame(irreps)
        both = [2 * w for w in o2_widths(irreps)]
        self.triangles = None
        if triangle_channels:
            scalars = o3.Irreps(irreps).count("0e")
            self.triangles = Triangles(
                scalars, triangle_channels, n_elements, n_radial, hidden, triangle_cutoff, constants
            )
            self.triangles_to_frame = ToBondFrame(self.triangles.irreps)
            third = o2_widths(self.triangles.irreps)
            both = [w + (third[k] if k < len(third) else 0) for k, w in enumerate(both)]
        self.filter_widths = [sum(both), *[sum(widths)] * layers]
        self.filters = RadialMLP(n_elements, cutoff, n_radial, hidden, sum(self.filter_widths) + widths[0], constants)
        self.mix = O2Linear(both, widths)
        self.residuals = nn.ModuleList(O2Residual(widths) for _ in range(layers + 1))
        self.products = nn.ModuleList(O2Product(widths, widths, product_channels) for _ in range(layers))

    def forward(
        self, x: Features, g: PairGeometry, more: O2Features | None = None, third: Features | None = None
    ) -> O2Features:
        """``more``: what else is known of the pairs, of the same widths; ``third``: what ``triangles`` gives."""
        i, j = g.batch[keys.PAIR_INDEX]
        dtype = x["0e"].dtype
        wigner = g.rotations(dtype)
        weights = self.filters(g.element_i, g.element_j, g.distance.to(dtype))
        first, *rest, bond = weights.split((*self.filter_widths, self.widths[0]), 1)
        seen = self.to_frame(x, wigner, i, j)
        if self.triangles is not None:
            third = self.triangles(x, g) if third is None else third
            frame = self.triangles_to_frame(third, wigner)
            seen = [torch.cat((s, frame[k]), -1) if k < len(frame) else s for k, s in enumerate(seen)]
        h = self.mix(o2_scale(seen, first))
        h[0] = h[0] + bond
        if more is not None:
            h = [a + b for a, b in zip(h, more, strict=True)]
        h = self.residuals[0](h)
        for scale, product, residual in zip(rest, self.products, self.residuals[1:], strict=True):
            h = [a + b for a, b in zip(h, product(o2_scale(h, scale)), strict=True)]
            h = residual(h)
        return h

    def extra_repr(self):
        """What ``print(model)`` shows of it."""
        return f"{self.irreps} of both atoms -> O(2) even/odd/m=1.. {self.widths}"
