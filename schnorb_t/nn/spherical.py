"""Features of atoms as one dense tensor: rows (l, m), l = 0..l_max, of natural parity, as many channels for each l.

With equal channels an atom's features are one tensor [R, N, C], R = (l_max + 1)^2, and everything is a batched matrix
product: maps of channels, rotations into the bonds' frames (all l at once), products. Rows of a bond's frame are
ordered by |m| instead: m = 0 of l = 0, 1, ...; then for m = 1, 2, ... the cosines of l = m, m + 1, ... and the sines.
Features of each |m| then stand side by side, and no copy is needed to mix them (the order of Passaro and Zitnick, ICML
2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from schnorb_t.harmonics import clebsch_gordan
from schnorb_t.nn.limit import all_below
from schnorb_t.nn.o2 import Features


def degrees(l_max: int) -> list[int]:
    """l of each of the (l_max + 1)^2 rows."""
    return [l for l in range(l_max + 1) for _ in range(2 * l + 1)]


def frame_rows(l_max: int) -> list[tuple[int, int]]:
    """(l, m) of the rows of a bond's frame; m < 0 are sines."""
    rows = [(l, 0) for l in range(l_max + 1)]
    for m in range(1, l_max + 1):
        rows += [(l, m) for l in range(m, l_max + 1)] + [(l, -m) for l in range(m, l_max + 1)]
    return rows


def as_features(x: Tensor, l_max: int) -> Features:
    """[R, N, C] -> views [N, 2l+1, C] by irrep, 0e, 1o, 2e, ..."""
    return {f"{l}{'eo'[l % 2]}": x[l * l : (l + 1) ** 2].transpose(0, 1) for l in range(l_max + 1)}


class FrameRotations(nn.Module):
    """Wigner matrices of bonds, put together: rows as ``frame_rows``, columns as ``degrees``.

    Args:
        l_max: largest l.
    """

    def __init__(self, l_max: int):
        super().__init__()
        self.l_max, n = l_max, (l_max + 1) ** 2
        starts = [sum((2 * k + 1) ** 2 for k in range(l)) for l in range(l_max + 1)]
        index = torch.full((n, n), sum((2 * k + 1) ** 2 for k in range(l_max + 1)))  # of a zero
        for row, (l, m) in enumerate(frame_rows(l_max)):
            at = starts[l] + (l + m) * (2 * l + 1)
            index[row, l * l : (l + 1) ** 2] = torch.arange(at, at + 2 * l + 1)
        self.register_buffer("index", index.flatten(), persistent=False)
        #: what becomes of each row if the bond is turned round by a mirror: (-1)^(l + m)
        mirror = torch.tensor([(-1.0) ** (l + m) for l, m in frame_rows(l_max)])
        self.register_buffer("mirror", mirror[:, None], persistent=False)

    def forward(self, wigner: list[Tensor]) -> Tensor:
        """D^l [U, 2l+1, 2l+1] of each l -> [U, R, R]."""
        u, n = len(wigner[0]), (self.l_max + 1) ** 2
        flat = torch.cat([*(d.flatten(1) for d in wigner[: self.l_max + 1]), wigner[0].new_zeros(u, 1)], 1)
        return flat.index_select(1, self.index).view(u, n, n)


class SphericalLinear(nn.Module):
    """Maps of channels, one for each l; bias on l = 0 if wanted: [R, N, C] -> [R, N, C']."""

    def __init__(self, l_max: int, n_in: int, n_out: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(l_max + 1, n_in, n_out) * (3 * n_in) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.register_buffer("degree", torch.tensor(degrees(l_max)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Each l through its own map."""
        out = torch.bmm(x, self.weight.index_select(0, self.degree))
        if self.bias is None:
            return out
        return torch.cat((out[:1] + self.bias, out[1:]))


class SphericalProduct(nn.Module):
    """Products of an atom's features with themselves, channel by channel, by Clebsch-Gordan, then a map of channels.

    Args:
        l_max: of the features, going in and coming out.
        n_in, n_out: their channels.
        channels: of the factors.
        factor_l_max: factors of larger l take no part.
    """

    def __init__(self, l_max: int, n_in: int, n_out: int, channels: int, factor_l_max: int = 2):
        super().__init__()
        self.l_max, self.l_in, self.channels = l_max, min(l_max, factor_l_max), channels
        self.mix = SphericalLinear(self.l_in, n_in, channels)
        dim = (self.l_in + 1) ** 2
        upper = torch.triu_indices(dim, dim)
        self.paths, columns = [], []
        for l3 in range(l_max + 1):
            found = []
            for l1 in range(self.l_in + 1):
                for l2 in range(l1, self.l_in + 1):
                    if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0:
                        full = torch.zeros(dim, dim, 2 * l3 + 1, dtype=torch.float64)
                        block = clebsch_gordan(l1, l2, l3) * (2 * l3 + 1) ** 0.5
                        full[l1 * l1 : (l1 + 1) ** 2, l2 * l2 : (l2 + 1) ** 2] = block
                        found.append(full)
            self.paths.append(len(found))
            if found:
                columns.append(torch.stack(found, -1).reshape(dim, dim, -1))  # m and path, path innermost
        coupling = torch.cat(columns, -1)
        # x_a x_b is symmetric: sum both triangles into one
        folded = coupling + coupling.transpose(0, 1)
        folded[range(dim), range(dim)] *= 0.5
        self.register_buffer("coupling", folded[upper[0], upper[1]].T.contiguous(), persistent=False)
        self.register_buffer("upper", upper, persistent=False)
        self.out = nn.ParameterList(
            nn.Parameter(torch.randn(p * channels, n_out) * (3 * max(1, p * channels)) ** -0.5) for p in self.paths
        )

    def forward(self, x: Tensor) -> Tensor:
        """[R, N, C] -> [R, N, C']."""
        y = self.mix(x[: (self.l_in + 1) ** 2])
        n = y.shape[1]
        pairs = y.index_select(0, self.upper[0]) * y.index_select(0, self.upper[1])
        coupled = self.coupling.to(y.dtype) @ pairs.flatten(1)
        out, at = [], 0
        for l, (paths, weight) in enumerate(zip(self.paths, self.out, strict=True)):
            rows = 2 * l + 1
            z = coupled[at : at + rows * paths].view(rows, paths, n, self.channels)
            out.append(z.transpose(1, 2).reshape(rows, n, paths * self.channels) @ weight)
            at += rows * paths
        return torch.cat(out)


def limited_rows(x: Tensor, start: float, most: float) -> Tensor:
    """``limit.limited`` of atoms' features [R, N, C]: each l held below a limit. Nothing happens below ``start``."""
    if all_below(x, start):
        return x
    size = x.square().mean(2)
    l_max = round(len(size) ** 0.5) - 1
    means = torch.stack([size[l * l : (l + 1) ** 2].mean(0) for l in range(l_max + 1)])
    size = means.clamp(min=start * start).sqrt()
    room = most - start
    factor = (start - room * torch.expm1((start - size) / room)) / size
    return x * factor.repeat_interleave(torch.arange(l_max + 1, device=x.device) * 2 + 1, 0)[:, :, None]
