"""Interactions: each atom gathers its neighbours' features, multiplies what it gathered with itself, and is gated.

Continuous-filter convolution (SchNet) with equivariant features: messages are features of the neighbour times the
spherical harmonics of the bond, weighted by filters of the distance, computed in the bond frame (see ``nn.o2``);
the product of an atom's features with themselves then correlates neighbours (as in ACE/MACE, Batatia et al.,
NeurIPS 2022).
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import nn

from schnorb_t import keys
from schnorb_t.harmonics import clebsch_gordan
from schnorb_t.nn.constants import Constants, today
from schnorb_t.nn.embedding import RadialMLP, polynomial_cutoff
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.o2 import Features, O2Linear, ToBondFrame, irrep_list, o2_scale, o2_widths
from schnorb_t.nn.scatter import scatter_sum


class IrrepsLinear(nn.Module):
    """Dense map of channels within each irrep; bias on 0e. Irreps missing on either side are left out."""

    def __init__(self, irreps_in: str, irreps_out: str):
        super().__init__()
        given = {name: c for name, _, _, c in irrep_list(irreps_in)}
        self.names = [name for name, *_ in irrep_list(irreps_out) if name in given]
        widths = {name: c for name, _, _, c in irrep_list(irreps_out)}
        self.maps = nn.ModuleList(nn.Linear(given[n], widths[n], bias=n == "0e") for n in self.names)

    def forward(self, x: Features) -> Features:
        """Features [N, 2l+1, C] of each irrep -> features of the irreps that both sides have."""
        return {n: f(x[n]) for n, f in zip(self.names, self.maps, strict=True)}


class SelfProduct(nn.Module):
    """Clebsch-Gordan product of an atom's features with themselves, channel by channel, then a linear map.

    Args:
        irreps_in: features.
        irreps_out: features wanted.
        channels: channels of each factor.
        constants: ``product_l_max``; factors of larger l take no part.
    """

    def __init__(self, irreps_in: str, irreps_out: str, channels: int, constants: Constants | None = None):
        super().__init__()
        l_max = (constants or today()).product_l_max
        factors = [(n, l, natural) for n, l, natural, _ in irrep_list(irreps_in) if l <= l_max]
        self.mix = IrrepsLinear(irreps_in, "+".join(f"{channels}x{n}" for n, *_ in factors))
        self.names = [n for n, *_ in factors]
        sizes = [2 * l + 1 for _, l, _ in factors]
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        dim = sum(sizes)
        columns, self.slices, widths = [], [], []
        for name, l3, natural3, _ in irrep_list(irreps_out):
            paths = []
            for x, (_, l1, natural1) in enumerate(factors):
                for y, (_, l2, natural2) in enumerate(factors[x:], start=x):
                    # natural x natural is natural if l1 + l2 + l3 is even
                    parity = (l1 + l2 + l3) % 2 == 0
                    if not abs(l1 - l2) <= l3 <= l1 + l2 or ((natural1 == natural2) == parity) != natural3:
                        continue
                    if x == y and (l1 + l2 + l3) % 2:
                        continue  # antisymmetric in one and the same vector: zero
                    full = torch.zeros(dim, dim, 2 * l3 + 1, dtype=torch.float64)
                    full[starts[x] : starts[x] + sizes[x], starts[y] : starts[y] + sizes[y]] = (
                        clebsch_gordan(l1, l2, l3) * (2 * l3 + 1) ** 0.5
                    )
                    paths.append(full)
            if paths:
                at = sum(c.shape[-1] for c in columns)
                columns.append(torch.stack(paths, -1).reshape(dim, dim, -1))
                self.slices.append((name, l3, len(paths), at))
                widths.append(f"{len(paths) * channels}x{name}")
        coupling = torch.cat(columns, -1)
        upper = torch.triu_indices(dim, dim)
        # x_a x_b is symmetric: sum both triangles into one
        folded = coupling + coupling.transpose(0, 1)
        folded[range(dim), range(dim)] *= 0.5
        self.register_buffer("coupling", folded[upper[0], upper[1]], persistent=False)
        self.register_buffer("upper", upper, persistent=False)
        self.out = IrrepsLinear("+".join(widths), irreps_out)

    def forward(self, x: Features) -> Features:
        """Features of atoms -> features of the same irreps."""
        mixed = self.mix(x)
        y = torch.cat([mixed[n] for n in self.names], 1)
        n, _, c = y.shape
        pairs = y.index_select(1, self.upper[0]) * y.index_select(1, self.upper[1])
        coupled = self.coupling.T.to(y.dtype) @ pairs
        out = {}
        for name, l, paths, at in self.slices:
            out[name] = coupled[:, at : at + (2 * l + 1) * paths].reshape(n, 2 * l + 1, paths * c)
        return self.out(out)


def add(x: Features, y: Features) -> Features:
    """Sum of two sets of features; an irrep that only one has is taken from it."""
    return {n: x[n] + y[n] if n in x and n in y else x.get(n, y.get(n)) for n in x.keys() | y.keys()}


class Interaction(nn.Module):
    """One round of messages. Features in, features out, both dicts of [N, 2l+1, C].

    Args:
        irreps_in, irreps_out: e.g. ``"64x0e"`` and ``"64x0e+32x1o+16x1e+32x2e+16x2o"``.
        n_elements: rows of the element tables.
        cutoff: Å, range of messages.
        n_radial, hidden: radial functions and width of the filter network.
        product_channels: channels of the atoms' self-product.
        constants: ``neighbours``, ``cutoff_power``, and those of its parts.
    """

    def __init__(
        self,
        irreps_in: str,
        irreps_out: str,
        n_elements: int,
        cutoff: float,
        n_radial: int,
        hidden: int,
        product_channels: int,
        constants: Constants | None = None,
    ):
        super().__init__()
        constants = constants or today()
        self.cutoff_power = constants.cutoff_power
        self.irreps_in, self.irreps_out = str(o3.Irreps(irreps_in)), str(o3.Irreps(irreps_out))
        self.cutoff, self.norm = cutoff, constants.neighbours**-0.5
        l_out = max(l for _, l, _, _ in irrep_list(irreps_out))
        self.to_frame = ToBondFrame(irreps_in)
        message = o2_widths(irreps_in)
        widths_out = o2_widths(irreps_out, l_out)
        self.filters = RadialMLP(n_elements, cutoff, n_radial, hidden, sum(message) + widths_out[0], constants)
        self.split = sum(message)
        # messages of scalars alone are even: what they make has natural parity, scalars times the bond's harmonics
        self.of_scalars = len(message) == 2 and not message[1]
        self.linear = O2Linear(message, widths_out[:1] if self.of_scalars else widths_out, bias=False)
        self.from_frame = ToBondFrame(irreps_out)
        self.self_linear = IrrepsLinear(irreps_in, irreps_out)
        self.message_linear = IrrepsLinear(irreps_out, irreps_out)
        self.product = SelfProduct(irreps_out, irreps_out, product_channels, constants)
        others = [(n, c) for n, _, _, c in irrep_list(irreps_out) if n != "0e"]
        self.scalars = dict((n, c) for n, _, _, c in irrep_list(irreps_out))["0e"]
        self.gate_names, self.gate_widths = [n for n, _ in others], [c for _, c in others]
        self.gate = nn.Sequential(
            nn.Linear(self.scalars, self.scalars),
            nn.SiLU(),
            nn.Linear(self.scalars, self.scalars + sum(self.gate_widths)),
        )

    def forward(self, x: Features, g: PairGeometry) -> Features:
        """Features of atoms and the geometry of pairs -> features of atoms after one round of messages."""
        return self.update(x, self.gather(x, g.near(self.cutoff)))

    def gather(self, x: Features, g: PairGeometry) -> Features:
        """The sum of the messages of these pairs at every atom."""
        i, j = g.batch[keys.PAIR_INDEX]
        dtype = x["0e"].dtype
        distance = g.distance.to(dtype)
        weights = self.filters(g.element_i, g.element_j, distance)
        weights = weights * (polynomial_cutoff(distance, self.cutoff, self.cutoff_power) * self.norm)[:, None]
        wigner = g.rotations(dtype)
        message = self.to_frame(x, wigner, j)
        message = self.linear(o2_scale(message, weights[:, : self.split]))
        # each l of a scalar message has its own radial filter
        message[0] = message[0] * (1 + weights[:, self.split :] / self.norm)
        n = x["0e"].shape[0]
        gathered = {name: scatter_sum(t, i, n) for name, t in self.from_frame.back(message, wigner).items()}
        for name, l, _, channels in self.from_frame.items:
            if name not in gathered:
                gathered[name] = x["0e"].new_zeros(n, 2 * l + 1, channels)
        return gathered

    def update(self, x: Features, gathered: Features) -> Features:
        """Features of atoms after messages."""
        gathered = self.message_linear(gathered)
        y = add(add(self.self_linear(x), gathered), self.product(gathered))
        s, gates = self.gate(y["0e"][:, 0]).split((self.scalars, sum(self.gate_widths)), 1)
        out = {"0e": y["0e"] + s[:, None]}
        for name, gate in zip(self.gate_names, gates.split(self.gate_widths, 1), strict=True):
            if name in y:
                out[name] = y[name] * (2 * torch.sigmoid(gate))[:, None]
        return out

    def extra_repr(self):
        """What ``print(model)`` shows of it."""
        return f"{self.irreps_in} -> {self.irreps_out}, cutoff {self.cutoff} Å"
