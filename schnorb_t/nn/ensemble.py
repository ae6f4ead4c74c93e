"""Several models that learned the same thing from different starts: their mean, and how far they differ.

Errors of networks trained on few molecules come for the most part from chance (their start, the order of the data),
so that the mean of a few is better than each, and what they disagree about tells where not to trust them
(Lakshminarayanan, Pritzel, Blundell, NeurIPS 2017). H and S are averaged, not levels: the mean is a model like any
other, equivariant, with a symmetric H and a positive definite S.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import scipy.sparse
import torch
from torch import Tensor, nn

from schnorb_t import keys
from schnorb_t.block_matrix import BlockMatrix
from schnorb_t.nn.base import MatrixNetwork
from schnorb_t.nn.model import MatrixModel
from schnorb_t.nn.two_centre import TwoCentre


class EnsembleModel(MatrixNetwork):
    """Mean of the members' blocks.

    Args:
        members: of the same basis, cutoff and form (``orthogonal``). Where all have the same prior (equal weights), it
            is computed once: the first member's takes the place of the others'.

    Raises:
        ValueError: fewer than two members, or members that cannot be averaged.
    """

    def __init__(self, members: Sequence[MatrixModel]):
        super().__init__()
        first, *others = members
        if not others:
            raise ValueError("an ensemble has two members or more")
        for name in ("basis", "cutoff", "orthogonal"):
            if any(getattr(m, name) != getattr(first, name) for m in others):
                raise ValueError(f"members of an ensemble have the same {name}")
        self.basis, self.cutoff, self.orthogonal = first.basis, first.cutoff, first.orthogonal
        self.constants = first.constants
        if first.prior is not None and all(_same_prior(first, m) for m in others):
            for m in others:
                m.prior.model = first.prior.model
        self.members = nn.ModuleList(members)

    @property
    def shares_prior(self) -> bool:
        """Whether one prior serves all members."""
        priors = [None if m.prior is None else m.prior.model for m in self.members]
        return priors[0] is not None and all(p is priors[0] for p in priors)

    # ---- what a MatrixModel has ------------------------------------------------------------------------------------

    @property
    def prior(self) -> nn.Module | None:
        """The prior of the first member; that of all, if they share it. None without a prior."""
        return self.members[0].prior

    @property
    def overlap0(self) -> nn.Module:
        """S of free atoms, the same in all members."""
        return self.members[0].overlap0

    @property
    def two_centre(self) -> TwoCentre:
        """A copy with the members' mean; linear in its parameters, so it is the mean of the members' functions."""
        return _mean([m.two_centre for m in self.members])

    @property
    def overlap_two_centre(self) -> TwoCentre:
        """A copy of the two-centre correction of S with the mean of the members."""
        return _mean([m.overlap_two_centre for m in self.members])

    def member_blocks(self, batch: dict[str, Tensor]) -> list[dict[str, BlockMatrix]]:
        """``MatrixModel.blocks`` of each member."""
        if self.shares_prior and keys.PRIOR_DENSITY not in batch:
            batch = batch | self.prior.matrices(batch)
        return [m.blocks(batch) for m in self.members]

    @staticmethod
    def mean(blocks: list[dict[str, BlockMatrix]]) -> dict[str, BlockMatrix]:
        """Mean over members."""
        return {name: BlockMatrix.mean([b[name] for b in blocks]) for name in blocks[0]}

    def blocks(self, batch: dict[str, Tensor]) -> dict[str, BlockMatrix]:
        """As ``MatrixModel.blocks``."""
        return self.mean(self.member_blocks(batch))

    def matrices(self, blocks: dict[str, BlockMatrix], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """As ``MatrixModel.matrices``."""
        return self.members[0].matrices(blocks, batch)

    @property
    def gives_sparse(self) -> bool:
        """As ``MatrixModel``."""
        return True

    def sparse_matrices(self, blocks: dict[str, BlockMatrix]) -> dict[str, scipy.sparse.csr_array]:
        """As ``MatrixModel.sparse_matrices``."""
        return self.members[0].sparse_matrices(blocks)

    def learned_matrices(self, blocks: dict[str, BlockMatrix], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """As ``MatrixModel.learned_matrices``."""
        return self.members[0].learned_matrices(blocks, batch)

    def fit_reference(self, batches: Callable[[], Iterable[dict[str, Tensor]]]) -> None:
        """That of each member."""
        for member in self.members:
            member.fit_reference(batches)

    def drop_learned(self) -> None:
        """That of each member."""
        for member in self.members:
            member.drop_learned()

    def slow_parameters(self) -> list[nn.Parameter]:
        """Those of all members."""
        return [p for member in self.members for p in member.slow_parameters()]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``hamiltonian`` (Eh) and ``overlap`` [B, M, M], and those of each member, ``member_*`` [E, B, M, M]."""
        blocks = self.member_blocks(batch)
        members = [self.matrices(b, batch) for b in blocks]
        out = self.matrices(self.mean(blocks), batch)
        out[keys.MEMBER_HAMILTONIAN] = torch.stack([m[keys.HAMILTONIAN] for m in members])
        out[keys.MEMBER_OVERLAP] = torch.stack([m[keys.OVERLAP] for m in members])
        return out

    @property
    def knows_charge(self) -> bool:
        """Whether all members do."""
        return all(m.knows_charge for m in self.members)

    @property
    def knows_doubt(self) -> bool:
        """Always: members differ."""
        return True

    def standard_deviations(
        self, out: dict[str, Tensor], energies: Tensor, coefficients: Tensor, mask: Tensor
    ) -> Tensor | None:
        """See ``MatrixNetwork.standard_deviations``: over members."""
        if keys.MEMBER_HAMILTONIAN not in out:
            return None
        return level_spread(out[keys.MEMBER_HAMILTONIAN], out[keys.MEMBER_OVERLAP], energies, coefficients, mask)

    def __repr__(self):
        shared = ", with one prior for all" if self.shares_prior else ""
        return f"EnsembleModel of {len(self.members)}{shared}; each\n{self.members[0]!r}"


def level_spread(
    member_h: Tensor, member_s: Tensor, energies: Tensor, coefficients: Tensor, orbital_mask: Tensor
) -> Tensor:
    """Standard deviation over members of each orbital energy, to first order.

    A member's level is e + c^T (H_k - e S_k) c with the mean's level e and orbital c (c^T S c = 1): no further
    eigenproblem, and no doubt which level of a member belongs to which of the mean.

    Args:
        member_h, member_s: [E, B, M, M], Eh.
        energies, coefficients: [B, M] Eh and [B, M, M] of the mean.
        orbital_mask: [B, M] bool.

    Returns:
        [B, M], Eh; 0 in padding.
    """
    real = orbital_mask[:, None]
    c = torch.where(real.mT & real, coefficients.double(), 0.0)
    e = torch.where(orbital_mask, energies.double(), 0.0)
    change = ((member_h.double() @ c) * c).sum(-2) - e * ((member_s.double() @ c) * c).sum(-2)
    return change.std(0)


def _same_prior(a: MatrixModel, b: MatrixModel) -> bool:
    if b.prior is None:
        return False
    x, y = (m.prior.model.state_dict() for m in (a, b))
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@torch.no_grad()
def _mean(parts: list[TwoCentre]) -> TwoCentre:
    out = copy.deepcopy(parts[0])
    for name, parameter in out.named_parameters():
        parameter.copy_(torch.stack([p.get_parameter(name) for p in parts]).mean(0))
    return out
