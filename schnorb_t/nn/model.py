"""The model: molecules in, Hamiltonian and overlap out.

atoms -> interactions -> electrostatics -> pair features -> chains of atoms -> orbital blocks of H and of S - S0
-> padded matrices.
Two-centre functions and on-site means carry what distance and element alone explain; the network learns the rest,
scaled per element (pair) and shell pair to what the reference data leave.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import scipy.sparse
import torch
from ase.data import chemical_symbols
from e3nn import o3
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.basis import Basis
from schnorb_t.block_matrix import BlockMatrix
from schnorb_t.linalg import lowest_relative_eigenvalue, padded_matrix_powers
from schnorb_t.nn import large
from schnorb_t.nn.base import DensityMatrix, MatrixNetwork, Transfer
from schnorb_t.nn.blocks import OffsiteBlocks, OnsiteBlocks
from schnorb_t.nn.constants import Constants
from schnorb_t.nn.doubt import LastLayerMembers, level_deviations
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
    shrink,
    to_orthogonal,
)
from schnorb_t.nn.pair import O2Residual, PairFeatures
from schnorb_t.nn.prior import Prior, PriorToPairs
from schnorb_t.nn.residual_scale import ResidualScale
from schnorb_t.nn.total_charge import TotalCharge
from schnorb_t.nn.two_centre import TwoCentre

#: Arguments that must be 1 or more, and those that may also be 0.
_POSITIVE = ("interactions", "n_radial", "hidden", "product_channels", "two_centre_radial")
_COUNTS = ("pair_layers", "triangle_channels", "charge_channels", "chain_channels", "doubt_members", "envelope")


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
        n_radial: Bessel functions of the distance that filter networks read.
        hidden: width of the filter networks.
        product_channels: channels of the self-products.
        two_centre_radial: functions per Slater-Koster integral.
        triangle_channels: channels of what third atoms contribute to a pair; 0: nothing.
        triangle_cutoff: Å, third atoms count that are nearer than that to both atoms of the pair.
        charge_channels: sets of latent charges and dipoles whose potential every atom feels; 0: none.
        chain_channels: products of learned matrices, for what reaches a pair over chains of atoms; 0: none.
        orthogonal: learn S^(-1/2) H S^(-1/2), H in Löwdin's orthogonal functions (J. Chem. Phys. 18, 365 (1950)). For a
            large fixed basis: S has small eigenvalues there, and orbitals of them turn errors of 1 mEh in H into Eh.
        doubt_members: draws of the last layer that tell how sure each level is (``nn.doubt``); 0: none.
        envelope: Å, range below the cutoff in which the network's part of pair blocks falls to 0 (``smooth_end``).
        total_charge: learn ions too (``nn.total_charge``); neutral molecules are predicted as without.
        constants: numbers of ``nn.constants`` other than today's, as a checkpoint names them.
        prior: ``{"basis": Basis.to_json(), "arguments": {...}}`` of a frozen model of a cheaper method, whose
            electronic structure the network takes as input (``nn.prior``); its weights are part of this model's.
        density: fills the levels of the prior.

    Raises:
        ValueError: irreps, channels, constants or a prior that cannot be.
    """

    transfer = Transfer(
        trunk=("embedding", "interactions", "electrostatics", "response", "pair", "chains", "chain_residual", "ions"),
        closed_form=("two_centre", "overlap_two_centre", "scale", "overlap_scale"),
        doubt=("doubt",),
        prior=("prior", "prior_scalars", "prior_tensors", "prior_pairs"),
        ions=("ions",),
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
        total_charge: bool = False,
        constants: dict[str, Any] | None = None,
        density: DensityMatrix | None = None,
    ):
        super().__init__()
        self.constants = Constants.of(constants)
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
                self.constants,
            )
            for k in range(interactions)
        )
        self.electrostatics = self.response = self.chains = self.prior = self.doubt = self.ions = None
        if charge_channels:
            vectors = o3.Irreps(irreps).count("1o")
            self.electrostatics = Electrostatics(scalars, vectors, charge_channels, cutoff, self.constants)
            self.response = Response(irreps, charge_channels, product_channels, self.constants)
        if total_charge:
            self.ions = TotalCharge(basis, scalars, self.constants)
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
            self.constants,
        )
        fields = 2 if basis.projected else 1
        if prior:
            if density is None:
                raise ValueError("a prior needs `density`, a function that fills its levels")
            self.prior = Prior(self._prior_model(prior, density), n, density, envelope, self.constants)
            self.prior_scalars = nn.Linear(self.prior.n_scalars, scalars)
            self.prior_tensors = IrrepsLinear("2x1o+2x2e", irreps)
            self.prior_pairs = PriorToPairs(widths, n, cutoff, n_radial, hidden, self.constants)
        self.onsite_blocks = OnsiteBlocks(basis.layout, n, irreps, fields)
        self.offsite_blocks = OffsiteBlocks(basis.layout, widths, fields)
        if chain_channels:
            read = "+".join(f"{c}x{name}" for name, _, _, c in irrep_list(irreps) if name in self.onsite_blocks.names)
            self.chains = MatrixProduct(
                irreps, read, widths, n, cutoff, n_radial, hidden, chain_channels, product_channels, self.constants
            )
            self.chain_residual = O2Residual(widths)
        if doubt_members:
            self.doubt = LastLayerMembers(basis.layout, n, irreps, widths, doubt_members)
        self.overlap0 = FreeAtomOverlap(basis, cutoff, envelope if basis.projected else 0.0, self.constants)
        self.two_centre = TwoCentre(basis, cutoff, two_centre_radial, self.constants)
        self.scale = ResidualScale(basis, self.constants.scale_floor, self.constants)
        if basis.projected:
            self.overlap_two_centre = TwoCentre(basis, cutoff, two_centre_radial, self.constants)
            self.overlap_scale = ResidualScale(basis, self.constants.overlap_scale_floor, self.constants)

    def _prior_model(self, prior: dict[str, Any], density: DensityMatrix) -> MatrixModel:
        model = MatrixModel(Basis.from_json(prior["basis"]), **prior["arguments"], density=density)
        if missing := [z for z in self.basis.elements if z not in model.basis.elements]:
            raise ValueError(f"the prior does not know {', '.join(chemical_symbols[z] for z in missing)}")
        if model.cutoff != self.cutoff:
            raise ValueError(
                f"the prior's cutoff is {model.cutoff:g} Å, this model's {self.cutoff:g} Å; give both the same"
            )
        return model

    @classmethod
    def build(cls, basis: Basis, arguments: Mapping[str, Any], density: DensityMatrix) -> MatrixModel:
        """See ``MatrixNetwork.build``."""
        return cls(basis, **arguments, density=density)

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
        try:
            irreps = o3.Irreps(arguments.get("irreps", "1x0e"))
        except ValueError:
            yield "irreps", "irreps with channels, such as 64x0e+32x1o+16x1e+32x2e+16x2o"
        else:
            if len({ir for _, ir in irreps}) < len(irreps):
                yield "irreps", "irreps of which each stands once"
            if irreps.count("0e") < 1:
                yield "irreps", "irreps with 0e among them"

    # ---- prediction -----------------------------------------------------------------------------------------------

    def _blocks(self, part: TwoCentre, scale: ResidualScale, field: int, net, g: PairGeometry) -> BlockMatrix:
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
        g, most, pair_most = self.geometry(batch), self.constants.limit_atoms, self.constants.limit_pairs
        x = {"0e": self.embedding(g.element)[:, None]}
        if self.ions is not None:
            x["0e"] = x["0e"] + self.ions.first_features(g)
        known = self.prior(g, x["0e"].dtype) if self.prior is not None else None
        if known is not None:
            x["0e"] = x["0e"] + self.prior_scalars(known.scalars)[:, None]
        for k, interaction in enumerate(self.interactions):
            x = limited_atoms(interaction(x, g), most)
            if k == 0 and known is not None:
                x = add(x, self.prior_tensors(known.tensors))
        potential = shares = None
        if self.ions is not None:
            shares = self.ions.charges(x, g)
            x = {**x, "0e": x["0e"] + self.ions.later_features(shares)}
        if self.electrostatics is not None:
            potential, field = self.electrostatics(x, g)
            x = limited_atoms(self.response(x, potential, field), most)
        if shares is not None:
            of_charge = self.ions.potential(shares, g)[:, None]
            potential = (
                of_charge if potential is None else torch.cat((potential[:, :1] + of_charge, potential[:, 1:]), 1)
            )
        pairs = limited_pairs(self.pair(x, g, None if known is None else self.prior_pairs(known, g)), pair_most)
        if self.chains is not None:
            x, pairs = self.chains(x, pairs, g)
            pairs = limited_pairs(self.chain_residual(limited_pairs(pairs, pair_most)), pair_most)
            x = limited_atoms(x, most)
        return g, x, pairs, potential

    def blocks(self, batch: dict[str, Tensor]) -> dict[str, BlockMatrix]:
        """The network proper, float64.

        Returns:
            ``hamiltonian`` (if ``orthogonal`` that of Löwdin's orthogonal functions), ``overlap0`` (of free atoms), for
            a projected basis ``overlap_change`` and, of a model that knows doubt and is not in training,
            ``hamiltonian_deviations`` with one more axis in front.
        """
        alone = len(batch[keys.N_ATOMS]) == 1 and len(batch[keys.ATOMIC_NUMBERS]) >= large.FROM_ATOMS
        # the pieces are made of the parts of this class; one derived from it may have others
        ours = type(self).features is MatrixModel.features and type(self).blocks_from is MatrixModel.blocks_from
        if alone and ours and self.ions is None and not torch.is_grad_enabled():
            return large.LargeMolecule(self, batch).blocks()
        return self.blocks_from(self.features(batch), batch)

    def blocks_from(
        self, features: tuple[PairGeometry, Features, O2Features, Tensor | None], batch: dict[str, Tensor]
    ) -> dict[str, BlockMatrix]:
        """``blocks`` of what ``features`` returned for this batch."""
        g, x, pairs, potential = features
        net = self.onsite_blocks(x, g.element), self.offsite_blocks(pairs)
        hamiltonian, overlap0 = self._blocks(self.two_centre, self.scale, 0, net, g), self.overlap0.blocks(g)
        if potential is not None:
            hamiltonian = hamiltonian + self._shift(potential[:, 0].double(), overlap0)
        out = {"hamiltonian": hamiltonian, "overlap0": overlap0}
        if self.basis.projected:
            out["overlap_change"] = self._blocks(self.overlap_two_centre, self.overlap_scale, 1, net, g)
        if self.doubt is not None and not self.training:
            out["hamiltonian_deviations"] = self._deviations(x, pairs, g)
        return out

    def _shift(self, potential: Tensor, overlap0: BlockMatrix) -> BlockMatrix:
        """(V_i + V_j) S_ij / 2 of the latent potential [N], in the functions in which H is learned."""
        onsite, offsite = overlap0.onsite, overlap0.offsite
        if self.orthogonal:
            eye = torch.eye(self.basis.n_slots, dtype=potential.dtype, device=potential.device)
            onsite, offsite = eye.expand_as(onsite), torch.zeros_like(offsite)
        i, j = overlap0.index.pairs
        between = 0.5 * (potential[i] + potential[j])
        return BlockMatrix(potential[:, None, None] * onsite, between[:, None, None] * offsite, overlap0.index)

    def _deviations(self, x: Features, pairs: O2Features, g: PairGeometry) -> BlockMatrix:
        """What each draw of the last layer adds to H, Eh: E matrices per molecule."""
        onsite, offsite = self.doubt(x, pairs, g.element)
        rows = g.element_i * len(self.basis.elements) + g.element_j
        offsite = self._faded(self.scale.offsite(rows, g.distance) * offsite, g)
        return self.geometry.symmetric(self.scale.onsite[g.element] * onsite, offsite, g)

    def matrices(self, blocks: dict[str, BlockMatrix], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks -> padded ``hamiltonian`` (Eh) and positive definite ``overlap`` [B, M, M], float64."""
        out = self.learned_matrices(blocks, batch)
        if self.basis.projected:
            overlap0, mask = blocks["overlap0"].padded(), batch[keys.ORBITAL_MASK]
            limits = self.constants.shrink_orthogonal if self.orthogonal else self.constants.shrink
            out[keys.OVERLAP] = positive_definite(overlap0, out[keys.OVERLAP] - overlap0, mask, *limits)
        if self.orthogonal:
            # one eigenproblem of S, for the H handed out here and for orbitals (``physics.eigen.orbitals``)
            learned, overlap, mask = out[keys.HAMILTONIAN], out[keys.OVERLAP], batch[keys.ORBITAL_MASK]
            root, inverse = padded_matrix_powers(overlap, mask, 0.5, -0.5)
            out |= {keys.OVERLAP_ROOT: root, keys.OVERLAP_INVERSE_ROOT: inverse, keys.ORTHOGONAL_HAMILTONIAN: learned}
            out[keys.HAMILTONIAN] = from_orthogonal(learned, overlap, mask, root)
        if "hamiltonian_deviations" in blocks:
            out[keys.HAMILTONIAN_DEVIATIONS] = blocks["hamiltonian_deviations"].padded()
        return out

    @property
    def gives_sparse(self) -> bool:
        """See ``MatrixNetwork.gives_sparse``."""
        return True

    def sparse_matrices(self, blocks: dict[str, BlockMatrix]) -> dict[str, scipy.sparse.csr_array]:
        """See ``MatrixNetwork.sparse_matrices``."""
        (hamiltonian,), (overlap,) = blocks["hamiltonian"].sparse(), blocks["overlap0"].sparse()
        if self.basis.projected:
            (change,) = blocks["overlap_change"].sparse()
            start, limit = self.constants.shrink_orthogonal if self.orthogonal else self.constants.shrink
            lowest = lowest_relative_eigenvalue(change, overlap, -start)
            overlap = overlap + float(shrink(torch.tensor(-lowest, dtype=torch.float64), start, limit)) * change
        return {keys.HAMILTONIAN: hamiltonian, keys.OVERLAP: scipy.sparse.csr_array(overlap)}

    def learned_matrices(self, blocks: dict[str, BlockMatrix], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks -> what losses compare, padded float64 [B, M, M].

        Returns:
            ``hamiltonian``, if ``orthogonal`` in Löwdin's orthogonal functions, so that its plain eigenvalues are the
            levels; ``overlap`` without the safeguard of ``matrices``.
        """
        overlap = blocks["overlap0"]
        if self.basis.projected:
            overlap = overlap + blocks["overlap_change"]
        return {keys.HAMILTONIAN: blocks["hamiltonian"].padded(), keys.OVERLAP: overlap.padded()}

    @property
    def knows_doubt(self) -> bool:
        """See ``MatrixNetwork.knows_doubt``."""
        return self.doubt is not None

    @property
    def knows_charge(self) -> bool:
        """See ``MatrixNetwork.knows_charge``."""
        return self.ions is not None

    def standard_deviations(
        self, out: dict[str, Tensor], energies: Tensor, coefficients: Tensor, mask: Tensor
    ) -> Tensor | None:
        """See ``MatrixNetwork.standard_deviations``: from draws of the last layer."""
        if self.doubt is None or keys.HAMILTONIAN_DEVIATIONS not in out:
            return None
        if self.orthogonal:
            coefficients = out[keys.OVERLAP_ROOT] @ torch.where(mask[:, None], coefficients, 0.0)
        return self.doubt.standard_deviation(level_deviations(out[keys.HAMILTONIAN_DEVIATIONS], coefficients).std(0))

    # ---- the closed-form start ------------------------------------------------------------------------------------

    def _targets(self, batch: dict[str, Tensor], g: PairGeometry) -> dict[str, Tensor]:
        """What two-centre part and network together have to describe, from labels."""
        out = {"hamiltonian": batch[keys.HAMILTONIAN]}
        if self.orthogonal:
            overlap = batch[keys.OVERLAP] if self.basis.projected else self.overlap0(g)
            out["hamiltonian"] = to_orthogonal(out["hamiltonian"], overlap, batch[keys.ORBITAL_MASK])
        if self.ions is not None:
            even = self.ions.potential(self.ions.charges(None, g), g)
            out["hamiltonian"] = out["hamiltonian"] - self._shift(even.double(), self.overlap0.blocks(g)).padded()
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

    def drop_learned(self) -> None:
        """See ``MatrixNetwork.drop_learned``: the blocks of the network and the latent potential are 0, shares even."""
        with torch.no_grad():
            for part in (self.onsite_blocks, self.offsite_blocks):
                for weight in part.parameters():
                    weight.zero_()
        self.electrostatics = None
        if self.ions is not None:
            self.ions.forget()

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
            *([f"  total charge   {self.ions.extra_repr()}"] if self.ions else []),
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
