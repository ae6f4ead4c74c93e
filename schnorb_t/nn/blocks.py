"""Orbital blocks: irreps -> (shell a x shell b), on-site by Clebsch-Gordan, off-site in the bond frame.

l_a (x) l_b = |l_a - l_b| + ... + l_a + l_b (Gastegger et al., J. Chem. Phys. 153, 044123 (2020); Unke et al., PhiSNet,
NeurIPS 2021). In the bond frame the same coupling is that of |m_a| and |m_b|.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from schnorb_t.harmonics import clebsch_gordan
from schnorb_t.nn.o2 import Features, O2Features, irrep_list


def layout_offsets(layout: Sequence[int]) -> list[int]:
    """Where each shell of an atom's slots begins."""
    return [sum(2 * l + 1 for l in layout[:k]) for k in range(len(layout))]


class OnsiteBlocks(nn.Module):
    """Atom features -> on-site blocks [N, K, K] of ``fields`` matrices, symmetric, with own weights per element.

    Args:
        layout: l of the shells of an atom's slots (``Basis.layout``).
        n_elements: rows of the tables of weights.
        irreps: of the features; couplings whose irrep is missing stay 0 and are listed in ``missing``.
        fields: how many matrices (H, S - S0, ...).
        gain: size of the blocks at the start; small where the two-centre part is the better start.
    """

    def __init__(self, layout: Sequence[int], n_elements: int, irreps: str, fields: int, gain: float = 0.1):
        super().__init__()
        self.k, self.fields = sum(2 * l + 1 for l in layout), fields
        at = layout_offsets(layout)
        channels = {name: (l, c) for name, l, _, c in irrep_list(irreps)}
        patterns: dict[str, list[Tensor]] = {}
        self.missing = set()
        for a, la in enumerate(layout):
            for b, lb in enumerate(layout[a:], start=a):
                for big in range(abs(la - lb), la + lb + 1):
                    if a == b and (la + lb + big) % 2:
                        continue  # antisymmetric within one shell
                    name = f"{big}{'e' if (la + lb) % 2 == 0 else 'o'}"
                    if name not in channels:
                        self.missing.add(name)
                        continue
                    block = torch.zeros(2 * big + 1, self.k, self.k, dtype=torch.float64)
                    rows = slice(at[a], at[a] + 2 * la + 1)
                    columns = slice(at[b], at[b] + 2 * lb + 1)
                    cg = clebsch_gordan(la, lb, big).permute(2, 0, 1) * (2 * big + 1) ** 0.5
                    block[:, rows, columns] += cg
                    if a != b:
                        block[:, columns, rows] += cg.mT
                    patterns.setdefault(name, []).append(block)
        self.names = list(patterns)
        self.weights = nn.ParameterList()
        for name in self.names:
            c, n = channels[name][1], len(patterns[name])
            self.weights.append(nn.Parameter(gain * torch.randn(n_elements, c, n * fields) * c**-0.5))
            stacked = torch.stack(patterns[name], 1).reshape(-1, self.k * self.k)
            self.register_buffer(f"pattern_{name}", stacked, persistent=False)

    def forward(self, x: Features, element: Tensor) -> Tensor:
        """[fields, N, K, K]."""
        out = 0
        for name, weight in zip(self.names, self.weights, strict=True):
            y = x[name] @ weight[element]  # [N, 2L+1, couplings * fields]
            y = y.unflatten(2, (-1, self.fields)).permute(3, 0, 1, 2).flatten(2)
            out = out + y @ getattr(self, f"pattern_{name}").to(y.dtype)
        return out.unflatten(2, (self.k, self.k))


class OffsitePatterns(nn.Module):
    """How bond-frame blocks couple to O(2) features: |m_a| (x) |m_b| = m_a + m_b, |m_a - m_b|. No weights.

    Args:
        layout: l of the shells of an atom's slots (``Basis.layout``).
        kinds: O(2) representations (even, odd, m = 1, ...); m up to twice the largest l are used.

    Raises:
        ValueError: too few representations.
    """

    def __init__(self, layout: Sequence[int], kinds: int):
        super().__init__()
        self.k = sum(2 * l + 1 for l in layout)
        at, m_max = layout_offsets(layout), 2 * max(layout)
        if kinds < m_max + 2:
            raise ValueError(
                f"pair features need m up to {m_max} for shells {tuple(layout)}, got widths up to m = {kinds - 2} only"
            )
        patterns: list[list[Tensor]] = [[] for _ in range(m_max + 2)]
        for a, la in zip(at, layout, strict=True):
            for b, lb in zip(at, layout, strict=True):
                for ma in range(la + 1):
                    for mb in range(lb + 1):
                        for kind, pattern in self._couplings(a + la, b + lb, ma, mb):
                            patterns[kind].append(pattern)
        #: couplings per O(2) representation
        self.counts = [len(items) for items in patterns]
        for kind, items in enumerate(patterns):
            if items:
                # rows ordered (cos or sin, coupling), to match the features' [P, 2, C]
                stacked = torch.stack(items, 1).reshape(-1, self.k * self.k)
                self.register_buffer(f"pattern_{kind}", stacked, persistent=False)

    def _couplings(self, ra: int, rb: int, ma: int, mb: int) -> list[tuple[int, Tensor]]:
        """(0 even | 1 odd | m + 1, pattern [1 or 2, K, K]) of |m_a| (x) |m_b|; m = 0 of the shells at ra, rb."""

        def pattern(*entries):
            block = torch.zeros(2 if len(entries) == 2 else 1, self.k, self.k, dtype=torch.float64)
            for row, terms in enumerate(entries):
                for sign, p, q in terms:
                    block[row, p, q] = sign * len(terms) ** -0.5
            return block

        ca, sa, cb, sb = ra + ma, ra - ma, rb + mb, rb - mb
        if ma == 0 and mb == 0:
            return [(0, pattern([(1, ra, rb)]))]
        if ma == 0:
            return [(mb + 1, pattern([(1, ra, cb)], [(1, ra, sb)]))]
        if mb == 0:
            return [(ma + 1, pattern([(1, ca, rb)], [(1, sa, rb)]))]
        out = [(ma + mb + 1, pattern([(1, ca, cb), (-1, sa, sb)], [(1, ca, sb), (1, sa, cb)]))]
        if ma == mb:
            out.append((0, pattern([(1, ca, cb), (1, sa, sb)])))
            out.append((1, pattern([(1, ca, sb), (-1, sa, cb)])))
        else:
            turn = 1 if mb > ma else -1
            out.append((abs(ma - mb) + 1, pattern([(1, ca, cb), (1, sa, sb)], [(turn, ca, sb), (-turn, sa, cb)])))
        return out

    def features(self, blocks: Tensor) -> O2Features:
        """The inverse coupling: bond-frame blocks [P, C, K * K] -> O(2) features with ``counts`` times C channels."""
        out = []
        for kind, count in enumerate(self.counts):
            y = blocks @ getattr(self, f"pattern_{kind}").to(blocks.dtype).T
            out.append(y.flatten(1) if kind < 2 else y.unflatten(2, (2, count)).transpose(1, 2).flatten(2))
        return out


class OffsiteBlocks(OffsitePatterns):
    """O(2) features of pairs -> bond-frame blocks [P, K, K] of ``fields`` matrices.

    Args:
        layout: l of the shells of an atom's slots (``Basis.layout``).
        widths: channels of the pair features; m up to twice the largest l are read.
        fields: how many matrices.
        gain: size of the blocks at the start.

    Raises:
        ValueError: pair features of too small m.
    """

    def __init__(self, layout: Sequence[int], widths: list[int], fields: int, gain: float = 0.1):
        super().__init__(layout, len(widths))
        self.fields = fields
        self.maps = nn.ModuleList()
        for kind, count in enumerate(self.counts):
            read = count and widths[kind]
            self.maps.append(nn.Linear(widths[kind], count * fields, bias=False) if read else None)
            if read:
                nn.init.normal_(self.maps[-1].weight, std=gain * widths[kind] ** -0.5)

    def forward(self, pairs: O2Features) -> Tensor:
        """[fields, P, K, K] in the bond frame."""
        out = 0
        for kind, f in enumerate(self.maps):
            if f is None:
                continue
            y = f(pairs[kind])
            y = (y[:, None] if kind < 2 else y).unflatten(2, (-1, self.fields))
            out = out + y.permute(3, 0, 1, 2).flatten(2) @ getattr(self, f"pattern_{kind}").to(y.dtype)
        return out.unflatten(2, (self.k, self.k))
