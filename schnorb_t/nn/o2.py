"""Features of a pair in its bond frame: representations of O(2), rotations about the bond and mirrors through it.

A tensor product of a feature with the spherical harmonics of the bond is, in the frame of the bond, a linear map
that mixes l but keeps |m| (Passaro and Zitnick, ICML 2023): no Clebsch-Gordan sum remains, only dense matrix
products. Features of O(2) here are a list ``[even, odd, m=1, m=2, ...]``:

    even [P, C]: unchanged by mirrors (m = 0 of tensors of natural parity: 0e, 1o, 2e, ...)
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
    """(name, l, whether its parity is natural, (-1)^l, channels) of irreps such as ``32x0e+32x1o+16x1e``.

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
        sum(c for _, _, natural, c in items if natural),
        sum(c for _, _, natural, c in items if not natural),
        *(sum(c for _, l, _, c in items if l >= m) for m in range(1, m_max + 1)),
    ]


class ToBondFrame(nn.Module):
    """Irreps of atoms -> O(2) features of pairs; and back.

    A pseudo tensor's (cos, sin) part is turned by 90 degrees, (-s, c), and then transforms like one of natural parity.
    All irreps of one l are rotated together: a product of many small matrices costs by their number, not their size.
    """

    def __init__(self, irreps: o3.Irreps | str):
        super().__init__()
        self.items = irrep_list(irreps)
        self.m_max = max(l for _, l, _, _ in self.items)
        #: l -> its irreps and their channels
        self.by_l: dict[int, list[tuple[str, int]]] = {}
        for name, l, _, channels in self.items:
            self.by_l.setdefault(l, []).append((name, channels))

    def forward(self, features: Features, wigner: list[Tensor], *atoms: Tensor) -> O2Features:
        """Features [P, 2l+1, C] in the molecule's frame -> O(2) features.

        With ``atoms`` [P], one or both of each pair's, features are those of atoms [N, 2l+1, C]; channels of the first
        atom come before those of the second.
        """
        rows: dict[str, list[tuple[Tensor, ...]]] = {}
        for l, members in self.by_l.items():
            y = torch.cat([features[name] for name, _ in members], -1)
            if atoms:
                # index_select: its gradient is an index_add_, several times faster than that of y[atoms]
                y = torch.cat([y.index_select(0, k) for k in atoms], -1)
            y = wigner[l] @ y if l else y
            # unbind and split, not slices: the gradient of each slice would be a tensor as large as the whole
            widths = [channels for _, channels in members]
            split = list(zip(*(row.split(widths * max(1, len(atoms)), -1) for row in y.unbind(1)), strict=True))
            for k, (name, _) in enumerate(members):
                rows[name] = split[k :: len(members)]
        parts: list[list[Tensor]] = [[] for _ in range(self.m_max + 2)]
        for k in range(max(1, len(atoms))):
            for name, l, natural, _ in self.items:
                z = rows[name][k]
                parts[0 if natural else 1].append(z[l])
                for m in range(1, l + 1):
                    c, s = z[l + m], z[l - m]
                    parts[m + 1].append(torch.stack((c, s) if natural else (-s, c), 1))
        empty = wigner[0].new_zeros(len(wigner[0]), 0)
        return [torch.cat(p, -1) if p else empty for p in parts]

    def back(self, o2: O2Features, wigner: list[Tensor]) -> Features:
        """O(2) features with ``o2_widths`` channels -> irreps in the molecule's frame.

        Of even features alone, those of natural parity alone: features times the bond's harmonics.
        """
        even = iter(o2[0].split([c for _, _, natural, c in self.items if natural], -1))
        if len(o2) == 1:
            # harmonics are the m = 0 row of the rotation into the bond's frame
            return {
                name: next(even)[:, None] * wigner[l][:, l, :, None] for name, l, natural, _ in self.items if natural
            }
        odd = iter(o2[1].split([c for _, _, natural, c in self.items if not natural], -1))
        planes = [
            zip(*(row.split([c for _, l, _, c in self.items if l >= m], -1) for row in x.unbind(1)), strict=True)
            for m, x in enumerate(o2[2:], start=1)
        ]
        bond: Features = {}
        for name, l, natural, _ in self.items:
            rows: list[Tensor | None] = [None] * (2 * l + 1)
            rows[l] = next(even if natural else odd)
            for m in range(1, l + 1):
                c, s = next(planes[m - 1])
                rows[l + m], rows[l - m] = (c, s) if natural else (s, -c)
            bond[name] = torch.stack(rows, 1)
        out = {}
        for l, members in self.by_l.items():
            y = torch.cat([bond[name] for name, _ in members], -1)
            y = wigner[l].mT @ y if l else y
            out |= zip((n for n, _ in members), y.split([c for _, c in members], -1), strict=True)
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
        """O(2) features of pairs -> O(2) features; each order m has a linear map of its own."""
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
        """SiLU of the even channels, the others times sigmoids of gates that came with them."""
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
        """O(2) features of pairs -> linear map of products of two linear maps of them."""
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
