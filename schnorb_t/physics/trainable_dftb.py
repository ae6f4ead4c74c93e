"""DFTB whose tables, on-site energies, U and repulsions are trained: published ones plus smooth corrections.

Only what is asked for gets parameters: all pairs of elements, or those named (``["Au"]``: every pair with gold;
``["C-H"]``: this one). The rest stays as published, to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers as number_of
from ase.data import chemical_symbols
from torch import Tensor, nn

from schnorb_t.errors import UserError
from schnorb_t.physics.dftb import DFTB
from schnorb_t.physics.repulsion import Repulsion
from schnorb_t.physics.skf import SlaterKosterFile, SlaterKosterSet
from schnorb_t.physics.slater_koster import SlaterKoster
from schnorb_t.physics.spline_correction import SplineCorrection

#: What can be trained.
FEEDS = ("hamiltonian", "overlap", "onsite", "hubbard", "hubbard_derivatives", "repulsion")
#: Bohr, corrections of tables begin here; no two atoms come closer.
NEAREST = 0.8
#: Bohr, between knots where a knot need not stand in particular.
TABLE_SPACING, REPULSION_SPACING = 0.4, 0.2


def chosen_pairs(names: Sequence[str] | None, elements: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (Z_A <= Z_B) by name, all of them for ``None``.

    Raises:
        UserError: a name that is no pair of these elements.
    """
    everything = [(a, b) for a in sorted(elements) for b in sorted(elements) if a <= b]
    if names is None:
        return everything
    found = set()
    for name in names:
        zs = [number_of.get(part, -1) for part in str(name).split("-")]
        of_name = [p for p in everything if (zs[0] in p if len(zs) == 1 else tuple(sorted(zs)) == p)]
        if not of_name or len(zs) > 2:
            known = ", ".join(chemical_symbols[z] for z in elements)
            raise UserError(f"pairs: {name!r} is no element and no pair (A-B) of {known}")
        found.update(of_name)
    return sorted(found)


class CorrectedSlaterKoster(SlaterKoster):
    """Tables of files plus corrections of some pairs.

    Args:
        tables: the files.
        pairs: (Z_A <= Z_B) whose tables are corrected.
        feeds: which of ``hamiltonian``, ``overlap``, ``onsite``.
        spacing: Bohr, between knots of corrections; rounded to whole rows of the files, so that files hold them.

    Attributes:
        correction: its tables are ordered pairs (``rows``), its channels those of ``SlaterKoster``, H then S; ``None``
            if neither is trained.
        onsite_shift: parameter [119, shells], Eh; ``None`` if not trained.
    """

    correction: SplineCorrection | None
    onsite_shift: nn.Parameter | None
    row_of_pair: Tensor
    trained_columns: Tensor
    shell_of_slot: Tensor
    trained_elements: Tensor

    def __init__(
        self,
        tables: SlaterKosterSet,
        pairs: Sequence[tuple[int, int]],
        feeds: Sequence[str],
        spacing: float = TABLE_SPACING,
    ):
        super().__init__(tables)
        elements = list(self.basis.elements)
        ordered = [(a, b) for a in elements for b in elements if (min(a, b), max(a, b)) in set(pairs)]
        self.rows = {pair: k for k, pair in enumerate(ordered)}
        row_of_pair = torch.tensor([self.rows.get((a, b), -1) for a in elements for b in elements])
        self.register_buffer("row_of_pair", row_of_pair, persistent=False)
        self.correction = None
        if {"hamiltonian", "overlap"} & set(feeds):
            fine = self.spacing
            starts, ends = [], []
            for pair in ordered:
                file = tables.files[pair]
                nearest = max(NEAREST, file.spacing * (file.first_row + 1))
                starts.append(file.spacing * int(np.ceil(nearest / file.spacing - 1e-9)))
                ends.append(file.spacing * len(next(iter(file.hamiltonian.values()))))
            self.correction = SplineCorrection(
                starts, ends, max(1, round(spacing / fine)) * fine, 2 * len(self.channels)
            )
            columns = [float(name in feeds) for name in ("hamiltonian", "overlap") for _ in self.channels]
            present = [[float(self._has(a, b, channel)) for channel in self.channels] * 2 for a, b in ordered]
            trained = torch.tensor(columns) * torch.tensor(present, dtype=torch.float64)
            self.register_buffer("trained_columns", trained, persistent=False)
        shells = [k for k, l in enumerate(self.basis.layout) for _ in range(2 * l + 1)]
        self.register_buffer("shell_of_slot", torch.tensor(shells), persistent=False)
        self.onsite_shift = None
        if "onsite" in feeds:
            self.onsite_shift = nn.Parameter(torch.zeros(119, len(self.basis.layout), dtype=torch.float64))
            own = torch.zeros(119, len(self.basis.layout), dtype=torch.float64)
            for z in elements:
                if (z, z) in set(pairs):
                    own[z, list(self.basis.slot_shells(z))] = 1.0
            self.register_buffer("trained_elements", own, persistent=False)
        self.coefficients.requires_grad_(False)
        self.onsite.requires_grad_(False)

    def _has(self, a: int, b: int, channel: tuple[int, int, int]) -> bool:
        """Whether both elements have the shells of a channel."""
        return channel[0] in self.basis.shells[a] and channel[1] in self.basis.shells[b]

    def tables_at(self, pair_type: Tensor, distance: Tensor) -> Tensor:
        """As ``SlaterKoster.tables_at``, corrections added."""
        values = super().tables_at(pair_type, distance)
        if self.correction is None:
            return values
        row = self.row_of_pair[pair_type]
        return values + self.correction(row, distance) * self.trained_columns[row.clamp_min(0)]

    def onsite_energies(self) -> Tensor:
        """[119, K], Eh."""
        if self.onsite_shift is None:
            return self.onsite
        return self.onsite + (self.onsite_shift * self.trained_elements)[:, self.shell_of_slot]

    def roughness(self) -> Tensor:
        """Of all corrections of tables, see ``SplineCorrection.roughness``."""
        return torch.zeros(()) if self.correction is None else self.correction.roughness()


class CorrectedRepulsion(Repulsion):
    """Repulsions of files plus corrections of some pairs.

    Args:
        tables: the files.
        pairs: (Z_A <= Z_B) whose repulsion is corrected.
        spacing: Bohr, between knots.
        start: Bohr, where corrections begin.
        cutoff: Bohr, where they end; where left out, at the end of each file's own repulsive.
    """

    row_of_pair: Tensor
    base_curvature: Tensor
    points: Tensor

    def __init__(
        self,
        tables: SlaterKosterSet,
        pairs: Sequence[tuple[int, int]],
        spacing: float = REPULSION_SPACING,
        start: float = 1.2,
        cutoff: float | None = None,
    ):
        super().__init__(tables)
        elements = list(tables.basis.elements)
        self.rows = {pair: k for k, pair in enumerate(pairs)}
        row_of_pair = torch.tensor([self.rows.get((a, b), -1) for a in elements for b in elements])
        self.register_buffer("row_of_pair", row_of_pair, persistent=False)
        ends = [cutoff or repulsive_cutoff(tables.files[pair]) or 4.0 for pair in pairs]
        short = [pair for pair, end in zip(pairs, ends, strict=True) if end - start < 4 * spacing]
        if short:
            a, b = (chemical_symbols[z] for z in short[0])
            raise UserError(
                f"{a}-{b}: its repulsive ends too early for knots {spacing:g} Bohr apart; give repulsion_cutoff or a "
                "smaller repulsion_spacing"
            )
        self.correction = SplineCorrection([start] * len(pairs), ends, spacing, 1)
        # where convexity is looked at, and what the files' curvature is there
        fraction = torch.linspace(0, 1, 200, dtype=torch.float64)
        end = torch.tensor(ends, dtype=torch.float64).unsqueeze(-1)
        self.register_buffer("points", start + (end - start) * fraction, persistent=False)
        step = 0.01
        types = torch.tensor([elements.index(a) * len(elements) + elements.index(b) for a, b in pairs])
        flat, kind = self.points.flatten(), types.repeat_interleave(len(fraction))
        with torch.no_grad():
            v = [Repulsion.pair_energy(self, kind, flat + s) for s in (-step, 0.0, step)]
        self.register_buffer(
            "base_curvature", ((v[0] - 2 * v[1] + v[2]) / step**2).view_as(self.points), persistent=False
        )

    def pair_energy(self, pair_type: Tensor, distance: Tensor) -> Tensor:
        """As ``Repulsion.pair_energy``, corrections added."""
        return super().pair_energy(pair_type, distance) + self.correction(self.row_of_pair[pair_type], distance)[:, 0]

    def curvature(self) -> Tensor:
        """V'' [pairs, points], Eh / Bohr^2; ``points`` says where."""
        knots = self.correction.curvature()[..., 0]
        t = (self.points - self.correction.starts.unsqueeze(-1)) / self.correction.spacing
        k = t.floor().long().clamp(0, knots.shape[1] - 2)
        x = (t - k).clamp(0, 1)
        return self.base_curvature + (1 - x) * knots.gather(1, k) + x * knots.gather(1, k + 1)

    def concavity(self) -> Tensor:
        """Mean over points of max(0, -V'')^2, a scalar, Eh^2 / Bohr^4: 0 if all repulsions are convex."""
        return self.curvature().clamp(max=0).square().mean()

    def roughness(self) -> Tensor:
        """Of the corrections, see ``SplineCorrection.roughness``."""
        return self.correction.roughness()


def repulsive_cutoff(file: SlaterKosterFile) -> float:
    """Bohr; 0 of a file without a repulsive."""
    if file.spline is not None:
        return file.spline.cutoff
    return file.polynomial_cutoff if np.any(file.polynomial) else 0.0


class TrainableDFTB(DFTB):
    """``DFTB`` with parameters for training.

    Args:
        tables: the published set that training starts from.
        feeds: what is trained, of ``FEEDS``.
        pairs: names of pairs or elements, see the head of this file; all if left out. On-site energies, U and its
            derivative are trained of elements whose own pair is among them.
        table_spacing, repulsion_spacing: Bohr, between knots of corrections.
        repulsion_cutoff: Bohr, see ``CorrectedRepulsion``.
        **options: of ``DFTB``.

    Raises:
        UserError: an unknown feed or pair.
    """

    slater_koster: CorrectedSlaterKoster

    def __init__(
        self,
        tables: SlaterKosterSet,
        feeds: Sequence[str] = FEEDS[:4] + FEEDS[5:],
        pairs: Sequence[str] | None = None,
        table_spacing: float = TABLE_SPACING,
        repulsion_spacing: float = REPULSION_SPACING,
        repulsion_cutoff: float | None = None,
        **options: Any,
    ):
        super().__init__(tables, **options)
        if unknown := [f for f in feeds if f not in FEEDS]:
            raise UserError(f"train: {unknown[0]!r} cannot be trained; there are {', '.join(FEEDS)}")
        if "hubbard_derivatives" in feeds and self.order == 2:
            raise UserError("train: hubbard_derivatives belong to third order; give order: 3 or leave them out")
        self.tables, self.feeds = tables, tuple(feeds)
        self.pairs = chosen_pairs(pairs, self.basis.elements)
        self.requires_grad_(False)
        self.slater_koster = CorrectedSlaterKoster(tables, self.pairs, feeds, table_spacing)
        if "repulsion" in feeds:
            self.repulsion = CorrectedRepulsion(tables, self.pairs, repulsion_spacing, cutoff=repulsion_cutoff)
        own = torch.zeros(119, dtype=torch.float64)
        own[[z for z in self.basis.elements if (z, z) in self.pairs]] = 1.0
        for feed in ("hubbard", "hubbard_derivatives"):
            if feed in feeds:
                parameter = getattr(self, feed).requires_grad_()
                mask = own if parameter.dim() == 1 else own.unsqueeze(-1)
                # the others stay as published
                parameter.register_hook(lambda gradient, mask=mask: gradient * mask)

    def trained(self) -> dict[str, nn.Parameter]:
        """Name -> what is trained."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def penalties(self) -> dict[str, Tensor]:
        """``tables`` and ``repulsion`` (roughness), ``concavity``: scalars, see the classes above."""
        out = {"tables": self.slater_koster.roughness()}
        if isinstance(self.repulsion, CorrectedRepulsion):
            out["repulsion"], out["concavity"] = self.repulsion.roughness(), self.repulsion.concavity()
        return out
