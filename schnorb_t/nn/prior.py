"""A cheaper method's electronic structure as input: a frozen model of it, and what its density matrix says.

Semi-empirical methods know what a network has to learn from many molecules: how charge flows. Features of their
converged matrices make a network need several times fewer labels (OrbNet: Qiao et al., J. Chem. Phys. 153, 124111
(2020)). Here the method itself is a ``MatrixModel`` of a minimal valence basis, trained on thousands of its own cheap
matrices (GFN2-xTB: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019)) and frozen, so that the whole
needs no other program, runs where the network runs, and is equivariant to machine precision. The density
matrix P of its H and S comes from a function that is handed in (``base.DensityMatrix``); H, P and Mulliken populations
return as features of atoms and pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.block_matrix import BlockIndex, BlockMatrix
from schnorb_t.harmonics import slot_rotations
from schnorb_t.nn.base import DensityMatrix
from schnorb_t.nn.blocks import OffsitePatterns
from schnorb_t.nn.constants import Constants, today
from schnorb_t.nn.electrostatics import smeared_coulomb
from schnorb_t.nn.embedding import RadialMLP, smooth_end
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.matrix_product import LAYOUT, block_irreps
from schnorb_t.nn.o2 import Features, O2Features, O2Linear, o2_scale
from schnorb_t.nn.scatter import scatter_sum
from schnorb_t.units import BOHR


@dataclass
class PriorFeatures:
    """Of atoms: ``scalars`` [N, F], ``tensors`` {1o, 2e: [N, 2l+1, 2]}. Of pairs: ``blocks`` [P, 2, 16], H and P."""

    scalars: Tensor
    tensors: Features
    blocks: Tensor


class Prior(nn.Module):
    """Batch -> features of a frozen model's electronic structure.

    Args:
        model: a ``MatrixModel`` whose basis has one s and one p shell at most per element.
        n_elements: rows of the element tables of the network that reads the features.
        density: fills the model's levels.
        envelope: Å, range below the model's cutoff in which what a neighbour adds falls to 0 (``smooth_end``).
        constants: those that begin with ``prior``.

    Raises:
        ValueError: another basis.
    """

    def __init__(
        self,
        model: nn.Module,
        n_elements: int,
        density: DensityMatrix,
        envelope: float = 0.0,
        constants: Constants | None = None,
    ):
        super().__init__()
        constants = constants or today()
        self.widths, self.ranges, self.limit = constants.prior_widths, constants.prior_ranges, constants.prior_limit
        self.softening, self.narrowest = constants.prior_softening, constants.prior_narrowest
        self.temperature, self.density, self.envelope = constants.prior_temperature, density, envelope
        basis = model.basis
        if tuple(basis.layout) != LAYOUT:
            raise ValueError(f"a prior needs a basis of one s and one p shell, not {basis}")
        self.model, self.n_elements = model.requires_grad_(False).eval(), n_elements
        self.register_buffer("electrons", torch.from_numpy(basis.nuclear_charge_table), persistent=False)
        self.register_buffer("count", torch.from_numpy(basis.orbital_count_table), persistent=False)
        self.register_buffer("filled", torch.from_numpy(basis.slot_mask_table), persistent=False)
        for name, pattern in block_irreps().items():
            self.register_buffer(f"pattern_{name}", pattern, persistent=False)
        self.n_scalars = 11 + len(self.widths) + n_elements * (1 + len(self.ranges))
        self.register_buffer("mean", torch.zeros(n_elements, self.n_scalars))
        self.register_buffer("width", torch.ones(n_elements, self.n_scalars))

    def train(self, mode: bool = True):
        """Frozen: it never trains."""
        return super().train(False)

    def batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same molecules in the prior's basis, padded to as many orbitals as the batch's own."""
        z, molecule = batch[keys.ATOMIC_NUMBERS], batch[keys.MOLECULE]
        b, m = batch[keys.ORBITAL_MASK].shape
        count, filled = self.count[z], self.filled[z]
        total = torch.zeros(b, dtype=count.dtype, device=z.device).index_add_(0, molecule, count)
        before = count.cumsum(0) - count - (total.cumsum(0) - total)[molecule]
        index = torch.where(filled, before[:, None] + filled.long().cumsum(1) - 1, m)
        mask = torch.arange(m, device=z.device) < total[:, None]
        return batch | {keys.ORBITAL_INDEX: index, keys.ORBITAL_MASK: mask}

    def matrices(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """H, S and density matrix P of the prior, [B, M, M] float64, 0 in padding."""
        own = self.batch(batch)
        out = self.model(own)
        h, s = out[keys.HAMILTONIAN], out[keys.OVERLAP]
        electrons = torch.zeros(len(h), dtype=torch.int64, device=h.device)
        electrons.index_add_(0, batch[keys.MOLECULE], self.electrons[batch[keys.ATOMIC_NUMBERS]])
        if keys.TOTAL_CHARGE in batch:
            electrons = electrons - batch[keys.TOTAL_CHARGE]
        p = self.density(h, s, own[keys.ORBITAL_MASK], electrons, self.temperature)
        return {keys.PRIOR_HAMILTONIAN: h, keys.PRIOR_OVERLAP: s, keys.PRIOR_DENSITY: p}

    def forward(self, g: PairGeometry, dtype: torch.dtype) -> PriorFeatures:
        """Features, the scalars standardised per element, in the network's precision."""
        raw = self.raw(g)
        scalars = (raw.scalars - self.mean[g.element]) / self.width[g.element]
        # atoms unlike all that were learned from must not carry the network away
        scalars = self.limit * torch.tanh(scalars / self.limit)
        tensors = {name: t.to(dtype) for name, t in raw.tensors.items()}
        return PriorFeatures(scalars.to(dtype), tensors, raw.blocks.to(dtype))

    def raw(self, g: PairGeometry) -> PriorFeatures:
        """Features as they are, float64. Matrices that the batch holds already are not made anew."""
        batch = g.batch
        made = batch if keys.PRIOR_DENSITY in batch else self.matrices(batch)
        own = BlockIndex.of(self.batch(batch))
        h, s, p = (made[k].double() for k in (keys.PRIOR_HAMILTONIAN, keys.PRIOR_OVERLAP, keys.PRIOR_DENSITY))
        ps = p @ s
        orders = ps * ps.mT
        populations = 0.5 * (ps + ps.mT)
        blocks = [BlockMatrix.from_padded(x, own) for x in (h, p, populations, orders)]
        onsite, offsite = [b.onsite for b in blocks], [b.offsite for b in blocks]
        flat = torch.stack(onsite[:3], 1).flatten(2)  # [N, 3, 16]
        parts = {name: flat @ getattr(self, f"pattern_{name}").double().flatten(0, 1).T for name in ("0e", "1o", "2e")}
        scalars = parts["0e"].flatten(1)  # ss and pp of each of the three
        sp = parts["1o"].unflatten(2, (3, -1))[..., 0]  # [N, 3, 3]; s p and p s are the same
        pp = parts["2e"].unflatten(2, (5, -1))[..., 0]  # [N, 3, 5]
        # lengths, smooth at 0
        lengths = [(t[:, :2].square().sum(-1) + self.softening).sqrt() for t in (sp, pp)]
        charge = self.electrons[batch[keys.ATOMIC_NUMBERS]] - onsite[2].diagonal(dim1=1, dim2=2).sum(-1)
        i, j = batch[keys.PAIR_INDEX]
        n = len(charge)
        r = g.distance / BOHR
        potentials = torch.stack([smeared_coulomb(r, r.new_tensor(w))[0] * charge[j] for w in self.widths], 1)
        near = torch.stack([offsite[3].sum((1, 2)), *(charge[j] * torch.exp(-r / a) for a in self.ranges)], 1)
        fade = smooth_end(g.distance, self.model.cutoff, self.envelope)[:, None]
        potentials, near = fade * potentials, fade * near
        element = torch.nn.functional.one_hot(g.element_j, self.n_elements).to(near.dtype)
        near = (near[:, :, None] * element[:, None]).flatten(1)
        around = scatter_sum(torch.cat((potentials, near), 1), i, n)
        scalars = torch.cat((scalars, *lengths, charge[:, None], around), 1)
        return PriorFeatures(scalars, {"1o": sp[:, :2].mT, "2e": pp[:, :2].mT}, torch.stack(offsite[:2], 1).flatten(2))

    @torch.no_grad()
    def fit(self, geometries: Iterable[PairGeometry]) -> None:
        """Mean and width of every scalar per element, over batches."""
        n, first, second = 0, 0, 0
        for g in geometries:
            x = self.raw(g).scalars
            member = torch.nn.functional.one_hot(g.element, self.n_elements).to(x)
            n, first, second = n + member.sum(0), first + member.T @ x, second + member.T @ (x * x)
        n = n.clamp(min=1)[:, None]
        mean = first / n
        self.mean.copy_(mean)
        self.width.copy_((second / n - mean * mean).clamp(min=0).sqrt().clamp(min=self.narrowest))


class PriorToPairs(nn.Module):
    """H and P between two atoms, in the frame of their bond, weighted by filters of the distance -> pair features."""

    def __init__(
        self,
        widths: list[int],
        n_elements: int,
        cutoff: float,
        n_radial: int,
        hidden: int,
        constants: Constants | None = None,
    ):
        super().__init__()
        self.blocks = OffsitePatterns(LAYOUT, len(widths))
        seen = [2 * count for count in self.blocks.counts]
        self.filters = RadialMLP(n_elements, cutoff, n_radial, hidden, sum(seen), constants)
        self.to_pairs = O2Linear(seen, widths, bias=False)

    def forward(self, features: PriorFeatures, g: PairGeometry) -> O2Features:
        """Blocks of the prior in the molecule's frame -> O(2) features of pairs in the bond's frame."""
        blocks = features.blocks
        k = self.blocks.k
        turn = slot_rotations(g.rotations(blocks.dtype), LAYOUT)
        # B' = D B D^T: from the molecule's frame into the bond's
        bond = turn[:, None] @ blocks.unflatten(2, (k, k)) @ turn[:, None].mT
        weights = self.filters(g.element_i, g.element_j, g.distance.to(blocks.dtype))
        return self.to_pairs(o2_scale(self.blocks.features(bond.flatten(2)), weights))
