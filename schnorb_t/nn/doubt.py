"""Doubt: how far the data leave the last layer undetermined, and what that means for each level.

Blocks of H are linear in the features that the last layer reads. Had only that layer been fitted, its weights would be
known up to a Gaussian of covariance a^2 (F^T F + r 1)^-1, F the features of all training molecules: the last-layer
prediction rigidity of Bigi, Chong, Ceriotti and Grasselli (Mach. Learn.: Sci. Technol. 5, 045018 (2024)). Features in
directions that training never visited give wide distributions there, hence molecules unlike it. A few draws of the
weights make members that share everything but the last layer; a member's deviation carried to a level by first-order
perturbation keeps the correlation between all blocks of a molecule, since one draw serves all of them. Members cost one
more linear map each and no other pass.

Deviations come in the units of the residuals of H (``ResidualScale``), so that each shell pair has its own; what is
left, one factor and one floor for all levels, is calibrated on molecules that were not trained on
(``training.calibration``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from schnorb_t.nn.blocks import OffsiteBlocks, OnsiteBlocks
from schnorb_t.nn.o2 import Features, O2Features


class LastLayerMembers(nn.Module):
    """Draws of the last layer's weights: features -> deviations of on-site and off-site blocks of each member.

    Args:
        layout: l of the shells of an atom's slots (``Basis.layout``).
        n_elements: rows of the tables of weights.
        irreps, widths: of the atoms' and the pairs' features.
        members: how many draws.
    """

    def __init__(self, layout: Sequence[int], n_elements: int, irreps: str, widths: list[int], members: int):
        super().__init__()
        self.members, self.n_elements = members, n_elements
        self.onsite = OnsiteBlocks(layout, n_elements, irreps, members)
        self.offsite = OffsiteBlocks(layout, widths, members)
        self.requires_grad_(False)
        #: standard deviation = sqrt((factor * spread)^2 + floor^2), Eh
        self.register_buffer("factor", torch.ones((), dtype=torch.float64))
        self.register_buffer("floor", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Features, pairs: O2Features, element: Tensor) -> tuple[Tensor, Tensor]:
        """[E, N, K, K] in the molecule's frame and [E, P, K, K] in the bonds', in units of the residual scale."""
        return self.onsite(x, element), self.offsite(pairs)

    @torch.no_grad()
    def draw(self, grams: Grams, ridge: float = 1e-4, seed: int = 0) -> None:
        """Draw the members.

        Args:
            grams: of the features of all training molecules.
            ridge: r, relative to the mean diagonal of F^T F.
            seed: of the draws.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, weight in zip(self.onsite.names, self.onsite.weights, strict=True):
            for row in range(self.n_elements):
                weight[row] = self._draw(grams.onsite[name][row], weight[row].shape[1], ridge, generator)
        for kind, layer in enumerate(self.offsite.maps):
            if layer is not None:
                layer.weight.copy_(self._draw(grams.offsite[kind], len(layer.weight), ridge, generator).T)

    def _draw(self, gram: Tensor, columns: int, ridge: float, generator: torch.Generator) -> Tensor:
        """Weights [C, columns] of covariance (gram + r 1)^-1; members are the innermost index, of mean 0."""
        gram = gram.double().cpu()
        size = gram.diagonal().mean().clamp(min=1e-12)
        values, vectors = torch.linalg.eigh(gram / size)
        z = torch.randn(len(gram), columns, generator=generator, dtype=torch.float64)
        z = z.unflatten(1, (-1, self.members))
        z = (z - z.mean(2, keepdim=True)) * (self.members / (self.members - 1)) ** 0.5
        return vectors @ ((values.clamp(min=0) + ridge) ** -0.5 * size**-0.5)[:, None].mul(z.flatten(1))

    def standard_deviation(self, spread: Tensor) -> Tensor:
        """Calibrated, Eh, from the spread of the members' levels, Eh."""
        return ((self.factor * spread).square() + self.floor.square()).sqrt()

    def extra_repr(self):
        """What ``print(model)`` shows of it."""
        return f"{self.members} members, factor {float(self.factor):.3g}, floor {float(self.floor):.2g} Eh"


class Grams:
    """F^T F of the features that each linear map of the last layer reads, over batches."""

    def __init__(self, members: LastLayerMembers):
        self.onsite = {
            name: weight.new_zeros(len(weight), weight.shape[1], weight.shape[1], dtype=torch.float64)
            for name, weight in zip(members.onsite.names, members.onsite.weights, strict=True)
        }
        self.offsite = {
            kind: layer.weight.new_zeros(layer.in_features, layer.in_features, dtype=torch.float64)
            for kind, layer in enumerate(members.offsite.maps)
            if layer is not None
        }

    def add(self, x: Features, pairs: O2Features, element: Tensor) -> None:
        """Add a batch's atoms and pairs."""
        for name, gram in self.onsite.items():
            y = x[name].double()
            gram.index_add_(0, element, y.mT @ y)
        for kind, gram in self.offsite.items():
            y = pairs[kind].double().flatten(0, -2)
            gram += y.T @ y


def level_deviations(matrices: Tensor, coefficients: Tensor) -> Tensor:
    """First-order changes c^T dH c of levels [E, B, M] by changes of H [E, B, M, M]; both in orthogonal functions.

    Args:
        matrices: dH of each member, Eh.
        coefficients: [B, M, M], columns are orbitals, C^T C = 1.
    """
    c = coefficients.mT.to(matrices.dtype)
    rows = matrices.permute(1, 2, 3, 0)  # members are innermost in memory (``BlockMatrix.padded``)
    half = (c @ rows.flatten(2)).unflatten(2, rows.shape[2:])
    return (half * c[..., None]).sum(2).permute(2, 0, 1)
