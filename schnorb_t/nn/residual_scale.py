"""The network's units: what the two-centre part leaves in the reference data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from schnorb_t.basis import Basis
from schnorb_t.nn.constants import Constants, today


class ResidualScale(nn.Module):
    """Root-mean-square residual per element and shell pair, off-site also falling exponentially with distance.

    With it every output of the network is of order one: core levels of -20 Eh, bonds and the far tails, which are most
    of a matrix. Off-site: rms(r) = exp(height - slope r), a straight line through the binned logarithms.

    Args:
        basis: shells per element.
        floor: smallest scale.
        constants: those that begin with ``scale``.
    """

    def __init__(self, basis: Basis, floor: float, constants: Constants | None = None):
        super().__init__()
        constants = constants or today()
        self.bins, self.width = constants.scale_bins, constants.scale_bin_width
        self.steepest, self.spread = constants.scale_steepest, constants.scale_spread
        n, k = len(basis.elements), basis.n_slots
        self.floor, self.n_elements = floor, n
        shell = torch.tensor([s for s, l in enumerate(basis.layout) for _ in range(2 * l + 1)])
        self.register_buffer("member", torch.nn.functional.one_hot(shell).double(), persistent=False)
        self.register_buffer("onsite", torch.ones(n, k, k))
        self.register_buffer("height", torch.zeros(n * n, k, k))
        self.register_buffer("slope", torch.zeros(n * n, k, k))

    def offsite(self, pair: Tensor, distance: Tensor) -> Tensor:
        """[P, K, K] for rows of element pairs and distances [P] in Å."""
        distance = distance.to(self.height.dtype)[:, None, None]
        return torch.exp(self.height[pair] - self.slope[pair] * distance)

    def _shell_mean(self, total: Tensor, count: Tensor) -> Tensor:
        """Sums [..., K, K] -> means [..., shells, shells]: one number per shell pair, or rotations would be seen."""
        size = self.member.sum(0)
        mean = total / count.clamp(min=1)[..., None, None]
        return self.member.T @ mean @ self.member / (size[:, None] * size)

    def _to_slots(self, values: Tensor) -> Tensor:
        return self.member @ values @ self.member.T

    @torch.no_grad()
    def fit(self, residuals: Iterable[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]) -> None:
        """From (element rows [N], blocks [N, K, K], pair rows [P], distances [P], blocks [P, K, K]) of batches."""
        n, k, device = self.n_elements, self.onsite.shape[-1], self.onsite.device
        zeros = dict(dtype=torch.float64, device=device)
        onsite, n_onsite = torch.zeros(n, k, k, **zeros), torch.zeros(n, **zeros)
        offsite, n_offsite = torch.zeros(n * n * self.bins, k, k, **zeros), torch.zeros(n * n * self.bins, **zeros)
        for element, blocks, pair, distance, pair_blocks in residuals:
            onsite.index_add_(0, element, blocks.double().square())
            n_onsite.index_add_(0, element, torch.ones_like(element, dtype=torch.float64))
            place = pair * self.bins + (distance / self.width).long().clamp(max=self.bins - 1)
            offsite.index_add_(0, place, pair_blocks.double().square())
            n_offsite.index_add_(0, place, torch.ones_like(place, dtype=torch.float64))
        smallest = self.floor**2
        seen = self._shell_mean(onsite, n_onsite).clamp(min=smallest)
        # an element without data gets the mean of the others
        average = self._shell_mean(onsite.sum(0), n_onsite.sum()).clamp(min=smallest)
        seen = torch.where((n_onsite > 0)[:, None, None], seen, average)
        self.onsite.copy_(self._to_slots(seen.sqrt()))
        height, slope = self._lines(offsite.reshape(n * n, self.bins, k, k), n_offsite.reshape(n * n, self.bins))
        self.height.copy_(self._to_slots(height))
        self.slope.copy_(self._to_slots(slope))

    def _lines(self, total: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted straight lines through log rms of the bins: height and slope [n n, shells, shells]."""
        centre = (torch.arange(self.bins, dtype=torch.float64, device=count.device) + 0.5) * self.width

        def line(total, count):
            y = 0.5 * self._shell_mean(total, count).clamp(min=self.floor**2).log()
            # a bin of a thousand pairs is not a thousand times better known than one of one: the line must hold far out
            weight = count.sqrt() / count.sqrt().sum(-1, keepdim=True).clamp(min=1e-12)
            x0 = (weight * centre).sum(-1)
            y0 = (weight[..., None, None] * y).sum(-3)
            dx = centre - x0[..., None]
            spread = (weight * dx.square()).sum(-1)
            rise = ((weight * dx)[..., None, None] * (y - y0[..., None, :, :])).sum(-3)
            slope = -(rise / spread.clamp(min=1e-12)[..., None, None])
            return y0, x0, slope, spread

        # element pairs with too few data follow all pairs together
        y_all, x_all, slope_all, _ = line(total.sum(0), count.sum(0))
        slope_all = slope_all.clamp(0.0, self.steepest)
        y0, x0, slope, spread = line(total, count)
        slope = torch.where((spread > self.spread)[:, None, None], slope.clamp(0.0, self.steepest), slope_all)
        height = torch.where(
            (count.sum(1) > 0)[:, None, None], y0 + slope * x0[:, None, None], y_all + slope_all * x_all
        )
        return height, slope
