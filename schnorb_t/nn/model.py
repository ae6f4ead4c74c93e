"""The model: molecules in, Hamiltonian and overlap out.

atoms -> interactions -> electrostatics -> pair features -> chains of atoms -> orbital blocks of H and of S - S0
-> padded matrices.
Two-centre functions and on-site means carry what distance and element alone explain; the network learns the rest,
scaled per element (pair) and shell pair to what the reference data leave.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from ase.data import chemical_symbols
from e3nn import o3
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.nn.assembly import matrix_from_blocks
from schnorb_t.nn.base import MatrixNetwork, Transfer
from schnorb_t.nn.blocks import OffsiteBlocks, OnsiteBlocks
from schnorb_t.nn.constants import complete
from schnorb_t.nn.doubt import LastLayerMembers, deviations
from schnorb_t.nn.electrostatics import Electrostatics, Response
from schnorb_t.nn.embedding import AtomEmbedding, smooth_end
from schnorb_t.nn.geometry import Geometry, PairGeometry
from schnorb_t.nn.interaction import Interaction, IrrepsLinear, add
from schnorb_t.nn.limit import limited_atoms, limited_pairs
from schnorb_t.nn.matrix_product import MatrixProduct
from schnorb_t.nn.o2 import Features, O2Features, irrep_list
from schnorb_t.nn.overlap import (
    FreeAtomOverlap,
    from_orthogonal,
    positive_definite,
    to_orthogonal,
)
from schnorb_t.nn.pair import O2Residual, PairFeatures
from schnorb_t.nn.prior import Prior, PriorToPairs
from schnorb_t.nn.residual_scale import ResidualScale
from schnorb_t.nn.two_centre import TwoCentre


class MatrixModel(MatrixNetwork, known_as="matrix"):
    """Hamiltonian and overlap of molecules of any size and composition that the basis knows.

    Args:
        basis: shells and free-atom functions per element.
        irreps: of atom features, each irrep once, e.g. ``"64x0e+32x1o+16x1e+32x2e+16x2o"``. On-site blocks of a minimal
            basis need 0e, 1o, 2e; def2-SVP (d shells) up to l = 4.
        interactions: rounds of messages.
        message_cutoff: Å, range of one round.
        cutoff: Å, pairs farther apart have no block.
        pair_channels: channels ``[even, odd, m=1, m=2]`` of pair features; the last is repeated for larger m.
        pair_layers: products in the pair stage.
        n_radial: Bessel functions; ``hidden``: width of the filter networks.
        product_channels: channels of the self-products.
        two_centre_radial: functions per Slater-Koster integral.
        triangle_channels, triangle_cutoff: of what third atoms within so many Å contribute to a pair; 0: nothing.
        charge_channels: sets of latent charges and dipoles whose potential every atom feels; 0: none.
        chain_channels: products of learned matrices, for what reaches a pair over chains of atoms; 0: none.
        orthogonal: learn S^(-1/2) H S^(-1/2), H in Löwdin's orthogonal functions (J. Chem. Phys. 18, 365 (1950)). For a
            large fixed basis: S has small eigenvalues there, and orbitals of them turn errors of 1 mEh in H into Eh.
        doubt_members: draws of the last layer that tell how sure each level is (``nn.doubt``); 0: none.
        envelope: Å, range below the cutoff in which the network's part of pair blocks falls to 0 (``smooth_end``).
        constants: numbers of ``nn.constants`` other than today's, as a checkpoint names them.
        prior: ``{"basis": Basis.to_json(), "arguments": {...}}`` of a frozen model of a cheaper method, whose
            electronic structure the network takes as input (``nn.prior``); its weights are part of this model's.
    """

    transfer = Transfer(
        trunk=("embedding", "interactions", "electrostatics", "response", "pair", "chains", "chain_residual"),
        closed_form=("two_centre", "overlap_two_centre", "scale", "overlap_scale"),
        doubt=("doubt",),
        prior=("prior", "prior_scalars", "prior_tensors", "prior_pairs"),
        per_element=re.compile(
            r"embedding\.table\.weight|(chains\.onsite|onsite_blocks|doubt\.onsite)\.weights\.\d+"
            r"|(overlap_)?(two_centre|scale)\.onsite"
        ),
        per_pair=re.compile(
            r"(?!prior\.).*filters\.pair\.weight|(overlap_)?two_centre\.coefficients"
            r"|(overlap_)?scale\.(height|slope)"
        ),
    )

    def __init__(
        self,
        basis: Basis,
        irreps: str = "64x0e+32x1o+16x1e+32x2e+16x2o",
        interactions: int = 2,
        message_cutoff: float = 5.0,
        cutoff: float = 10.0,
        pair_channels: tuple[int, ...] = (64, 16, 32, 16),
        pair_layers: int = 1,
        n_radial: int = 12,
        hidden: int = 64,
        product_channels: int = 16,
        two_centre_radial: int = 24,
        triangle_channels: int = 16,
        triangle_cutoff: float = 6.0,
        charge_channels: int = 8,
        chain_channels: int = 8,
        orthogonal: bool = False,
        prior: dict[str, Any] | None = None,
        doubt_members: int = 0,
        envelope: float = 2.0,
        constants: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.constants = const = complete(constants)
        self.basis, self.cutoff, self.orthogonal, self.envelope = basis, cutoff, orthogonal, envelope
        self.irreps = str(o3.Irreps(irreps))
        n = len(basis.elements)
        scalars = o3.Irreps(irreps).count("0e")
        l_max = max(2, *(ir.l for _, ir in o3.Irreps(irreps)))
        self.geometry = Geometry(basis, cutoff, l_max)
        self.embedding = AtomEmbedding(n, scalars)
        self.interactions = nn.ModuleList(
            Interaction(
                irreps if k else f"{scalars}x0e",
                irreps,
                n,
                message_cutoff,
                n_radial,
                hidden,
                product_channels,
                const["neighbours"],
            )
            for k in range(interactions)
        )
        self.electrostatics = self.response = self.chains = self.prior = self.doubt = None
        if charge_channels:
            vectors = o3.Irreps(irreps).count("1o")
            self.electrostatics = Electrostatics(scalars, vectors, charge_channels, cutoff)
            self.response = Response(
                irreps, charge_channels, product_channels, (const["response_potential"], const["response_field"])
            )
        # chains have p functions even where the basis has none
        m_max = max(2 * basis.l_max, 2 if chain_channels else 1)
        channels = list(pair_channels)
        widths = (channels + [channels[-1]] * m_max)[: m_max + 2]
        self.pair = PairFeatures(
            irreps,
            widths,
            n,
            cutoff,
            n_radial,
            hidden,
            product_channels,
            pair_layers,
            triangle_channels,
            triangle_cutoff,
        )
        fields = 2 if basis.projected else 1
        if prior:
            self.prior = Prior(
                self._prior_model(prior),
                n,
                envelope,
                const["prior_widths"],
                const["prior_ranges"],
                const["prior_limit"],
            )
            self.prior_scalars = nn.Linear(self.prior.n_scalars, scalars)
            self.prior_tensors = IrrepsLinear("2x1o+2x2e", irreps)
            self.prior_pairs = PriorToPairs(widths, n, cutoff, n_radial, hidden)
        self.onsite_blocks = OnsiteBlocks(basis.layout, n, irreps, fields)
        self.offsite_blocks = OffsiteBlocks(basis.layout, widths, fields)
        if chain_channels:
            read = "+".join(f"{c}x{name}" for name, _, _, c in irrep_list(irreps) if name in self.onsite_blocks.names)
            self.chains = MatrixProduct(
                irreps, read, widths, n, cutoff, n_radial, hidden, chain_channels, product_channels
            )
            self.chain_residual = O2Residual(widths)
        if doubt_members:
            self.doubt = LastLayerMembers(basis.layout, n, irreps, widths, doubt_members)
        self.overlap0 = FreeAtomOverlap(basis, cutoff, envelope if basis.projected else 0.0)
        self.two_centre = TwoCentre(basis, cutoff, two_centre_radial, decay=const["two_centre_decay"])
        self.scale = ResidualScale(basis, floor=1e-5)
        if basis.projected:
            self.overlap_two_centre = TwoCentre(basis, cutoff, two_centre_radial, decay=const["two_centre_decay"])
            self.overlap_scale = ResidualScale(basis, floor=1e-6)

    def _prior_model(self, prior: dict[str, Any]) -> MatrixModel:
        model = MatrixModel(Basis.from_json(prior["basis"]), **prior["arguments"])
        if missing := [z for z in self.basis.elements if z not in model.basis.elements]:
            raise ValueError(f"the prior does not know {', '.join(chemical_symbols[z] for z in missing)}")
        if model.cutoff != self.cutoff:
            raise ValueError(
                f"the prior's cutoff is {model.cutoff:g} Å, this model's {self.cutoff:g} Å; give both the same"
            )
        return model

    # ---- prediction -----------------------------------------------------------------------------------------------

    def _blocks(self, part: TwoCentre, scale: ResidualScale, field: int, net, g: PairGeometry):
        """Symmetric blocks of one field: two-centre part + scaled network output, float64."""
        onsite_net, offsite_net = net
        rows = g.element_i * len(self.basis.elements) + g.element_j
        onsite = part.onsite_means()[g.element] + scale.onsite[g.element] * onsite_net[field].double()
        offsite = part.bond_blocks(g.element_i, g.element_j, g.distance)
        offsite = offsite + self._faded(scale.offsite(rows, g.distance) * offsite_net[field], g).double()
        return self.geometry.symmetric(onsite, offsite, g)

    def _faded(self, blocks: Tensor, g: PairGeometry) -> Tensor:
        """Blocks [..., P, K, K] of what the network adds to pairs, brought to 0 at the cutoff."""
        return blocks * smooth_end(g.distance, self.cutoff, self.envelope).to(blocks.dtype)[:, None, None]

    def features(self, batch: dict[str, Tensor]) -> tuple[PairGeometry, Features, O2Features, Tensor | None]:
        """What the last layer reads: geometry, features of atoms, of pairs, and the latent potential [N, C] or None."""
        g, most, pair_most = self.geometry(batch), self.constants["limit_atoms"], self.constants["limit_pairs"]
        x = {"0e": self.embedding(g.element)[:, None]}
        known = self.prior(g, x["0e"].dtype) if self.prior is not None else None
        if known is not None:
            x["0e"] = x["0e"] + self.prior_scalars(known.scalars)[:, None]
        for k, interaction in enumerate(self.interactions):
            x = limited_atoms(interaction(x, g), most)
            if k == 0 and known is not None:
                x = add(x, self.prior_tensors(known.tensors))
        potential = None
        if self.electrostatics is not None:
            potential, field = self.electrostatics(x, g)
            x = limited_atoms(self.response(x, potential, field), most)
        pairs = limited_pairs(self.pair(x, g, None if known is None else self.prior_pairs(known, g)), pair_most)
        if self.chains is not None:
            x, pairs = self.chains(x, pairs, g)
            pairs = limited_pairs(self.chain_residual(limited_pairs(pairs, pair_most)), pair_most)
            x = limited_atoms(x, most)
        return g, x, pairs, potential

    def blocks(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The network proper: on-site [N, K, K] and off-site [P, K, K] blocks, float64.

        Returns:
            ``hamiltonian`` (if ``orthogonal`` that of Löwdin's orthogonal functions), ``overlap0`` (of free atoms), for
            a projected basis ``overlap_change`` and, of a model that knows doubt and is not in training,
            ``hamiltonian_deviations`` with one more axis in front.
        """
        return self.blocks_from(self.features(batch), batch)

    def blocks_from(
        self, features: tuple[PairGeometry, Features, O2Features, Tensor | None], batch: dict[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """``blocks`` of what ``features`` returned for this batch."""
        g, x, pairs, potential = features
        net = self.onsite_blocks(x, g.element), self.offsite_blocks(pairs)
        hamiltonian, overlap0 = self._blocks(self.two_centre, self.scale, 0, net, g), self.overlap0.blocks(g)
        if potential is not None:
            shift = potential[:, 0].double()
            i, j = batch[keys.PAIR_INDEX]
            shifts = shift, 0.5 * (shift[i] + shift[j])
            if self.orthogonal:
                own = torch.eye(self.basis.n_slots, dtype=shift.dtype, device=shift.device)
                overlap = own.expand_as(overlap0[0]), torch.zeros_like(overlap0[1])
            else:
                overlap = overlap0
            hamiltonian = tuple(h + v[:, None, None] * s for h, v, s in zip(hamiltonian, shifts, overlap, strict=True))
        out = {"hamiltonian": hamiltonian, "overlap0": overlap0}
        if self.basis.projected:
            out["overlap_change"] = self._blocks(self.overlap_two_centre, self.overlap_scale, 1, net, g)
        if self.doubt is not None and not self.training:
            out["hamiltonian_deviations"] = self._deviations(x, pairs, g)
        return out

    def _deviations(self, x: Features, pairs: O2Features, g: PairGeometry) -> tuple[Tensor, Tensor]:
        """Symmetric blocks [E, N, K, K] and [E, P, K, K] of what each draw of the last layer adds to H, Eh."""
        onsite, offsite = self.doubt(x, pairs, g.element)
        rows = g.element_i * len(self.basis.elements) + g.element_j
        offsite = self._faded(self.scale.offsite(rows, g.distance) * offsite, g)
        return self.geometry.symmetric(self.scale.onsite[g.element] * onsite, offsite, g)

    def matrices(self, blocks: dict[str, tuple[Tensor, Tensor]], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks -> padded ``hamiltonian`` (Eh) and positive definite ``overlap`` [B, M, M], float64."""
        out = self.learned_matrices(blocks, batch)
        if self.basis.projected:
            overlap0, mask = matrix_from_blocks(*blocks["overlap0"], batch), batch[keys.ORBITAL_MASK]
            limits = self.constants["shrink_orthogonal" if self.orthogonal else "shrink"]
            out[keys.OVERLAP] = positive_definite(overlap0, out[keys.OVERLAP] - overlap0, mask, *limits)
        if self.orthogonal:
            hamiltonian = from_orthogonal(out[keys.HAMILTONIAN], out[keys.OVERLAP], batch[keys.ORBITAL_MASK])
            out[keys.HAMILTONIAN] = hamiltonian
        if "hamiltonian_deviations" in blocks:
            out[keys.HAMILTONIAN_DEVIATIONS] = deviations(*blocks["hamiltonian_deviations"], batch)
        return out

    def learned_matrices(self, blocks: dict[str, tuple[Tensor, Tensor]], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks -> what losses compare, padded float64 [B, M, M].

        Returns:
            ``hamiltonian``, if ``orthogonal`` in Löwdin's orthogonal functions, so that its plain eigenvalues are the
            levels; ``overlap`` without the safeguard of ``matrices``.
        """
        overlap = matrix_from_blocks(*blocks["overlap0"], batch)
        if self.basis.projected:
            overlap = overlap + matrix_from_blocks(*blocks["overlap_change"], batch)
        return {keys.HAMILTONIAN: matrix_from_blocks(*blocks["hamiltonian"], batch), keys.OVERLAP: overlap}

    # ---- the closed-form start ------------------------------------------------------------------------------------

    def _targets(self, batch: dict[str, Tensor], g: PairGeometry) -> dict[str, Tensor]:
        """What two-centre part and network together have to describe, from labels."""
        out = {"hamiltonian": batch[keys.HAMILTONIAN]}
        if self.orthogonal:
            overlap = batch[keys.OVERLAP] if self.basis.projected else self.overlap0(g)
            out["hamiltonian"] = to_orthogonal(out["hamiltonian"], overlap, batch[keys.ORBITAL_MASK])
        if self.basis.projected:
            out["overlap"] = batch[keys.OVERLAP] - self.overlap0(g)
        return out

    @torch.no_grad()
    def fit_reference(self, batches: Callable[[], Iterable[dict[str, Tensor]]]) -> None:
        """Two-centre functions, on-site means and residual scales by least squares on labelled batches.

        Args:
            batches: called twice for each matrix; gives the training batches anew every time, so that only one of
                them is in memory.
        """
        if self.prior is not None:
            self.prior.fit(self.geometry(batch) for batch in batches())
        parts = [("hamiltonian", self.two_centre, self.scale)]
        if self.basis.projected:
            parts.append(("overlap", self.overlap_two_centre, self.overlap_scale))
        for name, part, scale in parts:
            part.fit(self._samples(name, batches()))
            scale.fit(self._residuals(part, self._samples(name, batches())))

    def _samples(self, name: str, batches: Iterable[dict[str, Tensor]]):
        for batch in batches:
            g = self.geometry(batch)
            yield self.geometry.samples(batch, self._targets(batch, g)[name], g)

    def _residuals(self, part: TwoCentre, samples: Iterable):
        for element, onsite, element_i, element_j, distance, blocks in samples:
            left = blocks - part.bond_blocks(element_i, element_j, distance)
            rows = element_i * len(self.basis.elements) + element_j
            yield element, onsite - part.onsite_means()[element], rows, distance, left

    # ---- to look at -----------------------------------------------------------------------------------------------

    def slow_parameters(self) -> list[nn.Parameter]:
        """Of the two-centre functions, which begin at their least-squares optimum."""
        parts = [self.two_centre] + ([self.overlap_two_centre] if self.basis.projected else [])
        return [p for part in parts for p in part.parameters()]

    def __repr__(self):
        count = {name: sum(p.numel() for p in child.parameters()) for name, child in self.named_children()}
        first = self.interactions[0]
        both = "H and S - S0" if self.basis.projected else "H (S = S0 exactly)"
        both = f"S^(-1/2) {both}".replace("H", "H S^(-1/2)", 1) if self.orthogonal else both
        lines = [
            f"MatrixModel of {self.basis}",
            f"  embedding      element -> {first.irreps_in}",
            f"  interaction 1  {first.irreps_in} -> {first.irreps_out}, within {first.cutoff} Å",
            *(
                f"  interaction {k + 2}  {x.irreps_in} -> {x.irreps_out}, within {x.cutoff} Å"
                for k, x in enumerate(list(self.interactions)[1:])
            ),
            *(
                [f"  prior          {self.prior.model.basis}, {self.prior.n_scalars} scalars, H and P"]
                if self.prior
                else []
            ),
            *([f"  electrostatics {self.electrostatics.extra_repr()}"] if self.electrostatics else []),
            f"  pair           2 x ({self.irreps}) -> O(2) about the bond: "
            + ", ".join(
                f"{w}x{n}" for w, n in zip(self.pair.widths, ["0+", "0-", *map(str, range(1, 20))], strict=False)
            ),
            *([f"                 + third atoms {self.pair.triangles.extra_repr()}"] if self.pair.triangles else []),
            *([f"  chains         {self.chains.extra_repr()}"] if self.chains else []),
            f"  on-site        {' + '.join(self.onsite_blocks.names)} -> {self.basis.n_slots} x {self.basis.n_slots}"
            + (f" (without {', '.join(sorted(self.onsite_blocks.missing))})" if self.onsite_blocks.missing else ""),
            f"  off-site       O(2) -> K x K, within {self.cutoff} Å",
            f"  two-centre     {self.two_centre.n_radial} functions per integral; predicts {both}",
            f"  parameters     {self.n_parameters():,} ("
            + ", ".join(f"{n} {c:,}" for n, c in count.items() if c)
            + ")",
        ]
        return "\n".join(lines)
