"""A ``MatrixModel`` on one large molecule, a few thousand pairs of atoms at a time.

Same parts, same weights, same numbers up to the rounding of sums in another order (some 1e-8 Eh); memory holds the
features of all pairs (4 kB each) but none of the ten times larger things between them, and nothing of size [atoms,
atoms]. Pairs go through in pieces that hold (j, i) with each (i, j), so that symmetric blocks can be made piece by
piece. Sums over third atoms and chains of atoms are taken group by group (``nn.neighbourhoods``), the latent
potential block by block. For prediction: no gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from schnorb_t import keys
from schnorb_t.block_matrix import BlockIndex, BlockMatrix
from schnorb_t.nn.electrostatics import Electrostatics
from schnorb_t.nn.geometry import PairGeometry
from schnorb_t.nn.interaction import Interaction, add
from schnorb_t.nn.limit import limited_atoms, limited_pairs
from schnorb_t.nn.matrix_product import MatrixProduct
from schnorb_t.nn.neighbourhoods import Rows, neighbourhoods, spatial_groups
from schnorb_t.nn.o2 import Features, O2Features
from schnorb_t.nn.prior import PriorFeatures
from schnorb_t.nn.triangle import Triangles
from schnorb_t.units import BOHR

if TYPE_CHECKING:
    from schnorb_t.nn.model import MatrixModel

#: Atoms of one molecule from which on this way is taken.
FROM_ATOMS = 300
#: Ordered pairs of a piece: 16 kB each are needed meanwhile.
PIECE = 16_000
#: Atoms of a group; larger ones have more pairs in common with themselves, and more zeros between their neighbours.
TRIANGLE_GROUP, CHAIN_GROUP = 24, 16
#: Points times atoms of a block of the latent potential.
POTENTIAL_BLOCK = 400_000


class LargeMolecule:
    """One molecule's batch, cut into pieces.

    Args:
        model: gives the geometry and all parts.
        batch: of one molecule (``data.batch.structures_to_batch``).

    Raises:
        ValueError: several molecules.
    """

    def __init__(self, model: MatrixModel, batch: dict[str, Tensor]):
        if len(batch[keys.N_ATOMS]) != 1:
            raise ValueError("a large molecule comes alone")
        self.model, self.batch = model, batch
        self.i, self.j = batch[keys.PAIR_INDEX]
        self.n = len(batch[keys.ATOMIC_NUMBERS])
        r = batch[keys.POSITIONS].double()
        self.distance = (r[self.j] - r[self.i]).norm(dim=1)

    def geometry(self, rows: Tensor, reverse: Tensor | None = None) -> PairGeometry:
        """Of some of the pairs; ``reverse`` tells, within them, where (j, i) stands."""
        piece = {k: v for k, v in self.batch.items() if k not in (keys.PAIR_PLACE, keys.PAIR_REVERSE)}
        piece[keys.PAIR_INDEX] = self.batch[keys.PAIR_INDEX][:, rows]
        if reverse is not None:
            piece[keys.PAIR_REVERSE] = reverse
        return self.model.geometry(piece)

    def pieces(self, size: int = PIECE) -> Iterator[tuple[Tensor, PairGeometry]]:
        """All pairs, (j, i) always in the same piece as (i, j): their rows and geometry."""
        there = (self.i < self.j).nonzero()[:, 0]
        for some in there.split(max(1, size // 2)):
            back = self.batch[keys.PAIR_REVERSE][some]
            m = len(some)
            mirror = torch.arange(2 * m, device=some.device).roll(m)
            rows = torch.cat((some, back))
            yield rows, self.geometry(rows, mirror)

    def near(self, cutoff: float, size: int = PIECE) -> Iterator[PairGeometry]:
        """Geometry of the pairs within a cutoff, sorted by their first atom."""
        for rows in (self.distance < cutoff).nonzero()[:, 0].split(size):
            yield self.geometry(rows)

    # ---- parts ------------------------------------------------------------------------------------------------------

    def interaction(self, part: Interaction, x: Features) -> Features:
        """One round of messages."""
        gathered: Features | None = None
        for g in self.near(part.cutoff):
            more = part.gather(x, g)
            gathered = more if gathered is None else {name: t.add_(more[name]) for name, t in gathered.items()}
        if gathered is None:  # an atom alone
            gathered = part.gather(x, self.geometry(torch.zeros(0, dtype=torch.int64, device=self.i.device)))
        return part.update(x, gathered)

    def electrostatics(self, part: Electrostatics, x: Features) -> tuple[Tensor, Tensor]:
        """Potential [N, C] and field [N, 3, C], for a block of atoms at a time."""
        whole = _Distances(self.batch, self.distance)
        q, d = part.charges(x, whole)[None], part.dipole(x["1o"])[None]
        r = self.batch[keys.POSITIONS].double()[None] / BOHR
        everywhere = torch.arange(self.n, device=r.device)
        potentials, fields = [], []
        for some in everywhere.split(max(1, POTENTIAL_BLOCK // self.n)):
            v, e = part.potential_at(r[:, some], (some[:, None] != everywhere)[None], q, d, r)
            potentials.append(v[0])
            fields.append(e[0])
        return torch.cat(potentials), torch.cat(fields)

    def triangles(self, part: Triangles, x: Features) -> Tensor:
        """What third atoms add to each pair, [P, (l_max+1)^2, C]."""
        rows = (self.distance < part.cutoff).nonzero()[:, 0]
        found = [part.factors(x, g) for g in self.near(part.cutoff)]
        m, c = (part.l_max + 1) ** 2, part.channels
        out = x["0e"].new_zeros(len(self.i), m, c)
        if not found:
            return out
        first, second = (torch.cat(t) for t in zip(*found, strict=True))
        near = Rows.of(self.i[rows], self.j[rows], self.n)
        # b(j, k) stands on the pair (j, k), and is wanted on (k, j): there b of its mirror image
        place = torch.full((len(self.i),), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        second = second[place[self.batch[keys.PAIR_REVERSE][rows]]]
        groups = spatial_groups(self.batch[keys.POSITIONS], TRIANGLE_GROUP)
        for s in neighbourhoods(groups, near, near, Rows.of(self.i, self.j, self.n)):
            size = len(s.atoms), len(s.k), len(s.j)
            left = first.new_zeros(size[0] * size[1], m, c).index_copy_(0, s.left_at, first[s.left])
            left = left.reshape(size[0], size[1], m, c).permute(3, 0, 2, 1).reshape(c, size[0] * m, size[1])
            right = second.new_zeros(size[1] * size[2], c).index_copy_(0, s.right_at, second[s.right])
            z = left @ right.reshape(size[1], size[2], c).permute(2, 0, 1)
            z = z.reshape(c, size[0], m, size[2]).permute(1, 3, 2, 0).reshape(size[0] * size[2], m, c)
            out[s.target] = z[s.target_at]
        return out

    def chains(self, part: MatrixProduct, x: Features, pairs: O2Features) -> Features:
        """What products of matrices add: to the atoms' features, returned, and in place to those of pairs."""
        c, k, dtype = part.channels, part.onsite.k, x["0e"].dtype
        n_pairs = len(self.i)
        # blocks of the atoms themselves stand behind those of pairs
        blocks = x["0e"].new_empty(n_pairs + self.n, 2 * c, k * k)
        for rows in torch.arange(n_pairs, device=self.i.device).split(PIECE):
            g = self.geometry(rows)
            filters, _ = part.weights(g, dtype)
            blocks[rows] = part.factors([t[rows] for t in pairs], filters, part.turns(g, dtype))
        element = self.model.geometry.lookup[self.batch[keys.ATOMIC_NUMBERS]]
        blocks[n_pairs:] = part.onsite(x, element).flatten(2).transpose(0, 1)
        atoms = torch.arange(self.n, device=self.i.device)
        i, j = torch.cat((self.i, atoms)), torch.cat((self.j, atoms))
        order = (i * self.n + j).argsort()
        blocks, every = blocks[order], Rows.of(i[order], j[order], self.n)
        own = x["0e"].new_zeros(self.n, c, k * k)
        groups = spatial_groups(self.batch[keys.POSITIONS], CHAIN_GROUP)
        for s in neighbourhoods(groups, every, every, every):
            left = self._dense(blocks[s.left, :c], s.left_at, len(s.atoms), len(s.k), k)
            right = self._dense(blocks[s.right, c:], s.right_at, len(s.k), len(s.j), k)
            z = (left @ right).reshape(c, len(s.atoms), k, len(s.j), k).permute(1, 3, 0, 2, 4)
            z = z.reshape(-1, c, k * k)[s.target_at]
            rows = order[s.target]  # of the list of pairs, atoms behind them
            between = rows < n_pairs
            own[rows[~between] - n_pairs] = z[~between]
            rows = rows[between]
            if len(rows):
                g = self.geometry(rows)
                more = part.to_pair_features(z[between], part.weights(g, dtype)[1], part.turns(g, dtype))
                for t, u in zip(pairs, more, strict=True):
                    t[rows] += u
        return part.to_atom_features(x, own)

    @staticmethod
    def _dense(blocks: Tensor, at: Tensor, rows: int, columns: int, k: int) -> Tensor:
        """Blocks [R, C, K^2] at places in [rows, columns] -> matrices [C, rows K, columns K]."""
        c = blocks.shape[1]
        out = blocks.new_zeros(c, rows, k, columns, k)
        out[:, at // columns, :, at % columns] = blocks.reshape(len(blocks), c, k, k)
        return out.reshape(c, rows * k, columns * k)

    # ---- all ---------------------------------------------------------------------------------------------------------

    def blocks(self) -> dict[str, BlockMatrix]:
        """``MatrixModel.blocks`` of the molecule."""
        model = self.model
        most, pair_most = model.constants.limit_atoms, model.constants.limit_pairs
        element = model.geometry.lookup[self.batch[keys.ATOMIC_NUMBERS]]
        x: Features = {"0e": model.embedding(element)[:, None]}
        known = self._prior(x["0e"].dtype) if model.prior is not None else None
        if known is not None:
            x["0e"] = x["0e"] + model.prior_scalars(known.scalars)[:, None]
        for k, part in enumerate(model.interactions):
            x = limited_atoms(self.interaction(part, x), most)
            if k == 0 and known is not None:
                x = add(x, model.prior_tensors(known.tensors))
        potential = None
        if model.electrostatics is not None:
            potential, field = self.electrostatics(model.electrostatics, x)
            x = limited_atoms(model.response(x, potential, field), most)
        pairs = self._pairs(x, known)
        if model.chains is not None:
            x = self.chains(model.chains, x, pairs)
            for rows in torch.arange(len(self.i), device=self.i.device).split(PIECE):
                some = limited_pairs([t[rows] for t in pairs], pair_most)
                for t, u in zip(pairs, limited_pairs(model.chain_residual(some), pair_most), strict=True):
                    t[rows] = u
            x = limited_atoms(x, most)
        out: dict[str, BlockMatrix] = {}
        index = BlockIndex.of(self.batch)
        for rows, g in self.pieces():
            made = model.blocks_from((g, x, [t[rows] for t in pairs], potential), g.batch)
            for name, b in made.items():
                if name not in out:
                    front, (_, k, _) = b.offsite.shape[:-3], b.offsite.shape[-3:]
                    out[name] = BlockMatrix(b.onsite, b.offsite.new_empty(*front, len(self.i), k, k), index)
                out[name].offsite.index_copy_(-3, rows, b.offsite)
        return out

    def _pairs(self, x: Features, known: PriorFeatures | None) -> O2Features:
        """Features of all pairs."""
        model = self.model
        third = None if model.pair.triangles is None else self.triangles(model.pair.triangles, x)
        out: O2Features = []
        for rows, g in self.pieces():
            more = None
            if known is not None:
                more = model.prior_pairs(PriorFeatures(known.scalars, known.tensors, known.blocks[rows]), g)
            near = None if third is None else model.pair.triangles.named(third[rows])
            made = limited_pairs(model.pair(x, g, more, near), model.constants.limit_pairs)
            if not out:
                out = [t.new_empty(len(self.i), *t.shape[1:]) for t in made]
            for t, u in zip(out, made, strict=True):
                t[rows] = u
        return out

    def _prior(self, dtype: torch.dtype) -> PriorFeatures:
        """The prior solves its own dense eigenproblem: up to some 2,000 atoms."""
        return self.model.prior(self.model.geometry(self.batch), dtype)


class _Distances:
    """What ``Electrostatics.charges`` reads of a geometry, for all pairs."""

    def __init__(self, batch: dict[str, Tensor], distance: Tensor):
        self.batch, self.distance = batch, distance
