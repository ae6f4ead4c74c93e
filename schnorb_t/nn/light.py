"""The light network: what ``nn.model`` predicts, for a fraction of the work per molecule.

Three things make it cheap. Each unordered pair of atoms has one set of features, whose exchange symmetry gives both
blocks (``nn.exchange``). Atoms are wide and pairs are narrow: every map of channels that can be done on atoms, of which
there are few, is done there before features are gathered into pairs. Features have natural parity (0e, 1o, 2e), equal
channels for each l, and stand in one tensor (``nn.spherical``), so that a part is a handful of large matrix products;
all filters share one network of the distance. Messages are computed for near pairs only. What a pair's pseudo-scalars
can say comes from products of features about the bond.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.block_matrix import BlockIndex, BlockMatrix
from schnorb_t.harmonics import bond_frames, slot_rotations, wigner_d
from schnorb_t.nn.base import DensityMatrix, Transfer
from schnorb_t.nn.blocks import OnsiteBlocks
from schnorb_t.nn.constants import Constants
from schnorb_t.nn.doubt import LastLayerMembers
from schnorb_t.nn.electrostatics import Electrostatics
from schnorb_t.nn.embedding import AtomEmbedding, smooth_end
from schnorb_t.nn.exchange import ExchangeBlocks, ExchangeResidual, flattened, limited_exchange, turned_blocks
from schnorb_t.nn.gaussian_overlap import slater_koster_components
from schnorb_t.nn.geometry import Geometry, PairGeometry
from schnorb_t.nn.light_atoms import LightGeometry, LightInteraction, SharedFilters
from schnorb_t.nn.light_pairs import LightChains, LightPairs, LightTriangles
from schnorb_t.nn.model import MatrixModel
from schnorb_t.nn.o2 import Features, O2Features
from schnorb_t.nn.overlap import FreeAtomOverlap
from schnorb_t.nn.residual_scale import ResidualScale
from schnorb_t.nn.spherical import FrameRotations, SphericalLinear, SphericalProduct, as_features, limited_rows
from schnorb_t.nn.two_centre import TwoCentre, weighted_rows

#: Arguments that must be 1 or more, and those that may also be 0.
_POSITIVE = (
    *("channels", "l_max", "interactions", "message_channels", "pair_inputs", "n_radial", "hidden"),
    *("product_channels", "pair_product_channels", "two_centre_radial"),
)
_COUNTS = ("triangle_channels", "charge_channels", "chain_channels", "doubt_members", "envelope")


class LightModel(MatrixModel, known_as="light"):
    """Hamiltonian and overlap of molecules of any size and composition that the basis knows.

    Args:
        basis: shells and free-atom functions per element.
        channels: of atom features, for each l.
        l_max: largest l of atom features; def2-SVP (d shells) needs 4 for its on-site blocks, a minimal basis 2.
        interactions: rounds of messages.
        message_channels: channels in which atoms send them, for each l.
        message_cutoff: Å, range of one round.
        cutoff: Å, pairs farther apart have no block.
        pair_inputs: channels of both atoms that a pair sees, for each l.
        pair_channels: ``[even, odd, m=1, m=2]`` of pair features, symmetric under exchange of the atoms, and as many
            antisymmetric ones; the last is repeated for larger m.
        n_radial: Bessel functions of the distance that the filter network reads.
        hidden: width of the filter network.
        product_channels: channels of the atoms' self-products.
        pair_product_channels: channels of the pairs' product.
        two_centre_radial: functions per Slater-Koster integral.
        triangle_channels: channels of what third atoms contribute to a pair; 0: nothing.
        triangle_cutoff: Å, third atoms count that are nearer than that to both atoms of the pair.
        charge_channels: sets of latent charges and dipoles whose potential every atom feels; 0: none.
        chain_channels: products of learned matrices, for what reaches a pair over chains of atoms; 0: none.
        orthogonal, doubt_members, envelope, constants: as in ``MatrixModel``.

    Raises:
        ValueError: channels or constants that cannot be.
    """

    transfer = Transfer(
        trunk=(
            *("embedding", "filters", "interactions", "electrostatics", "potential", "field", "response_mix"),
            *("response", "pair", "chains", "chain_residual"),
        ),
        closed_form=("two_centre", "overlap_two_centre", "scale", "overlap_scale"),
        doubt=("doubt",),
        per_element=re.compile(
            r"embedding\.table\.weight|(chains\.onsite|onsite_blocks|doubt\.onsite)\.weights\.\d+"
            r"|(overlap_)?(two_centre|scale)\.onsite"
        ),
        per_pair=re.compile(
            r"filters\.pair\.weight|(overlap_)?two_centre\.coefficients|(overlap_)?scale\.(height|slope)"
        ),
    )

    def __init__(
        self,
        basis: Basis,
        channels: int = 48,
        l_max: int = 2,
        interactions: int = 2,
        message_channels: int = 24,
        message_cutoff: float = 5.0,
        cutoff: float = 10.0,
        pair_inputs: int = 16,
        pair_channels: tuple[int, ...] = (48, 8, 24, 12),
        n_radial: int = 16,
        hidden: int = 64,
        product_channels: int = 16,
        pair_product_channels: int = 8,
        two_centre_radial: int = 24,
        triangle_channels: int = 8,
        triangle_cutoff: float = 6.0,
        charge_channels: int = 4,
        chain_channels: int = 4,
        orthogonal: bool = False,
        doubt_members: int = 0,
        envelope: float = 2.0,
        constants: dict[str, Any] | None = None,
    ):
        nn.Module.__init__(self)  # the parts of ``MatrixModel`` are others here; what it does with blocks is the same
        self.constants = fixed = Constants.of(constants)
        self.basis, self.cutoff, self.orthogonal, self.envelope = basis, cutoff, orthogonal, envelope
        self.l_max, self.message_cutoff, n = l_max, message_cutoff, len(basis.elements)
        self.irreps = irreps = "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(l_max + 1))
        self.geometry = Geometry(basis, cutoff, l_max)
        self.frames = FrameRotations(l_max)
        self.embedding = AtomEmbedding(n, channels)
        self.filters = SharedFilters(n, cutoff, n_radial, hidden, fixed)
        self.interactions = nn.ModuleList(
            LightInteraction(l_max, channels, message_channels, k == 0, message_cutoff, hidden, product_channels, fixed)
            for k in range(interactions)
        )
        self.electrostatics = self.chains = self.prior = self.doubt = self.ions = None
        if charge_channels:
            self.electrostatics = Electrostatics(channels, channels, charge_channels, cutoff, fixed)
            self.potential = nn.Linear(charge_channels, channels)
            self.field = nn.Linear(charge_channels, channels, bias=False)
            self.response_mix = SphericalLinear(l_max, channels, channels)
            self.response = SphericalProduct(l_max, channels, channels, product_channels, fixed.product_l_max)
        # chains have p functions even where the basis has none
        m_max = max(2 * basis.l_max, 2 if chain_channels else 1)
        widths = (list(pair_channels) + [pair_channels[-1]] * m_max)[: m_max + 2]
        triangles = None
        if triangle_channels:
            l_third = min(l_max, fixed.triangle_l_max)
            triangles = LightTriangles(l_third, channels, triangle_channels, triangle_cutoff, hidden, fixed)
        self.pair = LightPairs(l_max, channels, pair_inputs, widths, hidden, pair_product_channels, triangles)
        if chain_channels:
            self.chains = LightChains(
                l_max, channels, widths, n, cutoff, hidden, chain_channels, product_channels, fixed
            )
            self.chain_residual = ExchangeResidual(widths)
        fields = 2 if basis.projected else 1
        self.onsite_blocks = OnsiteBlocks(basis.layout, n, irreps, fields)
        self.offsite_blocks = ExchangeBlocks(basis.layout, widths, fields)
        if doubt_members:
            self.doubt = LastLayerMembers(basis.layout, n, irreps, widths, doubt_members)
            self.doubt.offsite = ExchangeBlocks(basis.layout, widths, doubt_members).requires_grad_(False)
        self.overlap0 = FreeAtomOverlap(basis, cutoff, envelope if basis.projected else 0.0, fixed)
        self.two_centre = TwoCentre(basis, cutoff, two_centre_radial, fixed)
        self.scale = ResidualScale(basis, fixed.scale_floor, fixed)
        if basis.projected:
            self.overlap_two_centre = TwoCentre(basis, cutoff, two_centre_radial, fixed)
            self.overlap_scale = ResidualScale(basis, fixed.overlap_scale_floor, fixed)
        components = slater_koster_components(basis)
        exchanged = [components.index((b, a, m)) for a, b, m in components]
        signs = [(-1.0) ** (basis.layout[a] + basis.layout[b]) for a, b, _ in components]
        self.register_buffer("exchanged", torch.tensor(exchanged), persistent=False)
        self.register_buffer("signs", torch.tensor(signs, dtype=torch.float64), persistent=False)

    @classmethod
    def build(cls, basis: Basis, arguments: Mapping[str, Any], density: DensityMatrix) -> LightModel:
        """See ``MatrixNetwork.build``."""
        return cls(basis, **arguments)

    @classmethod
    def faults(cls, arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """See ``MatrixNetwork.faults``."""
        for names, least in ((_POSITIVE, 1), (_COUNTS, 0)):
            yield from ((n, f"{least} or more") for n in names if n in arguments and not arguments[n] >= least)
        for name in ("message_cutoff", "triangle_cutoff", "cutoff"):
            if name in arguments and not 0 < arguments[name] < math.inf:
                yield name, "a length above 0, Å"
        channels = arguments.get("pair_channels", (1,))
        if not channels or min(channels) < 1:
            yield "pair_channels", "one number or more, each 1 or more"

    # ---- prediction -----------------------------------------------------------------------------------------------

    def _geometry(self, batch: dict[str, Tensor], dtype: torch.dtype) -> LightGeometry:
        """Unordered pairs of a batch, their frames, and which of them carry messages."""
        i, j = batch[keys.PAIR_INDEX]
        on_cpu = i.device.type == "cpu"
        # elsewhere the host would wait for the device to learn how many there are
        upper = (i < j).nonzero()[:, 0] if on_cpu else (i > j).to(torch.uint8).argsort(stable=True)[: len(i) // 2]
        i, j = i.index_select(0, upper), j.index_select(0, upper)
        element = self.geometry.lookup[batch[keys.ATOMIC_NUMBERS]]
        # differences in the positions' own precision (float64 from the loaders), so that translation costs nothing
        positions = batch[keys.POSITIONS]
        bond = (positions.index_select(0, j) - positions.index_select(0, i)).double()
        frames = bond_frames(bond)
        distance, slots = bond.norm(dim=1), slot_rotations(wigner_d(frames, self.basis.l_max), self.basis.layout)
        wigner = wigner_d(frames.to(dtype), self.l_max)
        one, other = element.index_select(0, i), element.index_select(0, j)
        ordered = torch.stack((torch.cat((i, j)), torch.cat((j, i))))
        index = BlockIndex(batch[keys.MOLECULE], batch[keys.ORBITAL_INDEX], ordered, batch[keys.ORBITAL_MASK])
        half = {**batch, keys.PAIR_INDEX: torch.stack((i, j))}
        half = PairGeometry(half, index, element, one, other, distance, wigner, slots)
        both = {**batch, keys.PAIR_INDEX: ordered}
        both = PairGeometry(
            both, index, element, torch.cat((one, other)), torch.cat((other, one)), torch.cat((distance, distance)),
            [], slots,
        )  # fmt: skip
        rotation = self.frames(wigner)
        mirrored = rotation * self.frames.mirror.to(dtype)
        near, turns = torch.arange(len(i), device=i.device), (rotation, mirrored)
        if on_cpu:
            near = (distance < self.message_cutoff).nonzero()[:, 0]
            turns = tuple(t.index_select(0, near) for t in turns)
        atom, most = batch[keys.ATOM_PLACE], batch[keys.ATOM_MASK].shape[1]
        own = atom - batch[keys.MOLECULE] * most
        place = atom.index_select(0, i) * most + own.index_select(0, j)
        back = atom.index_select(0, j) * most + own.index_select(0, i)
        messages = torch.cat((near, near + len(i)))
        return LightGeometry(both, half, rotation, mirrored, place, back, messages, torch.cat(turns))

    def features(self, batch: dict[str, Tensor]) -> tuple[LightGeometry, Features, O2Features, Tensor | None]:
        """What the last layer reads, as in ``MatrixModel``; pair features as ``exchange.flattened`` has them."""
        limits, pair_limits = self.constants.limit_atoms, self.constants.limit_pairs
        dtype = self.embedding.table.weight.dtype
        g = self._geometry(batch, dtype)
        hidden = self.filters(g, dtype)
        x, near = self.embedding(g.element)[None], self.interactions[0].near(hidden, g)
        for interaction in self.interactions:
            x = limited_rows(interaction(x, near, g), *limits)
        potential = None
        if self.electrostatics is not None:
            potential, field = self.electrostatics(as_features(x, 1), g.pairs)
            x = limited_rows(x + self.response(self._felt(x, potential, field)), *limits)
        pairs = limited_exchange(self.pair(x, hidden, g), *pair_limits)
        if self.chains is not None:
            x, pairs = self.chains(x, pairs, hidden, g)
            pairs = limited_exchange(self.chain_residual(limited_exchange(pairs, *pair_limits)), *pair_limits)
            x = limited_rows(x, *limits)
        return g, as_features(x, self.l_max), flattened(pairs), potential

    def _felt(self, x: Tensor, potential: Tensor, field: Tensor) -> Tensor:
        """Features with the potential and field at each atom, ready to be multiplied (``electrostatics.Response``)."""
        mixed = self.response_mix(x)
        scalars = self.potential(self.constants.response_potential * potential)[None]
        vectors = self.field(self.constants.response_field * field).transpose(0, 1)
        return torch.cat((mixed[:1] + scalars, mixed[1:4] + vectors, mixed[4:]))

    def blocks_from(
        self, features: tuple[LightGeometry, Features, O2Features, Tensor | None], batch: dict[str, Tensor]
    ) -> dict[str, BlockMatrix]:
        """See ``MatrixModel.blocks_from``."""
        g, x, pairs, potential = features
        half, element = g.half, g.element
        end = smooth_end(half.distance, self.cutoff, self.envelope)[:, None, None]
        parts = [(self.two_centre, self.scale)]
        if self.basis.projected:
            parts.append((self.overlap_two_centre, self.overlap_scale))
        onsite, offsite = self.onsite_blocks(x, element), self.offsite_blocks(pairs)
        two_centre = self._two_centre([part for part, _ in parts], half)
        on, off, units = [], [], []
        for field, (part, scale) in enumerate(parts):
            on.append(part.onsite_means()[element] + scale.onsite[element] * onsite[field].double())
            units.append(self._scale(scale, half))
            learned = (units[-1] * offsite[field]).double() * end
            off.append(two_centre[field] + learned)
        # free atoms' overlaps go into the molecule's frame together with the others
        components = self.overlap0.table(half.element_i, half.element_j, half.distance)
        off.append(self.overlap0.frame.from_components(components))
        turned = self.geometry.frame.to_molecule(torch.stack(off), half.slot_rotation)
        free = turned[-1]
        if self.overlap0.envelope:
            free = free * smooth_end(half.distance, self.cutoff, self.overlap0.envelope)[:, None, None]
        free = BlockMatrix(self.overlap0.onsite[element], torch.cat((free, free.mT)), half.index)
        made = [
            BlockMatrix(0.5 * (a + a.mT), torch.cat((b, b.mT)), half.index) for a, b in zip(on, turned, strict=False)
        ]
        if potential is not None:
            made[0] = made[0] + self._shift(potential[:, 0].double(), free)
        out = {"hamiltonian": made[0], "overlap0": free}
        if self.basis.projected:
            out["overlap_change"] = made[1]
        if self.doubt is not None and not self.training:
            out["hamiltonian_deviations"] = self._member_blocks(x, pairs, g, units[0] * end.to(units[0].dtype))
        return out

    def _scale(self, scale: ResidualScale, g: PairGeometry) -> Tensor:
        """Units of the network's blocks, [U, K, K]: the same for both directions of a pair."""
        n = len(self.basis.elements)
        rows = g.element_i * n + g.element_j
        height, slope = (
            (0.5 * (t + t.unflatten(0, (n, n)).transpose(0, 1).flatten(0, 1).mT)).index_select(0, rows)
            for t in (scale.height, scale.slope)
        )
        return torch.exp(height - slope * g.distance.to(height.dtype)[:, None, None])

    def _two_centre(self, parts: list[TwoCentre], g: PairGeometry) -> Tensor:
        """Two-centre blocks [parts, U, K, K] in the bond's frame: the mean of those of both directions."""
        n, rows = len(self.basis.elements), g.element_i * len(self.basis.elements) + g.element_j
        tables = []
        for part in parts:
            table = part.coefficients.unflatten(0, (n, n))
            back = table.transpose(0, 1).index_select(-1, self.exchanged) * self.signs
            tables.append(0.5 * (table + back).flatten(0, 1))
        table, radial = torch.cat(tables, 2), parts[0].functions(g.distance)
        if torch.is_grad_enabled() and table.requires_grad:
            # neither weighted_rows nor an einsum: their gradients are four times slower
            values = (radial[:, :, None] * table.index_select(0, rows)).sum(1)
        else:
            radials = table.shape[1]
            places = rows[:, None] * radials + torch.arange(radials, device=rows.device)
            values = weighted_rows(table.flatten(0, 1), places, radial)
        frame = self.geometry.frame
        return torch.stack([frame.from_components(v) for v in values.split(len(self.signs), 1)])

    def _member_blocks(self, x: Features, pairs: O2Features, g: LightGeometry, units: Tensor) -> BlockMatrix:
        """What each draw of the last layer adds to H, Eh: E matrices per molecule; in ``units`` [U, K, K] off-site."""
        offsite, k = self.doubt.offsite.flat(pairs), self.basis.n_slots
        offsite = turned_blocks(offsite * units.flatten(1)[:, :, None], g.half.slot_rotation.mT.to(offsite.dtype))
        # members are innermost, and stay so in the padded matrices: 16 numbers are moved at once
        offsite = offsite.unflatten(1, (k, k))
        offsite = torch.cat((offsite, offsite.transpose(1, 2))).permute(3, 0, 1, 2)
        onsite = self.scale.onsite[g.element] * self.doubt.onsite(x, g.element)
        return BlockMatrix(0.5 * (onsite + onsite.mT), offsite, g.half.index)

    def __repr__(self):
        count = {name: sum(p.numel() for p in child.parameters()) for name, child in self.named_children()}
        kinds = ", ".join(
            f"{w}x{k}" for w, k in zip(self.pair.widths, ["0+", "0-", *map(str, range(1, 20))], strict=False)
        )
        both = "H and S - S0" if self.basis.projected else "H (S = S0 exactly)"
        both = f"S^(-1/2) {both}".replace("H", "H S^(-1/2)", 1) if self.orthogonal else both
        parts = ", ".join(f"{n} {c:,}" for n, c in count.items() if c)
        third = self.pair.triangles
        lines = [
            f"LightModel of {self.basis}",
            f"  embedding      element -> {self.irreps.split('+')[0]}",
            *(f"  interaction {k + 1}  {x.extra_repr()}" for k, x in enumerate(self.interactions)),
            *([f"  electrostatics {self.electrostatics.extra_repr()}"] if self.electrostatics else []),
            f"  pair           {self.pair.inputs} channels of both atoms -> two signs under exchange x {kinds}",
            *([f"                 + third atoms, {third.channels} channels"] if third else []),
            *([f"  chains         {self.chains.extra_repr()}"] if self.chains else []),
            f"  on-site        {' + '.join(self.onsite_blocks.names)} -> {self.basis.n_slots} x {self.basis.n_slots}",
            f"  off-site       both directions at once, within {self.cutoff} Å",
            f"  two-centre     {self.two_centre.n_radial} functions per integral; predicts {both}",
            f"  parameters     {self.n_parameters():,} ({parts})",
        ]
        return "\n".join(lines)
