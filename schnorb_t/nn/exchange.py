"""Features of pairs that know what an exchange of the two atoms does to them: one set serves both directions.

In the frame of its bond a pair (i, j) is the same as (j, i) seen in a mirror perpendicular to the bond, with the atoms
exchanged. Features are therefore split into symmetric and antisymmetric ones under exchange-and-mirror; maps keep them
apart, products multiply their signs, and the blocks (i, j) and (j, i) of a matrix follow from one set, as transposes
of each other. That is half of the work that features of ordered pairs make. A pair's features are a list
``[even, odd, m=1, ...]`` as in ``nn.o2``, each with one more axis in front, of length 2: symmetric, antisymmetric.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from schnorb_t.nn.blocks import OffsitePatterns
from schnorb_t.nn.limit import all_below
from schnorb_t.nn.o2 import O2Features


def flattened(x: O2Features) -> O2Features:
    """Symmetric features of all kinds, then antisymmetric ones: as ``ExchangeBlocks`` read them."""
    return [t[0] for t in x] + [t[1] for t in x]


def turned_blocks(blocks: Tensor, turn: Tensor) -> Tensor:
    """A B A^T of blocks [U, K * K, F] and A [U, K, K]; a block's F matrices are turned together."""
    u, k = turn.shape[:2]
    f = blocks.shape[-1]
    half = (turn @ blocks.reshape(u, k, k * f)).view(u, k, k, f)
    return (turn[:, None] @ half).view(u, k * k, f)


def limited_exchange(x: O2Features, start: float, most: float) -> O2Features:
    """``limit.limited_pairs`` of such features: each kind held below a limit."""
    out = []
    for t in x:
        if all_below(t, start):
            out.append(t)
            continue
        # channels of both signs together
        size = t.square().mean(tuple(range(2, t.dim()))).mean(0).clamp(min=start * start).sqrt()
        room = most - start
        factor = (start - room * torch.expm1((start - size) / room)) / size
        out.append(t * factor.reshape(-1, *[1] * (t.dim() - 2)) if t.shape[-1] else t)
    return out


class ExchangeLinear(nn.Module):
    """Dense maps within each kind and sign; symmetric even features take a bias.

    Args:
        widths_in: of each kind, (symmetric, antisymmetric) channels.
        widths_out: of each kind, the same number for both signs.
        bias: of the symmetric even ones.
    """

    def __init__(self, widths_in: Sequence[tuple[int, int]], widths_out: Sequence[int], bias: bool = False):
        super().__init__()
        self.widths_in, self.widths_out = [tuple(w) for w in widths_in], list(widths_out)
        self.maps = nn.ModuleList()
        for k, (given, n) in enumerate(zip(widths_in, widths_out, strict=True)):
            for sign, w in enumerate(given):
                self.maps.append(nn.Linear(w, n, bias=bias and k == sign == 0) if w and n else None)

    def forward(self, symmetric: O2Features, antisymmetric: O2Features) -> O2Features:
        """Lists of both signs, [U, C] or [U, 2, C] -> features [2, U, C'] or [2, U, 2, C']."""
        out = []
        for k, n in enumerate(self.widths_out):
            parts = []
            for f, x in zip(self.maps[2 * k : 2 * k + 2], (symmetric, antisymmetric), strict=True):
                shape = (x[0].shape[0], n) if k < 2 else (x[0].shape[0], 2, n)
                parts.append(x[0].new_zeros(shape) if f is None else f(x[k]))
            out.append(torch.stack(parts))
        return out


class ExchangeResidual(nn.Module):
    """x + linear(gate(linear(x))): SiLU on symmetric even features, sigmoids of these on all others.

    Args:
        widths: of each kind and sign.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.widths = list(widths)
        self.first = nn.ParameterList(nn.Parameter(torch.randn(2, w, w) * (3 * max(1, w)) ** -0.5) for w in widths)
        self.second = nn.ParameterList(nn.Parameter(torch.randn(2, w, w) * (3 * max(1, w)) ** -0.5) for w in widths)
        self.bias = nn.Parameter(torch.zeros(widths[0]))
        self.gates = nn.Linear(widths[0], widths[0] + 2 * sum(widths[1:]))

    def forward(self, x: O2Features) -> O2Features:
        """Features [2, U, ...] -> the same plus a gated correction."""
        gates = torch.sigmoid(self.gates(x[0][0])).split((self.widths[0], 2 * sum(self.widths[1:])), 1)
        first = torch.bmm(x[0], self.first[0])
        even = torch.stack((torch.nn.functional.silu(first[0] + self.bias), first[1] * gates[0]))
        out = [torch.baddbmm(x[0], even, self.second[0])]
        others = gates[1].split([2 * w for w in self.widths[1:]], 1)
        for t, gate, a, b in zip(x[1:], others, self.first[1:], self.second[1:], strict=True):
            u, w = gate.shape[0], t.shape[-1]
            if not w:
                out.append(t)
                continue
            gate = gate.reshape(u, 2, w).transpose(0, 1)
            y = torch.bmm(t.reshape(2, -1, w), a).reshape(t.shape)
            y = y * (gate if t.dim() == 3 else gate[:, :, None])
            out.append(torch.baddbmm(t.reshape(2, -1, w), y.reshape(2, -1, w), b).reshape(t.shape))
        return out


class ExchangeProduct(nn.Module):
    """Products of what is seen from one atom and from the other, channel by channel, then a linear map.

    Symmetric and antisymmetric features g and u are the two views L = g + u and R = g - u; exchange swaps these.
    With z_m = cos + i sin: L_m conj(R_m) -> even + i odd; L_m R_n -> m + n; conj(L_m) R_n -> n - m.

    Args:
        widths: of each kind and sign; odd features take no part.
        channels: of the factors.
    """

    def __init__(self, widths: Sequence[int], channels: int):
        super().__init__()
        self.m_max, self.channels = len(widths) - 2, channels
        self.maps = nn.ParameterList(
            nn.Parameter(torch.randn(2, w, channels) * (3 * max(1, w)) ** -0.5) for k, w in enumerate(widths) if k != 1
        )
        c, counts = channels, [[1 + self.m_max, 0], [0, self.m_max], *([0, 0] for _ in range(self.m_max))]
        for m in range(1, self.m_max + 1):
            for k in (0, 1):
                counts[m + 1][k] += 1  # m = 0 times m
            for n in range(m, self.m_max + 1):
                if m + n <= self.m_max:
                    counts[m + n + 1][0] += 1
                    counts[m + n + 1][1] += n > m
                if n > m:
                    for k in (0, 1):
                        counts[n - m + 1][k] += 1
        self.out = ExchangeLinear([(a * c, b * c) for a, b in counts], widths)

    def forward(self, x: O2Features) -> O2Features:
        """Features [2, U, ...] -> a linear map of their products."""
        views = []
        for t, weight in zip((x[0], *x[2:]), self.maps, strict=True):
            y = torch.bmm(t.reshape(2, -1, t.shape[-1]), weight).reshape(*t.shape[:-1], self.channels)
            views.append((y[0] + y[1], y[0] - y[1]))
        (a0, b0), *planes = views
        terms: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(self.m_max + 2)]
        terms[0][0].append(a0 * b0)

        def add(kind: int, one: Tensor, other: Tensor) -> None:
            terms[kind][0].append(one + other)
            terms[kind][1].append(one - other)

        for m, (a, b) in enumerate(planes, start=1):
            terms[0][0].append((a * b).sum(1))
            terms[1][1].append(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
            add(m + 1, a0[:, None] * b, b0[:, None] * a)
            for n in range(m, self.m_max + 1):
                c, d = planes[n - 1]
                if m + n <= self.m_max:
                    if n == m:
                        terms[m + n + 1][0].append(_times(a, b, False))
                    else:
                        add(m + n + 1, _times(a, d, False), _times(b, c, False))
                if n > m:
                    add(n - m + 1, _times(a, d, True), _times(b, c, True))
        both = [[torch.cat(t[k], -1) if t[k] else a0 for t in terms] for k in (0, 1)]
        return self.out(*both)


def _times(u: Tensor, w: Tensor, conjugate: bool) -> Tensor:
    """u w or conj(u) w of [U, 2, C] read as complex numbers."""
    s = -u[:, 1] if conjugate else u[:, 1]
    c = u[:, 0]
    return torch.stack((c * w[:, 0] - s * w[:, 1], c * w[:, 1] + s * w[:, 0]), 1)


class ExchangePatterns(OffsitePatterns):
    """Couplings of bond-frame blocks whose matrix is symmetric: (j, i) is the transpose of (i, j).

    Exchange and mirror take a block B to E B^T E, E = (-1)^(l + m) on the diagonal. Kinds are those of
    ``OffsitePatterns``, of symmetric features and then of antisymmetric ones; couplings of two shells of one
    direction and of the other are one coupling here.

    Args:
        layout: l of the shells of an atom's slots.
        kinds: O(2) representations (even, odd, m = 1, ...).
    """

    def __init__(self, layout: Sequence[int], kinds: int):
        super().__init__(layout, kinds)
        k = self.k
        sign = torch.tensor([(-1.0) ** (l + m) for l in layout for m in range(-l, l + 1)], dtype=torch.float64)
        old = [getattr(self, f"pattern_{kind}") if count else None for kind, count in enumerate(self.counts)]
        counts = list(self.counts)
        self.counts = []
        for parity in (1, -1):
            for kind in range(kinds):
                rows = 1 if kind < 2 else 2
                found: list[Tensor] = []
                if kind < len(counts) and counts[kind]:
                    for pattern in old[kind].view(rows, counts[kind], k, k).transpose(0, 1):
                        turned = sign[:, None] * pattern.mT * sign
                        new = 0.5 * (pattern + parity * turned)
                        size = new.norm() / pattern.norm()
                        if size < 1e-6:
                            continue
                        new = new / size
                        if not any((new - y).norm() < 1e-6 or (new + y).norm() < 1e-6 for y in found):
                            found.append(new)
                if found:
                    stacked = torch.stack(found, 1).reshape(-1, k * k)
                    self.register_buffer(f"pattern_{len(self.counts)}", stacked, persistent=False)
                self.counts.append(len(found))
        self.kinds = kinds
        rows = [getattr(self, f"pattern_{kind}") for kind, count in enumerate(self.counts) if count]
        #: all patterns, one row each: symmetric blocks are their sums
        self.register_buffer("patterns", torch.cat(rows), persistent=False)

    def features(self, blocks: Tensor) -> O2Features:
        """Bond-frame blocks [U, C, K * K] of symmetric matrices -> features of both signs (``flattened``)."""
        out = []
        for kind, count in enumerate(self.counts):
            rows = 1 if kind % self.kinds < 2 else 2
            if not count:
                shape = (len(blocks), 0) if rows == 1 else (len(blocks), 2, 0)
                out.append(blocks.new_zeros(shape))
                continue
            y = blocks @ getattr(self, f"pattern_{kind}").to(blocks.dtype).T
            out.append(y.flatten(1) if rows == 1 else y.unflatten(2, (2, count)).transpose(1, 2).flatten(2))
        return out


class ExchangeBlocks(ExchangePatterns):
    """Features of pairs -> bond-frame blocks (i, j) of ``fields`` symmetric matrices.

    Args:
        layout: l of the shells of an atom's slots.
        widths: channels of the pair features, of each kind and sign.
        fields: how many matrices.
        gain: size of the blocks at the start.
    """

    def __init__(self, layout: Sequence[int], widths: Sequence[int], fields: int, gain: float = 0.1):
        super().__init__(layout, len(widths))
        self.fields, both = fields, [*widths, *widths]
        self.maps = nn.ModuleList()
        for count, width in zip(self.counts, both, strict=True):
            read = count and width
            self.maps.append(nn.Linear(width, count * fields, bias=False) if read else None)
            if read:
                nn.init.normal_(self.maps[-1].weight, std=gain * (2 * width) ** -0.5)

    def forward(self, pairs: O2Features) -> Tensor:
        """``flattened`` features -> [fields, U, K, K]; the fields are innermost in memory."""
        return self.flat(pairs).permute(2, 0, 1).unflatten(2, (self.k, self.k))

    def flat(self, pairs: O2Features) -> Tensor:
        """``flattened`` features -> [U, K * K, fields]."""
        u, parts = len(pairs[0]), []
        for kind, (f, count) in enumerate(zip(self.maps, self.counts, strict=True)):
            rows = count * (1 if kind % self.kinds < 2 else 2)
            if f is not None:
                parts.append(f(pairs[kind]).reshape(u, rows, self.fields))
            elif count:
                parts.append(pairs[0].new_zeros(u, rows, self.fields))
        return self.patterns.T.to(pairs[0].dtype) @ torch.cat(parts, 1)
