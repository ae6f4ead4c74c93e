"""Features of a pair in its bond frame: representations of O(2), rotations about the bond and mirrors through it.

A tensor product of a feature with the spherical harmonics of the bond is, in the frame of the bond, a linear map
that mixes l but keeps |m| (Passaro and Zitnick, ICML 2023): no Clebsch-Gordan sum remains, only dense matrix
products. Features of O(2) here are a list ``[even, odd, m=1, m=2, ...]``:

    even [P, C]: unchanged by mirrors (m = 0 of true tensors: 0e, 1o, 2e, ...)
    odd  [P, C]: change sign (m = 0 of pseudo tensors: 1e, 2o, ...)
    m    [P, 2, C]: cos and sin of m times the turn; a mirror flips the second
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor, nn

O2Features = list[Tensor]
#: irrep -> tensor [N, 2l+1, C]
Features = dict[str, Tensor]


def irrep_list(irreps: o3.Irreps | str) -> list[tuple[str, int, bool, int]]:
    """(name, l, is a true tensor, channels) of irreps such as ``32x0e+32x1o+16x1e``.

    Raises:
        ValueError: an irrep twice.
    """
    out = [(str(ir), ir.l, ir.p == (-1) ** ir.l, mul) for mul, ir in o3.Irreps(irreps)]
    if len({name for name, *_ in out}) != len(out):
        raise ValueError(f"each irrep may stand once, got {irreps}")
    return out


def o2_widths(irreps: o3.Irreps | str, m_max: int | None = None) -> list[int]:
    """Channels of [even, odd, m=1, ...] that irreps have in a bond frame."""
    items = irrep_list(irreps)
    m_max = max(l for _, l, _, _ in items) if m_max is None else m_max
    return [
        sum(c for _, _, true, c in items if true),
        sum(c for _, _, true, c in items if not true),
        *(sum(c for _, l, _, c in items if l >= m) for m in range(1, m_max + 1)),
    ]


class ToBondFrame(nn.Module):
    """Irreps of atoms, gathered to pairs, -> O(2) features; and back.

    A pseudo tensor's (cos, sin) part is turned by 90 degrees, (-s, c), which makes it transform as a true one.
    """

    def __init__(self, irreps: o3.Irreps | str):
        super().__init__()
        self.items = irrep_list(irreps)
        self.m_max = max(l for _, l, _, _ in self.items)

    def forward(self, features: Features, wigner: list[Tensor]) -> O2Features:
        """Features [P, 2l+1, C] in the molecule's frame -> O(2) features."""
        parts: list[list[Tensor]] = [[] for _ in range(self.m_max + 2)]
        for name, l, true, _ in self.items:
            y = wigner[l] @ features[name] if l else features[name]
            parts[0 if true else 1].append(y[:, l])
            for m in range(1, l + 1):
                c, s = y[:, l + m], y[:, l - m]
                parts[m + 1].append(torch.stack((c, s) if true else (-s, c), 1))
        sample = features[self.items[0][0]]
        empty = sample.new_zeros(sample.shape[0], 0)
        return [torch.cat(p, -1) if p else empty for p in parts]

    def back(self, o2: O2Features, wigner: list[Tensor]) -> Features:
        """O(2) features with ``o2_widths`` channels -> irreps in the molecule's frame."""
        at = [0] * len(o2)
        out = {}
        for name, l, true, channels in self.items:
            rows: list[Tensor | None] = [None] * (2 * l + 1)
            k = 0 if true else 1
            rows[l] = o2[k][:, at[k] : at[k] + channels]
            at[k] += channels
            for m in range(1, l + 1):
                c, s = o2[m + 1][:, :, at[m + 1] : at[m + 1] + channels].unbind(1)
                at[m + 1] += channels
                rows[l + m], rows[l - m] = (c, s) if true else (s, -c)
            y = torch.stack(rows, 1)
            out[name] = wigner[l].mT @ y if l else y
        return out


class O2Linear(nn.Module):
    """Dense maps within each O(2) representation; only even features take a bias."""

    def __init__(self, widths_in: list[int], widths_out: list[int], bias: bool = True):
        super().__init__()
        self.widths_in, self.widths_out = list(widths_in), list(widths_out)
        self.maps = nn.ModuleList()
        for k, n_out in enumerate(widths_out):
            n_in = widths_in[k] if k < len(widths_in) else 0
            self.maps.append(nn.Linear(n_in, n_out, bias=bias and k == 0) if n_in and n_out else None)

    def forward(self, x: O2Features) -> O2Features:
        out = []
        for k, (f, n) in enumerate(zip(self.maps, self.widths_out, strict=True)):
            if f is None:
                shape = (x[0].shape[0], n) if k < 2 else (x[0].shape[0], 2, n)
                out.append(x[0].new_zeros(shape))
            else:
                out.append(f(x[k]))
        return out


def o2_scale(x: O2Features, weights: Tensor) -> O2Features:
    """Multiply channels by invariant weights [P, sum of widths]."""
    parts = weights.split([t.shape[-1] for t in x], dim=1)
    return [t * w if t.dim() == 2 else t * w[:, None] for t, w in zip(x, parts, strict=True)]


class O2Gate(nn.Module):
    """SiLU on even features; the others are multiplied by sigmoids of even ones.

    Input widths: ``[even + sum of the others, odd, m=1, ...]``.
    """

    def __init__(self, widths: list[int]):
        super().__init__()
        self.widths = list(widths)
        self.widths_in = [sum(widths), *widths[1:]]

    def forward(self, x: O2Features) -> O2Features:
        even, gates = x[0].split((self.widths[0], sum(self.widths[1:])), 1)
        return [torch.nn.functional.silu(even), *o2_scale(x[1:], torch.sigmoid(gates))]


class O2Product(nn.Module):
    """Products of two sets of O(2) features channel by channel, then a linear map.

    With z_m = cos + i sin: z_m conj(z_m) -> even + i odd; z_m z_n -> m + n; conj(z_m) z_n -> n - m; odd times z is iz.
    """

    def __init__(self, widths_in: list[int], widths_out: list[int], channels: int):
        super().__init__()
        self.m_max = len(widths_out) - 2
        self.channels = channels
        equal = [channels] * (self.m_max + 2)
        self.left = O2Linear(widths_in, equal, bias=False)
        self.right = O2Linear(widths_in, equal, bias=False)
        counts = [2 + self.m_max, 2 + self.m_max] + [
            3 + sum(1 for p in range(1, m) if p <= m - p) + 2 * (self.m_max - m) for m in range(1, self.m_max + 1)
        ]
        self.out = O2Linear([n * channels for n in counts], widths_out, bias=False)

    def forward(self, x: O2Features) -> O2Features:
        a, b = self.left(x), self.right(x)
        even = [a[0] * b[0], a[1] * b[1]]
        odd = [a[0] * b[1], a[1] * b[0]]
        planes: list[list[Tensor]] = [[] for _ in range(self.m_max + 1)]
        for m in range(1, self.m_max + 1):
            u, v = a[m + 1], b[m + 1]
            even.append((u * v).sum(1))
            odd.append(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
            turned = torch.stack((-v[:, 1], v[:, 0]), 1)
            planes[m] += [a[0][:, None] * v, b[0][:, None] * u, a[1][:, None] * turned]
            for n in range(m, self.m_max + 1):
                w = b[n + 1]
                if m + n <= self.m_max:
                    planes[m + n].append(_multiply(u, w, conjugate=False))
                if n > m:
                    planes[n - m].append(_multiply(u, w, conjugate=True))
                    planes[n - m].append(_multiply(v, a[n + 1], conjugate=True))
        return self.out([torch.cat(even, 1), torch.cat(odd, 1), *(torch.cat(p, 2) for p in planes[1:])])


def _multiply(u: Tensor, w: Tensor, conjugate: bool) -> Tensor:
    """u w or conj(u) w of [P, 2, C] read as complex numbers."""
    s = -u[:, 1] if conjugate else u[:, 1]
    c = u[:, 0]
    return torch.stack((c * w[:, 0] - s * w[:, 1], c * w[:, 1] + s * w[:, 0]), 1)
